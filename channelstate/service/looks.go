package service

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/holiman/uint256"
	"golang.org/x/sync/errgroup"

	"github.com/mpegate/mpegate/blockchain"
)

const (
	looksAtMost  = 256 // reads of the chain for one list
	looksAtOnce  = 8
	looksTimeout = 8 * time.Second
)

// looks are the reads of the chain that one list may cause. A channel that is
// not read for lack of them, or because the node is away, stays unknown.
type looks struct {
	channels ControlChannels
	left     int
	until    time.Time
	away     atomic.Bool // the chain could not be asked, and is not asked again
}

func newLooks(channels ControlChannels) *looks {
	return &looks{channels: channels, left: looksAtMost, until: time.Now().Add(looksTimeout)}
}

// known answers channels from memory and reads those that are not there; nil
// for the ones that stay unknown.
func (l *looks) known(ctx context.Context, count int, id func(int) *uint256.Int) []*blockchain.Channel {
	return l.look(ctx, count, id, 0)
}

// upTo reads channels again whose copy may be older than a block, as far as the reads last.
func (l *looks) upTo(ctx context.Context, block uint64, count int, id func(int) *uint256.Int) []*blockchain.Channel {
	return l.look(ctx, count, id, block)
}

func (l *looks) look(ctx context.Context, count int, id func(int) *uint256.Int, block uint64) []*blockchain.Channel {
	ctx, cancel := context.WithDeadline(ctx, l.until)
	defer cancel()
	found := make([]*blockchain.Channel, count)
	var group errgroup.Group
	group.SetLimit(looksAtOnce)
	for i := range found {
		channel, known := l.channels.Known(id(i))
		if known {
			found[i] = &channel
		}
		again := known && block > 0 && !l.channels.UpTo(id(i), block)
		if known && !again || l.left == 0 || l.away.Load() || ctx.Err() != nil {
			continue
		}
		l.left--
		group.Go(func() error {
			if channel, err := l.read(ctx, id(i), again); err == nil {
				found[i] = &channel
			} else if !errors.Is(err, blockchain.ErrChannelNotFound) {
				l.away.Store(true)
			}
			return nil
		})
	}
	_ = group.Wait() // its functions never fail
	return found
}

func (l *looks) read(ctx context.Context, id *uint256.Int, again bool) (blockchain.Channel, error) {
	if again {
		return l.channels.Refresh(ctx, id)
	}
	return l.channels.Get(ctx, id, "")
}
