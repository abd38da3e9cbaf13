package blockchain

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
)

// testClock is a clock that a test moves.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func newTestClock() *testClock { return &testClock{now: time.Unix(1_700_000_000, 0)} }

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) Advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// scriptedSource answers from a model chain, or fails.
type scriptedSource struct {
	mu      sync.Mutex
	chain   *modelChain
	lagging int // blocks behind its own head
	failing error
	asked   int
}

func (s *scriptedSource) header(_ context.Context, number *uint64) (blockHeader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.failing != nil {
		return blockHeader{}, s.failing
	}
	if number == nil {
		return s.chain.header(uint64(len(s.chain.hashes) - 1 - s.lagging)), nil
	}
	hash, err := s.chain.hashAt(*number)
	return blockHeader{BlockRef: BlockRef{*number, hash}}, err
}

func newScriptedHead(t *testing.T) (*Head, *scriptedSource, *testClock) {
	t.Helper()
	settings := DefaultSettings()
	clock := newTestClock()
	source := &scriptedSource{chain: newModelChain(3)}
	source.chain.mine(1000)
	head := NewHead(nil, settings, zap.NewNop())
	head.source, head.now, head.started = source, clock.Now, clock.Now()
	return head, source, clock
}

func TestHeadGoesStale(t *testing.T) {
	head, source, clock := newScriptedHead(t)
	clock.Advance(3 * time.Second)
	if _, err := head.Block(); !errors.Is(err, ErrHeadStale) || head.Age() != 3*time.Second {
		t.Errorf("before the first answer: %v, age %s", err, head.Age())
	}
	if _, err := head.Latest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if number, err := head.Block(); number != 1000 || err != nil || head.Age() != 0 {
		t.Errorf("block %d, %v, age %s", number, err, head.Age())
	}
	source.failing = errors.New("connection refused")
	clock.Advance(head.settings.MaxBlockAge)
	if _, err := head.Latest(t.Context()); err == nil {
		t.Error("a failing node is no error")
	}
	if number, err := head.Block(); number != 1000 || err != nil {
		t.Errorf("at the bound: %d, %v", number, err)
	}
	clock.Advance(time.Second)
	_, err := head.Block()
	if !errors.Is(err, ErrHeadStale) || !strings.Contains(err.Error(), "5m1s") {
		t.Errorf("past the bound: %v, want the age in it", err)
	}
	source.failing = nil
	if _, err := head.Latest(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The same block again is as good as a new one.
	if number, err := head.Block(); number != 1000 || err != nil || head.Age() != 0 {
		t.Errorf("after recovery: %d, %v, age %s", number, err, head.Age())
	}
}

func TestHeadRefreshIsBounded(t *testing.T) {
	head, source, clock := newScriptedHead(t)
	for range 50 {
		if number, err := head.Refresh(t.Context()); number != 1000 || err != nil {
			t.Fatalf("%d, %v", number, err)
		}
	}
	if source.asked != headRefreshBurst {
		t.Errorf("%d requests for 50 refreshes, want %d", source.asked, headRefreshBurst)
	}
	source.chain.mine(1)
	if number, _ := head.Refresh(t.Context()); number != 1000 {
		t.Errorf("block %d with an empty bucket, want the known one", number)
	}
	clock.Advance(time.Second)
	if number, _ := head.Refresh(t.Context()); number != 1001 {
		t.Errorf("block %d a second later", number)
	}
	source.failing = errors.New("connection refused")
	clock.Advance(time.Second)
	if number, err := head.Refresh(t.Context()); number != 1001 || err != nil {
		t.Errorf("with the node down: %d, %v, want the known block", number, err)
	}
}

// waitingContext counts who has begun to wait for it.
type waitingContext struct {
	context.Context
	waiting *atomic.Int64
}

func (c waitingContext) Done() <-chan struct{} {
	c.waiting.Add(1)
	return c.Context.Done()
}

func TestHeadSharesRequests(t *testing.T) {
	head, source, _ := newScriptedHead(t)
	source.mu.Lock() // nobody is answered yet
	var group sync.WaitGroup
	ctx := waitingContext{t.Context(), new(atomic.Int64)}
	for range 1000 {
		group.Go(func() {
			if _, err := head.Latest(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "all callers wait", func() bool { return ctx.waiting.Load() == 1000 })
	source.mu.Unlock()
	group.Wait()
	if source.asked > 2 {
		t.Errorf("%d requests for 1000 callers at once, want one under way and one after it", source.asked)
	}
}

func TestHeadTellsReorganisations(t *testing.T) {
	head, source, _ := newScriptedHead(t)
	var forks []uint64
	head.OnReorganisation(func(fork uint64) {
		forks = append(forks, fork)
		if block, ok := head.Recent(); !ok || block != source.chain.head().BlockRef {
			t.Errorf("listeners are told before the new head %v is known", block)
		}
	})
	latest := func() {
		t.Helper()
		if _, err := head.Latest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		latest()
		source.chain.mine(1)
	}
	latest() // 1000 to 1020 are known
	source.chain.hashes = source.chain.hashes[:1015]
	source.chain.mine(8)
	latest()
	// The same height, another block.
	source.chain.hashes = source.chain.hashes[:len(source.chain.hashes)-1]
	source.chain.mine(1)
	latest()
	if len(forks) != 2 || forks[0] != 1015 || forks[1] > 1022 || forks[1] < 1015 {
		t.Errorf("forks %v, want 1015 and one at most 1022", forks)
	}
	if number, err := head.Block(); number != 1022 || err != nil {
		t.Errorf("block %d, %v", number, err)
	}
}

func TestHeadAndANodeThatLags(t *testing.T) {
	head, source, clock := newScriptedHead(t)
	forks := 0
	head.OnReorganisation(func(uint64) { forks++ })
	source.chain.mine(1)
	for range 3 {
		if _, err := head.Latest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	source.lagging = 1
	clock.Advance(5 * time.Second)
	if block, err := head.Latest(t.Context()); block.Number != 1001 || err != nil || forks != 0 || head.Age() != 0 {
		t.Errorf("a node one block behind: head %d, %v, %d reorganisations, age %s", block.Number, err, forks, head.Age())
	}
	// One that keeps saying so speaks of a chain that was set back.
	clock.Advance(setBackAfter)
	if block, err := head.Latest(t.Context()); block.Number != 1000 || err != nil || forks != 1 {
		t.Errorf("a chain set back: head %d, %v, %d reorganisations", block.Number, err, forks)
	}
	// Far behind confirms nothing, until the height is stale anyway.
	source.lagging = 500
	clock.Advance(time.Second)
	for range 10 {
		if _, err := head.Latest(t.Context()); err != nil {
			t.Fatal(err)
		}
		if number, err := head.Block(); number != 1000 || err != nil {
			t.Errorf("a node far behind: %d, %v", number, err)
		}
		clock.Advance(setBackAfter)
	}
	if head.Age() < 10*setBackAfter {
		t.Errorf("age %s: a node far behind confirmed the head", head.Age())
	}
	clock.Advance(head.settings.MaxBlockAge)
	if block, err := head.Latest(t.Context()); block.Number != 501 || err != nil || forks != 2 {
		t.Errorf("another chain: head %d, %v, %d reorganisations", block.Number, err, forks)
	}
}

func TestHeadIgnoresAnAnswerThatWasOvertaken(t *testing.T) {
	head, source, clock := newScriptedHead(t)
	asked := clock.Now()
	older := source.chain.head()
	clock.Advance(time.Second)
	source.chain.mine(1)
	if _, err := head.Latest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if block, err := head.observe(t.Context(), older, asked); block.Number != 1001 || err != nil {
		t.Errorf("head %d, %v", block.Number, err)
	}
	if head.Age() != 0 {
		t.Errorf("age %s: an older answer replaced a newer one", head.Age())
	}
}

func TestHeadRecent(t *testing.T) {
	head, _, clock := newScriptedHead(t)
	if _, ok := head.Recent(); ok {
		t.Error("a head before the first answer")
	}
	if _, err := head.Latest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if block, ok := head.Recent(); !ok || block.Number != 1000 {
		t.Errorf("%v, %v", block, ok)
	}
	clock.Advance(time.Minute)
	if _, ok := head.Recent(); ok {
		t.Error("a minute old head counts as recent")
	}
}
