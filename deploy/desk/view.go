package desk

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// The states of a channel, for the provider.
const (
	StateOpen     = "open"     // calls are paid for on it
	StateClosing  = "closing"  // too near to its expiration for calls, the money can still be claimed
	StateExpired  = "expired"  // its sender can take back what is not claimed
	StateLost     = "lost"     // what its record says is worth nothing on chain any more
	StateNotOurs  = "not ours" // the chain pays another address than the group's payment address
	StateSettling = "settling" // a claim that was sent is waited for
)

// Channel is one channel as the books and the chain have it. Amounts are in cogs.
type Channel struct {
	ID         uint256.Int    `json:"channel"`
	State      string         `json:"state"`
	Sender     common.Address `json:"sender"`
	Signer     common.Address `json:"signer"`
	Recipient  common.Address `json:"recipient"`
	Nonce      uint256.Int    `json:"nonce"`       // of the record
	ChainNonce uint256.Int    `json:"chain_nonce"` // behind while a claim is in progress
	Signed     uint256.Int    `json:"signed"`      // at the record's nonce
	Spent      uint256.Int    `json:"spent"`       // at the record's nonce
	InProgress uint256.Int    `json:"in_progress"` // spent in claims that were started and are not on chain
	Unclaimed  uint256.Int    `json:"unclaimed"`   // what the chain has still to pay: Spent and InProgress
	Value      uint256.Int    `json:"value"`       // on chain
	Expiration uint256.Int    `json:"expiration"`  // block
	BlocksLeft int64          `json:"blocks_left"` // until Expiration, negative afterwards, bounded
	ExpiresAt  *time.Time     `json:"expires_at,omitempty"`
	Claims     []Claim        `json:"claims,omitempty"` // not put away yet

	holding Holding
	chain   blockchain.Channel
}

// The states of a claim.
const (
	ClaimStarted = "started"  // refunds may still lower it
	ClaimSent    = "sent"     // final, not on chain yet
	ClaimOnChain = "on chain" // the chain's nonce has passed it
	ClaimWaiting = "waiting"  // the chain's nonce is before it: another claim comes first
	ClaimLost    = "lost"     // the channel has other parties
)

// Claim is one claim and what has become of it. Amounts are in cogs.
type Claim struct {
	Channel uint256.Int `json:"channel"`
	Nonce   uint256.Int `json:"nonce"`
	Signed  uint256.Int `json:"signed"` // the planned amount of the contract
	Spent   uint256.Int `json:"spent"`  // the actual amount of the contract
	State   string      `json:"state"`
}

// Report is all there is to see of a group.
type Report struct {
	Terms    Terms
	Clock    Clock
	Channels []Channel // in ascending order
}

// Desk is where the provider works.
type Desk struct {
	Books Books
	Chain *Chain
}

// Look reads the books and the chain. only are the channels to look at, none for all.
func (d *Desk) Look(ctx context.Context, only ...uint256.Int) (*Report, error) {
	return d.look(ctx, false, only)
}

// LookForClaims is Look at those channels only that have spent something or have claims. The chain is not asked for
// the others.
func (d *Desk) LookForClaims(ctx context.Context, only ...uint256.Int) (*Report, error) {
	return d.look(ctx, true, only)
}

func (d *Desk) look(ctx context.Context, busy bool, only []uint256.Int) (*Report, error) {
	report := &Report{}
	var err error
	if report.Terms, err = d.Books.Terms(ctx); err != nil {
		return nil, err
	}
	if report.Clock, err = d.Chain.Clock(ctx); err != nil {
		return nil, err
	}
	wanted := func(id *uint256.Int) bool { return len(only) == 0 || slices.Contains(only, *id) }
	// Claims first: one that starts meanwhile is then missing in both rather than counted twice.
	claims, err := everything(ctx, d.Books.Claims, func(claim *channelstate.Claim) bool { return wanted(&claim.Channel) })
	if err != nil {
		return nil, err
	}
	byChannel := map[uint256.Int][]channelstate.Claim{}
	for i := range claims {
		byChannel[claims[i].Channel] = append(byChannel[claims[i].Channel], claims[i])
	}
	holdings, err := everything(ctx, d.Books.Channels, func(holding *Holding) bool {
		idle := holding.Spent.IsZero() && len(byChannel[holding.Channel]) == 0
		return wanted(&holding.Channel) && !(busy && idle)
	})
	if err != nil {
		return nil, err
	}
	chain, err := readAll(ctx, d.Chain, len(holdings), func(i int) *uint256.Int { return &holdings[i].Channel })
	if err != nil {
		return nil, err
	}
	for i := range holdings {
		report.Channels = append(report.Channels, describe(&report.Terms, &report.Clock, &holdings[i], &chain[i], byChannel[holdings[i].Channel]))
	}
	slices.SortFunc(report.Channels, func(a, b Channel) int { return a.ID.Cmp(&b.ID) })
	return report, nil
}

// everything reads all pages of a list.
func everything[T any](ctx context.Context, list func(context.Context, string) ([]T, string, error), keep func(*T) bool) ([]T, error) {
	var all []T
	for cursor := ""; ; {
		page, next, err := list(ctx, cursor)
		if err != nil {
			return nil, fmt.Errorf("the books cannot be read: %w", err)
		}
		for i := range page {
			if keep(&page[i]) {
				all = append(all, page[i])
			}
		}
		if cursor = next; next == "" {
			return all, nil
		}
	}
}

// describe puts together what the books and the chain say of one channel.
func describe(terms *Terms, clock *Clock, holding *Holding, chain *blockchain.Channel, claims []channelstate.Claim) Channel {
	channel := Channel{
		ID: holding.Channel, Sender: holding.Sender, Signer: holding.Signer, Recipient: chain.Recipient, Nonce: holding.Nonce,
		ChainNonce: chain.Nonce, Signed: holding.Signed, Spent: holding.Spent, Value: chain.Value, Expiration: chain.Expiration,
		BlocksLeft: blocksLeft(&chain.Expiration, clock.Block), holding: *holding, chain: *chain,
	}
	if at := clock.When(&chain.Expiration); !at.IsZero() && !chain.Expiration.IsZero() {
		channel.ExpiresAt = &at
	}
	for i := range claims {
		claim := describeClaim(&claims[i], chain)
		if claim.State == ClaimStarted || claim.State == ClaimSent || claim.State == ClaimWaiting {
			channel.InProgress.Add(&channel.InProgress, &claim.Spent)
		}
		channel.Claims = append(channel.Claims, claim)
	}
	worthless := chain.Nonce.Gt(&holding.Nonce) || !sameParties(chain, holding.Sender, holding.Signer)
	if !worthless {
		channel.Unclaimed.Add(&holding.Spent, &channel.InProgress)
	}
	switch {
	case worthless:
		channel.State = StateLost
	case chain.Recipient != terms.PaymentAddress:
		channel.State = StateNotOurs
	case channel.BlocksLeft <= 0:
		channel.State = StateExpired
	case !channel.InProgress.IsZero() || holding.Nonce.Gt(&chain.Nonce):
		channel.State = StateSettling
	case uint64(channel.BlocksLeft) <= terms.Threshold:
		channel.State = StateClosing
	default:
		channel.State = StateOpen
	}
	return channel
}

func describeClaim(claim *channelstate.Claim, chain *blockchain.Channel) Claim {
	described := Claim{Channel: claim.Channel, Nonce: claim.Nonce, Signed: claim.Signed, Spent: claim.Spent}
	switch {
	case chain.Nonce.Gt(&claim.Nonce):
		described.State = ClaimOnChain
	case !sameParties(chain, claim.Sender, claim.Signer):
		described.State = ClaimLost
	case claim.Nonce.Gt(&chain.Nonce):
		described.State = ClaimWaiting
	case claim.Sent:
		described.State = ClaimSent
	default:
		described.State = ClaimStarted
	}
	return described
}

func sameParties(channel *blockchain.Channel, sender, signer common.Address) bool {
	return channel.Sender == sender && channel.Signer == signer
}

// blocksLeft is the number of blocks until expiration, within what an int64 holds.
func blocksLeft(expiration *uint256.Int, block uint64) int64 {
	const most = int64(1) << 53 // a number that every reader of JSON takes
	limit := uint256.NewInt(uint64(most))
	head := uint256.NewInt(block)
	var left uint256.Int
	if expiration.Lt(head) {
		if left.Sub(head, expiration); left.Gt(limit) {
			return -most
		}
		return -int64(left.Uint64())
	}
	if left.Sub(expiration, head); left.Gt(limit) {
		return most
	}
	return int64(left.Uint64())
}
