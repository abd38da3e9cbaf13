package authz

import (
	"context"
	"encoding/base64"
	"errors"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

// Tokens checks prepaid tokens and asks nobody for it; *channelstate.Tokens is the real one.
type Tokens interface {
	// Check tells whose token it is. Errors wrap channelstate.ErrTokenExpired or channelstate.ErrTokenInvalid.
	Check(text string, channel *uint256.Int, organizationID, groupID string) (common.Address, error)
}

// prepaid sells calls that are paid for out of what the client has signed on its channel before: GetToken has given
// it a token for them. A failed call is given back as one of escrow is.
type prepaid struct {
	*escrow
	tokens Tokens
}

// prepaidPayment is what the headers of a prepaid call claim. The nonce that clients send is not read: a token is good
// for every nonce of its channel.
type prepaidPayment struct {
	channel     uint256.Int
	channelText string
	token       string
}

// maxTokenText is enough for a token of 4096 bytes in base64.
var maxTokenText = base64.StdEncoding.EncodedLen(4096)

func (p *prepaidPayment) parse(headers map[string]string) (denied *verdict) {
	if p.channelText, denied = readNumber(headers, envoy.HeaderChannelID, &p.channel); denied != nil {
		return denied
	}
	text, denied := single(headers, envoy.HeaderPrepaidToken)
	if denied != nil {
		return denied
	}
	if len(text) > maxTokenText {
		return denyf(malformedHeader, "incorrect format %q: it is too long for a token", envoy.HeaderPrepaidToken)
	}
	token, err := envoy.DecodeBinary(text)
	if err != nil {
		return denyf(malformedHeader, "incorrect format %q: it is not base64", envoy.HeaderPrepaidToken)
	}
	p.token = string(token)
	return nil
}

// charge checks the token before it asks the chain or the ledger anything.
func (p *prepaid) charge(ctx context.Context, c *call) *verdict {
	payment := &prepaidPayment{}
	if denied := payment.parse(c.headers); denied != nil {
		return denied
	}
	c.channel = payment.channelText
	terms, price, denied := p.offer(c)
	if denied != nil {
		return denied
	}
	user, err := p.tokens.Check(payment.token, &payment.channel, terms.organizationID, terms.groupID)
	switch {
	case errors.Is(err, channelstate.ErrTokenExpired):
		return deny(tokenExpired, "token is expired, get a new one with GetToken")
	case err != nil:
		return deny(invalidToken, err.Error())
	case !p.listed.admits(user):
		return deny(notListed, "token is not valid")
	}
	sale := &prepaidSale{prepaid: p, call: c, payment: payment, terms: terms, price: price, user: user}
	return p.sell(ctx, c, &payment.channel, sale.close)
}

// prepaidSale is one call of the owner of a token.
type prepaidSale struct {
	prepaid *prepaid
	call    *call
	payment *prepaidPayment
	terms   *terms
	price   *price
	user    common.Address
}

// close takes the price if the channel has as much credit.
func (s *prepaidSale) close(ctx context.Context, channel blockchain.Channel, fresh bool) *verdict {
	if denied := s.terms.checkChannel(s.call, &channel); denied != nil {
		return denied
	}
	// A token names neither contract nor chain, and after a reorganisation the id may be that of another channel.
	if !channel.MaySign(s.user) && s.user != channel.Recipient {
		return denyf(invalidToken, "token is not valid: %s is not signer, sender or recipient of the channel", s.user.Hex())
	}
	block, err := s.prepaid.head.Block()
	if err != nil {
		return denyFor(unknownBlock, err, "cannot determine current block")
	}
	if ctx.Err() != nil {
		return s.call.outOfTime(ctx)
	}
	id := channelstate.NewChargeID()
	key := s.prepaid.key(s.terms, &s.payment.channel)
	started := time.Now()
	nonce, err := s.prepaid.ledger.ChargePrepaid(ctx, key, &channel, channelstate.Charge{
		ID: id, Price: s.price.amount, Block: block, Threshold: s.terms.threshold, Fresh: fresh,
	})
	s.prepaid.metrics.chargeSeconds.Observe(time.Since(started).Seconds())
	if err != nil {
		return refused(ctx, s.call, err)
	}
	if !s.price.amount.IsZero() {
		s.call.charged = s.prepaid.describe(typePrepaid, s.terms, s.price, id, s.payment.channelText, nonce.Dec(), "0")
		s.call.charged.Sender = channel.Sender.Hex()
	}
	return &verdict{outcome: allowed, user: s.user.Hex(), charged: s.call.charged}
}
