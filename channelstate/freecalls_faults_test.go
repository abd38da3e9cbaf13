package channelstate_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

// faultyCounts is a store of counters whose transactions fail as a test wants.
type faultyCounts struct {
	channelstate.FreeCallStore
	mu    sync.Mutex
	next  []storetest.Fault
	after func() // between a lost transaction and the next
}

func (f *faultyCounts) CommitFreeCalls(ctx context.Context, transaction *channelstate.FreeCallTransaction) (channelstate.FreeCallResult, error) {
	f.mu.Lock()
	fault := storetest.NoFault
	if len(f.next) > 0 {
		fault, f.next = f.next[0], f.next[1:]
	}
	var after func()
	if fault == storetest.NoFault {
		after, f.after = f.after, nil
	}
	f.mu.Unlock()
	if after != nil {
		after()
	}
	switch fault {
	case storetest.LostRequest:
		return channelstate.FreeCallResult{}, channelstate.ErrOutcomeUnknown
	case storetest.LostReply:
		if _, err := f.FreeCallStore.CommitFreeCalls(ctx, transaction); err != nil {
			return channelstate.FreeCallResult{}, err
		}
		return channelstate.FreeCallResult{}, channelstate.ErrOutcomeUnknown
	case storetest.Failed:
		return channelstate.FreeCallResult{}, storetest.ErrInjected
	}
	return f.FreeCallStore.CommitFreeCalls(ctx, transaction)
}

func TestFreeCallsWhoseReplyIsLost(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		free, ok := store.(channelstate.FreeCallStore)
		if !ok {
			t.Fatal("no counters")
		}
		for _, fault := range []storetest.Fault{storetest.LostRequest, storetest.LostReply} {
			for _, others := range []int{0, 1, 5} {
				faulty := &faultyCounts{FreeCallStore: free}
				o, plain := newOfficeOn(t, faulty, sharedOf(t, store)), newOfficeOn(t, free, sharedOf(t, store))
				o.metadata.ServiceGroup.FreeCalls, plain.metadata.ServiceGroup.FreeCalls = 100, 100
				alice := newCaller(t)
				faulty.next = []storetest.Fault{fault, fault}
				faulty.after = func() {
					for range others {
						if _, err := plain.call(alice, ""); err != nil {
							t.Error(err)
						}
					}
				}
				user, err := o.call(alice, "")
				if err != nil {
					t.Errorf("fault %d, %d others: %v", fault, others, err)
				}
				if left := plain.left(alice, ""); left != uint64(100-1-others) {
					t.Errorf("fault %d, %d others: %d left", fault, others, left)
				}
				faulty.next = []storetest.Fault{fault}
				if outcome, err := o.calls.Refund(t.Context(), user, channelstate.NewChargeID()); err != nil || outcome != channelstate.Refunded {
					t.Errorf("refund: %s, %v", outcome, err)
				}
				if left := plain.left(alice, ""); left != uint64(100-others) {
					t.Errorf("fault %d, %d others: %d left after the refund", fault, others, left)
				}
			}
		}
	})
}

func TestFreeCallsWhileTheStoreIsAway(t *testing.T) {
	store := storetest.Memory(t)
	free, ok := store.(channelstate.FreeCallStore)
	if !ok {
		t.Fatal("no counters")
	}
	faulty := &faultyCounts{FreeCallStore: free}
	o, alice := newOfficeOn(t, faulty, sharedOf(t, store)), newCaller(t)
	faulty.next = []storetest.Fault{storetest.Failed}
	if _, err := o.call(alice, ""); !errors.Is(err, channelstate.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if left := o.left(alice, ""); left != 3 {
		t.Errorf("%d left", left)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	user, err := o.call(alice, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := o.calls.Charge(ended, user, channelstate.Quota{Calls: 3}); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who has gone: %v", err)
	}
	if left := o.left(alice, ""); left != 2 {
		t.Errorf("%d left", left)
	}
	old := channelstate.NewChargeID()
	for i := range 6 { // its first bytes are its time
		old[i] = byte(uint64(time.Now().Add(-25*time.Hour).UnixMilli()) >> (40 - 8*i))
	}
	if outcome, err := o.calls.Refund(t.Context(), user, old); err != nil || outcome != channelstate.TooLate {
		t.Errorf("a late refund: %s, %v", outcome, err)
	}
}

// What one replica remembers is good neither for a refusal nor for a balance.
func TestFreeCallRefusalsAreConfirmed(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		here, there, alice := newOffice(t, store), newOffice(t, store), newCaller(t)
		var user channelstate.FreeCallUser
		for range 3 {
			var err error
			if user, err = here.call(alice, ""); err != nil {
				t.Fatal(err)
			}
		}
		if outcome, err := there.calls.Refund(t.Context(), user, channelstate.NewChargeID()); err != nil || outcome != channelstate.Refunded {
			t.Fatalf("%s, %v", outcome, err)
		}
		if _, err := here.call(alice, ""); err != nil { // here remembers that all are used
			t.Error(err)
		}
		if left := there.left(alice, ""); left != 0 {
			t.Errorf("%d left", left)
		}
	})
}
