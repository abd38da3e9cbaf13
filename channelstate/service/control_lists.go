package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
)

const (
	// listedAtMost keeps a reply below the 4 MiB that gRPC clients take: an
	// entry has up to 250 bytes. What is left out comes up once these are claimed.
	listedAtMost = 10_000
	listPage     = 500
	listTimeout  = 25 * time.Second // of one list; Envoy waits a little longer
	listsAtOnce  = 2

	// settledAfter is how many blocks a claim must have been on the chain before
	// it is put away: no reorganisation undoes it then.
	settledAfter  = 64
	settledAtOnce = 64 // claims, for one list
)

// GetListUnclaimed lists the channels on which something was spent that no
// claim covers. Those for which the chain has no claim left, because the sender
// has taken the money back or another channel has the id, are not listed.
func (s *ControlService) GetListUnclaimed(ctx context.Context, request *escrow.GetPaymentsListRequest) (*escrow.PaymentsListReply, error) {
	return s.list(ctx, request, blockchain.ListUnclaimedMessage, s.unclaimed)
}

// GetListInProgress lists the claims that were started and that the chain's
// nonce has not passed. When the chain cannot be asked, claims that are on
// chain already may be among them.
func (s *ControlService) GetListInProgress(ctx context.Context, request *escrow.GetPaymentsListRequest) (*escrow.PaymentsListReply, error) {
	return s.list(ctx, request, blockchain.ListInProgressMessage, s.inProgress)
}

// list answers one of the lists to the provider.
func (s *ControlService) list(
	ctx context.Context, request *escrow.GetPaymentsListRequest, message func(common.Address, uint64) []byte,
	collect func(ctx context.Context, group channelstate.Group, block uint64, list *paymentList) error,
) (*escrow.PaymentsListReply, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	metadata := s.parts.Metadata()
	if metadata == nil {
		return nil, noMetadata()
	}
	mpe, block := metadata.Service.MPE, request.GetCurrentBlock()
	if err := checkMPE(request.GetMpeAddress(), mpe); err != nil {
		return nil, err
	}
	if err := checkBlock(block); err != nil {
		return nil, err
	}
	if err := s.provider(ctx, metadata, message(mpe, block), request.GetSignature(), block); err != nil {
		return nil, err
	}
	select {
	case s.listing <- struct{}{}:
		defer func() { <-s.listing }()
	case <-ctx.Done():
		return nil, unavailable(ctx, errors.New("too many lists are being made, try again later"))
	}
	list := &paymentList{}
	if err := collect(ctx, s.group(metadata), block, list); err != nil {
		return nil, unavailable(ctx, err)
	}
	return &escrow.PaymentsListReply{Payments: list.payments, More: list.more}, nil
}

func (s *ControlService) unclaimed(ctx context.Context, group channelstate.Group, _ uint64, list *paymentList) error {
	looks := newLooks(s.parts.Channels)
	for cursor := ""; ; {
		page, next, err := s.parts.Lists.Channels(ctx, group, cursor, listPage)
		if err != nil {
			return fmt.Errorf("%w: %w", channelstate.ErrUnavailable, err)
		}
		page = slices.DeleteFunc(page, func(entry channelstate.ChannelRecord) bool { return entry.Record.Spent.IsZero() })
		channels := looks.known(ctx, len(page), func(i int) *uint256.Int { return &page[i].Channel })
		for i := range page {
			record, channel := page[i].Record, channels[i]
			if channel != nil && (!sameParties(channel, record.Sender, record.Signer) || channel.Nonce.Gt(&record.Nonce)) {
				continue // worth nothing any more
			}
			payment := &escrow.PaymentReply{
				ChannelId: word(&page[i].Channel), ChannelNonce: word(&record.Nonce),
				SignedAmount: word(&record.Signed), SpentAmount: word(&record.Spent),
			}
			if !list.add(payment, channel) {
				return nil
			}
		}
		if cursor = next; next == "" {
			return nil
		}
	}
}

func (s *ControlService) inProgress(ctx context.Context, group channelstate.Group, block uint64, list *paymentList) error {
	looks := newLooks(s.parts.Channels)
	var passed []channelstate.Claim
	defer func() { s.settle(ctx, group, passed) }()
	for cursor := ""; ; {
		page, next, err := s.parts.Lists.Claims(ctx, group, cursor, listPage)
		if err != nil {
			return fmt.Errorf("%w: %w", channelstate.ErrUnavailable, err)
		}
		channels := looks.upTo(ctx, block, len(page), func(i int) *uint256.Int { return &page[i].Channel })
		for i := range page {
			claim, channel := &page[i], channels[i]
			switch {
			case channel != nil && channel.Nonce.Gt(&claim.Nonce):
				passed = append(passed, *claim)
				continue
			case channel != nil && !sameParties(channel, claim.Sender, claim.Signer):
				continue // a reorganisation has given the id to another channel
			}
			if !list.add(paymentOf(claim), channel) {
				return nil
			}
		}
		if cursor = next; next == "" {
			return nil
		}
	}
}

// settle makes claims final that the chain has passed and puts away those that
// it has passed for good, some for each list. What cannot be done now is done
// for the next one.
func (s *ControlService) settle(ctx context.Context, group channelstate.Group, passed []channelstate.Claim) {
	for i := range passed[:min(len(passed), settledAtOnce)] {
		err := s.settleOne(ctx, group, &passed[i])
		var of *channelstate.ChannelError
		switch {
		case errors.As(err, &of):
			s.parts.Logger.Error("a claim that is on the blockchain cannot be put away", zap.Error(err))
		case err != nil:
			s.parts.Logger.Debug("claims are put away with the next list", zap.Error(err))
			return
		}
	}
}

func (s *ControlService) settleOne(ctx context.Context, group channelstate.Group, claim *channelstate.Claim) error {
	key := group.Key(&claim.Channel)
	channel, err := s.parts.Channels.Earlier(ctx, &claim.Channel, settledAfter)
	switch {
	case errors.Is(err, blockchain.ErrChannelNotFound) || err == nil && !channel.Nonce.Gt(&claim.Nonce):
		if claim.Passed {
			return nil
		}
		return s.parts.Claims.PassClaim(ctx, key, claim)
	case err != nil:
		return err
	default:
		return s.parts.Claims.SettleClaim(ctx, key, claim)
	}
}

func sameParties(channel *blockchain.Channel, sender, signer common.Address) bool {
	return channel.Sender == sender && channel.Signer == signer
}

// paymentList is a reply while it grows.
type paymentList struct {
	payments []*escrow.PaymentReply
	more     bool
}

// add appends a payment with the expiry of its channel, nil when not known;
// false when the list is full. Of claims of one nonce, which a reorganisation
// can bring back, only one can be claimed: the one that spends most is kept.
func (l *paymentList) add(payment *escrow.PaymentReply, channel *blockchain.Channel) bool {
	if channel != nil {
		payment.ChannelExpiry = word(&channel.Expiration)
	}
	if last := len(l.payments) - 1; last >= 0 && slices.Equal(l.payments[last].ChannelId, payment.ChannelId) &&
		slices.Equal(l.payments[last].ChannelNonce, payment.ChannelNonce) {
		if slices.Compare(payment.SpentAmount, l.payments[last].SpentAmount) > 0 {
			l.payments[last] = payment
		}
		return true
	}
	if len(l.payments) == listedAtMost {
		l.more = true
		return false
	}
	l.payments = append(l.payments, payment)
	return true
}
