package channelstate_test

import (
	"context"
	"errors"
	"time"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// prepaid is a request for a token, or a call with one, of a random client.
func (m *model) prepaid(replica int, id uint64) (call func()) {
	view, fresh := m.views[replica][id], m.chain[id]
	if m.random.IntN(2) == 0 {
		raise := m.charge(id)
		place := at{id, fresh.Sender, raise.Nonce}
		lasting := m.random.IntN(2) == 0
		if lasting { // above all that calls have signed, so that no refund of one takes it back
			m.highest[place] += 1 + m.random.Uint64N(50)
			raise.Amount = number(m.highest[place])
			raise.Signature = signatureOf(&fresh.ID, &raise.Nonce, &raise.Amount)
		}
		return func() { m.raise(replica, view, fresh, raise, lasting) }
	}
	charge, leave := prepaidOf(m.random.Uint64N(30)), time.Duration(-1)
	if m.random.IntN(10) == 0 {
		leave = time.Duration(m.random.Int64N(int64(2 * time.Millisecond)))
	}
	return func() { m.callPrepaid(replica, view, fresh, charge, leave) }
}

func (m *model) raise(replica int, view, fresh blockchain.Channel, raise channelstate.Charge, lasting bool) {
	used := &view
	balance, err := m.ledgers[replica].Raise(m.t.Context(), group.Key(&view.ID), used, raise)
	var refusal *channelstate.Refusal
	if errors.As(err, &refusal) {
		used, raise.Fresh = &fresh, true
		balance, err = m.ledgers[replica].Raise(m.t.Context(), group.Key(&view.ID), used, raise)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		if balance.Signed.Lt(&raise.Amount) || balance.Spent.Gt(&balance.Signed) || balance.Nonce != raise.Nonce {
			m.t.Errorf("raised to %s at nonce %s, the balance is %+v", raise.Amount.Dec(), raise.Nonce.Dec(), balance)
		}
		place := at{used.ID.Uint64(), used.Sender, raise.Nonce}
		if most := m.raised[place]; lasting && raise.Amount.Gt(&most) {
			m.raised[place] = raise.Amount
		}
	case errors.As(err, &refusal), errors.Is(err, channelstate.ErrUnavailable):
	default:
		m.t.Errorf("raise: %v", err)
	}
}

func (m *model) callPrepaid(replica int, view, fresh blockchain.Channel, charge channelstate.Charge, leave time.Duration) {
	ctx, cancel := context.WithCancel(m.t.Context())
	defer cancel()
	if leave >= 0 {
		defer time.AfterFunc(leave, cancel).Stop()
	}
	used := &view
	nonce, err := m.ledgers[replica].ChargePrepaid(ctx, group.Key(&view.ID), used, charge)
	var refusal *channelstate.Refusal
	if errors.As(err, &refusal) {
		used, charge.Fresh = &fresh, true
		nonce, err = m.ledgers[replica].ChargePrepaid(ctx, group.Key(&view.ID), used, charge)
	}
	charge.Nonce = nonce
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		if !charge.Price.IsZero() {
			m.charges = append(m.charges, &modelCharge{Charge: charge, channel: used.ID.Uint64(), sender: used.Sender})
		}
	case errors.As(err, &refusal):
	case errors.Is(err, context.Canceled), errors.Is(err, channelstate.ErrUnavailable):
		m.left[charge.ID] = &modelCharge{Charge: charge, channel: used.ID.Uint64(), sender: used.Sender}
	default:
		m.t.Errorf("prepaid call: %v", err)
	}
}
