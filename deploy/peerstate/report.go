package peerstate

import (
	"fmt"
	"math/big"
	"strconv"

	"github.com/holiman/uint256"
)

// Amount is a sum of amounts, which may have more than 256 bits; in JSON it is text.
type Amount struct{ *big.Int }

func zero() Amount { return Amount{new(big.Int)} }

func (a Amount) add(b *big.Int) { a.Add(a.Int, b) }

// MarshalJSON writes it as text: many readers of JSON have no such numbers.
func (a Amount) MarshalJSON() ([]byte, error) { return strconv.AppendQuote(nil, a.String()), nil }

// Sum counts the keys of one kind. Read is Taken and Skipped together, in each of the three rows.
type Sum struct {
	Kind    Kind `json:"kind"`
	Read    int  `json:"read"`
	Taken   int  `json:"taken"`
	Skipped int  `json:"skipped"`

	// What clients have signed, in cogs; of channels and claims.
	SignedRead    Amount `json:"signed_read"`
	SignedTaken   Amount `json:"signed_taken"`
	SignedSkipped Amount `json:"signed_skipped"`

	// Free calls made.
	CallsRead    Amount `json:"calls_read"`
	CallsTaken   Amount `json:"calls_taken"`
	CallsSkipped Amount `json:"calls_skipped"`
}

// Line is one channel of the report; amounts are in cogs.
type Line struct {
	Channel string `json:"channel"`
	Sender  string `json:"sender,omitempty"`
	Nonce   string `json:"nonce,omitempty"`
	Signed  string `json:"signed"`
	Spent   string `json:"spent"`
	Unused  string `json:"unused"`
	Claims  int    `json:"claims"`
	Skipped string `json:"skipped,omitempty"`
}

// Reason is why keys of one kind are not taken over, and one of them.
type Reason struct {
	Kind    Kind   `json:"kind"`
	Reason  string `json:"reason"`
	Keys    int    `json:"keys"`
	Example string `json:"example"`
}

// Report says what became, or would become, of all keys that were read.
type Report struct {
	Written  bool     `json:"written"`
	Base     string   `json:"base"`
	Sums     []Sum    `json:"sums"`
	Total    Sum      `json:"total"`
	Signed   Amount   `json:"signed"` // of the channels taken: Spent and Unused together
	Spent    Amount   `json:"spent"`
	Unused   Amount   `json:"unused"`
	Channels []Line   `json:"channels"`
	Reasons  []Reason `json:"reasons"`
	Warnings []string `json:"warnings"`
}

// Report sums up the plan.
func (p *Plan) Report(written bool) *Report {
	r := &Report{
		Written: written, Base: p.place.base(), Signed: zero(), Spent: zero(), Unused: zero(),
		Channels: []Line{}, Reasons: []Reason{}, Warnings: []string{}, Total: newSum("all keys"),
	}
	for _, kind := range kinds {
		sum := newSum(kind)
		for i := range p.items {
			if p.items[i].kind == kind {
				sum.add(&p.items[i])
				r.Total.add(&p.items[i])
				r.reason(&p.items[i])
			}
		}
		r.Sums = append(r.Sums, sum)
	}
	unsafe, lost, several := 0, new(big.Int), 0
	for _, channel := range p.Channels {
		r.Channels = append(r.Channels, channel.line())
		if channel.Skipped != "" {
			switch channel.Skipped {
			case reasonPresent, reasonNoRecord, reasonFailed, reasonNotReached:
			default:
				unsafe++
			}
			continue
		}
		r.Signed.add(channel.Record.Signed.ToBig())
		r.Spent.add(channel.Record.Spent.ToBig())
		r.Unused.add(channel.Unused.ToBig())
		lost.Add(lost, channel.Lost.ToBig())
		if len(channel.Claims) > 1 {
			several++
		}
	}
	r.warn(unsafe, several, lost)
	return r
}

func newSum(kind Kind) Sum {
	return Sum{
		Kind: kind, SignedRead: zero(), SignedTaken: zero(), SignedSkipped: zero(),
		CallsRead: zero(), CallsTaken: zero(), CallsSkipped: zero(),
	}
}

func (s *Sum) add(i *item) {
	signed, calls := i.cogs.ToBig(), uint256.NewInt(i.calls).ToBig()
	s.Read++
	s.SignedRead.add(signed)
	s.CallsRead.add(calls)
	if i.reason() == "" {
		s.Taken++
		s.SignedTaken.add(signed)
		s.CallsTaken.add(calls)
		return
	}
	s.Skipped++
	s.SignedSkipped.add(signed)
	s.CallsSkipped.add(calls)
}

func (r *Report) reason(i *item) {
	reason := i.reason()
	if reason == "" {
		return
	}
	for at := range r.Reasons {
		if r.Reasons[at].Kind == i.kind && r.Reasons[at].Reason == reason {
			r.Reasons[at].Keys++
			return
		}
	}
	r.Reasons = append(r.Reasons, Reason{Kind: i.kind, Reason: reason, Keys: 1, Example: i.key})
}

func (c *Channel) line() Line {
	line := Line{Channel: c.ID.Dec(), Signed: "0", Spent: "0", Unused: c.Unused.Dec(), Claims: len(c.Claims), Skipped: c.Skipped}
	if record := c.Record; record != nil {
		line.Sender, line.Nonce = record.Sender.Hex(), record.Nonce.Dec()
		line.Signed, line.Spent = record.Signed.Dec(), record.Spent.Dec()
	}
	return line
}

func (r *Report) warn(unsafe, several int, lost *big.Int) {
	if unsafe > 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%d channels could not be taken over: what their clients signed for the old daemon "+
			"would pay for calls here once more; claim them with the old daemon first", unsafe))
	}
	if several > 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%d channels have several claims in progress: send them before calls are served, "+
			"the lowest nonce first", several))
	}
	if lost.Sign() > 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%s cogs were prepaid at nonces that are claimed, and are not used: "+
			"no signature of the current nonce covers them, so their clients lose them", lost))
	}
}
