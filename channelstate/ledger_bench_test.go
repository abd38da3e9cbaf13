package channelstate_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

// BenchmarkCharge has some callers that charge one after the other, each on
// its own channel or all on one.
func BenchmarkCharge(b *testing.B) {
	for _, store := range []struct {
		name string
		open storetest.Opener
	}{{"memory", storetest.Memory}, {"embedded", storetest.Embedded}, {"etcd", storetest.Etcd}} {
		for _, load := range []struct{ callers, channels uint64 }{{1, 1}, {8, 8}, {32, 32}, {8, 1}, {32, 1}} {
			b.Run(fmt.Sprintf("%s/callers=%d/channels=%d", store.name, load.callers, load.channels), func(b *testing.B) {
				benchmarkCharge(b, store.open(b), load.callers, load.channels)
			})
		}
	}
}

func benchmarkCharge(b *testing.B, store channelstate.Store, callers, channels uint64) {
	ledger := newLedger(b, store)
	amounts := make([]atomic.Uint64, channels)
	var left, overtaken atomic.Int64
	charge := func(id uint64) error {
		channel := channelOf(id, 0)
		channel.Value.SetAllOne()
		for {
			amount := amounts[id].Add(1_000_000)
			err := ledger.Charge(b.Context(), keyOf(id), channel, chargeOf(id, 0, amount, 1_000_000))
			var refusal *channelstate.Refusal
			if !errors.As(err, &refusal) || refusal.Reason != channelstate.ReasonAlreadyAccepted {
				return err
			}
			overtaken.Add(1) // by more calls than a window holds, while this one did not get the processor
		}
	}
	for id := range channels {
		for range channelstate.WindowSize { // a full window is the usual case
			if err := charge(id); err != nil {
				b.Fatal(err)
			}
		}
	}
	before := ledger.Stats()
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var done sync.WaitGroup
	for caller := range callers {
		done.Go(func() {
			for left.Add(-1) >= 0 {
				if err := charge(caller % channels); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	done.Wait()
	b.StopTimer()
	after := ledger.Stats()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "charges/s")
	b.ReportMetric(float64(after.Transactions-before.Transactions)/float64(b.N), "transactions/charge")
	b.ReportMetric(float64(overtaken.Load())/float64(b.N), "overtaken/charge")
	b.ReportMetric(float64(after.Reads-before.Reads)/float64(b.N), "reads/charge")
}
