package peerstate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

// A large state is read in pages, as it was when the first was read.
func TestReadPages(t *testing.T) {
	client, _ := storetest.EtcdClient(t)
	place := testPlace()
	const keys = 2*readPage + 1
	for i := range keys {
		if _, err := client.Put(t.Context(), fmt.Sprintf("%skey%04d", place.base(), i), ""); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := Read(t.Context(), client, &place)
	if err != nil || len(entries) != keys {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for i := range entries {
		if want := fmt.Sprintf("%skey%04d", place.base(), i); entries[i].Key != want {
			t.Fatalf("entry %d is %s", i, entries[i].Key)
		}
	}
}

// However our store fails, running again ends with the same state, and every report adds up.
func TestImportThroughFaults(t *testing.T) {
	peer, memory := whole(t), storetest.Memory(t)
	calls := memory.(channelstate.FreeCallStore)
	store := &storetest.Faulty{Store: memory, Next: storetest.Randomly(7, 0.6)}
	taken := 0
	for range 100 {
		plan := NewPlan(testPlace(), peer.entries)
		if err := plan.Look(t.Context(), store, calls); err != nil {
			t.Fatal(err)
		}
		fault := plan.Write(t.Context(), store, calls)
		report := plan.Report(true)
		checkSums(t, report, len(peer.entries))
		taken += report.Total.Taken
		if fault == nil {
			break
		}
	}
	checkStore(t, memory)
	if taken == 0 {
		t.Error("nothing was reported as taken")
	}
}

func TestWarnings(t *testing.T) {
	peer := whole(t)
	peer.channel(20, 3, 5, nil)
	peer.payment(20, 1, 5)
	peer.payment(20, 2, 6)
	warnings := strings.Join(NewPlan(peer.place, peer.entries).Report(false).Warnings, "\n")
	for _, want := range []string{"4 channels could not be taken over", "1 channels have several claims", "200 cogs were prepaid"} {
		if !strings.Contains(warnings, want) {
			t.Errorf("no warning says %q:\n%s", want, warnings)
		}
	}
}
