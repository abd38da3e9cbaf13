// Package service has the public gRPC services that read or move the state of
// payment channels. Who asks is proved by a signature in the request, so the
// calls are not paid for.
package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
)

// Channels are the payment channels as the chain has them. blockchain.ChannelCache is one.
type Channels interface {
	// Get answers from memory, or reads once; client is whose budget of reads is used.
	Get(ctx context.Context, id *uint256.Int, client string) (blockchain.Channel, error)
	// Refresh reads again, as far as the budget of reads allows.
	Refresh(ctx context.Context, id *uint256.Int) (blockchain.Channel, error)
	// UpTo tells whether what is in memory of a channel takes in everything up to a block.
	UpTo(id *uint256.Int, block uint64) bool
}

// Head is the height of the chain. blockchain.Head is one.
type Head interface {
	// Block is the last known block; an error when it is too long ago.
	Block() (uint64, error)
	// Refresh asks the node, as far as the budget of reads allows.
	Refresh(ctx context.Context) (uint64, error)
}

// Records are what clients have signed. channelstate.Ledger is one; its reads
// see every charge that was answered before.
type Records interface {
	Read(ctx context.Context, key channelstate.Key) (channelstate.Record, bool, error)
	Claim(ctx context.Context, key channelstate.Key, nonce *uint256.Int) (channelstate.Claim, bool, error)
}

const (
	// blockWindow is how many blocks a signed request may be away from the head.
	blockWindow = 5
	// requestTimeout bounds what one request may wait for, the chain included.
	requestTimeout = 10 * time.Second
)

// ChannelStateService answers escrow.PaymentChannelStateService.
type ChannelStateService struct {
	escrow.UnimplementedPaymentChannelStateServiceServer
	records  Records
	channels Channels
	head     Head
	metadata func() *blockchain.Metadata
	chainID  uint64
}

// NewChannelStateService makes the service for the group of the metadata, of
// which the newest is used for each request.
func NewChannelStateService(
	records Records, channels Channels, head Head, metadata func() *blockchain.Metadata, chainID uint64,
) *ChannelStateService {
	return &ChannelStateService{records: records, channels: channels, head: head, metadata: metadata, chainID: chainID}
}

// WithoutBlockchain is the service where calls are not paid for: there is
// nothing to tell, and every reply is empty.
type WithoutBlockchain struct {
	escrow.UnimplementedPaymentChannelStateServiceServer
}

// GetChannelState answers an empty reply.
func (WithoutBlockchain) GetChannelState(context.Context, *escrow.ChannelStateRequest) (*escrow.ChannelStateReply, error) {
	return &escrow.ChannelStateReply{}, nil
}

// GetChannelState tells the parties of a channel what is signed on it
// (grpc-services.md section 2). Codes: 3 for what no client sends, 16 for a
// signature that is wrong, too old or not of a party, 5 for an unknown channel,
// 8 when too many unknown channels were asked for, 14 when the chain or the
// channel state cannot be asked.
func (s *ChannelStateService) GetChannelState(ctx context.Context, request *escrow.ChannelStateRequest) (*escrow.ChannelStateReply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	id, err := integer("channel_id", request.GetChannelId())
	if err != nil {
		return nil, err
	}
	metadata := s.metadata()
	if metadata == nil {
		return nil, status.Error(codes.Unavailable, "the metadata of the service is not loaded yet, try again")
	}
	signer, err := signerOf(request, metadata.Service.MPE, id)
	if err != nil {
		return nil, err
	}
	if err := checkWindow(ctx, s.head, request.GetCurrentBlock()); err != nil {
		return nil, err
	}
	channel, err := s.channels.Get(ctx, id, callerAddress(ctx))
	if err == nil && !channel.Exists() {
		err = blockchain.ErrChannelNotFound
	}
	if err != nil {
		return nil, channelError(ctx, id, err)
	}
	if !channel.MaySign(signer) && signer != channel.Recipient {
		return nil, status.Error(codes.Unauthenticated, "only channel signer/sender/receiver can get the state of the channel")
	}
	if channel.GroupID != metadata.Group.ID {
		return nil, status.Errorf(codes.Unauthenticated, "channel error: channel belongs to another replica group, channel: %v, this service: %v",
			channel.GroupID, metadata.Group.ID)
	}
	// The client has seen this block, and perhaps its own claim or top-up in it: what it adds to our answer must fit.
	if !s.channels.UpTo(id, request.GetCurrentBlock()) {
		if newer, err := s.channels.Refresh(ctx, id); err == nil {
			channel = newer
		}
	}
	key := channelstate.Key{ChainID: s.chainID, MPE: metadata.Service.MPE, GroupID: metadata.Group.ID, Channel: *id}
	return s.reply(ctx, key, channel, signer)
}

// signerOf recovers who signed the request. Nothing is asked of anybody for it.
func signerOf(request *escrow.ChannelStateRequest, mpe common.Address, id *uint256.Int) (common.Address, error) {
	if request.GetCurrentBlock() >= 1<<63 {
		return common.Address{}, status.Errorf(codes.InvalidArgument, "current_block is %d, which no chain has", request.GetCurrentBlock())
	}
	message := blockchain.ChannelStateMessage(mpe, id, request.GetCurrentBlock())
	signer, err := blockchain.RecoverSigner(message, request.GetSignature())
	switch {
	case errors.Is(err, blockchain.ErrSignatureLength):
		return signer, status.Errorf(codes.InvalidArgument, "incorrect signature: it has %d bytes instead of %d",
			len(request.GetSignature()), blockchain.SignatureLength)
	case err != nil:
		return signer, status.Error(codes.Unauthenticated, "incorrect signature")
	}
	return signer, nil
}

// checkWindow refuses a signature over a block too far from the head. Only when
// the known head refuses it the node is asked, because the client may be ahead of us.
func checkWindow(ctx context.Context, head Head, block uint64) error {
	current, err := head.Block()
	if err == nil && blockchain.WithinWindow(block, current, blockWindow) {
		return nil
	}
	if current, err = head.Refresh(ctx); err != nil {
		return unavailable(ctx, fmt.Errorf("cannot determine current block: %w", err))
	}
	if !blockchain.WithinWindow(block, current, blockWindow) {
		return status.Errorf(codes.Unauthenticated,
			"authentication failed as the signature passed has expired: it is for block %d, the current block is %d and may be %d away",
			block, current, blockWindow)
	}
	return nil
}

// reply puts together what the chain and the record say (payment-protocol.md section 7.3).
func (s *ChannelStateService) reply(
	ctx context.Context, key channelstate.Key, channel blockchain.Channel, signer common.Address,
) (*escrow.ChannelStateReply, error) {
	record, found, err := s.records.Read(ctx, key)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	if found && (record.Nonce != channel.Nonce || record.Sender != channel.Sender || record.Signer != channel.Signer) {
		// The claim may be on chain by now, or a reorganisation has given the id to another channel.
		if channel, err = s.channels.Refresh(ctx, &key.Channel); err != nil {
			return nil, channelError(ctx, &key.Channel, err)
		}
		if !channel.MaySign(signer) && signer != channel.Recipient {
			return nil, status.Error(codes.Unauthenticated, "only channel signer/sender/receiver can get the state of the channel")
		}
		found = record.Sender == channel.Sender && record.Signer == channel.Signer
	}
	switch {
	case !found || record.Nonce.Lt(&channel.Nonce):
		return &escrow.ChannelStateReply{CurrentNonce: word(&channel.Nonce)}, nil
	case record.Nonce == channel.Nonce && record.Signed.IsZero():
		return &escrow.ChannelStateReply{CurrentNonce: word(&record.Nonce)}, nil
	}
	reply := &escrow.ChannelStateReply{
		CurrentNonce:        word(&record.Nonce),
		CurrentSignedAmount: word(&record.Signed),
		CurrentSignature:    record.Signature,
	}
	if record.Signed.IsUint64() { // and so is what was spent of it
		reply.PlannedAmount, reply.UsedAmount = record.Signed.Uint64(), record.Spent.Uint64()
	}
	if record.Nonce == channel.Nonce {
		return reply, nil
	}
	claim, err := s.pendingClaim(ctx, key, &record)
	if err != nil {
		return nil, err
	}
	reply.OldNonceSignedAmount, reply.OldNonceSignature = word(&claim.Signed), claim.Signature
	return reply, nil
}

// pendingClaim is the claim of the nonce before the record's.
func (s *ChannelStateService) pendingClaim(ctx context.Context, key channelstate.Key, record *channelstate.Record) (channelstate.Claim, error) {
	nonce := new(uint256.Int).SubUint64(&record.Nonce, 1)
	if record.Pending != nil && record.Pending.Nonce == *nonce {
		return *record.Pending, nil
	}
	claim, found, err := s.records.Claim(ctx, key, nonce)
	if err != nil {
		return claim, unavailable(ctx, err)
	}
	if !found {
		return claim, status.Error(codes.Unavailable,
			"channel has different nonce in local storage and blockchain and old payment is not found in storage")
	}
	return claim, nil
}
