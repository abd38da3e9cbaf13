package service

import (
	"context"
	"errors"
	"slices"

	"github.com/holiman/uint256"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
)

// StartClaimForMultipleChannels starts the claims of all channels named, in one
// transaction, or of none. Then the error names the first channel that cannot
// be claimed.
func (s *ControlService) StartClaimForMultipleChannels(ctx context.Context, request *escrow.StartMultipleClaimRequest) (*escrow.PaymentsListReply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	metadata := s.parts.Metadata()
	if metadata == nil {
		return nil, noMetadata()
	}
	ids, err := ascending(request.GetChannelIds())
	if err != nil {
		return nil, err
	}
	mpe, block := metadata.Service.MPE, request.GetCurrentBlock()
	if err := checkMPE(request.GetMpeAddress(), mpe); err != nil {
		return nil, err
	}
	if err := checkBlock(block); err != nil {
		return nil, err
	}
	message := blockchain.StartClaimForMultipleChannelsMessage(mpe, ids, block)
	if err := s.provider(ctx, metadata, message, request.GetSignature(), block); err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return &escrow.PaymentsListReply{}, nil
	}
	channels, err := s.readAllForClaim(ctx, ids)
	if err != nil {
		return nil, err
	}
	claims, err := s.parts.Claims.StartClaims(ctx, s.group(metadata), channels)
	if err != nil {
		return nil, noneStarted(ctx, err)
	}
	s.parts.Logger.Info("claims were started", zap.Int("channels", len(claims)))
	reply := &escrow.PaymentsListReply{}
	for i := range claims {
		reply.Payments = append(reply.Payments, paymentOf(&claims[i]))
	}
	return reply, nil
}

// ascending are the ids in the order in which they are signed.
func ascending(numbers []uint64) ([]uint256.Int, error) {
	if len(numbers) > channelstate.MaxClaimsTogether {
		return nil, status.Errorf(codes.InvalidArgument, "%d channels are named, at most %d can be claimed together: "+
			"name them in several requests", len(numbers), channelstate.MaxClaimsTogether)
	}
	numbers = slices.Sorted(slices.Values(numbers))
	ids := make([]uint256.Int, len(numbers))
	for i, number := range numbers {
		if i > 0 && number == numbers[i-1] {
			return nil, status.Errorf(codes.InvalidArgument, "channel %d is named twice", number)
		}
		ids[i].SetUint64(number)
	}
	return ids, nil
}

// readAllForClaim reads the channels, some at a time.
func (s *ControlService) readAllForClaim(ctx context.Context, ids []uint256.Int) ([]blockchain.Channel, error) {
	channels := make([]blockchain.Channel, len(ids))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(looksAtOnce)
	for i := range ids {
		group.Go(func() (err error) {
			channels[i], err = s.readForClaim(ctx, &ids[i])
			return err
		})
	}
	return channels, group.Wait()
}

// noneStarted is the answer when one of several claims cannot be started.
func noneStarted(ctx context.Context, err error) error {
	var of *channelstate.ChannelError
	if !errors.As(err, &of) {
		return unavailable(ctx, err)
	}
	answer := status.Convert(notStarted(ctx, &of.Channel, of.Err))
	return status.Errorf(answer.Code(), "no claim was started: %s", answer.Message())
}
