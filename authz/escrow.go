package authz

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

// escrow sells calls against payment channels of the MPE contract.
type escrow struct {
	channels Channels
	head     Head
	ledger   Ledger
	terms    currentTerms
	chainID  uint64
	chain    string
	listed   allowList
	metrics  *metrics
}

// charge verifies all that can be verified here before it asks the chain or the ledger anything: a call without a
// valid signature costs one recovery and no I/O.
func (e *escrow) charge(ctx context.Context, c *call) *verdict {
	payment := &escrowPayment{}
	if denied := payment.parse(c.headers); denied != nil {
		return denied
	}
	c.channel = payment.channelText
	terms, price, denied := e.offer(c)
	if denied != nil {
		return denied
	}
	signer, denied := payment.signer(terms.mpe, e.listed)
	if denied != nil {
		return denied
	}
	sale := &sale{escrow: e, call: c, payment: payment, terms: terms, price: price, signer: signer}
	return e.sell(ctx, c, &payment.channel, sale.close)
}

// offer finds what the call costs.
func (e *escrow) offer(c *call) (*terms, *price, *verdict) {
	terms := e.terms.get()
	if terms == nil {
		return nil, nil, deny(metadataUnavailable, "the metadata of the service is not loaded yet, try again later")
	}
	price := terms.price(c.path)
	if price == nil {
		return nil, nil, denyf(noPrice, "price is not defined for the Method %s", c.path)
	}
	c.price = price.text
	return terms, price, nil
}

// sell closes a sale on the channel as it is known, and where that is refused once more on the channel as it is now.
// fresh says that the channel was read for this very call.
func (e *escrow) sell(
	ctx context.Context, c *call, id *uint256.Int, closeSale func(ctx context.Context, channel blockchain.Channel, fresh bool) *verdict,
) *verdict {
	channel, err := e.channels.Get(ctx, id, c.client)
	if err != nil {
		return unread(ctx, c, err)
	}
	verdict := closeSale(ctx, channel, false)
	if !mayBeStale(verdict.outcome) {
		return verdict
	}
	newer, fresh, err := e.channels.Reread(ctx, id)
	switch {
	case errors.Is(err, blockchain.ErrChannelNotFound):
		return notFound(c)
	case err != nil, newer == channel && !(fresh && verdict.outcome == channelChanged):
		return verdict // what is known of the channel says no, and nothing newer is known
	}
	return closeSale(ctx, newer, fresh)
}

// mayBeStale says whether a newer copy of the channel could decide otherwise: its sender may have added funds or
// extended it, and its nonce rises with each claim.
func mayBeStale(refused outcome) bool {
	switch refused {
	case wrongNonce, nearExpiry, aboveValue, notEnoughFunds, channelChanged:
		return true
	}
	return false
}

// unread explains why the channel could not be looked at.
func unread(ctx context.Context, c *call, err error) *verdict {
	switch {
	case errors.Is(err, blockchain.ErrChannelNotFound):
		return notFound(c)
	case errors.Is(err, blockchain.ErrTooManyReads):
		return denyFor(tooManyReads, err, "payment channel error: too many unknown channels asked for, try again later")
	case ctx.Err() != nil:
		return c.outOfTime(ctx)
	}
	return denyFor(chainUnavailable, err, "payment channel error: the blockchain cannot be asked, try again later")
}

func notFound(c *call) *verdict {
	return denyf(channelNotFound, `payment channel "{ID: %s}" not found`, c.channel)
}

// sale is one signed payment for one call.
type sale struct {
	escrow  *escrow
	call    *call
	payment *escrowPayment
	terms   *terms
	price   *price
	signer  common.Address
}

// close takes the price if the channel allows it. fresh says that the channel was read for this very call.
func (s *sale) close(ctx context.Context, channel blockchain.Channel, fresh bool) *verdict {
	if denied := s.terms.checkChannel(s.call, &channel); denied != nil {
		return denied
	}
	if !channel.MaySign(s.signer) {
		return deny(notSigner, "payment is not signed by channel signer/sender")
	}
	block, err := s.escrow.head.Block()
	if err != nil {
		return denyFor(unknownBlock, err, "cannot determine current block")
	}
	if ctx.Err() != nil {
		return s.call.outOfTime(ctx)
	}
	id := channelstate.NewChargeID()
	key := s.escrow.key(s.terms, &s.payment.channel)
	started := time.Now()
	err = s.escrow.ledger.Charge(ctx, key, &channel, channelstate.Charge{
		ID: id, Nonce: s.payment.nonce, Amount: s.payment.amount, Price: s.price.amount,
		Signature: s.payment.signature, Block: block, Threshold: s.terms.threshold, Fresh: fresh,
	})
	s.escrow.metrics.chargeSeconds.Observe(time.Since(started).Seconds())
	if err != nil {
		return refused(ctx, s.call, err)
	}
	// A free call leaves nothing to give back, so Envoy need not report how it ends.
	user := channel.Sender.Hex()
	if !s.price.amount.IsZero() {
		s.call.charged = s.escrow.describe(typeEscrow, s.terms, s.price, id, s.payment.channelText, s.payment.nonceText, s.payment.amountText)
		s.call.charged.Sender = user
	}
	return &verdict{outcome: allowed, user: user, charged: s.call.charged}
}

func (e *escrow) key(terms *terms, channel *uint256.Int) channelstate.Key {
	return channelstate.Key{ChainID: e.chainID, MPE: terms.mpe, GroupID: terms.group, Channel: *channel}
}

// checkChannel refuses a channel that is not ours. The cache holds channels of other recipients and groups too.
func (t *terms) checkChannel(c *call, channel *blockchain.Channel) *verdict {
	switch {
	case !channel.Exists():
		return notFound(c)
	case channel.Recipient != t.recipient:
		return denyf(otherRecipient, "payment channel error: recipient of the channel differs from the organization metadata, "+
			"channel: %s, metadata: %s", channel.Recipient.Hex(), t.recipient.Hex())
	case channel.GroupID != t.group:
		return denyf(otherGroup, "payment channel error: channel belongs to another replica group, channel: %v, this service: %v",
			channel.GroupID, t.group)
	}
	return nil
}

// refused turns the ledger's answer into ours.
func refused(ctx context.Context, c *call, err error) *verdict {
	var refusal *channelstate.Refusal
	if errors.As(err, &refusal) {
		return deny(refusalOutcomes[refusal.Reason], refusal.Error()) // undecided for a reason not known here
	}
	if ctx.Err() != nil {
		return c.outOfTime(ctx)
	}
	return denyFor(stateUnavailable, err, "the state of the payment channel cannot be read or written, try again later")
}

var refusalOutcomes = map[channelstate.Reason]outcome{
	channelstate.ReasonNonce:           wrongNonce,
	channelstate.ReasonNearExpiry:      nearExpiry,
	channelstate.ReasonAboveValue:      aboveValue,
	channelstate.ReasonNotCovered:      notCovered,
	channelstate.ReasonAlreadyAccepted: alreadyAccepted,
	channelstate.ReasonFunds:           notEnoughFunds,
	channelstate.ReasonChannelChanged:  channelChanged,
	channelstate.ReasonCredit:          usageExceeded,
}

// describe is what a refund needs to know of a charge.
func (e *escrow) describe(
	paymentType string, terms *terms, price *price, id channelstate.ChargeID, channel, nonce, amount string,
) *envoy.Charged {
	return &envoy.Charged{
		ID: id.String(), Channel: channel, Nonce: nonce, Amount: amount, Price: price.text,
		ChainID: e.chain, MPE: terms.mpeText, Group: terms.groupText, PaymentType: paymentType,
	}
}

// refund gives a charge back. It trusts nothing but the description: metadata may have changed since the charge.
func (e *escrow) refund(ctx context.Context, charged *envoy.Charged) (channelstate.RefundOutcome, error) {
	key, refund, err := readCharged(charged)
	if err != nil {
		return 0, err
	}
	return e.ledger.Refund(ctx, key, refund)
}

// Faults of a charge's description; trying again does not help.
var (
	errMalformedCharge = errors.New("the description of the charge cannot be read")
	errNothingToRefund = errors.New("nothing was charged")
)

func readCharged(charged *envoy.Charged) (key channelstate.Key, refund channelstate.Refund, err error) {
	fault := func(field string) error { return fmt.Errorf("%w: %s", errMalformedCharge, field) }
	if refund.ID, err = channelstate.ParseChargeID(charged.ID); err != nil {
		return key, refund, fault("id")
	}
	if key.ChainID, err = strconv.ParseUint(charged.ChainID, 10, 64); err != nil {
		return key, refund, fault("chain id")
	}
	var ok bool
	if key.MPE, ok = parseAddress(charged.MPE); !ok {
		return key, refund, fault("contract address")
	}
	if charged.Sender != "" {
		if refund.Sender, ok = parseAddress(charged.Sender); !ok {
			return key, refund, fault("sender")
		}
	}
	group, err := hex.DecodeString(strings.TrimPrefix(charged.Group, "0x"))
	if err != nil || len(group) != len(key.GroupID) {
		return key, refund, fault("group")
	}
	copy(key.GroupID[:], group)
	switch {
	case !parseDecimal(charged.Channel, &key.Channel):
		err = fault("channel")
	case !parseDecimal(charged.Nonce, &refund.Nonce):
		err = fault("nonce")
	case !parseDecimal(charged.Amount, &refund.Amount):
		err = fault("amount")
	case !parseDecimal(charged.Price, &refund.Price):
		err = fault("price")
	}
	return key, refund, err
}
