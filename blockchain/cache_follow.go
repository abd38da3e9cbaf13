package blockchain

import (
	"context"

	"github.com/holiman/uint256"
	"go.uber.org/zap"
)

const (
	followedAtOnce = 1000 // blocks: what providers allow in one request for events
	followedAtMost = 5000 // blocks; after a longer absence the cache starts empty
	rereadAtOnce   = 64   // channels read again after the events of one head
)

// dropFrom forgets what a reorganisation may have changed: all that was read at
// block fork or later.
func (c *ChannelCache) dropFrom(fork uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reorganisations++
	c.nextID = nil
	if fork == 0 {
		c.followed = 0
	} else {
		c.followed = min(c.followed, fork-1)
	}
	before := c.channels.Len()
	for _, id := range c.channels.Keys() {
		if held, ok := c.channels.Peek(id); ok && held.block >= fork {
			c.channels.Remove(id)
		}
	}
	c.logger.Warn("channels read since the fork are forgotten",
		zap.Uint64("fork_block", fork), zap.Int("forgotten", before-c.channels.Len()), zap.Int("kept", c.channels.Len()))
}

// follow applies the events of the blocks up to head. When they can't be read
// the next head tries again; the copies stay lower bounds meanwhile.
func (c *ChannelCache) follow(ctx context.Context, head BlockRef) {
	for ctx.Err() == nil {
		from, needed, reorganisations := c.nextToFollow(head.Number)
		if !needed {
			return
		}
		to := min(head.Number, from+followedAtOnce-1)
		bounded, cancel := context.WithTimeout(ctx, c.settings.RequestTimeout)
		c.requests.Add(1)
		events, err := c.escrow.Events(bounded, from, to)
		cancel()
		if err != nil {
			c.logger.Debug("events are read again with the next block", zap.Error(err))
			return
		}
		for _, id := range c.apply(events, to, reorganisations) {
			// Not waited for: a slow node must not hold up the head.
			_, _ = c.reads.join(id, true, always, c.reader(id))
		}
	}
}

// nextToFollow is the first block whose events have not been applied.
func (c *ChannelCache) nextToFollow(head uint64) (from uint64, needed bool, reorganisations uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.channels.Len() == 0 && c.nextID == nil:
		c.followed = head // nothing is held that an event could change
	case c.followed == 0:
		c.followed = head
		c.channels.Purge()
		c.nextID = nil
	case head > c.followed && head-c.followed > followedAtMost:
		c.logger.Info("too many blocks were missed to follow their events, the channels are read anew",
			zap.Uint64("missed_blocks", head-c.followed), zap.Int("channels", c.channels.Len()))
		c.followed = head
		c.channels.Purge()
		c.nextID = nil
	}
	return c.followed + 1, c.followed < head, c.reorganisations
}

// apply takes over what events say and answers the channels to read again.
func (c *ChannelCache) apply(events []ChannelEvent, to uint64, reorganisations uint64) (reread []uint256.Int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reorganisations != reorganisations {
		return nil // they may be of blocks that are no more
	}
	c.followed = max(c.followed, to)
	raised := make(map[uint256.Int]bool)
	for i := range events {
		event := &events[i]
		if event.Kind == ChannelOpened {
			c.raiseNextID(&event.Channel)
			continue
		}
		held, ok := c.channels.Peek(event.Channel)
		if !ok || event.Block <= held.block {
			continue
		}
		if event.Kind == ChannelClaimed {
			c.channels.Remove(event.Channel)
			continue
		}
		if !raised[event.Channel] && len(raised) < rereadAtOnce {
			raised[event.Channel] = true
			reread = append(reread, event.Channel)
		}
	}
	return reread
}

func (c *ChannelCache) raiseNextID(opened *uint256.Int) {
	next, overflow := new(uint256.Int).AddOverflow(opened, uint256.NewInt(1))
	if c.nextID != nil && !overflow && c.nextID.Lt(next) {
		c.nextID = next
	}
}
