package storetest

import (
	"context"
	"fmt"
	"reflect"
	"testing"

	"github.com/mpegate/mpegate/channelstate"
)

// testSettled puts claims away: they are read as before and listed no more.
func testSettled(t *testing.T, store channelstate.Store) {
	first, second := claimOf(7, 3), claimOf(7, 4)
	base := commit(t, store, &channelstate.Transaction{
		Key: keyOf(7), Record: recordOf(1), Claims: []channelstate.Claim{first, second},
	}, true).Stored
	first.Passed = true
	base = commit(t, store, &channelstate.Transaction{
		Key: keyOf(7), Base: base, Record: recordOf(2), Settled: []channelstate.Claim{first},
	}, true).Stored
	expectClaims := func(want ...channelstate.Claim) {
		t.Helper()
		listed := collect(t, 10, func(cursor string) ([]channelstate.Claim, string, error) {
			return store.Claims(t.Context(), group, cursor, 10)
		})
		if len(listed)+len(want) > 0 && !reflect.DeepEqual(listed, want) {
			t.Errorf("listed %+v, want %+v", listed, want)
		}
		for _, claim := range []channelstate.Claim{first, second} {
			found, ok, err := store.Claim(t.Context(), keyOf(7), &claim.Nonce)
			if err != nil || !ok || !reflect.DeepEqual(found, claim) {
				t.Errorf("claim of nonce %s: %+v, %v, %v", claim.Nonce.Dec(), found, ok, err)
			}
		}
	}
	expectClaims(second)
	second.Passed = true
	for range 2 { // again changes nothing
		base = commit(t, store, &channelstate.Transaction{
			Key: keyOf(7), Base: base, Record: recordOf(3), Settled: []channelstate.Claim{second},
		}, true).Stored
		expectClaims()
	}
}

// testCommitAll writes several channels at once, or none.
func testCommitAll(t *testing.T, store channelstate.Store) {
	const channels = channelstate.MaxClaimsTogether
	bases := make([]channelstate.Stored, channels)
	round := func(number uint64) []*channelstate.Transaction {
		transactions := make([]*channelstate.Transaction, channels)
		for i := range transactions {
			id := uint64(i)
			transactions[i] = &channelstate.Transaction{
				Key: keyOf(id), Base: bases[i], Record: recordOf(number + id), Claims: []channelstate.Claim{claimOf(id, number)},
			}
		}
		return transactions
	}
	expect := func(what string, transactions []*channelstate.Transaction, applied bool) []channelstate.Stored {
		t.Helper()
		now, stored, err := store.CommitAll(t.Context(), transactions)
		if err != nil || now != applied || len(stored) != len(transactions) {
			t.Fatalf("%s: applied %v, %d stored, error %v", what, now, len(stored), err)
		}
		for i, transaction := range transactions {
			if found := load(t, store, transaction.Key); !reflect.DeepEqual(found, stored[i]) {
				t.Fatalf("%s: the result says %+v is stored, but it is %+v", what, stored[i], found)
			}
			if written := reflect.DeepEqual(stored[i].Record, transaction.Record); written != applied {
				t.Fatalf("%s: channel %d was written: %v", what, i, written)
			}
		}
		return stored
	}
	first := round(1)
	copy(bases, expect("new channels", first, true))
	second := round(100)
	copy(bases, expect("known channels", second, true))
	for i := range bases {
		if bases[i].Version != 2 {
			t.Fatalf("channel %d has version %d", i, bases[i].Version)
		}
		if _, found, err := store.Claim(t.Context(), keyOf(uint64(i)), &second[i].Claims[0].Nonce); err != nil || !found {
			t.Fatalf("claim of channel %d: %v, %v", i, found, err)
		}
	}

	last := channels - 1
	newer := commit(t, store, &channelstate.Transaction{Key: keyOf(uint64(last)), Base: bases[last], Record: recordOf(500)}, true)
	third := round(200)
	stored, _, err := store.CommitAll(t.Context(), third)
	if err != nil || stored {
		t.Fatalf("applied over a record that has changed: %v, %v", stored, err)
	}
	for i := range bases[:last] {
		if found := load(t, store, keyOf(uint64(i))); !reflect.DeepEqual(found, bases[i]) {
			t.Fatalf("channel %d was written although another had changed: %+v", i, found)
		}
		if _, found, _ := store.Claim(t.Context(), keyOf(uint64(i)), &third[i].Claims[0].Nonce); found {
			t.Fatalf("the claim of channel %d was written although another had changed", i)
		}
	}
	bases[last] = newer.Stored
	fourth := round(300)
	expect("after the change is known", fourth, true)
	if again, _, err := store.CommitAll(t.Context(), fourth); err != nil || again {
		t.Fatalf("applied twice: %v, %v", again, err)
	}
	refunding := []*channelstate.Transaction{{Key: keyOf(999), Record: recordOf(1), Refunds: []channelstate.ChargeID{channelstate.NewChargeID()}}}
	if _, _, err := store.CommitAll(t.Context(), refunding); err == nil {
		t.Error("a refund was written together with other channels")
	}
}

// CommitAll implements channelstate.Store. Next is asked with the first of the
// transactions.
func (f *Faulty) CommitAll(ctx context.Context, transactions []*channelstate.Transaction) (bool, []channelstate.Stored, error) {
	fault := NoFault
	if f.Next != nil {
		fault = f.Next(transactions[0])
	}
	unknown := fmt.Errorf("%w: %w", channelstate.ErrOutcomeUnknown, ErrInjected)
	switch fault {
	case LostRequest:
		return false, nil, unknown
	case DelayedRequest, OvertakenRequest:
		f.mu.Lock()
		defer f.mu.Unlock()
		f.queuedAll = append(f.queuedAll, delayedAll{transactions, fault})
		return false, nil, unknown
	case Failed:
		return false, nil, ErrInjected
	}
	f.mu.Lock()
	queued := f.queuedAll
	f.queuedAll = nil
	f.mu.Unlock()
	late := func(when Fault) {
		for _, other := range queued {
			if other.fault == when {
				_, _, _ = f.Store.CommitAll(ctx, other.transactions) // nobody hears of it
			}
		}
	}
	late(DelayedRequest)
	applied, stored, err := f.Store.CommitAll(ctx, transactions)
	late(OvertakenRequest)
	if fault == LostReply {
		return false, nil, unknown
	}
	return applied, stored, err
}

type delayedAll struct {
	transactions []*channelstate.Transaction
	fault        Fault
}
