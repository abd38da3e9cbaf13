package payer

import (
	"context"
	"crypto/ecdsa"
	"strconv"

	"github.com/ethereum/go-ethereum/crypto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/envoy"
)

// FreeCaller signs for free calls of one service (payment-protocol.md sections 4.3 to 4.5).
type FreeCaller struct {
	Key                       *ecdsa.PrivateKey
	UserID                    string // of a trusted signer's user
	OrganizationID, ServiceID string
	GroupID                   string // base64
}

// Address is that of the key, as it is signed.
func (c *FreeCaller) Address() string { return crypto.PubkeyToAddress(c.Key.PublicKey).Hex() }

func (c *FreeCaller) request(block uint64) blockchain.FreeCallRequest {
	return blockchain.FreeCallRequest{
		Address: c.Address(), UserID: c.UserID, OrganizationID: c.OrganizationID, ServiceID: c.ServiceID, GroupID: c.GroupID, Block: block,
	}
}

// Token asks for a token for free calls.
func (c *FreeCaller) Token(ctx context.Context, connection grpc.ClientConnInterface, block uint64) (*escrow.FreeCallToken, error) {
	signature, err := blockchain.Sign(blockchain.FreeCallTokenRequestMessage(c.request(block)), c.Key)
	if err != nil {
		return nil, err
	}
	request := &escrow.GetFreeCallTokenRequest{Address: c.Address(), Signature: signature, CurrentBlock: block}
	if c.UserID != "" {
		request.UserId = &c.UserID
	}
	return escrow.NewFreeCallStateServiceClient(connection).GetFreeCallToken(ctx, request)
}

// Available asks how many free calls are left.
func (c *FreeCaller) Available(ctx context.Context, connection grpc.ClientConnInterface, token []byte, block uint64) (uint64, error) {
	signature, err := blockchain.Sign(blockchain.FreeCallMessage(c.request(block), token), c.Key)
	if err != nil {
		return 0, err
	}
	request := &escrow.FreeCallStateRequest{Address: c.Address(), FreeCallToken: token, Signature: signature, CurrentBlock: block}
	if c.UserID != "" {
		request.UserId = []byte(c.UserID)
	}
	reply, err := escrow.NewFreeCallStateServiceClient(connection).GetFreeCallsAvailable(ctx, request)
	return reply.GetFreeCallsAvailable(), err
}

// Headers are those of one free call.
func (c *FreeCaller) Headers(token []byte, block uint64) (metadata.MD, error) {
	signature, err := blockchain.Sign(blockchain.FreeCallMessage(c.request(block), token), c.Key)
	if err != nil {
		return nil, err
	}
	headers := metadata.Pairs(
		envoy.HeaderPaymentType, "free-call",
		envoy.HeaderFreeCallUserAddress, c.Address(),
		envoy.HeaderCurrentBlock, strconv.FormatUint(block, 10),
		envoy.HeaderFreeCallToken, string(token),
		envoy.HeaderChannelSignature, string(signature),
	)
	if c.UserID != "" {
		headers.Set(envoy.HeaderFreeCallUserID, c.UserID)
	}
	return headers, nil
}
