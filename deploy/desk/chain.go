package desk

import (
	"context"
	"fmt"
	"math/big"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
)

// Node is a connection to a node that transactions can be sent by. *blockchain.Client is one.
type Node interface {
	blockchain.Backend
	bind.DeployBackend
	ethereum.ChainStateReader
}

// Chain is the contract and the node it is reached by.
type Chain struct {
	node   Node
	escrow *blockchain.Escrow
}

// NewChain binds the contract at mpe.
func NewChain(mpe common.Address, node Node) (*Chain, error) {
	escrow, err := blockchain.NewEscrow(mpe, node)
	if err != nil {
		return nil, err
	}
	return &Chain{node: node, escrow: escrow}, nil
}

// Channel reads a channel as it is now.
func (c *Chain) Channel(ctx context.Context, id *uint256.Int) (blockchain.Channel, error) {
	return c.escrow.Channel(ctx, id, nil)
}

// Earlier reads a channel as it was so many blocks ago.
func (c *Chain) Earlier(ctx context.Context, id *uint256.Int, blocks uint64) (blockchain.Channel, error) {
	head, err := c.node.BlockNumber(ctx)
	if err != nil || head < blocks {
		return blockchain.Channel{}, err
	}
	return c.escrow.Channel(ctx, id, new(big.Int).SetUint64(head-blocks))
}

// Clock tells when a block will come, from how fast the last ones came.
type Clock struct {
	Block uint64
	at    time.Time
	pace  time.Duration // of one block; 0 when it is not known
}

// clockBlocks is how many blocks the pace is taken from.
const clockBlocks = 1000

// Clock reads the head of the chain.
func (c *Chain) Clock(ctx context.Context) (Clock, error) {
	head, err := c.node.HeaderByNumber(ctx, nil)
	if err != nil {
		return Clock{}, fmt.Errorf("the head of the chain could not be read: %w", err)
	}
	clock := Clock{Block: head.Number.Uint64(), at: time.Unix(int64(head.Time), 0)}
	span := min(clock.Block, clockBlocks)
	if span == 0 {
		return clock, nil
	}
	earlier, err := c.node.HeaderByNumber(ctx, new(big.Int).SetUint64(clock.Block-span))
	if err != nil {
		return clock, nil //nolint:nilerr // a node without old blocks: the time is an estimate that can be left out
	}
	clock.pace = clock.at.Sub(time.Unix(int64(earlier.Time), 0)) / time.Duration(span)
	return clock, nil
}

// furthest keeps estimates within what a person plans for.
const furthest = 100 * 365 * 24 * time.Hour

// When estimates the time of a block; zero when that makes no sense.
func (c *Clock) When(block *uint256.Int) time.Time {
	if c.pace <= 0 || !block.IsUint64() {
		return time.Time{}
	}
	if block.Uint64() <= c.Block {
		ago := c.Block - block.Uint64()
		if ago > uint64(furthest/c.pace) {
			return time.Time{}
		}
		return c.at.Add(-time.Duration(ago) * c.pace).UTC()
	}
	left := block.Uint64() - c.Block
	if left > uint64(furthest/c.pace) {
		return time.Time{}
	}
	return c.at.Add(time.Duration(left) * c.pace).UTC()
}
