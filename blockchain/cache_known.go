package blockchain

import (
	"context"
	"fmt"
	"math/big"

	"github.com/holiman/uint256"
)

// Known answers a channel from memory alone; false when it would have to be read.
func (c *ChannelCache) Known(id *uint256.Int) (Channel, bool) {
	channel, found, err := c.lookup(id)
	return channel, found && err == nil
}

// UpTo tells whether the cached channel takes in all that happened up to a block: it was read there or later, or the
// events since have been followed as far.
func (c *ChannelCache) UpTo(id *uint256.Int, block uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	held, found := c.channels.Peek(*id)
	return found && max(held.block, c.followed) >= block
}

// Earlier reads a channel as it was so many blocks before the head, past the
// cache. The node must still have that state; every node has that of the last
// 128 blocks. Errors: ErrChannelNotFound when it did not exist then,
// ErrTooManyReads, ErrChainUnavailable, or that of ctx.
func (c *ChannelCache) Earlier(ctx context.Context, id *uint256.Int, blocks uint64) (Channel, error) {
	if !c.budgets.again.AllowN(c.now(), 1) {
		return Channel{}, fmt.Errorf("%w by all clients together", ErrTooManyReads)
	}
	ctx, cancel := context.WithTimeout(ctx, c.settings.RequestTimeout)
	defer cancel()
	head, _, err := c.blockToRead(ctx, false)
	if err != nil {
		return Channel{}, err
	}
	if head.Number < blocks {
		return Channel{}, fmt.Errorf("%w: the chain has %d blocks only", ErrChannelNotFound, head.Number)
	}
	number := new(big.Int).SetUint64(head.Number - blocks)
	channel, err := ask(ctx, c, func() (Channel, error) { return c.escrow.Channel(ctx, id, number) })
	if err == nil && !channel.Exists() {
		err = fmt.Errorf("%w: there was no channel %s at block %d", ErrChannelNotFound, id.Dec(), number)
	}
	return channel, err
}
