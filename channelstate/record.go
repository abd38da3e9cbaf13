package channelstate

import (
	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
)

// Record is what one channel has signed and spent at one nonce. It is never
// changed: every rule returns a new one. All amounts are in cogs.
type Record struct {
	Sender, Signer common.Address // of the channel when the record began

	Nonce     uint256.Int
	Signed    uint256.Int // the highest amount accepted
	Signature []byte      // over Signed, as the client sent it; empty while nothing is signed
	Spent     uint256.Int // prices of the calls charged and not refunded, never above Signed

	// Previous is what Signed and Signature were before the last accepted
	// charge, kept only while that charge is the one that raised them.
	Previous *SignedAmount
	Window   Window // the amounts accepted lately

	// Pending is the claim of an earlier nonce, kept until the next one. It
	// explains why Nonce may be one ahead of the chain's.
	Pending *Claim

	Batch BatchID // of the transaction that wrote this version
}

// SignedAmount is an amount and the signature over it.
type SignedAmount struct {
	Amount    uint256.Int
	Signature []byte
}

// BatchID names the transaction that wrote a version of a record.
type BatchID [8]byte

// Charge is one call to be paid for. Its signature must have been verified.
type Charge struct {
	ID        ChargeID
	Nonce     uint256.Int
	Amount    uint256.Int // what the client signed, cumulative over the nonce
	Price     uint256.Int // of this call
	Signature []byte
	Block     uint64 // current block
	Threshold uint64 // the group's payment_expiration_threshold, in blocks

	// Fresh says that the channel was read from the chain for this very call.
	// Only then may a record that contradicts it be set aside.
	Fresh bool
}

// Refund gives back one charge: the call it paid for has failed.
type Refund struct {
	ID     ChargeID
	Nonce  uint256.Int
	Amount uint256.Int
	Price  uint256.Int

	// Sender of the channel that was charged; zero is not compared. It keeps
	// the refund from a channel that has taken over the id and nonce by a
	// reorganisation.
	Sender common.Address
}

// RefundOutcome says what became of a refund.
type RefundOutcome int

// What can become of a refund. The zero outcome is none of them.
const (
	Refunded        RefundOutcome = iota + 1 // the price was given back
	AlreadyRefunded                          // by an earlier refund with this id
	ClaimCorrected                           // the nonce's claim was lowered by the price, it had not been sent
	TooLate                                  // the nonce is claimed, or the charge is older than refunds are remembered
	NotCharged                               // the record knows of no such charge
)

// String is the stable word of the outcome, for logs and metrics.
func (o RefundOutcome) String() string {
	switch o {
	case Refunded:
		return "refunded"
	case AlreadyRefunded:
		return "already_refunded"
	case ClaimCorrected:
		return "claim_corrected"
	case TooLate:
		return "too_late"
	case NotCharged:
		return "not_charged"
	default:
		return "none"
	}
}

// Charge takes the price of one call and returns the record to write. The
// record itself is returned when nothing needs to be written: a price of zero
// with an amount that is signed already. A nil record is that of a channel
// first seen. The aside, if any, must be kept by the transaction that writes
// the new record.
func (r *Record) Charge(channel *blockchain.Channel, charge *Charge) (*Record, *Aside, *Refusal) {
	base, aside, refusal := r.reconcile(channel, charge.Fresh)
	if refusal != nil {
		return nil, nil, refusal
	}
	available := base.available(channel)
	if refusal := base.refuse(channel, charge, &available); refusal != nil {
		return nil, nil, refusal
	}
	if charge.Price.IsZero() && !charge.Amount.Gt(&base.Signed) {
		return r, nil, nil
	}
	next := *base
	next.Spent.Add(&base.Spent, &charge.Price) // refuse has ruled out that it wraps
	next.Window = base.Window.with(&charge.Amount, &charge.Price)
	next.Previous = nil
	if charge.Amount.Gt(&base.Signed) {
		next.Previous = &SignedAmount{Amount: base.Signed, Signature: base.Signature}
		next.Signed, next.Signature = charge.Amount, charge.Signature
	}
	next.Pending = base.Pending.seenAt(&channel.Nonce)
	return &next, aside, nil
}

// refuse checks a charge against the record that is valid at the channel's nonce.
func (r *Record) refuse(channel *blockchain.Channel, charge *Charge, available *uint256.Int) *Refusal {
	if charge.Nonce != r.Nonce {
		return refuseNonce(&r.Nonce, &charge.Nonce)
	}
	if nearExpiration(channel, charge) {
		return refuseNearExpiry(channel, charge)
	}
	if charge.Amount.Gt(available) {
		return refuseAmount(ReasonAboveValue, available, &charge.Amount)
	}
	signed := charge.Amount.Gt(&r.Signed)
	if charge.Price.IsZero() && !signed {
		return nil // nothing to pay, nothing to accept
	}
	if r.Window.Has(&charge.Amount) {
		return r.refuseIncome(ReasonAlreadyAccepted, charge)
	}
	covered := &r.Signed
	if signed {
		covered = &charge.Amount
	}
	needed, overflow := new(uint256.Int).AddOverflow(&r.Spent, &charge.Price)
	if overflow || covered.Lt(needed) {
		return r.refuseIncome(ReasonNotCovered, charge)
	}
	if needed.Gt(available) {
		return refuseAmount(ReasonFunds, available, needed)
	}
	return nil
}

// nearExpiration is block + threshold >= expiration, in 256 bits so that it does not wrap.
func nearExpiration(channel *blockchain.Channel, charge *Charge) bool {
	limit := uint256.NewInt(charge.Block)
	limit.AddUint64(limit, charge.Threshold)
	return !limit.Lt(&channel.Expiration)
}

// reconcile returns the record that is valid for the channel as the chain has
// it: this one, or a clean one at the chain's nonce, and then this one goes aside.
func (r *Record) reconcile(channel *blockchain.Channel, fresh bool) (*Record, *Aside, *Refusal) {
	if r == nil {
		return newRecord(channel), nil, nil
	}
	reason := r.contradiction(channel)
	if reason == "" {
		return r, nil, nil
	}
	// The chain's nonce only rises, so an old view of the channel cannot be
	// ahead of the record; but it can be behind, or of another fork.
	if reason != AsideNoncePassed && !fresh {
		return nil, nil, refuseChanged(channel)
	}
	var aside *Aside
	if !r.Signed.IsZero() {
		aside = &Aside{Channel: channel.ID, Reason: reason, Record: r}
	}
	next := newRecord(channel)
	next.Batch = r.Batch // tells a claim of this record from one of the other
	return next, aside, nil
}

// contradiction tells why the record does not belong to the channel as the
// chain has it, empty when it does.
func (r *Record) contradiction(channel *blockchain.Channel) AsideReason {
	switch {
	case r.Sender != channel.Sender || r.Signer != channel.Signer:
		return AsideOtherParties
	case r.Nonce.Lt(&channel.Nonce):
		return AsideNoncePassed
	case r.Nonce == channel.Nonce:
		return ""
	case r.Pending != nil && r.Pending.Nonce == channel.Nonce && r.Pending.isBefore(&r.Nonce):
		return "" // our own claim is not on the chain yet
	default:
		return AsideNonceAhead
	}
}

// newRecord is that of a channel of which nothing is known but the chain's view.
func newRecord(channel *blockchain.Channel) *Record {
	return &Record{Sender: channel.Sender, Signer: channel.Signer, Nonce: channel.Nonce}
}

// available is what is left of the channel's value for this nonce. While a
// claim is not on the chain, its signed amount is reserved, not only what was
// spent: whoever holds the signature can claim all of it.
func (r *Record) available(channel *blockchain.Channel) uint256.Int {
	available := channel.Value
	if r.Pending == nil || channel.Nonce.Gt(&r.Pending.Nonce) {
		return available
	}
	if _, underflow := available.SubOverflow(&channel.Value, &r.Pending.Signed); underflow {
		available.Clear()
	}
	return available
}

// Refund gives back what one charge took and returns the record to write. The
// record itself is returned when nothing needs to be written. With
// ClaimCorrected the transaction must write the pending claim too.
func (r *Record) Refund(refund *Refund) (*Record, RefundOutcome) {
	switch {
	case r == nil:
		return r, NotCharged
	case refund.Sender != r.Sender && refund.Sender != (common.Address{}):
		return r, TooLate // what was charged has been set aside
	case refund.Nonce == r.Nonce:
		return r.refundCurrent(refund)
	case r.Pending != nil && refund.Nonce == r.Pending.Nonce:
		return r.refundPending(refund)
	case refund.Nonce.Lt(&r.Nonce):
		return r, TooLate
	default:
		return r, NotCharged
	}
}

func (r *Record) refundCurrent(refund *Refund) (*Record, RefundOutcome) {
	if refund.Price.Gt(&r.Spent) || !r.Window.Has(&refund.Amount) {
		return r, NotCharged
	}
	if refund.Price.IsZero() {
		return r, Refunded
	}
	next := *r
	next.Spent.Sub(&r.Spent, &refund.Price)
	next.Window = r.Window.without(&refund.Amount)
	if r.Previous != nil && refund.Amount == r.Signed {
		// The charge that raised Signed is the last one accepted. What was
		// signed before it is shown again, provided that it covers the rest.
		if !r.Previous.Amount.Lt(&next.Spent) {
			next.Signed, next.Signature = r.Previous.Amount, r.Previous.Signature
		}
		next.Previous = nil
	}
	return &next, Refunded
}

func (r *Record) refundPending(refund *Refund) (*Record, RefundOutcome) {
	claim := r.Pending
	if claim.Sent || claim.Passed {
		return r, TooLate
	}
	if refund.Price.Gt(&claim.Spent) {
		return r, NotCharged
	}
	if refund.Price.IsZero() {
		return r, Refunded
	}
	corrected := *claim
	corrected.Spent.Sub(&claim.Spent, &refund.Price)
	next := *r
	next.Pending = &corrected
	return &next, ClaimCorrected
}
