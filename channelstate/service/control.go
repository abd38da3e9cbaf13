package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/holiman/uint256"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
)

// ControlChannels are the channels of the chain as a provider's requests need
// them. blockchain.ChannelCache is one.
type ControlChannels interface {
	Channels
	// Known answers from memory alone.
	Known(id *uint256.Int) (blockchain.Channel, bool)
	// Earlier reads a channel as it was so many blocks before the head.
	Earlier(ctx context.Context, id *uint256.Int, blocks uint64) (blockchain.Channel, error)
}

// Claims start and settle claims. channelstate.Ledger is one.
type Claims interface {
	Read(ctx context.Context, key channelstate.Key) (channelstate.Record, bool, error)
	StartClaim(ctx context.Context, key channelstate.Key, channel *blockchain.Channel) (channelstate.Claim, error)
	// StartClaims starts the claims of all channels or of none.
	StartClaims(ctx context.Context, group channelstate.Group, channels []blockchain.Channel) ([]channelstate.Claim, error)
	// PassClaim makes a claim final that the chain has passed.
	PassClaim(ctx context.Context, key channelstate.Key, claim *channelstate.Claim) error
	// SettleClaim puts away a claim that the chain has passed for good.
	SettleClaim(ctx context.Context, key channelstate.Key, claim *channelstate.Claim) error
}

// Lists are the channels and claims of a group, a page at a time. A
// channelstate.Store is one.
type Lists interface {
	Channels(ctx context.Context, group channelstate.Group, cursor string, limit int) ([]channelstate.ChannelRecord, string, error)
	Claims(ctx context.Context, group channelstate.Group, cursor string, limit int) ([]channelstate.Claim, string, error)
}

// Control is what a ControlService asks the other packages for.
type Control struct {
	Claims   Claims
	Lists    Lists
	Channels ControlChannels
	Head     Head
	Metadata func() *blockchain.Metadata // nil until the first load
	ChainID  uint64
	Logger   *zap.Logger // nil: nothing is logged
}

// ControlService answers escrow.ProviderControlService: the provider's claims
// (payment-protocol.md sections 4.7 to 4.10 and 7.6). Codes: 3 for what no
// client sends and for another MPE address, 16 for a signature that is wrong,
// too old or not of the group's payment address, 5 for an unknown channel, 9
// for a claim that cannot be started, 8 when too many requests come whose
// signer is not known yet, 14 when the chain or the channel state cannot be
// asked. Nothing is told to who is not the provider.
type ControlService struct {
	escrow.UnimplementedProviderControlServiceServer
	parts     Control
	strangers *strangers
	listing   chan struct{} // holds one entry for each list that is being made
}

// NewControlService makes the service for the group of the metadata, of which
// the newest is used for each request.
func NewControlService(control Control) *ControlService {
	if control.Logger == nil {
		control.Logger = zap.NewNop()
	}
	return &ControlService{parts: control, strangers: newStrangers(), listing: make(chan struct{}, listsAtOnce)}
}

// ControlWithoutBlockchain is the service where calls are not paid for: there
// is nothing to claim, and every reply is empty.
type ControlWithoutBlockchain struct {
	escrow.UnimplementedProviderControlServiceServer
}

// GetListUnclaimed answers an empty list.
func (ControlWithoutBlockchain) GetListUnclaimed(context.Context, *escrow.GetPaymentsListRequest) (*escrow.PaymentsListReply, error) {
	return &escrow.PaymentsListReply{}, nil
}

// GetListInProgress answers an empty list.
func (ControlWithoutBlockchain) GetListInProgress(context.Context, *escrow.GetPaymentsListRequest) (*escrow.PaymentsListReply, error) {
	return &escrow.PaymentsListReply{}, nil
}

// StartClaim answers an empty reply.
func (ControlWithoutBlockchain) StartClaim(context.Context, *escrow.StartClaimRequest) (*escrow.PaymentReply, error) {
	return &escrow.PaymentReply{}, nil
}

// StartClaimForMultipleChannels answers an empty list.
func (ControlWithoutBlockchain) StartClaimForMultipleChannels(context.Context, *escrow.StartMultipleClaimRequest) (*escrow.PaymentsListReply, error) {
	return &escrow.PaymentsListReply{}, nil
}

// StartClaim moves what is signed on a channel to a claim, for the provider to
// send to the contract. The reply's signed_amount is what its signature covers
// and is the planned amount on chain; spent_amount is the actual one.
func (s *ControlService) StartClaim(ctx context.Context, request *escrow.StartClaimRequest) (*escrow.PaymentReply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	metadata := s.parts.Metadata()
	if metadata == nil {
		return nil, noMetadata()
	}
	id, err := integer("channel_id", request.GetChannelId())
	if err != nil {
		return nil, err
	}
	if err := checkMPE(request.GetMpeAddress(), metadata.Service.MPE); err != nil {
		return nil, err
	}
	nonce, err := s.signedNonce(ctx, metadata, id, request.GetSignature())
	if err != nil {
		return nil, err
	}
	channel, err := s.readForClaim(ctx, id)
	if err != nil {
		return nil, err
	}
	switch nonce.Cmp(&channel.Nonce) {
	case 1:
		return nil, notStarted(ctx, id, channelstate.ErrClaimPending)
	case -1:
		return nil, status.Errorf(codes.FailedPrecondition,
			"the claim of channel %s is signed for nonce %s, its latest is %s: sign it again", id.Dec(), nonce.Dec(), channel.Nonce.Dec())
	}
	claim, err := s.parts.Claims.StartClaim(ctx, s.group(metadata).Key(id), &channel)
	if err != nil {
		return nil, notStarted(ctx, id, err)
	}
	s.parts.Logger.Info("a claim was started", zap.String("channel", id.Dec()), zap.String("nonce", claim.Nonce.Dec()),
		zap.String("signed", claim.Signed.Dec()), zap.String("spent", claim.Spent.Dec()))
	return paymentOf(&claim), nil
}

// signedNonce finds the nonce that the payment address has signed for. The
// message has no block number, only the nonce, which the provider knows from
// the chain or from a list and we have to find: in memory, else by one read of
// the record. The number of such reads is bounded for each caller; nothing else
// is asked of anybody before the signer is known.
func (s *ControlService) signedNonce(ctx context.Context, metadata *blockchain.Metadata, id *uint256.Int, signature []byte) (*uint256.Int, error) {
	channel, known := s.parts.Channels.Known(id)
	nonce := &channel.Nonce // zero, that of a new channel, when not known
	signer, err := recoverSigner(blockchain.StartClaimMessage(metadata.Service.MPE, id, nonce), signature)
	if err != nil {
		return nil, err
	}
	if known && signer == metadata.Group.PaymentAddress {
		return nonce, nil
	}
	caller := callerAddress(ctx)
	if !s.strangers.admit(caller) {
		return nil, status.Error(codes.ResourceExhausted, "too many requests to start claims, try again in a second")
	}
	recognised := false
	defer func() { s.strangers.leave(caller, recognised) }()
	record, found, err := s.parts.Claims.Read(ctx, s.group(metadata).Key(id))
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	if found {
		nonce = &record.Nonce
		if signer, err = recoverSigner(blockchain.StartClaimMessage(metadata.Service.MPE, id, nonce), signature); err != nil {
			return nil, err
		}
	}
	if signer != metadata.Group.PaymentAddress {
		return nil, status.Errorf(codes.Unauthenticated, "the address: %s does not match to what has been expected / registered: "+
			"the payment address of the group signs this request, for the latest nonce of the channel", signer)
	}
	recognised = true
	return nonce, nil
}

// readForClaim reads a channel before its claim is started.
func (s *ControlService) readForClaim(ctx context.Context, id *uint256.Int) (blockchain.Channel, error) {
	channel, err := s.parts.Channels.Refresh(ctx, id)
	if err != nil {
		return channel, channelError(ctx, id, err)
	}
	return channel, nil
}

// notStarted is the answer when the rules or the store do not let a claim start.
func notStarted(ctx context.Context, id *uint256.Int, err error) error {
	switch {
	case errors.Is(err, channelstate.ErrNothingToClaim):
		return status.Errorf(codes.FailedPrecondition,
			"authorized amount is zero, hence nothing to claim on the channel, channelId: %s", id.Dec())
	case errors.Is(err, channelstate.ErrClaimPending):
		return status.Errorf(codes.FailedPrecondition, "a claim of channel {ID: %s} is in progress: "+
			"send it to the contract (GetListInProgress has it) and wait until the channel's nonce rises", id.Dec())
	case errors.Is(err, channelstate.ErrChannelChanged):
		return status.Errorf(codes.FailedPrecondition, "channel {ID: %s} is not what was paid on before: "+
			"the blockchain was reorganised and has other parties or an older nonce for it", id.Dec())
	default:
		return unavailable(ctx, fmt.Errorf("channel {ID: %s}: %w", id.Dec(), err))
	}
}

func (s *ControlService) group(metadata *blockchain.Metadata) channelstate.Group {
	return channelstate.Group{ChainID: s.parts.ChainID, MPE: metadata.Service.MPE, GroupID: metadata.Group.ID}
}

// paymentOf is how a claim is answered; the expiry of its channel is left to the lists.
func paymentOf(claim *channelstate.Claim) *escrow.PaymentReply {
	return &escrow.PaymentReply{
		ChannelId: word(&claim.Channel), ChannelNonce: word(&claim.Nonce), SignedAmount: word(&claim.Signed),
		Signature: claim.Signature, SpentAmount: word(&claim.Spent),
	}
}
