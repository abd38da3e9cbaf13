package blockchain

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/ethereum/go-ethereum/rpc"
	"github.com/holiman/uint256"
	"golang.org/x/time/rate"
)

// reading is what a read of a channel gave. fresh says that the chain was asked for it.
type reading struct {
	channel Channel
	fresh   bool
}

// reader is the call that reads one channel, on a context of its own: no caller
// can end it for the others.
func (c *ChannelCache) reader(id uint256.Int) func(force bool) (reading, error) {
	return func(force bool) (reading, error) {
		ctx, cancel := context.WithTimeout(context.Background(), c.settings.RequestTimeout)
		defer cancel()
		return c.read(ctx, &id, force)
	}
}

func (c *ChannelCache) read(ctx context.Context, id *uint256.Int, force bool) (reading, error) {
	channel, found, err := c.lookup(id)
	if found && !force {
		return reading{channel: channel}, err // read by the call before this one
	}
	newest := force
	if !found {
		fresh, err := c.checkGivenOut(ctx, id)
		if err != nil {
			return reading{}, err
		}
		newest = newest || fresh
	}
	if !c.budgetOf(force).AllowN(c.now(), 1) {
		if found {
			return reading{channel: channel}, err
		}
		return reading{}, fmt.Errorf("%w by all clients together", ErrTooManyReads)
	}
	channel, err = c.readAndStore(ctx, id, newest)
	return reading{channel: channel, fresh: err == nil}, err
}

func (c *ChannelCache) budgetOf(force bool) *rate.Limiter {
	if force {
		return c.budgets.again
	}
	return c.budgets.misses
}

// readAndStore reads until the answer belongs to the chain as it is then. newest
// false allows the head known already.
func (c *ChannelCache) readAndStore(ctx context.Context, id *uint256.Int, newest bool) (Channel, error) {
	for range readAttempts {
		reorganisations := c.reorganisationCount() // before the block is chosen
		block, isNewest, err := c.blockToRead(ctx, newest)
		if err != nil {
			return Channel{}, err
		}
		newest = true // if it has to be done again
		channel, err := ask(ctx, c, func() (Channel, error) { return c.escrow.ChannelAt(ctx, id, block) })
		if !isNewest && (err != nil || !channel.Exists()) {
			continue // the known head may be too old for it, or no more
		}
		if err != nil {
			return Channel{}, err
		}
		if !channel.Exists() {
			c.remove(id)
			return Channel{}, fmt.Errorf("%w: the MPE contract has no channel %s", ErrChannelNotFound, id.Dec())
		}
		confirmed, err := c.isConfirmed(ctx, &channel, block)
		if err != nil {
			return Channel{}, err
		}
		kept, void := c.store(cachedChannel{channel, block.Number, confirmed}, reorganisations)
		switch {
		case void || (!kept && !isNewest):
			continue
		case !confirmed:
			return Channel{}, c.unconfirmed(id)
		}
		return channel, nil
	}
	return Channel{}, fmt.Errorf("%w: it is being reorganised, channel %s could not be read", ErrChainUnavailable, id.Dec())
}

func (c *ChannelCache) reorganisationCount() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reorganisations
}

// blockToRead pins the read to one block, so that a reorganisation noticed later
// can tell whether the channel was read from a block it replaced.
func (c *ChannelCache) blockToRead(ctx context.Context, newest bool) (block BlockRef, isNewest bool, err error) {
	if !newest {
		if known, ok := c.head.Recent(); ok {
			return known, false, nil
		}
	}
	block, err = ask(ctx, c, func() (BlockRef, error) { return c.head.Latest(ctx) })
	return block, true, err
}

// isConfirmed tells whether the channel was there blockchain.confirmations
// blocks before block. Once is enough for the same channel.
func (c *ChannelCache) isConfirmed(ctx context.Context, channel *Channel, block BlockRef) (bool, error) {
	depth := c.settings.Confirmations
	if depth == 0 {
		return true, nil
	}
	c.mu.Lock()
	held, found := c.channels.Peek(channel.ID)
	c.mu.Unlock()
	if found && held.confirmed && held.channel.sameParties(channel) {
		return true, nil
	}
	if block.Number < depth {
		return false, nil
	}
	number := new(big.Int).SetUint64(block.Number - depth)
	earlier, err := ask(ctx, c, func() (Channel, error) { return c.escrow.Channel(ctx, &channel.ID, number) })
	return err == nil && earlier.Exists() && earlier.sameParties(channel), err
}

// checkGivenOut refuses an id the contract has not given out. fresh tells that
// the contract was asked for it just now.
func (c *ChannelCache) checkGivenOut(ctx context.Context, id *uint256.Int) (fresh bool, err error) {
	c.mu.Lock()
	givenOut := c.nextID != nil && id.Lt(c.nextID)
	c.mu.Unlock()
	if givenOut {
		return false, nil
	}
	next, err := c.nextReads.do(ctx, struct{}{}, true, always, c.readNextID)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: asking for new channels took too long", ErrChainUnavailable)
		}
		return false, err
	}
	if !id.Lt(&next) {
		return false, fmt.Errorf("%w: the MPE contract has no channel %s, its next one is %s", ErrChannelNotFound, id.Dec(), next.Dec())
	}
	return true, nil
}

// readNextID waits for its budget: a stranger who asks for unknown channels may
// slow down the owner of a new one, but not lock him out.
func (c *ChannelCache) readNextID(bool) (uint256.Int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), c.settings.RequestTimeout)
	defer cancel()
	if err := c.budgets.nextID.Wait(ctx); err != nil {
		return uint256.Int{}, fmt.Errorf("%w by all clients together", ErrTooManyReads)
	}
	reorganisations := c.reorganisationCount()
	next, err := ask(ctx, c, func() (uint256.Int, error) { return c.escrow.NextChannelID(ctx) })
	if err != nil {
		return uint256.Int{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reorganisations == reorganisations && (c.nextID == nil || c.nextID.Lt(&next)) {
		c.nextID = &next
	}
	return next, nil
}

// ask makes one request, again where a node answers that it doesn't know the
// block yet: providers spread requests over nodes that are not equally far.
func ask[T any](ctx context.Context, c *ChannelCache, request func() (T, error)) (T, error) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = 50 * time.Millisecond
	answer, err := backoff.Retry(ctx, func() (T, error) {
		c.requests.Add(1)
		answer, err := request()
		var fromNode rpc.Error
		if err != nil && !errors.As(err, &fromNode) {
			err = backoff.Permanent(err)
		}
		return answer, err
	}, backoff.WithBackOff(pause), backoff.WithMaxTries(3))
	if err != nil {
		// The text only: a deadline in it is the request's, not the caller's.
		err = fmt.Errorf("%w: %v", ErrChainUnavailable, err)
	}
	return answer, err
}
