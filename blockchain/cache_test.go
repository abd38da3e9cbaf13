package blockchain

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// scriptedEscrow is a contract in memory. Which channels there are may depend on
// the block that is read.
type scriptedEscrow struct {
	mu       sync.Mutex
	next     uint64
	channel  func(id uint64, block BlockRef) Channel
	events   []ChannelEvent
	failing  error
	gate     chan struct{} // when set, channel reads wait for it
	channels atomic.Int64  // reads
	nextIDs  atomic.Int64
	ranges   []string
}

func (e *scriptedEscrow) ChannelAt(ctx context.Context, id *uint256.Int, block BlockRef) (Channel, error) {
	e.channels.Add(1)
	e.mu.Lock()
	gate, failing, read := e.gate, e.failing, e.channel
	e.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return Channel{}, ctx.Err()
		}
	}
	if failing != nil {
		return Channel{}, failing
	}
	channel := read(id.Uint64(), block)
	channel.ID = *id
	return channel, nil
}

func (e *scriptedEscrow) Channel(ctx context.Context, id *uint256.Int, block *big.Int) (Channel, error) {
	return e.ChannelAt(ctx, id, BlockRef{Number: block.Uint64()})
}

func (e *scriptedEscrow) NextChannelID(context.Context) (uint256.Int, error) {
	e.nextIDs.Add(1)
	e.mu.Lock()
	defer e.mu.Unlock()
	return *uint256.NewInt(e.next), e.failing
}

func (e *scriptedEscrow) Events(_ context.Context, from, to uint64) ([]ChannelEvent, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failing != nil {
		return nil, e.failing
	}
	e.ranges = append(e.ranges, fmt.Sprintf("%d-%d", from, to))
	var found []ChannelEvent
	for _, event := range e.events {
		if event.Block >= from && event.Block <= to {
			found = append(found, event)
		}
	}
	return found, nil
}

func (e *scriptedEscrow) set(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
}

type cacheFixture struct {
	*ChannelCache
	escrow *scriptedEscrow
	head   *Head
	source *scriptedSource
	clock  *testClock
}

// newCacheFixture has channels 0 to 999 at block 1000.
func newCacheFixture(t testing.TB, confirmations uint64) *cacheFixture {
	t.Helper()
	escrow := &scriptedEscrow{next: 1000}
	escrow.channel = func(id uint64, _ BlockRef) Channel {
		if id >= escrow.next {
			return Channel{}
		}
		return Channel{Sender: common.Address{1}, Signer: common.Address{2}, Value: *uint256.NewInt(100 + id)}
	}
	settings := DefaultSettings()
	settings.Confirmations = confirmations
	clock := newTestClock()
	source := &scriptedSource{chain: newModelChain(3)}
	source.chain.mine(1000)
	head := NewHead(nil, settings, zap.NewNop())
	head.source, head.now, head.started = source, clock.Now, clock.Now()
	cache := NewChannelCache(escrow, head, settings, zap.NewNop())
	cache.now = clock.Now
	fixture := &cacheFixture{cache, escrow, head, source, clock}
	fixture.advance(t, 0)
	return fixture
}

// advance mines blocks and lets head and cache take notice, as Run does.
func (f *cacheFixture) advance(t testing.TB, blocks int) {
	t.Helper()
	f.source.mu.Lock()
	f.source.chain.mine(blocks)
	f.source.mu.Unlock()
	f.observe(t)
}

// reorganise replaces the newest blocks by one more than there were.
func (f *cacheFixture) reorganise(t testing.TB, blocks int) {
	t.Helper()
	f.source.mu.Lock()
	f.source.chain.hashes = f.source.chain.hashes[:len(f.source.chain.hashes)-blocks]
	f.source.chain.mine(blocks + 1)
	f.source.mu.Unlock()
	f.observe(t)
}

func (f *cacheFixture) observe(t testing.TB) {
	t.Helper()
	if _, err := f.head.Latest(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.head.notify(t.Context())
}

func (f *cacheFixture) get(t testing.TB, id uint64) Channel {
	t.Helper()
	channel, err := f.Get(t.Context(), uint256.NewInt(id), "192.0.2.1")
	if err != nil {
		t.Fatalf("channel %d: %v", id, err)
	}
	return channel
}

func (f *cacheFixture) fails(t testing.TB, id uint64, want error) {
	t.Helper()
	channel, err := f.Get(t.Context(), uint256.NewInt(id), "192.0.2.1")
	if !errors.Is(err, want) {
		t.Fatalf("channel %d: %v, %v, want %v", id, channel, err, want)
	}
}

// together calls from many goroutines that all start at once.
func together(callers int, call func(i int)) {
	var group sync.WaitGroup
	start := make(chan struct{})
	for i := range callers {
		group.Go(func() { <-start; call(i) })
	}
	close(start)
	group.Wait()
}

func TestCacheReadsAChannelOnce(t *testing.T) {
	f := newCacheFixture(t, 0)
	together(1000, func(int) {
		channel, err := f.Get(t.Context(), uint256.NewInt(7), "192.0.2.1")
		if err != nil || channel.Value.Uint64() != 107 || channel.ID.Uint64() != 7 {
			t.Errorf("%v, %v", channel, err)
		}
	})
	if reads := f.escrow.channels.Load(); reads != 1 {
		t.Errorf("%d reads for 1000 callers, want 1", reads)
	}
	requests := f.Requests()
	f.escrow.set(func() { f.escrow.failing = errors.New("connection refused") })
	for range 1000 {
		f.get(t, 7)
	}
	if f.Requests() != requests {
		t.Errorf("%d requests for a channel that is held", f.Requests()-requests)
	}
}

func TestCacheUnknownChannelsCostABoundedNumberOfReads(t *testing.T) {
	f := newCacheFixture(t, 0)
	f.budgets.nextID = rate.NewLimiter(0, 5) // what is left of the budget under an attack
	together(1000, func(int) {
		_, err := f.Get(t.Context(), uint256.NewInt(5000), "")
		if !errors.Is(err, ErrChannelNotFound) && !errors.Is(err, ErrTooManyReads) {
			t.Errorf("got %v", err)
		}
	})
	together(1000, func(i int) {
		_, err := f.Get(t.Context(), uint256.NewInt(uint64(10_000+i)), "")
		if !errors.Is(err, ErrChannelNotFound) && !errors.Is(err, ErrTooManyReads) {
			t.Errorf("got %v", err)
		}
	})
	huge := new(uint256.Int).SetAllOne()
	if _, err := f.Get(t.Context(), huge, ""); !errors.Is(err, ErrChannelNotFound) && !errors.Is(err, ErrTooManyReads) {
		t.Errorf("the highest id: %v", err)
	}
	if f.escrow.channels.Load() != 0 || f.escrow.nextIDs.Load() > 5 {
		t.Errorf("%d reads of channels and %d of the next id", f.escrow.channels.Load(), f.escrow.nextIDs.Load())
	}
	if f.Len() != 0 {
		t.Errorf("%d channels held", f.Len())
	}
}

func TestCacheServesANewChannelAtOnce(t *testing.T) {
	f := newCacheFixture(t, 0)
	for id := uint64(1000); id < 1100; id++ {
		f.fails(t, id, ErrChannelNotFound) // somebody is early
		// Opened in a block the head has not seen yet.
		f.source.mu.Lock()
		f.source.chain.mine(1)
		f.source.mu.Unlock()
		f.escrow.set(func() { f.escrow.next = id + 1 })
		f.get(t, id)
		f.clock.Advance(time.Second)
		if id == 1005 {
			f.budgets.nextID = rate.NewLimiter(rate.Inf, 1) // the real one refills by the real clock
		}
	}
}

func TestCacheReadsPastAStaleHead(t *testing.T) {
	f := newCacheFixture(t, 0)
	f.get(t, 1) // the next id is known now
	opened := f.head.known.blocks[0].Number + 1
	f.escrow.set(func() {
		f.escrow.channel = func(_ uint64, block BlockRef) Channel {
			if block.Number < opened {
				return Channel{}
			}
			return Channel{Sender: common.Address{9}}
		}
	})
	f.source.chain.mine(1)
	if channel := f.get(t, 2); channel.Sender != (common.Address{9}) {
		t.Errorf("got %v", channel)
	}
}

func TestCacheCallerThatGivesUpEndsNothing(t *testing.T) {
	f := newCacheFixture(t, 0)
	gate := make(chan struct{})
	f.escrow.set(func() { f.escrow.gate = gate })
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error)
	go func() {
		_, err := f.Get(ctx, uint256.NewInt(3), "")
		gaveUp <- err
	}()
	eventually(t, "the read is under way", func() bool { return f.escrow.channels.Load() == 1 })
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("the first caller got %v", err)
	}
	done := make(chan error)
	go func() {
		_, err := f.Get(t.Context(), uint256.NewInt(3), "")
		done <- err
	}()
	close(gate)
	if err := <-done; err != nil {
		t.Errorf("the second caller got %v", err)
	}
	if f.escrow.channels.Load() != 1 {
		t.Errorf("%d reads", f.escrow.channels.Load())
	}
}

func TestCacheClientBudgets(t *testing.T) {
	f := newCacheFixture(t, 0)
	ask := func(id uint64, client string) error {
		_, err := f.Get(t.Context(), uint256.NewInt(id), client)
		return err
	}
	for id := range uint64(clientBudget.burst) {
		if err := ask(id, "2001:db8::1"); err != nil {
			t.Fatalf("channel %d: %v", id, err)
		}
	}
	for name, test := range map[string]struct {
		id     uint64
		client string
		want   error
	}{
		"empty bucket":            {900, "2001:db8::1", ErrTooManyReads},
		"same network":            {901, "2001:db8::ffff", ErrTooManyReads},
		"a channel that is held":  {1, "2001:db8::1", nil},
		"another network":         {902, "2001:db8:0:1::1", nil},
		"IPv4":                    {903, "192.0.2.1", nil},
		"no address":              {904, "", nil},
		"something else entirely": {905, "unix:@", nil},
	} {
		if err := ask(test.id, test.client); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	f.clock.Advance(time.Second)
	if err := ask(910, "2001:db8::2"); err != nil {
		t.Errorf("a second later: %v", err)
	}
	// All clients together.
	f.budgets.misses = rate.NewLimiter(0, 3)
	refused := 0
	for id := uint64(500); id < 510; id++ {
		if err := ask(id, fmt.Sprintf("198.51.100.%d", id-500)); errors.Is(err, ErrTooManyReads) {
			refused++
		}
	}
	if refused != 7 {
		t.Errorf("%d of 10 new channels refused with a budget of 3", refused)
	}
}

func TestCacheTriesAgainWhereANodeLags(t *testing.T) {
	f := newCacheFixture(t, 0)
	attempts := 0
	flaky := &flakyReader{scriptedEscrow: f.escrow, fails: 2, attempts: &attempts}
	f.ChannelCache.escrow = flaky
	f.get(t, 3)
	if attempts != 3 {
		t.Errorf("%d attempts", attempts)
	}
	flaky.fails, flaky.with = 100, errors.New("connection refused")
	attempts = 0
	f.fails(t, 4, ErrChainUnavailable)
	if attempts != 2 { // at the known head and at the newest
		t.Errorf("%d attempts at a node that is not there", attempts)
	}
}

type rpcFailure string

func (f rpcFailure) Error() string { return string(f) }
func (rpcFailure) ErrorCode() int  { return -32000 }

// flakyReader fails its first reads of channels.
type flakyReader struct {
	*scriptedEscrow
	fails    int
	with     error
	attempts *int
}

func (r *flakyReader) NextChannelID(context.Context) (uint256.Int, error) {
	return *uint256.NewInt(1000), nil
}

func (r *flakyReader) ChannelAt(_ context.Context, id *uint256.Int, _ BlockRef) (Channel, error) {
	*r.attempts++
	if *r.attempts <= r.fails {
		if r.with != nil {
			return Channel{}, r.with
		}
		return Channel{}, rpcFailure("header for hash not found")
	}
	return Channel{ID: *id, Sender: common.Address{1}}, nil
}

func BenchmarkCacheGet(b *testing.B) {
	f := newCacheFixture(b, 0)
	for id := range uint64(32) {
		f.get(b, id)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		id := uint256.NewInt(7)
		for pb.Next() {
			if _, err := f.Get(context.Background(), id, "192.0.2.1"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
