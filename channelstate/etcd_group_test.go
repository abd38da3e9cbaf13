package channelstate

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Many writers on many channels, some of whom give up at any moment: each transaction is applied at most once, those
// that were told so are, and those that were told that nothing was written are not.
func TestGroupedChargesKeepTheirWord(t *testing.T) {
	const writers, rounds = 24, 60
	store, _ := storeOn(t, nil)
	var done sync.WaitGroup
	var applied, unknown atomic.Int64
	for writer := range writers {
		key := testKey()
		key.Channel = number(uint64(writer))
		random := rand.New(rand.NewPCG(uint64(writer), 1))
		done.Go(func() {
			stored := Stored{}
			for range rounds {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				if random.IntN(3) == 0 {
					ctx, cancel = context.WithTimeout(t.Context(), time.Duration(random.IntN(3000))*time.Microsecond)
				}
				record := &Record{Sender: alice, Signer: bob, Batch: newBatchID()}
				result, err := store.Commit(ctx, &Transaction{Key: key, Base: stored, Record: record})
				cancel()
				after, loadErr := store.Load(t.Context(), key)
				if loadErr != nil {
					t.Error(loadErr)
					return
				}
				written := after.Record != nil && after.Record.Batch == record.Batch
				switch {
				case err == nil && (!result.Applied || !written):
					t.Errorf("channel %d: said to be applied %t, written %t", writer, result.Applied, written)
				case errors.Is(err, ErrOutcomeUnknown):
					unknown.Add(1)
				case err != nil && written:
					t.Errorf("channel %d: %v, and yet it was written", writer, err)
				case err == nil:
					applied.Add(1)
				}
				if errors.Is(err, ErrOutcomeUnknown) { // it may still be on its way: rule that out
					after = settle(t, store, key, after)
				}
				stored = after
			}
		})
	}
	done.Wait()
	store.group.mutex.Lock()
	defer store.group.mutex.Unlock()
	if store.group.leading || len(store.group.waiting) > 0 {
		t.Errorf("nobody is left, but leading is %t with %d waiting", store.group.leading, len(store.group.waiting))
	}
	if applied.Load() == 0 {
		t.Error("nothing was applied")
	}
	t.Logf("%d applied, %d unknown", applied.Load(), unknown.Load())
}

// settle writes until it has the last word on a channel.
func settle(t *testing.T, store Store, key Key, known Stored) Stored {
	for {
		result, err := store.Commit(t.Context(), &Transaction{Key: key, Base: known, Record: &Record{Sender: alice, Signer: bob, Batch: newBatchID()}})
		if err != nil {
			t.Error(err)
			return known
		}
		if known = result.Stored; result.Applied {
			return known
		}
	}
}

// Two transactions on one record never share a request: etcd would refuse both.
func TestGroupTakesEachRecordOnce(t *testing.T) {
	group := &commitGroup{}
	for _, path := range []string{"a", "b", "a", "c", "a"} {
		group.waiting = append(group.waiting, &groupedCommit{path: path, lead: make(chan struct{})})
	}
	for _, want := range []int{3, 1, 1} {
		if batch := group.take(); len(batch) != want {
			t.Fatalf("%d transactions were taken, want %d", len(batch), want)
		}
	}
}
