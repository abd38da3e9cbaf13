package channelstate_test

import (
	"bytes"
	"testing"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/channelstate"
)

// heldAmount is one place where signed money is kept.
type heldAmount struct {
	kind      string
	at        at
	spent     uint256.Int
	signed    uint256.Int
	signature []byte
}

// check compares what the store has with what callers were told.
func (m *model) check() {
	places := m.places()
	spent, counts := map[at]uint256.Int{}, map[at]int{}
	for _, place := range places {
		sum := spent[place.at]
		sum.Add(&sum, &place.spent)
		spent[place.at] = sum
		counts[place.at]++
		if place.spent.Gt(&place.signed) {
			m.t.Errorf("%s %+v: spent %s is above signed %s", place.kind, place.at, place.spent.Dec(), place.signed.Dec())
		}
		channel := number(place.at.channel)
		if want := signatureOf(&channel, &place.at.nonce, &place.signed); !place.signed.IsZero() && !bytes.Equal(place.signature, want) {
			m.t.Errorf("%s %+v: signature %q, want %q", place.kind, place.at, place.signature, want)
		}
	}
	charged, highest := map[at]uint256.Int{}, map[at]uint256.Int{}
	type once struct {
		at     at
		amount uint256.Int
	}
	amounts := map[once]bool{}
	for _, charge := range m.charges {
		if charge.refunded {
			continue
		}
		where := at{charge.channel, charge.sender, charge.Nonce}
		sum := charged[where]
		sum.Add(&sum, &charge.Price)
		charged[where] = sum
		if most := highest[where]; charge.Amount.Gt(&most) {
			highest[where] = charge.Amount
		}
		if charge.Amount.IsZero() {
			continue // a prepaid call, which accepts no amount
		}
		if key := (once{where, charge.Amount}); amounts[key] && counts[where] == 1 {
			m.t.Errorf("%+v: amount %s was accepted twice", where, charge.Amount.Dec())
		} else {
			amounts[key] = true
		}
	}
	for where, amount := range m.raised {
		if !kept(places, where, amount) {
			m.t.Errorf("%+v: the signature over %s for prepaid calls is lost", where, amount.Dec())
		}
	}
	for where, sum := range charged {
		if kept := spent[where]; kept != sum {
			m.t.Errorf("%+v: charged %s, but the books say %s", where, sum.Dec(), kept.Dec())
		}
		if !kept(places, where, highest[where]) {
			most := highest[where]
			m.t.Errorf("%+v: the accepted signature over %s is lost", where, most.Dec())
		}
	}
	for where, sum := range spent {
		if _, known := charged[where]; !known && !sum.IsZero() {
			m.t.Errorf("%+v: nothing was charged, but the books say %s", where, sum.Dec())
		}
	}
}

// kept tells whether a signature over at least the amount is kept for the nonce.
func kept(places []heldAmount, where at, amount uint256.Int) bool {
	for _, place := range places {
		if place.at == where && !place.signed.Lt(&amount) {
			return true
		}
	}
	return false
}

// places lists every record, claim and record set aside.
func (m *model) places() (places []heldAmount) {
	channels := listAll(m.t, func(cursor string) ([]channelstate.ChannelRecord, string, error) {
		return m.store.Channels(m.t.Context(), group, cursor, 2)
	})
	claims := listAll(m.t, func(cursor string) ([]channelstate.Claim, string, error) {
		return m.store.Claims(m.t.Context(), group, cursor, 2)
	})
	asides := listAll(m.t, func(cursor string) ([]channelstate.Aside, string, error) {
		return m.store.Asides(m.t.Context(), group, cursor, 2)
	})
	add := func(kind string, channel *uint256.Int, record *channelstate.Record) {
		where := at{channel.Uint64(), record.Sender, record.Nonce}
		places = append(places, heldAmount{kind, where, record.Spent, record.Signed, record.Signature})
	}
	for i := range channels {
		add("record", &channels[i].Channel, channels[i].Record)
		m.checkRecord(&channels[i])
	}
	for i := range asides {
		add("aside", &asides[i].Channel, asides[i].Record)
	}
	for i := range claims {
		claim := &claims[i]
		where := at{claim.Channel.Uint64(), claim.Sender, claim.Nonce}
		places = append(places, heldAmount{"claim", where, claim.Spent, claim.Signed, claim.Signature})
		if sent, found := m.sent[sentClaim{where, claim.ID}]; found && (sent != claim.Spent || !claim.Sent) {
			m.t.Errorf("%+v: the claim was sent with %s, now it spends %s", where, sent.Dec(), claim.Spent.Dec())
		}
	}
	return places
}

// checkRecord compares a record with the chain and with the claim it waits for.
func (m *model) checkRecord(entry *channelstate.ChannelRecord) {
	record, channel := entry.Record, m.chain[entry.Channel.Uint64()]
	if pending := record.Pending; pending != nil {
		claim, found, err := m.store.Claim(m.t.Context(), group.Key(&entry.Channel), &pending.Nonce)
		if err != nil || !found || claim.Spent != pending.Spent || claim.Sent != pending.Sent {
			m.t.Errorf("the record's claim is %+v, the claim itself %+v (found %v, error %v)", pending, claim, found, err)
		}
	}
	claimable := record.Spent
	switch {
	case record.Sender != channel.Sender:
		return // the chain has moved on and nobody has called since
	case record.Nonce == channel.Nonce:
	case record.Pending != nil && record.Pending.Nonce == channel.Nonce:
		claimable.Add(&claimable, &record.Pending.Signed) // somebody may claim all of it
	default:
		return
	}
	if claimable.Gt(&channel.Value) {
		m.t.Errorf("channel %s: %s can be claimed of a value of %s", entry.Channel.Dec(), claimable.Dec(), channel.Value.Dec())
	}
}

func listAll[T any](t *testing.T, read func(cursor string) ([]T, string, error)) (all []T) {
	t.Helper()
	for cursor := ""; ; {
		page, next, err := read(cursor)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if next == "" {
			return all
		}
		cursor = next
	}
}
