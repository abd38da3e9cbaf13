package channelstate

import (
	"fmt"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
)

// ReasonCredit: what is signed does not cover one more prepaid call.
const ReasonCredit Reason = "credit"

// Balance is what a channel has signed and spent at one nonce, in cogs.
type Balance struct {
	Nonce, Signed, Spent uint256.Int
}

// Raise accepts what a client has signed for prepaid calls to come, and spends
// nothing. Of the charge it takes Nonce, Amount, Signature, Block, Threshold
// and Fresh. An amount that is not above what is signed already changes
// nothing, and the record itself is returned; so no order of requests lowers
// the signed amount or counts one twice. The balance is that of the record to
// write.
func (r *Record) Raise(channel *blockchain.Channel, charge *Charge) (*Record, Balance, *Aside, *Refusal) {
	base, aside, refusal := r.reconcile(channel, charge.Fresh)
	if refusal != nil {
		return nil, Balance{}, nil, refusal
	}
	available := base.available(channel)
	switch {
	case charge.Nonce != base.Nonce:
		refusal = refuseNonce(&base.Nonce, &charge.Nonce)
	case nearExpiration(channel, charge):
		refusal = refuseNearExpiry(channel, charge)
	case charge.Amount.Gt(&available):
		refusal = refuseAmount(ReasonAboveValue, &available, &charge.Amount)
	case !charge.Amount.Gt(&base.Signed):
		return r, base.balance(), nil, nil
	}
	if refusal != nil {
		return nil, Balance{}, nil, refusal
	}
	next := *base
	next.Signed, next.Signature = charge.Amount, charge.Signature
	// A refund of an earlier charge must not take back what was signed for
	// prepaid calls.
	next.Previous = nil
	next.Pending = base.Pending.seenAt(&channel.Nonce)
	return &next, next.balance(), aside, nil
}

// ChargePrepaid takes the price of one call out of what is signed at the
// record's nonce. Of the charge it takes ID, Price, Block, Threshold and Fresh:
// no amount is accepted by it. The record itself is returned for a price of
// zero.
func (r *Record) ChargePrepaid(channel *blockchain.Channel, charge *Charge) (*Record, *Aside, *Refusal) {
	base, aside, refusal := r.reconcile(channel, charge.Fresh)
	if refusal != nil {
		return nil, nil, refusal
	}
	if nearExpiration(channel, charge) {
		return nil, nil, refuseNearExpiry(channel, charge)
	}
	if charge.Price.IsZero() {
		return r, nil, nil
	}
	needed, overflow := new(uint256.Int).AddOverflow(&base.Spent, &charge.Price)
	if overflow || base.Signed.Lt(needed) {
		return nil, nil, base.refuseCredit(channel, charge)
	}
	if available := base.available(channel); needed.Gt(&available) {
		return nil, nil, refuseAmount(ReasonFunds, &available, needed)
	}
	next := *base
	next.Spent = *needed
	next.Previous = nil
	next.Pending = base.Pending.seenAt(&channel.Nonce)
	return &next, aside, nil
}

func (r *Record) balance() Balance {
	return Balance{Nonce: r.Nonce, Signed: r.Signed, Spent: r.Spent}
}

// refuseCredit begins as the peer does (payment-protocol.md section 6.2): clients match on it.
func (r *Record) refuseCredit(channel *blockchain.Channel, charge *Charge) *Refusal {
	return &Refusal{
		Reason: ReasonCredit,
		Message: fmt.Sprintf("Usage Exceeded on channel Id %s: %s of the planned %s are used and the price is %s, "+
			"sign a higher amount with GetToken", channel.ID.Dec(), r.Spent.Dec(), r.Signed.Dec(), charge.Price.Dec()),
	}
}
