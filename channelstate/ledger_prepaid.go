package channelstate

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
)

// Raise accepts what a client has signed for prepaid calls (Record.Raise says
// of which fields it makes use) and returns what the channel has then. The
// signature must have been verified and the channel must be one of ours. The
// error is a *Refusal when the rules do not allow it, the context's, or one
// that wraps ErrUnavailable; asking again is safe.
func (l *Ledger) Raise(ctx context.Context, key Key, channel *blockchain.Channel, raise Charge) (Balance, error) {
	if channel.ID != key.Channel {
		return Balance{}, fmt.Errorf("the payment is for channel %s, not for channel %s", key.Channel.Dec(), channel.ID.Dec())
	}
	if len(raise.Signature) > maxSignature {
		return Balance{}, fmt.Errorf("the signature has %d bytes, at most %d are kept", len(raise.Signature), maxSignature)
	}
	op := newOperation(operationRaise)
	op.channel, op.charge = *channel, raise
	op.charge.Signature = bytes.Clone(raise.Signature) // the record keeps it
	if err := l.run(ctx, &key, op); err != nil {
		return Balance{}, err
	}
	defer op.recycle()
	if op.err != nil {
		return Balance{}, op.err
	}
	return op.balance, nil
}

// ChargePrepaid takes the price of one call out of what is signed already
// (Record.ChargePrepaid says of which fields it makes use) and returns the
// nonce it was taken at, which a refund needs. Errors are those of Charge.
func (l *Ledger) ChargePrepaid(ctx context.Context, key Key, channel *blockchain.Channel, charge Charge) (uint256.Int, error) {
	if channel.ID != key.Channel {
		return uint256.Int{}, fmt.Errorf("the payment is for channel %s, not for channel %s", key.Channel.Dec(), channel.ID.Dec())
	}
	op := newOperation(operationPrepaid)
	op.channel, op.charge = *channel, charge
	op.charge.Amount, op.charge.Signature = uint256.Int{}, nil // no amount is accepted, so a refund releases none
	if err := l.run(ctx, &key, op); err != nil {
		return uint256.Int{}, err
	}
	defer op.recycle()
	if op.charged && ctx.Err() != nil {
		q := l.queues.acquire(&key, true)
		defer l.queues.release(q)
		l.giveBackLater(q, op.refundOfCharge())
		return uint256.Int{}, ctx.Err()
	}
	if op.err != nil {
		return uint256.Int{}, op.err
	}
	return op.charge.Nonce, nil
}

func (d *draft) raise(op *operation, now func() time.Time) {
	before := d.record
	next, balance, aside, refusal := before.Raise(&op.channel, &op.charge)
	if !d.accept(op, next, aside, refusal, now) {
		return
	}
	op.balance = balance
	d.unconfirmed = d.unconfirmed || next == before // a balance that nothing was written for
}

func (d *draft) prepaid(op *operation, now func() time.Time) {
	before := d.record
	next, aside, refusal := before.ChargePrepaid(&op.channel, &op.charge)
	if !d.accept(op, next, aside, refusal, now) || next == before {
		return
	}
	op.charged = true
	op.charge.Nonce = next.Nonce // so that a refund finds it
}

// accept takes over what a rule has made of the record, unless it has refused.
func (d *draft) accept(op *operation, next *Record, aside *Aside, refusal *Refusal, now func() time.Time) bool {
	if aside != nil && len(d.asides) == maxAsides {
		refusal = refuseChanged(&op.channel)
	}
	if refusal != nil {
		op.err, d.unconfirmed = refusal, true
		return false
	}
	if aside != nil {
		aside.Time = now()
		d.asides = append(d.asides, *aside)
	}
	d.record = next
	return true
}
