package desk

import (
	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
)

// Item is one channel to be claimed. Amounts are in cogs.
type Item struct {
	Channel uint256.Int `json:"channel"`
	Nonce   uint256.Int `json:"nonce"`
	Actual  uint256.Int `json:"actual"`  // to be paid: spent
	Planned uint256.Int `json:"planned"` // what the client's signature is over
	// Resumed: the claim was started before and is not on chain yet.
	Resumed bool `json:"resumed"`
}

// Plan is what a claim would do.
type Plan struct {
	Items   []Item      `json:"claims"`
	Skipped []Refused   `json:"skipped,omitempty"`
	Total   uint256.Int `json:"total"` // of Actual, in cogs

	passed []Name // on chain already, to be put away
}

// Wish says what to claim.
type Wish struct {
	Payee common.Address // who claims: the channels' recipient
	Least uint256.Int    // cogs; a channel with less unclaimed is left for later, claims in progress are not
	// Near, in blocks: a channel that expires sooner is claimed however little it has. 0 is none.
	Near uint64
}

// NewPlan decides what to claim of what was seen. A channel with a claim in progress is claimed no further: the
// contract takes the next nonce only after it.
func NewPlan(report *Report, wish *Wish) *Plan {
	plan := &Plan{Items: []Item{}}
	for i := range report.Channels {
		plan.add(&report.Channels[i], wish)
	}
	return plan
}

func (p *Plan) add(channel *Channel, wish *Wish) {
	var ready *Claim
	for i := range channel.Claims {
		claim := &channel.Claims[i]
		switch claim.State {
		case ClaimOnChain:
			p.passed = append(p.passed, Name{Channel: claim.Channel, Nonce: claim.Nonce})
		case ClaimStarted, ClaimSent:
			ready = claim
		case ClaimLost:
			p.skip(channel, "the claim of nonce "+claim.Nonce.Dec()+" is lost: the chain has other parties for the channel")
		}
	}
	if ready == nil && channel.Spent.IsZero() {
		return
	}
	if reason := channel.unclaimable(wish.Payee); reason != "" {
		p.skip(channel, reason)
		return
	}
	if ready != nil {
		p.take(Item{Channel: channel.ID, Nonce: ready.Nonce, Actual: ready.Spent, Planned: ready.Signed, Resumed: true}, channel)
		return
	}
	near := wish.Near > 0 && channel.BlocksLeft <= int64(min(wish.Near, 1<<53))
	switch {
	case channel.Nonce.Gt(&channel.ChainNonce):
		p.skip(channel, "the chain's nonce is behind and no claim explains it: the chain was reorganised, try again later")
	case channel.Spent.Lt(&wish.Least) && !near:
		p.skip(channel, "less than the least amount")
	default:
		p.take(Item{Channel: channel.ID, Nonce: channel.Nonce, Actual: channel.Spent, Planned: channel.Signed}, channel)
	}
}

// unclaimable says why the contract would refuse the channel, "" when it would not.
func (c *Channel) unclaimable(payee common.Address) string {
	switch {
	case c.State == StateLost && !sameParties(&c.chain, c.Sender, c.Signer):
		return "the chain has other parties for the channel: it was reorganised"
	case c.State == StateLost:
		return "the chain's nonce is beyond that of the record: the sender has taken the money back, or the claim was made elsewhere"
	case c.Recipient != payee:
		return "the channel pays " + c.Recipient.Hex() + ", not " + payee.Hex()
	}
	return ""
}

func (p *Plan) take(item Item, channel *Channel) {
	if item.Actual.Gt(&channel.Value) {
		p.skip(channel, "its value on chain is "+channel.Value.Dec()+", less than what was spent")
		return
	}
	p.Items = append(p.Items, item)
	p.Total.Add(&p.Total, &item.Actual)
}

func (p *Plan) skip(channel *Channel, reason string) {
	p.Skipped = append(p.Skipped, Refused{Channel: channel.ID, Reason: reason})
}
