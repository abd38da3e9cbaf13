package service

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
)

// FreeCallOffice issues tokens for free calls and knows how many are left.
// channelstate.FreeCalls is one.
type FreeCallOffice interface {
	IssueToken(ctx context.Context, metadata *blockchain.Metadata, proof *channelstate.FreeCallProof, lifetime *uint64,
		block channelstate.CurrentBlock) (token []byte, expiry uint64, err error)
	Available(ctx context.Context, metadata *blockchain.Metadata, proof *channelstate.FreeCallProof,
		block channelstate.CurrentBlock, client string) (uint64, error)
}

// FreeCallStateService answers escrow.FreeCallStateService (payment-protocol.md
// section 6.4). A token is given to everybody who signs for it; what is left
// says whether there are free calls for him.
type FreeCallStateService struct {
	escrow.UnimplementedFreeCallStateServiceServer
	office   FreeCallOffice
	head     Head
	metadata func() *blockchain.Metadata
}

// NewFreeCallStateService makes the service for the group of the metadata, of
// which the newest is used for each request.
func NewFreeCallStateService(office FreeCallOffice, head Head, metadata func() *blockchain.Metadata) *FreeCallStateService {
	return &FreeCallStateService{office: office, head: head, metadata: metadata}
}

// FreeCallsWithoutBlockchain is the service where calls are not paid for.
type FreeCallsWithoutBlockchain struct {
	escrow.UnimplementedFreeCallStateServiceServer
}

// GetFreeCallToken answers that nothing needs a token.
func (FreeCallsWithoutBlockchain) GetFreeCallToken(context.Context, *escrow.GetFreeCallTokenRequest) (*escrow.FreeCallToken, error) {
	return nil, withoutBlockchain()
}

// GetFreeCallsAvailable answers that nothing needs a token.
func (FreeCallsWithoutBlockchain) GetFreeCallsAvailable(context.Context, *escrow.FreeCallStateRequest) (*escrow.FreeCallStateReply, error) {
	return nil, withoutBlockchain()
}

// GetFreeCallToken issues a token. Codes: 3 for what no client sends, 16 for a
// signature that is wrong, too old or not of the address, 7 for a user id of
// who is not trusted, 14 when the height of the chain is not known.
func (s *FreeCallStateService) GetFreeCallToken(ctx context.Context, request *escrow.GetFreeCallTokenRequest) (*escrow.FreeCallToken, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	metadata := s.metadata()
	if metadata == nil {
		return nil, noMetadata()
	}
	proof := &channelstate.FreeCallProof{
		Address: request.GetAddress(), UserID: request.GetUserId(), Block: request.GetCurrentBlock(), Signature: request.GetSignature(),
	}
	token, expiry, err := s.office.IssueToken(ctx, metadata, proof, request.TokenLifetimeInBlocks, s.currentBlock)
	if err != nil {
		return nil, freeCallError(ctx, err)
	}
	return &escrow.FreeCallToken{Token: token, TokenHex: hex.EncodeToString(token), TokenExpirationBlock: expiry}, nil
}

// GetFreeCallsAvailable tells how many free calls are left, 99999999 when they
// are not limited. Codes are those of GetFreeCallToken, and 8 when too many
// balances were asked for, 14 when the chain or the counter cannot be asked.
func (s *FreeCallStateService) GetFreeCallsAvailable(ctx context.Context, request *escrow.FreeCallStateRequest) (*escrow.FreeCallStateReply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if isOlderShape(request) {
		return nil, status.Error(codes.InvalidArgument, "the request has the shape of clients before version 6 (user_id, token_for_free_call, "+
			"token_expiry_date_block), which free calls no longer take: use a newer client, or pay for the call")
	}
	metadata := s.metadata()
	if metadata == nil {
		return nil, noMetadata()
	}
	proof := &channelstate.FreeCallProof{
		Address: request.GetAddress(), UserID: string(request.GetUserId()), Block: request.GetCurrentBlock(),
		Signature: request.GetSignature(), Token: request.GetFreeCallToken(),
	}
	left, err := s.office.Available(ctx, metadata, proof, s.currentBlock, callerAddress(ctx))
	if err != nil {
		return nil, freeCallError(ctx, err)
	}
	return &escrow.FreeCallStateReply{FreeCallsAvailable: left}, nil
}

// isOlderShape finds a number where the token should be, or bytes that are no
// text where the user id should be.
func isOlderShape(request *escrow.FreeCallStateRequest) bool {
	if !utf8.Valid(request.GetUserId()) {
		return true
	}
	unknown := request.ProtoReflect().GetUnknown()
	for len(unknown) > 0 {
		number, kind, length := protowire.ConsumeTag(unknown)
		if length < 0 {
			return false
		}
		const tokenField = 3
		if number == tokenField && kind == protowire.VarintType {
			return true
		}
		value := protowire.ConsumeFieldValue(number, kind, unknown[length:])
		if value < 0 {
			return false
		}
		unknown = unknown[length+value:]
	}
	return false
}

// currentBlock is the height of the chain. Only when what is known of it would
// refuse the request the node is asked, because the client may be ahead of us.
func (s *FreeCallStateService) currentBlock(ctx context.Context, signed uint64) (uint64, error) {
	current, err := s.head.Block()
	if err == nil && blockchain.WithinWindow(signed, current, blockWindow) {
		return current, nil
	}
	if current, err = s.head.Refresh(ctx); err != nil {
		return 0, fmt.Errorf("cannot determine current block: %w", err)
	}
	return current, nil
}

// freeCallCodes are the gRPC codes of refusals.
var freeCallCodes = map[channelstate.FreeCallReason]codes.Code{
	channelstate.FreeCallMalformed:      codes.InvalidArgument,
	channelstate.FreeCallSignature:      codes.Unauthenticated,
	channelstate.FreeCallTokenSignature: codes.Unauthenticated,
	channelstate.FreeCallTokenExpired:   codes.Unauthenticated,
	channelstate.FreeCallSignatureOld:   codes.Unauthenticated,
	channelstate.FreeCallUserID:         codes.PermissionDenied,
	channelstate.FreeCallBalance:        codes.PermissionDenied,
	channelstate.FreeCallLimit:          codes.ResourceExhausted,
}

func freeCallError(ctx context.Context, err error) error {
	var refusal *channelstate.FreeCallRefusal
	switch {
	case errors.As(err, &refusal):
		code, known := freeCallCodes[refusal.Reason]
		if !known {
			code = codes.Internal
		}
		return status.Error(code, refusal.Message)
	case errors.Is(err, blockchain.ErrTooManyReads):
		return status.Error(codes.ResourceExhausted, "too many addresses that are not known are asked for, try again in a minute")
	default:
		return unavailable(ctx, err)
	}
}
