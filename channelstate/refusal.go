package channelstate

import (
	"fmt"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
)

// Reason is the stable word for why a charge was refused, for logs and metrics.
type Reason string

// Why a charge is refused.
const (
	ReasonNonce           Reason = "nonce"
	ReasonNearExpiry      Reason = "near_expiry"
	ReasonAboveValue      Reason = "above_value"
	ReasonNotCovered      Reason = "not_covered"
	ReasonAlreadyAccepted Reason = "already_accepted"
	ReasonFunds           Reason = "funds"
	// ReasonChannelChanged: the record contradicts the channel, which was not
	// read for this call. Read it from the chain and charge again with Fresh.
	ReasonChannelChanged Reason = "channel_changed"
)

// Refusal is the answer to a charge that the rules do not allow. Message is for
// the client and has the phrase clients match on (payment-protocol.md, section 6.1).
type Refusal struct {
	Reason  Reason
	Message string
	Latest  uint256.Int // the nonce the client should have used, with ReasonNonce
}

// Error is the message.
func (r *Refusal) Error() string { return r.Message }

func refuseNonce(latest, sent *uint256.Int) *Refusal {
	return &Refusal{
		Reason:  ReasonNonce,
		Message: fmt.Sprintf("incorrect payment channel nonce, latest: %s, sent: %s", latest.Dec(), sent.Dec()),
		Latest:  *latest,
	}
}

func refuseNearExpiry(channel *blockchain.Channel, charge *Charge) *Refusal {
	return &Refusal{
		Reason: ReasonNearExpiry,
		Message: fmt.Sprintf("payment channel is near to be expired, expiration time: %s, current block: %d, expiration threshold: %d",
			channel.Expiration.Dec(), charge.Block, charge.Threshold),
	}
}

func refuseAmount(reason Reason, available, amount *uint256.Int) *Refusal {
	return &Refusal{
		Reason: reason,
		Message: fmt.Sprintf("not enough tokens on payment channel, channel amount: %s, payment amount: %s",
			available.Dec(), amount.Dec()),
	}
}

func refuseChanged(channel *blockchain.Channel) *Refusal {
	return &Refusal{
		Reason: ReasonChannelChanged,
		Message: fmt.Sprintf("payment channel {ID: %s} has changed on the blockchain and is being read again, try later",
			channel.ID.Dec()),
	}
}

// refuseIncome prints the income as the peer does, negative when less than the
// signed amount was sent, and adds what the client can do.
func (r *Record) refuseIncome(reason Reason, charge *Charge) *Refusal {
	sign, income := "", new(uint256.Int)
	if _, negative := income.SubOverflow(&charge.Amount, &r.Signed); negative {
		sign = "-"
		income.Neg(income)
	}
	why := "the amount " + charge.Amount.Dec() + " was used before"
	if reason == ReasonNotCovered {
		why = "the amount " + charge.Amount.Dec() + " does not cover the price and the " + r.Spent.Dec() + " spent before"
	}
	refusal := &Refusal{
		Reason:  reason,
		Message: fmt.Sprintf("income %s%s does not equal to price %s: %s", sign, income.Dec(), charge.Price.Dec(), why),
	}
	if next, overflow := new(uint256.Int).AddOverflow(&r.Signed, &charge.Price); !overflow {
		refusal.Message += ", sign " + next.Dec()
	}
	return refusal
}
