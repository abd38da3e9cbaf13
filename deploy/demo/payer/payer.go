// Package payer is a client that pays: it signs amounts for a payment channel and reads the channel's state, as the
// official clients do (payment-protocol.md sections 1, 4 and 7.3). The demo, the tests and the benchmark call with it.
package payer

import (
	"context"
	"crypto/ecdsa"
	"fmt"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/envoy"
)

// Payer signs for one channel at one nonce.
type Payer struct {
	Key            *ecdsa.PrivateKey // of the channel's sender or signer
	MPE            common.Address
	Channel, Nonce uint256.Int
}

// Payment returns the headers that pay for one call: amount is cumulative, in cogs.
func (p *Payer) Payment(amount *uint256.Int) (metadata.MD, error) {
	signature, err := blockchain.Sign(blockchain.ClaimMessage(p.MPE, &p.Channel, &p.Nonce, amount), p.Key)
	if err != nil {
		return nil, fmt.Errorf("signing amount %s: %w", amount.Dec(), err)
	}
	return metadata.Pairs(
		envoy.HeaderPaymentType, "escrow",
		envoy.HeaderChannelID, p.Channel.Dec(),
		envoy.HeaderChannelNonce, p.Nonce.Dec(),
		envoy.HeaderChannelAmount, amount.Dec(),
		envoy.HeaderChannelSignature, string(signature),
	), nil
}

// Paying puts the payment of a cumulative amount in cogs into the call's headers.
func (p *Payer) Paying(ctx context.Context, amount uint64) (context.Context, error) {
	payment, err := p.Payment(uint256.NewInt(amount))
	if err != nil {
		return nil, err
	}
	return metadata.NewOutgoingContext(ctx, payment), nil
}

// State is what the provider's side knows of a channel, amounts in cogs.
type State struct {
	Nonce, Signed    uint256.Int
	Signature        []byte
	OldSigned        *uint256.Int // being claimed at the nonce before; nil when no claim is pending
	OldSignature     []byte
	Planned, Used    uint64 // signed and spent, where they fit 64 bits
	SignatureIsValid bool   // the signature is one that may sign for this payer
}

// State asks PaymentChannelStateService with a signature over the current block number.
func (p *Payer) State(ctx context.Context, connection grpc.ClientConnInterface, block uint64) (State, error) {
	signature, err := blockchain.Sign(blockchain.ChannelStateMessage(p.MPE, &p.Channel, block), p.Key)
	if err != nil {
		return State{}, err
	}
	id := p.Channel.Bytes32()
	reply, err := escrow.NewPaymentChannelStateServiceClient(connection).GetChannelState(ctx,
		&escrow.ChannelStateRequest{ChannelId: id[:], Signature: signature, CurrentBlock: block})
	if err != nil {
		return State{}, err
	}
	state := State{
		Signature: reply.GetCurrentSignature(), OldSignature: reply.GetOldNonceSignature(),
		Planned: reply.GetPlannedAmount(), Used: reply.GetUsedAmount(),
	}
	state.Nonce.SetBytes(reply.GetCurrentNonce())
	state.Signed.SetBytes(reply.GetCurrentSignedAmount())
	if old := reply.GetOldNonceSignedAmount(); old != nil {
		state.OldSigned = new(uint256.Int).SetBytes(old)
	}
	state.SignatureIsValid = p.signed(&state.Nonce, &state.Signed, state.Signature)
	return state, nil
}

// signed tells whether the signature over an amount is this payer's own.
func (p *Payer) signed(nonce, amount *uint256.Int, signature []byte) bool {
	own := crypto.PubkeyToAddress(p.Key.PublicKey)
	signer, err := blockchain.RecoverSigner(blockchain.ClaimMessage(p.MPE, &p.Channel, nonce, amount), signature)
	return err == nil && signer == own
}
