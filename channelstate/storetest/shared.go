package storetest

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mpegate/mpegate/channelstate"
)

// RunShared tests that a store keeps the contract of channelstate.SharedStore.
func RunShared(t *testing.T, open Opener) {
	for name, test := range map[string]func(*testing.T, channelstate.SharedStore){
		"a value is written, read and replaced": testShared,
		"groups and names share nothing":        testSharedNames,
		"writers at once":                       testSharedWriters,
		"a context that has ended":              testSharedContext,
	} {
		t.Run(name, func(t *testing.T) {
			shared, ok := open(t).(channelstate.SharedStore)
			if !ok {
				t.Fatal("the store keeps no shared values")
			}
			test(t, shared)
		})
	}
}

func loadShared(t *testing.T, store channelstate.SharedStore, group channelstate.Group, name string) channelstate.Shared {
	t.Helper()
	return must[channelstate.Shared](t)(store.LoadShared(t.Context(), group, name))
}

// swap writes a value and wants it written or not.
func swap(t *testing.T, store channelstate.SharedStore, group channelstate.Group, name string, base int64, value string, want bool) channelstate.Shared {
	t.Helper()
	stored, swapped, err := store.SwapShared(t.Context(), group, name, base, []byte(value))
	if err != nil || swapped != want {
		t.Fatalf("swapped %v, want %v, error %v", swapped, want, err)
	}
	if now := loadShared(t, store, group, name); !bytes.Equal(now.Value, stored.Value) || now.Revision != stored.Revision {
		t.Fatalf("the answer says %+v is stored, but it is %+v", stored, now)
	}
	return stored
}

func testShared(t *testing.T, store channelstate.SharedStore) {
	if none := loadShared(t, store, group, "a"); none.Value != nil || none.Revision != 0 {
		t.Fatalf("there is something: %+v", none)
	}
	first := swap(t, store, group, "a", 0, "one", true)
	swap(t, store, group, "b", 0, "other", true)
	swap(t, store, group, "a", 0, "two", false)
	second := swap(t, store, group, "a", first.Revision, "two", true)
	if string(second.Value) != "two" || second.Revision <= first.Revision {
		t.Errorf("after %+v came %+v", first, second)
	}
	if stored := swap(t, store, group, "a", first.Revision, "three", false); string(stored.Value) != "two" {
		t.Errorf("the answer to a late write is %q", stored.Value)
	}
	swap(t, store, group, "c", 77, "no base", false)
}

func testSharedNames(t *testing.T, store channelstate.SharedStore) {
	swap(t, store, group, "a", 0, "value", true)
	other := group
	other.MPE[0]++
	if found := loadShared(t, store, other, "a"); found.Revision != 0 {
		t.Error("another group has the value")
	}
	if found := loadShared(t, store, group, "aa"); found.Revision != 0 {
		t.Error("another name has the value")
	}
}

func testSharedWriters(t *testing.T, store channelstate.SharedStore) {
	const writers, each = 8, 10
	var written atomic.Int64
	var done sync.WaitGroup
	for range writers {
		done.Go(func() {
			for count := 0; count < each; {
				current, err := store.LoadShared(t.Context(), group, "count")
				if err != nil {
					t.Error(err)
					return
				}
				_, swapped, err := store.SwapShared(t.Context(), group, "count", current.Revision, append(bytes.Clone(current.Value), 'x'))
				if err != nil {
					t.Error(err)
					return
				}
				if swapped {
					count++
					written.Add(1)
				}
			}
		})
	}
	done.Wait()
	if stored := loadShared(t, store, group, "count"); len(stored.Value) != writers*each {
		t.Errorf("%d writes left %d", written.Load(), len(stored.Value))
	}
}

func testSharedContext(t *testing.T, store channelstate.SharedStore) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := store.LoadShared(ended, group, "a"); err == nil {
		t.Error("LoadShared answers")
	}
	if _, _, err := store.SwapShared(ended, group, "a", 0, []byte("x")); err == nil {
		t.Error("SwapShared answers")
	}
	if found := loadShared(t, store, group, "a"); found.Revision != 0 {
		t.Error("a value was written")
	}
}
