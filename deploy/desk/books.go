// Package desk is what a provider does with the money of its channels: see what was spent, claim it from the contract.
package desk

import (
	"context"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"golang.org/x/sync/errgroup"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// Terms say whose books these are.
type Terms struct {
	Organization   string         `json:"organization"`
	GroupName      string         `json:"group"`
	ChainID        uint64         `json:"chain_id"`
	MPE            common.Address `json:"mpe"`
	GroupID        common.Hash    `json:"group_id"`
	PaymentAddress common.Address `json:"payment_address"`
	Threshold      uint64         `json:"payment_expiration_threshold"` // blocks
}

func (t *Terms) group() channelstate.Group {
	return channelstate.Group{ChainID: t.ChainID, MPE: t.MPE, GroupID: t.GroupID}
}

// Holding is what one channel has signed and spent at the nonce of its record, in cogs.
type Holding struct {
	Channel uint256.Int    `json:"channel"`
	Nonce   uint256.Int    `json:"nonce"`
	Signed  uint256.Int    `json:"signed"`
	Spent   uint256.Int    `json:"spent"`
	Sender  common.Address `json:"sender"`
	Signer  common.Address `json:"signer"`
}

// Name names one claim.
type Name struct {
	Channel uint256.Int `json:"channel"`
	Nonce   uint256.Int `json:"nonce"`
}

// Refused is a channel that an operation left out, and why.
type Refused struct {
	Channel uint256.Int `json:"channel"`
	Reason  string      `json:"reason"`
}

// Books are the channel state of a group, as the desk needs it.
type Books interface {
	Terms(ctx context.Context) (Terms, error)
	// Channels and Claims list a page from the cursor on, "" being the first and no next page. Claims of lists have
	// no signature.
	Channels(ctx context.Context, cursor string) (page []Holding, next string, err error)
	Claims(ctx context.Context, cursor string) (page []channelstate.Claim, next string, err error)
	// Start moves what channels hold to claims, at most AtOnce, in one transaction. Channels that cannot be claimed
	// now are left out.
	Start(ctx context.Context, channels []uint256.Int) ([]channelstate.Claim, []Refused, error)
	// Send makes claims final and returns them with their signatures. It is safe to ask again.
	Send(ctx context.Context, claims []Name) ([]channelstate.Claim, []Refused, error)
	// Estimate has the node try one transaction with claims, started or not, and tells its gas.
	Estimate(ctx context.Context, claims []Name) (uint64, error)
	// Settle puts away those of the claims that the chain has passed for good.
	Settle(ctx context.Context, claims []Name) error
	// FreeCallers lists a page of who has made free calls; ResetFreeCalls forgets those of one.
	FreeCallers(ctx context.Context, cursor string) (page []FreeCaller, next string, err error)
	ResetFreeCalls(ctx context.Context, caller *FreeCaller) error
}

const (
	// AtOnce is the most channels of one operation of the books.
	AtOnce = channelstate.MaxClaimsTogether

	pageSize   = 500
	readsAtOne = 8 // of the chain

	// settledAfter is how many blocks a claim must have been on the chain before it is put away: no reorganisation
	// undoes it then, and every node still has the state of that block.
	settledAfter = 64
)

// Channels reads the chain. blockchain.Escrow with a connection is one, see NewChain.
type Channels interface {
	Channel(ctx context.Context, id *uint256.Int) (blockchain.Channel, error)
	// Earlier reads a channel as it was so many blocks ago; it does not exist when the chain is not as long.
	Earlier(ctx context.Context, id *uint256.Int, blocks uint64) (blockchain.Channel, error)
	// Estimate tells the gas of one transaction that claims orders for from.
	Estimate(ctx context.Context, from common.Address, orders []blockchain.ClaimOrder) (uint64, error)
}

// Local are books whose store is open in this process.
type Local struct {
	Current func() (Terms, error)
	Store   channelstate.Store
	Ledger  *channelstate.Ledger
	OnChain Channels
	Free    FreeCounters                      // nil: free calls are not reset here
	OnStart func(claims []channelstate.Claim) // told of claims that were started; may be nil
}

// Terms are those of the newest metadata.
func (l *Local) Terms(context.Context) (Terms, error) { return l.Current() }

// Channels lists the records of the group.
func (l *Local) Channels(ctx context.Context, cursor string) ([]Holding, string, error) {
	terms, err := l.Current()
	if err != nil {
		return nil, "", err
	}
	records, next, err := l.Store.Channels(ctx, terms.group(), cursor, pageSize)
	if err != nil {
		return nil, "", err
	}
	page := make([]Holding, 0, len(records))
	for i := range records {
		record := records[i].Record
		page = append(page, Holding{
			Channel: records[i].Channel, Nonce: record.Nonce, Signed: record.Signed, Spent: record.Spent,
			Sender: record.Sender, Signer: record.Signer,
		})
	}
	return page, next, nil
}

// Claims lists the claims of the group that are not put away.
func (l *Local) Claims(ctx context.Context, cursor string) ([]channelstate.Claim, string, error) {
	terms, err := l.Current()
	if err != nil {
		return nil, "", err
	}
	page, next, err := l.Store.Claims(ctx, terms.group(), cursor, pageSize)
	for i := range page {
		page[i].Signature = nil
	}
	return page, next, err
}

// Start reads the channels from the chain and starts their claims.
func (l *Local) Start(ctx context.Context, ids []uint256.Int) ([]channelstate.Claim, []Refused, error) {
	terms, err := l.Current()
	if err != nil {
		return nil, nil, err
	}
	channels, err := l.read(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	var refused []Refused
	for len(channels) > 0 {
		claims, err := l.Ledger.StartClaims(ctx, terms.group(), channels)
		var of *channelstate.ChannelError
		switch {
		case err == nil:
			if l.OnStart != nil {
				l.OnStart(claims)
			}
			return claims, refused, nil
		case errors.As(err, &of) && refusal(of.Err):
			refused = append(refused, Refused{Channel: of.Channel, Reason: of.Err.Error()})
			channels = without(channels, &of.Channel)
		default:
			return nil, nil, err
		}
	}
	return nil, refused, nil
}

func without(channels []blockchain.Channel, id *uint256.Int) []blockchain.Channel {
	left := make([]blockchain.Channel, 0, len(channels))
	for _, channel := range channels {
		if channel.ID != *id {
			left = append(left, channel)
		}
	}
	return left
}

// refusal tells a rule that does not let a claim go on from a store that cannot be asked.
func refusal(err error) bool {
	return errors.Is(err, channelstate.ErrNothingToClaim) || errors.Is(err, channelstate.ErrClaimPending) ||
		errors.Is(err, channelstate.ErrChannelChanged)
}

func (l *Local) read(ctx context.Context, ids []uint256.Int) ([]blockchain.Channel, error) {
	if len(ids) > AtOnce {
		return nil, fmt.Errorf("%d channels are named, at most %d can be claimed together", len(ids), AtOnce)
	}
	return readAll(ctx, l.OnChain, len(ids), func(i int) *uint256.Int { return &ids[i] })
}

// readAll reads channels of the chain, some at a time.
func readAll(ctx context.Context, chain Channels, count int, id func(int) *uint256.Int) ([]blockchain.Channel, error) {
	channels := make([]blockchain.Channel, count)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readsAtOne)
	for i := range channels {
		group.Go(func() (err error) {
			channels[i], err = chain.Channel(ctx, id(i))
			return err
		})
	}
	return channels, group.Wait()
}

// Send makes claims final.
func (l *Local) Send(ctx context.Context, names []Name) ([]channelstate.Claim, []Refused, error) {
	terms, err := l.Current()
	if err != nil {
		return nil, nil, err
	}
	if len(names) > AtOnce {
		return nil, nil, fmt.Errorf("%d claims are named, at most %d can be sent together", len(names), AtOnce)
	}
	var claims []channelstate.Claim
	var refused []Refused
	group := terms.group()
	for i := range names {
		claim, err := l.Ledger.SendClaim(ctx, group.Key(&names[i].Channel), &names[i].Nonce)
		switch {
		case err == nil:
			claims = append(claims, claim)
		case refusal(err):
			refused = append(refused, Refused{Channel: names[i].Channel, Reason: "the claim of nonce " + names[i].Nonce.Dec() + " is not pending any more"})
		default:
			return nil, nil, err
		}
	}
	return claims, refused, nil
}

// Settle puts away claims that were on the chain long enough ago.
func (l *Local) Settle(ctx context.Context, names []Name) error {
	terms, err := l.Current()
	if err != nil {
		return err
	}
	group := terms.group()
	for i := range names {
		name := &names[i]
		channel, err := l.OnChain.Earlier(ctx, &name.Channel, settledAfter)
		if err != nil {
			return err
		}
		if !channel.Nonce.Gt(&name.Nonce) {
			continue
		}
		key := group.Key(&name.Channel)
		claim, found, err := l.Ledger.Claim(ctx, key, &name.Nonce)
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		if err := l.Ledger.SettleClaim(ctx, key, &claim); err != nil {
			return err
		}
	}
	return nil
}
