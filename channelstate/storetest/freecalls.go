package storetest

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"github.com/mpegate/mpegate/channelstate"
)

// RunFreeCalls tests that a store keeps the contract of channelstate.FreeCallStore.
func RunFreeCalls(t *testing.T, open Opener) {
	for name, test := range map[string]func(*testing.T, channelstate.FreeCallStore){
		"versions, revisions and conflicts": testFreeCallVersions,
		"a refund is known once":            testFreeCallRefunds,
		"users share nothing":               testFreeCallUsers,
		"lists":                             testFreeCallLists,
		"writers at once":                   testFreeCallWriters,
		"a context that has ended":          testFreeCallContext,
	} {
		t.Run(name, func(t *testing.T) {
			store, ok := open(t).(channelstate.FreeCallStore)
			if !ok {
				t.Fatal("the store keeps no counters of free calls")
			}
			test(t, store)
		})
	}
}

var caller = channelstate.FreeCallUser{Group: group, OrganizationID: "org", ServiceID: "service", Address: sender, UserID: "alice"}

func countOf(used uint64) *channelstate.FreeCallCount {
	return &channelstate.FreeCallCount{Used: used, Writes: []channelstate.BatchID{batch(used), batch(used + 1000)}}
}

func loadCount(t *testing.T, store channelstate.FreeCallStore, user channelstate.FreeCallUser) channelstate.StoredFreeCalls {
	t.Helper()
	return must[channelstate.StoredFreeCalls](t)(store.LoadFreeCalls(t.Context(), user))
}

// count sends a transaction and wants it applied or not.
func count(t *testing.T, store channelstate.FreeCallStore, transaction *channelstate.FreeCallTransaction, applied bool) channelstate.FreeCallResult {
	t.Helper()
	result := must[channelstate.FreeCallResult](t)(store.CommitFreeCalls(t.Context(), transaction))
	if result.Applied != applied {
		t.Fatalf("applied %v, want %v: %+v", result.Applied, applied, result)
	}
	if now := loadCount(t, store, transaction.User); !reflect.DeepEqual(now, result.Stored) {
		t.Fatalf("the result says %+v is stored, but it is %+v", result.Stored, now)
	}
	return result
}

func testFreeCallVersions(t *testing.T, store channelstate.FreeCallStore) {
	if none := loadCount(t, store, caller); none.Count != nil || none.Version != 0 {
		t.Fatalf("there is something: %+v", none)
	}
	var base channelstate.StoredFreeCalls
	for used := uint64(1); used <= 5; used++ {
		result := count(t, store, &channelstate.FreeCallTransaction{User: caller, Base: base, Count: countOf(used)}, true)
		if result.Stored.Version != int64(used) || result.Stored.Revision <= base.Revision || !reflect.DeepEqual(result.Stored.Count, countOf(used)) {
			t.Fatalf("after %+v came %+v", base, result.Stored)
		}
		old := base
		base = result.Stored
		if late := count(t, store, &channelstate.FreeCallTransaction{User: caller, Base: old, Count: countOf(99)}, false); late.Refunded || late.Stored.Count.Used != used {
			t.Fatalf("a late write answers %+v", late)
		}
	}
}

func testFreeCallRefunds(t *testing.T, store channelstate.FreeCallStore) {
	id, other := channelstate.NewChargeID(), channelstate.NewChargeID()
	base := count(t, store, &channelstate.FreeCallTransaction{User: caller, Count: countOf(2)}, true).Stored
	late := count(t, store, &channelstate.FreeCallTransaction{User: caller, Count: countOf(1), Refund: &id}, false)
	if late.Refunded {
		t.Error("a refund that was not applied is known")
	}
	key := channelstate.Key{ChainID: group.ChainID, MPE: group.MPE, GroupID: group.GroupID}
	known := func(id channelstate.ChargeID) bool { return must[bool](t)(store.Refunded(t.Context(), key, id)) }
	if known(id) {
		t.Error("a refund that was not applied is remembered")
	}
	base = count(t, store, &channelstate.FreeCallTransaction{User: caller, Base: base, Count: countOf(1), Refund: &id}, true).Stored
	if !known(id) || known(other) {
		t.Errorf("known %v, of another %v", known(id), known(other))
	}
	again := count(t, store, &channelstate.FreeCallTransaction{User: caller, Base: base, Count: countOf(0), Refund: &id}, false)
	if !again.Refunded || again.Stored.Count.Used != 1 {
		t.Errorf("the same refund again: %+v", again)
	}
	count(t, store, &channelstate.FreeCallTransaction{User: caller, Base: base, Count: countOf(0), Refund: &other}, true)
}

func testFreeCallUsers(t *testing.T, store channelstate.FreeCallStore) {
	count(t, store, &channelstate.FreeCallTransaction{User: caller, Count: countOf(1)}, true)
	for name, change := range map[string]func(*channelstate.FreeCallUser){
		"group":        func(u *channelstate.FreeCallUser) { u.Group.GroupID[3]++ },
		"organisation": func(u *channelstate.FreeCallUser) { u.OrganizationID = "org2" },
		"service":      func(u *channelstate.FreeCallUser) { u.ServiceID = "service2" },
		"address":      func(u *channelstate.FreeCallUser) { u.Address = signer },
		"user id":      func(u *channelstate.FreeCallUser) { u.UserID = "alice2" },
		"no user id":   func(u *channelstate.FreeCallUser) { u.UserID = "" },
		"a boundary":   func(u *channelstate.FreeCallUser) { u.OrganizationID, u.ServiceID = "org/service", "" },
	} {
		user := caller
		change(&user)
		if found := loadCount(t, store, user); found.Count != nil {
			t.Errorf("another %s has the counter", name)
		}
	}
}

func testFreeCallLists(t *testing.T, store channelstate.FreeCallStore) {
	var want []string
	for i := range byte(7) {
		user := caller
		user.Address, user.UserID = common.Address{19: i}, strings.Repeat("ü/ \xff", int(i%3))
		count(t, store, &channelstate.FreeCallTransaction{User: user, Count: countOf(uint64(i))}, true)
		want = append(want, user.Address.Hex()+user.UserID)
	}
	other := caller
	other.Group.ChainID++
	count(t, store, &channelstate.FreeCallTransaction{User: other, Count: countOf(50)}, true)
	for _, limit := range []int{1, 3, 100} {
		var got []string
		for _, entry := range collect(t, limit, func(cursor string) ([]channelstate.FreeCallEntry, string, error) {
			return store.FreeCallUsers(t.Context(), group, cursor, limit)
		}) {
			got = append(got, entry.User.Address.Hex()+entry.User.UserID)
			if entry.User.Group != group || entry.User.OrganizationID != "org" || entry.User.ServiceID != "service" || entry.Used != uint64(entry.User.Address[19]) {
				t.Errorf("limit %d: %+v", limit, entry)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: listed %q, want %q", limit, got, want)
		}
	}
}

func testFreeCallWriters(t *testing.T, store channelstate.FreeCallStore) {
	const writers, each = 8, 10
	var done sync.WaitGroup
	for range writers {
		done.Go(func() {
			for written := 0; written < each; {
				base, err := store.LoadFreeCalls(t.Context(), caller)
				if err != nil {
					t.Error(err)
					return
				}
				used := uint64(0)
				if base.Count != nil {
					used = base.Count.Used
				}
				result, err := store.CommitFreeCalls(t.Context(), &channelstate.FreeCallTransaction{User: caller, Base: base, Count: countOf(used + 1)})
				if err != nil {
					t.Error(err)
					return
				}
				if result.Applied {
					written++
				}
			}
		})
	}
	done.Wait()
	if stored := loadCount(t, store, caller); stored.Count.Used != writers*each || stored.Version != writers*each {
		t.Errorf("%d writes left %+v", writers*each, stored)
	}
}

func testFreeCallContext(t *testing.T, store channelstate.FreeCallStore) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	id := channelstate.NewChargeID()
	errs := map[string]error{}
	_, errs["LoadFreeCalls"] = store.LoadFreeCalls(ended, caller)
	_, errs["CommitFreeCalls"] = store.CommitFreeCalls(ended, &channelstate.FreeCallTransaction{User: caller, Count: countOf(1)})
	_, errs["CommitFreeCalls with a refund"] = store.CommitFreeCalls(ended, &channelstate.FreeCallTransaction{User: caller, Count: countOf(1), Refund: &id})
	_, _, errs["FreeCallUsers"] = store.FreeCallUsers(ended, group, "", 1)
	for name, err := range errs {
		if err == nil {
			t.Errorf("%s answers", name)
		}
	}
	if stored := loadCount(t, store, caller); stored.Count != nil {
		t.Error("a counter was written")
	}
}
