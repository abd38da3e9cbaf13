package blockchain

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"golang.org/x/time/rate"
)

func TestCacheFollowsEvents(t *testing.T) {
	f := newCacheFixture(t, 0)
	for id := range uint64(4) {
		f.get(t, id)
	}
	raised := func(id uint64, kind EventKind) ChannelEvent {
		return ChannelEvent{Kind: kind, Channel: *uint256.NewInt(id), Block: 1001}
	}
	f.escrow.set(func() {
		f.escrow.events = []ChannelEvent{
			raised(0, ChannelRaised), raised(1, ChannelClaimed), raised(500, ChannelRaised), raised(501, ChannelClaimed),
			{Kind: ChannelRaised, Channel: *uint256.NewInt(2), Block: 1000}, // known at the read
			raised(1700, ChannelOpened),
		}
		f.escrow.channel = func(uint64, BlockRef) Channel {
			return Channel{Sender: common.Address{1}, Value: *uint256.NewInt(5000)}
		}
	})
	before := f.escrow.channels.Load()
	f.advance(t, 1)
	eventually(t, "the raised channel is read again", func() bool {
		channel, _, _ := f.lookup(uint256.NewInt(0))
		return channel.Value.Uint64() == 5000
	})
	if reads := f.escrow.channels.Load() - before; reads != 1 {
		t.Errorf("%d reads after the events, want that of the raised channel", reads)
	}
	if _, found, _ := f.lookup(uint256.NewInt(1)); found {
		t.Error("the claimed channel is still held")
	}
	for _, id := range []uint64{2, 3} {
		if channel := f.get(t, id); channel.Value.Uint64() != 100+id {
			t.Errorf("channel %d was read again", id)
		}
	}
	before = f.escrow.nextIDs.Load()
	f.get(t, 1700) // given out, as an event told
	if f.escrow.nextIDs.Load() != before {
		t.Error("the next id was asked for although an event told it")
	}
	if !slices.Equal(f.escrow.ranges, []string{"1001-1001"}) {
		t.Errorf("events read of blocks %v", f.escrow.ranges)
	}
}

func TestCacheAsksForNoEventsWhileItHoldsNothing(t *testing.T) {
	f := newCacheFixture(t, 0)
	for range 5 {
		f.advance(t, 3)
	}
	if f.Requests() != 0 || len(f.escrow.ranges) != 0 {
		t.Errorf("%d requests, events %v", f.Requests(), f.escrow.ranges)
	}
}

func TestCacheFollowsInPiecesAndAfterFailures(t *testing.T) {
	f := newCacheFixture(t, 0)
	f.get(t, 1)
	f.escrow.set(func() { f.escrow.failing = errors.New("eth_getLogs is not available") })
	f.advance(t, 500)
	f.advance(t, 2000)
	f.escrow.set(func() { f.escrow.failing = nil })
	f.advance(t, 1)
	if want := []string{"1001-2000", "2001-3000", "3001-3501"}; !slices.Equal(f.escrow.ranges, want) {
		t.Errorf("events read of blocks %v, want %v", f.escrow.ranges, want)
	}
	f.get(t, 2)
	f.advance(t, followedAtMost+1)
	if f.Len() != 0 || len(f.escrow.ranges) != 3 {
		t.Errorf("after a long absence %d channels are held, events read of %v", f.Len(), f.escrow.ranges)
	}
	f.get(t, 2)
	f.advance(t, 1)
	if last := f.escrow.ranges[len(f.escrow.ranges)-1]; last != "8503-8503" {
		t.Errorf("then events of %s", last)
	}
}

func TestCacheReadOvertakenByAnEventIsDoneAgain(t *testing.T) {
	f := newCacheFixture(t, 0)
	f.get(t, 1)
	gate := make(chan struct{})
	var reads atomic.Int64
	f.escrow.set(func() {
		f.escrow.gate = gate
		f.escrow.channel = func(_ uint64, block BlockRef) Channel {
			reads.Add(1)
			return Channel{Sender: common.Address{1}, Value: *uint256.NewInt(block.Number)}
		}
		f.escrow.events = []ChannelEvent{{Kind: ChannelClaimed, Channel: *uint256.NewInt(9), Block: 1001}}
	})
	answer := make(chan Channel)
	go func() {
		channel, _ := f.Get(t.Context(), uint256.NewInt(9), "")
		answer <- channel
	}()
	eventually(t, "the read is under way", func() bool { return f.escrow.channels.Load() == 2 })
	f.advance(t, 1) // its event finds nothing held
	close(gate)
	if channel := <-answer; channel.Value.Uint64() != 1001 || reads.Load() != 2 {
		t.Errorf("the channel of block %d after %d reads", channel.Value.Uint64(), reads.Load())
	}
}

func TestCacheReorganisationDropsWhatWasReadSinceTheFork(t *testing.T) {
	f := newCacheFixture(t, 0)
	f.get(t, 1) // at block 1000
	f.advance(t, 10)
	f.get(t, 2) // at block 1010
	f.reorganise(t, 5)
	if _, found, _ := f.lookup(uint256.NewInt(1)); !found {
		t.Error("a channel read before the fork was dropped")
	}
	if _, found, _ := f.lookup(uint256.NewInt(2)); found {
		t.Error("a channel read after the fork is still held")
	}
	// The new branch has fewer channels: what was known of the next id is no more.
	f.escrow.set(func() { f.escrow.next = 500 })
	before := f.escrow.channels.Load()
	f.fails(t, 600, ErrChannelNotFound)
	if f.escrow.channels.Load() != before {
		t.Error("a channel was read that the new branch has not given out")
	}
	// Far deeper than is remembered.
	f.source.chain = newModelChain(77)
	f.source.chain.mine(2000)
	f.observe(t)
	if f.Len() != 0 {
		t.Errorf("%d channels are held on another chain", f.Len())
	}
}

func TestCacheReadDuringAReorganisationIsVoid(t *testing.T) {
	f := newCacheFixture(t, 0)
	f.get(t, 1)
	f.advance(t, 3)
	gate := make(chan struct{})
	f.escrow.set(func() {
		f.escrow.gate = gate
		f.escrow.channel = func(_ uint64, block BlockRef) Channel {
			return Channel{Sender: common.BytesToAddress(block.Hash[:8])} // another one on each branch
		}
	})
	answer := make(chan Channel)
	go func() {
		channel, _ := f.Get(t.Context(), uint256.NewInt(9), "")
		answer <- channel
	}()
	eventually(t, "the read is under way", func() bool { return f.escrow.channels.Load() == 2 })
	// Noticed by Latest alone: events have not been followed past the read.
	f.source.mu.Lock()
	f.source.chain.hashes = f.source.chain.hashes[:len(f.source.chain.hashes)-2]
	f.source.chain.mine(3)
	head := f.source.chain.head()
	f.source.mu.Unlock()
	if _, err := f.head.Latest(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(gate)
	if channel := <-answer; channel.Sender != common.BytesToAddress(head.Hash[:8]) {
		t.Errorf("served the channel of a block that is no more: %s", channel.Sender)
	}
}

func TestCacheNextIDReadDuringAReorganisationIsForgotten(t *testing.T) {
	f := newCacheFixture(t, 0)
	gate := make(chan struct{})
	slow := &slowNextID{scriptedEscrow: f.escrow, gate: gate, asked: make(chan struct{})}
	f.ChannelCache.escrow = slow
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = f.Get(t.Context(), uint256.NewInt(9), "")
	}()
	<-slow.asked
	f.source.mu.Lock()
	f.source.chain = newModelChain(8)
	f.source.chain.mine(2000)
	f.source.mu.Unlock()
	if _, err := f.head.Latest(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(gate)
	<-done
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.nextID != nil {
		t.Errorf("the next id %s of a branch that is no more is kept", f.nextID.Dec())
	}
}

// slowNextID answers the next id only when told to.
type slowNextID struct {
	*scriptedEscrow
	gate, asked chan struct{}
}

func (r *slowNextID) NextChannelID(ctx context.Context) (uint256.Int, error) {
	close(r.asked)
	<-r.gate
	return r.scriptedEscrow.NextChannelID(ctx)
}

// TestCacheNeverKeepsAnOrphan reads from many goroutines while the chain is
// reorganised over and over: what is held must always be of the present branch.
func TestCacheNeverKeepsAnOrphan(t *testing.T) {
	f := newCacheFixture(t, 0)
	f.budgets.misses, f.budgets.again, f.budgets.nextID = rate.NewLimiter(rate.Inf, 1), rate.NewLimiter(rate.Inf, 1), rate.NewLimiter(rate.Inf, 1)
	f.escrow.set(func() {
		f.escrow.channel = func(_ uint64, block BlockRef) Channel {
			return Channel{Sender: common.Address{1}, GroupID: block.Hash, Value: *uint256.NewInt(block.Number)}
		}
	})
	stop := make(chan struct{})
	var group sync.WaitGroup
	for worker := range uint64(8) {
		group.Go(func() {
			for i := worker; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := uint256.NewInt(i % 16)
				if i%3 == 0 {
					_, _ = f.Refresh(t.Context(), id)
				} else {
					_, _ = f.Get(t.Context(), id, "")
				}
			}
		})
	}
	for round := range 300 {
		f.clock.Advance(time.Second)
		if round%3 == 0 {
			f.reorganise(t, 1+round%7)
		} else {
			f.advance(t, round%3)
		}
		f.mu.Lock()
		for _, id := range f.channels.Keys() {
			held, _ := f.channels.Peek(id)
			hash, err := f.source.chain.hashAt(held.block)
			if err != nil || hash != common.Hash(held.channel.GroupID) || held.block != held.channel.Value.Uint64() {
				t.Errorf("round %d: channel %s is held as of block %d of another branch", round, id.Dec(), held.block)
			}
		}
		f.mu.Unlock()
	}
	close(stop)
	group.Wait()
}

func TestCacheConfirmations(t *testing.T) {
	f := newCacheFixture(t, 3)
	opened := uint64(1001)
	other := common.Address{7}
	f.escrow.set(func() {
		f.escrow.next = 2000
		f.escrow.channel = func(id uint64, block BlockRef) Channel {
			switch {
			case id == 1: // old
				return Channel{Sender: common.Address{1}}
			case id == 2 && block.Number >= opened:
				return Channel{Sender: common.Address{1}}
			case id == 3 && block.Number >= opened: // took the id of another one
				return Channel{Sender: common.Address{1}}
			case id == 3:
				return Channel{Sender: other}
			}
			return Channel{}
		}
	})
	f.get(t, 1)
	if f.escrow.channels.Load() != 2 {
		t.Errorf("%d reads for the first call, want now and 3 blocks earlier", f.escrow.channels.Load())
	}
	f.advance(t, 1) // block 1001
	for block := uint64(1001); block < opened+3; block++ {
		f.fails(t, 2, ErrChannelNotFound)
		f.fails(t, 3, ErrChannelNotFound)
		before := f.escrow.channels.Load()
		for range 100 {
			f.fails(t, 2, ErrChannelNotFound)
		}
		if reads := f.escrow.channels.Load() - before; reads != 0 {
			t.Errorf("block %d: %d reads for a channel that waits for the next block", block, reads)
		}
		f.advance(t, 1)
	}
	f.get(t, 2)
	f.get(t, 3)
	before := f.escrow.channels.Load()
	if _, err := f.Refresh(t.Context(), uint256.NewInt(2)); err != nil || f.escrow.channels.Load() != before+1 {
		t.Errorf("refreshing a confirmed channel: %v, %d reads", err, f.escrow.channels.Load()-before)
	}
	young := newCacheFixture(t, 50)
	young.source.chain = newModelChain(5)
	young.source.chain.mine(3)
	young.head.known, young.head.state = knownBlocks{}, atomic.Pointer[headState]{}
	young.fails(t, 1, ErrChannelNotFound)
}
