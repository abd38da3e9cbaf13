package authz

import (
	"context"

	"github.com/ethereum/go-ethereum/common"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

// allowList holds the addresses that are served; nil serves everyone.
type allowList map[common.Address]struct{}

func (l allowList) admits(signer common.Address) bool {
	if l == nil {
		return true
	}
	_, listed := l[signer]
	return listed
}

// withoutPayment serves calls while the blockchain is off. With an allow-list the headers of an escrow payment prove
// who calls, though nothing is paid; the client names the contract it signed for, as there is no metadata.
type withoutPayment struct {
	listed allowList
}

func (w *withoutPayment) charge(_ context.Context, c *call) *verdict {
	if w.listed == nil {
		return &verdict{outcome: allowedWithoutPayment}
	}
	var payment escrowPayment
	if denied := payment.parse(c.headers); denied != nil {
		return denied
	}
	c.channel = payment.channelText
	text, denied := single(c.headers, envoy.HeaderMPEAddress)
	if denied != nil {
		return denied
	}
	mpe, ok := parseAddress(text)
	if !ok {
		return malformed(envoy.HeaderMPEAddress, text)
	}
	signer, denied := payment.signer(mpe, w.listed)
	if denied != nil {
		return denied
	}
	return &verdict{outcome: allowedWithoutPayment, user: signer.Hex()}
}

func (w *withoutPayment) refund(context.Context, *envoy.Charged) (channelstate.RefundOutcome, error) {
	return 0, errNothingToRefund
}

// signer recovers who signed the payment. An address that is not listed gets the answer of a broken signature, so
// that the list cannot be probed.
func (p *escrowPayment) signer(mpe common.Address, listed allowList) (common.Address, *verdict) {
	message := blockchain.ClaimMessage(mpe, &p.channel, &p.nonce, &p.amount)
	signer, err := blockchain.RecoverSigner(message, p.signature)
	if err != nil {
		return signer, denyFor(invalidSignature, err, textInvalidSignature)
	}
	if !listed.admits(signer) {
		return signer, deny(notListed, textInvalidSignature)
	}
	return signer, nil
}
