package channelstate_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"go.uber.org/zap/zaptest"

	"github.com/mpegate/mpegate/channelstate"
)

func openSwitch(t *testing.T, store channelstate.SharedStore, of channelstate.Group) *channelstate.Switch {
	t.Helper()
	opened, err := channelstate.OpenSwitch(t.Context(), store, of, channelstate.DefaultSettings(), zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// followed is a switch whose Run has begun and ends with the test.
func followed(t *testing.T, store channelstate.SharedStore) *channelstate.Switch {
	t.Helper()
	opened := openSwitch(t, store, group)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- opened.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return opened
}

func set(t *testing.T, of *channelstate.Switch, stopped bool) {
	t.Helper()
	if err := of.Set(t.Context(), stopped, alice); err != nil {
		t.Fatal(err)
	}
	if of.Stopped() != stopped {
		t.Errorf("stopped is %v for who has just set it to %v", of.Stopped(), stopped)
	}
}

func TestSwitchOfAGroup(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		shared := store.(channelstate.SharedStore)
		first, second := followed(t, shared), followed(t, shared)
		if first.Stopped() || second.Stopped() {
			t.Fatal("a switch that nobody has touched is off")
		}
		for range 3 {
			for i, by := range []*channelstate.Switch{first, second} {
				set(t, by, i == 0)
				set(t, by, i == 0) // changes nothing
				waitUntil(t, func() bool { return first.Stopped() == (i == 0) && second.Stopped() == (i == 0) })
			}
		}
		set(t, first, true)
		if !openSwitch(t, shared, group).Stopped() {
			t.Error("a restart has started calls again")
		}
		other := group
		other.GroupID[0]++
		if openSwitch(t, shared, other).Stopped() {
			t.Error("another group is stopped as well")
		}
	})
}

func TestSwitchMovedByManyAtOnce(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		shared := store.(channelstate.SharedStore)
		var moving sync.WaitGroup
		for i := range 6 {
			moving.Go(func() {
				own := openSwitch(t, shared, group)
				for j := range 10 {
					if err := own.Set(t.Context(), (i+j)%2 == 0, alice); err != nil {
						t.Error(err)
					}
				}
			})
		}
		moving.Wait()
		last := openSwitch(t, shared, group)
		for _, stopped := range []bool{true, false} {
			set(t, last, stopped)
			if openSwitch(t, shared, group).Stopped() != stopped {
				t.Errorf("stored is not %v", stopped)
			}
		}
	})
}

// brokenShared fails as long as err is set, and cannot be watched.
type brokenShared struct {
	channelstate.SharedStore
	mu  sync.Mutex
	err error
}

func (b *brokenShared) fails(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *brokenShared) LoadShared(ctx context.Context, of channelstate.Group, name string) (channelstate.Shared, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return channelstate.Shared{}, b.err
	}
	return b.SharedStore.LoadShared(ctx, of, name)
}

func TestSwitchWhileTheStoreIsAway(t *testing.T) {
	away := errors.New("away")
	store := channelstate.NewMemoryStore(channelstate.DefaultSettings()).(channelstate.SharedStore)
	broken := &brokenShared{SharedStore: store}
	here := followed(t, broken)
	set(t, here, true)
	broken.fails(away)
	if err := here.Set(t.Context(), false, alice); !errors.Is(err, channelstate.ErrUnavailable) || !errors.Is(err, away) {
		t.Errorf("error %v", err)
	}
	if !here.Stopped() {
		t.Error("calls go on because the store is away")
	}
	if _, err := channelstate.OpenSwitch(t.Context(), broken, group, channelstate.DefaultSettings(), nil); !errors.Is(err, channelstate.ErrUnavailable) {
		t.Errorf("opened with error %v", err)
	}
	set(t, openSwitch(t, store, group), false)
	broken.fails(nil)
	waitUntil(t, func() bool { return !here.Stopped() })

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := here.Set(ctx, true, common.Address{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v of a caller who has gone", err)
	}
}

// What cannot be read changes nothing, and an operator can mend it.
func TestSwitchOfAnotherFormat(t *testing.T) {
	store := channelstate.NewMemoryStore(channelstate.DefaultSettings()).(channelstate.SharedStore)
	here := openSwitch(t, store, group)
	set(t, here, true)
	stored, err := store.LoadShared(t.Context(), group, "processing")
	if err != nil || stored.Revision == 0 {
		t.Fatalf("%+v, %v", stored, err)
	}
	if _, swapped, err := store.SwapShared(t.Context(), group, "processing", stored.Revision, []byte("what?")); err != nil || !swapped {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- here.Run(ctx) }()
	set(t, here, false)
	if openSwitch(t, store, group).Stopped() {
		t.Error("stored is not what was set")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
