package blockchain

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"golang.org/x/time/rate"
)

func TestCacheRefresh(t *testing.T) {
	f := newCacheFixture(t, 0)
	f.get(t, 7)
	f.escrow.set(func() {
		f.escrow.channel = func(uint64, BlockRef) Channel {
			return Channel{Sender: common.Address{1}, Value: *uint256.NewInt(999)}
		}
	})
	refresh := func() Channel {
		t.Helper()
		channel, err := f.Refresh(t.Context(), uint256.NewInt(7))
		if err != nil {
			t.Fatal(err)
		}
		return channel
	}
	if channel := f.get(t, 7); channel.Value.Uint64() != 107 {
		t.Errorf("Get answers %s", channel.Value.Dec())
	}
	if channel := refresh(); channel.Value.Uint64() != 999 {
		t.Errorf("Refresh answers %s", channel.Value.Dec())
	}
	if channel := f.get(t, 7); channel.Value.Uint64() != 999 {
		t.Errorf("Get after Refresh answers %s", channel.Value.Dec())
	}
	before := f.escrow.channels.Load()
	together(100, func(int) { refresh() })
	bound := int64(refreshBudget.burst) + int64(float64(refreshBudget.perSecond)*refreshPatience.Seconds())
	if reads := f.escrow.channels.Load() - before; reads > bound || reads < 1 {
		t.Errorf("%d reads for 100 refreshes", reads)
	}
	f.clock.Advance(time.Minute)
	for range refreshBudget.burst + 2 { // the last ones wait for their turn and see the chain all the same
		before = f.escrow.channels.Load()
		if refresh(); f.escrow.channels.Load() != before+1 {
			t.Errorf("%d reads for one refresh", f.escrow.channels.Load()-before)
		}
	}
	id := *uint256.NewInt(7)
	f.budgets.refreshes.Add(id, rate.NewLimiter(0, 0))
	before = f.escrow.channels.Load()
	if channel, fresh, err := f.Reread(t.Context(), &id); channel.Value.Uint64() != 999 || fresh || err != nil || f.escrow.channels.Load() != before {
		t.Errorf("with an empty bucket: value %s, fresh %t, error %v, %d reads", channel.Value.Dec(), fresh, err, f.escrow.channels.Load()-before)
	}
	f.budgets.refreshes.Remove(id)
	f.clock.Advance(time.Minute)
	f.escrow.set(func() { f.escrow.failing = errors.New("connection refused") })
	if _, err := f.Refresh(t.Context(), uint256.NewInt(7)); !errors.Is(err, ErrChainUnavailable) {
		t.Errorf("with the node down: %v", err)
	}
	f.get(t, 7) // stays usable
	if _, err := f.Refresh(t.Context(), uint256.NewInt(8)); !errors.Is(err, ErrChainUnavailable) {
		t.Errorf("a channel that is not held: %v", err)
	}
}

func TestCacheRefreshNeverAnswersAnEarlierRead(t *testing.T) {
	f := newCacheFixture(t, 0)
	f.get(t, 7)
	var value atomic.Uint64
	value.Store(1)
	gate := make(chan struct{})
	f.escrow.set(func() {
		f.escrow.gate = gate
		f.escrow.channel = func(uint64, BlockRef) Channel {
			return Channel{Sender: common.Address{1}, Value: *uint256.NewInt(value.Load())}
		}
	})
	early := make(chan struct{})
	go func() {
		defer close(early)
		_, _ = f.Refresh(t.Context(), uint256.NewInt(7))
	}()
	eventually(t, "the first read is under way", func() bool { return f.escrow.channels.Load() == 2 })
	late := make(chan uint64)
	go func() {
		channel, _ := f.Refresh(t.Context(), uint256.NewInt(7))
		late <- channel.Value.Uint64()
	}()
	eventually(t, "the second caller waits", func() bool {
		f.reads.mu.Lock()
		defer f.reads.mu.Unlock()
		queue := f.reads.queues[*uint256.NewInt(7)]
		return queue != nil && queue.waiting != nil
	})
	f.escrow.set(func() { f.escrow.gate = nil }) // the first read hangs on, its answer is decided below
	value.Store(2)
	close(gate)
	if got := <-late; got != 2 || f.escrow.channels.Load() != 3 {
		t.Errorf("value %d after %d reads", got, f.escrow.channels.Load())
	}
	<-early
}

func TestCacheRefreshesOfAllChannelsAreBounded(t *testing.T) {
	f := newCacheFixture(t, 0)
	for id := range uint64(20) {
		f.get(t, id)
	}
	f.budgets.again = rate.NewLimiter(0, 4)
	before := f.escrow.channels.Load()
	for id := range uint64(20) {
		if _, err := f.Refresh(t.Context(), uint256.NewInt(id)); err != nil {
			t.Error(err)
		}
	}
	if reads := f.escrow.channels.Load() - before; reads != 4 {
		t.Errorf("%d reads with a budget of 4", reads)
	}
}

func TestCacheKnowsUpToWhichBlock(t *testing.T) {
	f := newCacheFixture(t, 0)
	id := uint256.NewInt(7)
	if f.UpTo(id, 0) {
		t.Error("a channel that was never read is known")
	}
	f.get(t, 7)
	head, _ := f.head.Recent()
	if !f.UpTo(id, head.Number) || f.UpTo(id, head.Number+1) {
		t.Errorf("read at block %d: known to it %t, known beyond %t", head.Number, f.UpTo(id, head.Number), f.UpTo(id, head.Number+1))
	}
	f.advance(t, 3)
	if !f.UpTo(id, head.Number+3) {
		t.Error("the events that were followed do not count")
	}
}
