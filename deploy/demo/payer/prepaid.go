package payer

import (
	"context"

	"github.com/holiman/uint256"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/envoy"
)

// Token buys credit up to a cumulative amount in cogs and gets a token for prepaid calls
// (payment-protocol.md section 6.5). An amount that is signed already only renews the token.
func (p *Payer) Token(ctx context.Context, connection grpc.ClientConnInterface, amount, block uint64) (*escrow.TokenReply, error) {
	claim, err := blockchain.Sign(blockchain.ClaimMessage(p.MPE, &p.Channel, &p.Nonce, uint256.NewInt(amount)), p.Key)
	if err != nil {
		return nil, err
	}
	signature, err := blockchain.Sign(blockchain.TokenMessage(claim, block), p.Key)
	if err != nil {
		return nil, err
	}
	return escrow.NewTokenServiceClient(connection).GetToken(ctx, &escrow.TokenRequest{
		ChannelId: p.Channel.Uint64(), CurrentNonce: p.Nonce.Uint64(), SignedAmount: amount, CurrentBlock: block,
		ClaimSignature: claim, Signature: signature,
	})
}

// Prepaid returns the headers that pay for one call with a token.
func (p *Payer) Prepaid(token string) metadata.MD {
	return metadata.Pairs(
		envoy.HeaderPaymentType, "prepaid-call",
		envoy.HeaderChannelID, p.Channel.Dec(),
		envoy.HeaderChannelNonce, p.Nonce.Dec(),
		envoy.HeaderPrepaidToken, token,
	)
}
