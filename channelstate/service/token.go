package service

import (
	"context"
	"errors"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
)

// codeIncorrectNonce is what clients know a wrong nonce by, here as for calls.
const codeIncorrectNonce codes.Code = 1000

// Credits take what clients sign for prepaid calls. channelstate.Ledger is one.
type Credits interface {
	Raise(ctx context.Context, key channelstate.Key, channel *blockchain.Channel, raise channelstate.Charge) (channelstate.Balance, error)
}

// TokenIssuer signs prepaid tokens. channelstate.Tokens is one.
type TokenIssuer interface {
	Issue(channel *uint256.Int, user common.Address, organizationID, groupID string) (string, error)
}

// Prepaid is what a TokenService asks the other packages for.
type Prepaid struct {
	Credits  Credits
	Tokens   TokenIssuer
	Channels Channels
	Head     Head
	Metadata func() *blockchain.Metadata // nil until the first load
	ChainID  uint64
}

// TokenService answers escrow.TokenService: clients sign for several calls at
// once and get a token to make them with (payment-protocol.md sections 6.5 and 7.4).
type TokenService struct {
	escrow.UnimplementedTokenServiceServer
	parts Prepaid
}

// NewTokenService makes the service for the group of the metadata, of which
// the newest is used for each request.
func NewTokenService(parts Prepaid) *TokenService { return &TokenService{parts: parts} }

// TokenWithoutBlockchain is the service where calls are not paid for.
type TokenWithoutBlockchain struct {
	escrow.UnimplementedTokenServiceServer
}

// GetToken answers that there is nothing to buy.
func (TokenWithoutBlockchain) GetToken(context.Context, *escrow.TokenRequest) (*escrow.TokenReply, error) {
	return nil, withoutBlockchain()
}

func withoutBlockchain() error {
	return status.Error(codes.FailedPrecondition, "blockchain is disabled, contact service provider: calls are not paid for here")
}

// GetToken accepts a signed amount, unless as much is signed already, and
// answers with a token for the channel. Codes: 3 for what no client sends, 16
// for a signature that is wrong, too old or not of a party and for amounts that
// the channel does not cover, 1000 for a wrong nonce, 5 for an unknown channel,
// 8 when too many unknown channels were asked for, 11 for amounts that the
// reply cannot hold, 14 when the chain or the channel state cannot be asked.
func (s *TokenService) GetToken(ctx context.Context, request *escrow.TokenRequest) (*escrow.TokenReply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	metadata := s.parts.Metadata()
	if metadata == nil {
		return nil, noMetadata()
	}
	// All that the request itself shows to be wrong is found before anything is asked.
	purchase, err := readPurchase(request, metadata)
	if err != nil {
		return nil, err
	}
	if err := checkWindow(ctx, s.parts.Head, request.GetCurrentBlock()); err != nil {
		return nil, err
	}
	balance, err := s.raise(ctx, purchase)
	if err != nil {
		return nil, err
	}
	if !balance.Signed.IsUint64() { // what is spent is never more
		return nil, status.Errorf(codes.OutOfRange, "on channel {ID: %s} %s cogs are signed, more than the 64 bits of planned_amount hold: "+
			"pay by escrow calls, whose amounts have 256 bits", purchase.channel.Dec(), balance.Signed.Dec())
	}
	token, err := s.parts.Tokens.Issue(&purchase.channel, purchase.asker, metadata.OrganizationID, metadata.Group.IDText)
	if err != nil {
		return nil, status.Error(codes.Internal, "internal error: the token could not be made")
	}
	return &escrow.TokenReply{
		ChannelId: request.GetChannelId(), Token: token,
		PlannedAmount: balance.Signed.Uint64(), UsedAmount: used(&balance, metadata),
	}, nil
}

// purchase is a request for a token whose signatures are those of somebody.
type purchase struct {
	channel, nonce, amount uint256.Int
	signature              []byte         // over the amount
	payer                  common.Address // who has signed the amount
	asker                  common.Address // who has signed the request
	metadata               *blockchain.Metadata
}

func readPurchase(request *escrow.TokenRequest, metadata *blockchain.Metadata) (*purchase, error) {
	p := &purchase{
		channel: *uint256.NewInt(request.GetChannelId()), nonce: *uint256.NewInt(request.GetCurrentNonce()),
		amount: *uint256.NewInt(request.GetSignedAmount()), signature: request.GetClaimSignature(), metadata: metadata,
	}
	if err := checkBlock(request.GetCurrentBlock()); err != nil {
		return nil, err
	}
	claim := blockchain.ClaimMessage(metadata.Service.MPE, &p.channel, &p.nonce, &p.amount)
	var err error
	if p.payer, err = blockchain.RecoverSigner(claim, p.signature); err != nil {
		code := codes.Unauthenticated
		if errors.Is(err, blockchain.ErrSignatureLength) {
			code = codes.InvalidArgument
		}
		return nil, status.Error(code, "payment signature is not valid: claim_signature must be the signature of "+
			"channel_id, current_nonce and signed_amount")
	}
	message := blockchain.TokenMessage(p.signature, request.GetCurrentBlock())
	p.asker, err = recoverSigner(message, request.GetSignature())
	return p, err
}

// raise finds the channel and has the amount accepted. What is known of the
// channel may be too old to say no: its sender may just have added funds.
func (s *TokenService) raise(ctx context.Context, p *purchase) (channelstate.Balance, error) {
	channel, err := s.parts.Channels.Get(ctx, &p.channel, callerAddress(ctx))
	if err != nil {
		return channelstate.Balance{}, channelError(ctx, &p.channel, err)
	}
	balance, err := s.raiseOn(ctx, p, channel, false)
	if !mayBeStale(err) {
		return balance, s.refused(ctx, err)
	}
	newer, fresh, rereadErr := reread(ctx, s.parts.Channels, &p.channel)
	switch {
	case errors.Is(rereadErr, blockchain.ErrChannelNotFound):
		return balance, channelError(ctx, &p.channel, rereadErr)
	case rereadErr != nil, newer == channel && !fresh:
		return balance, s.refused(ctx, err)
	}
	balance, err = s.raiseOn(ctx, p, newer, fresh)
	return balance, s.refused(ctx, err)
}

// raiseOn has the amount accepted on a channel as it is known. The error is a
// *channelstate.Refusal, a gRPC status, or one of the ledger.
func (s *TokenService) raiseOn(ctx context.Context, p *purchase, channel blockchain.Channel, fresh bool) (channelstate.Balance, error) {
	if err := p.checkParties(&channel); err != nil {
		return channelstate.Balance{}, err
	}
	block, err := s.parts.Head.Block()
	if err != nil {
		return channelstate.Balance{}, status.Error(codes.Unavailable, "cannot determine current block: "+err.Error())
	}
	group := p.metadata.Group
	key := channelstate.Key{ChainID: s.parts.ChainID, MPE: p.metadata.Service.MPE, GroupID: group.ID, Channel: p.channel}
	return s.parts.Credits.Raise(ctx, key, &channel, channelstate.Charge{
		Nonce: p.nonce, Amount: p.amount, Signature: p.signature, Block: block, Threshold: group.ExpirationThreshold, Fresh: fresh,
	})
}

func (p *purchase) checkParties(channel *blockchain.Channel) error {
	group := p.metadata.Group
	switch {
	case !channel.Exists():
		return status.Errorf(codes.NotFound, "channel is not found, channelId: %s", p.channel.Dec())
	case !channel.MaySign(p.asker) && p.asker != channel.Recipient:
		return status.Error(codes.Unauthenticated, "only channel signer/sender/receiver can get a token of the channel")
	case channel.Recipient != group.PaymentAddress:
		return status.Error(codes.Unauthenticated, "channel error: recipient of the channel differs from the organization metadata")
	case channel.GroupID != group.ID:
		return status.Errorf(codes.Unauthenticated, "channel error: channel belongs to another replica group, channel: %v, this service: %v",
			channel.GroupID, group.ID)
	case !channel.MaySign(p.payer):
		return status.Error(codes.Unauthenticated, "payment is not signed by channel signer/sender")
	}
	return nil
}

// mayBeStale says whether a newer copy of the channel could decide otherwise.
func mayBeStale(err error) bool {
	var refusal *channelstate.Refusal
	return errors.As(err, &refusal)
}

// rereader is what Channels may offer beyond Refresh: to tell whether the
// chain was asked for this very request.
type rereader interface {
	Reread(ctx context.Context, id *uint256.Int) (channel blockchain.Channel, fresh bool, err error)
}

func reread(ctx context.Context, channels Channels, id *uint256.Int) (blockchain.Channel, bool, error) {
	if channels, ok := channels.(rereader); ok {
		return channels.Reread(ctx, id)
	}
	channel, err := channels.Refresh(ctx, id)
	return channel, false, err
}

// refused turns what raiseOn says into the answer.
func (s *TokenService) refused(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, answered := status.FromError(err); answered {
		return err
	}
	var refusal *channelstate.Refusal
	if !errors.As(err, &refusal) {
		return unavailable(ctx, err)
	}
	switch refusal.Reason {
	case channelstate.ReasonNonce:
		return status.Error(codeIncorrectNonce, refusal.Message)
	case channelstate.ReasonChannelChanged:
		return status.Error(codes.Unavailable, refusal.Message)
	default: // near its end, or not enough funds
		return status.Error(codes.Unauthenticated, refusal.Message)
	}
}

// used is what the reply says is spent. Clients sign a higher amount only once
// all that is planned is used, so a rest that does not pay for a call counts as
// used: otherwise they would try with it for ever.
func used(balance *channelstate.Balance, metadata *blockchain.Metadata) uint64 {
	rest := new(uint256.Int).Sub(&balance.Signed, &balance.Spent)
	dearest := new(uint256.Int)
	pricing := &metadata.ServiceGroup.Pricing
	if pricing.Fixed != nil {
		dearest = pricing.Fixed
	}
	for _, price := range pricing.PerMethod {
		if price.Gt(dearest) {
			dearest = &price
		}
	}
	if rest.Lt(dearest) {
		return balance.Signed.Uint64()
	}
	return balance.Spent.Uint64()
}
