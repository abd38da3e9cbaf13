package channelstate_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

// gate holds transactions back until it is opened.
type gate struct {
	reached chan struct{} // one token for each transaction held
	open    chan struct{}
}

func newGate() *gate { return &gate{reached: make(chan struct{}, 1000), open: make(chan struct{})} }

func (g *gate) wait() {
	g.reached <- struct{}{}
	<-g.open
}

// held is a store whose first transaction waits at a gate, and the others of
// its channel with it.
func held(store channelstate.Store) (*storetest.Faulty, *gate) {
	gate := newGate()
	return &storetest.Faulty{Store: store, Next: func(*channelstate.Transaction) storetest.Fault {
		gate.wait()
		return storetest.NoFault
	}}, gate
}

// atOnce runs calls that all begin together and returns their errors.
func atOnce(count int, call func(number int) error) []error {
	errs := make([]error, count)
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for number := range count {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			errs[number] = call(number)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
	return errs
}

func TestSameAmountAtOnce(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledgers := []*channelstate.Ledger{newLedger(t, store), newLedger(t, store)}
		channel := channelOf(7, 3)
		accepted := 0
		for _, err := range atOnce(64, func(i int) error {
			return ledgers[i%2].Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, 10, 10))
		}) {
			if err == nil {
				accepted++
			} else {
				wantRefusal(t, err, channelstate.ReasonAlreadyAccepted)
			}
		}
		if accepted != 1 {
			t.Errorf("one amount was accepted %d times", accepted)
		}
		wantBooks(t, ledgers[0], 7, 3, 10, 10)
	})
}

func TestRisingAmountsAtOnce(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledgers := []*channelstate.Ledger{newLedger(t, store), newLedger(t, store)}
		channel := channelOf(7, 3)
		for i, err := range atOnce(64, func(i int) error {
			return ledgers[i%2].Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, uint64(i+1)*10, 10))
		}) {
			if err != nil {
				t.Errorf("amount %d: %v", (i+1)*10, err)
			}
		}
		wantBooks(t, ledgers[0], 7, 3, 640, 640)
	})
}

func TestWaitingCallsShareATransaction(t *testing.T) {
	store, gate := held(storetest.Memory(t))
	ledger, channel := newLedger(t, store), channelOf(7, 3)
	const calls = 41
	var done sync.WaitGroup
	call := func(amount uint64) {
		done.Go(func() {
			if err := ledger.Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, amount, 1)); err != nil {
				t.Error(err)
			}
		})
	}
	call(1)
	<-gate.reached
	for amount := uint64(2); amount <= calls; amount++ {
		call(amount)
	}
	waitUntil(t, func() bool { return ledger.Waiting(keyOf(7)) == calls-1 })
	close(gate.open)
	done.Wait()
	wantBooks(t, ledger, 7, 3, calls, calls)
	if stats := ledger.Stats(); stats.Transactions != 2 || stats.MergedCharges != calls-1 || stats.Charges != calls {
		t.Errorf("stats %+v", stats)
	}
}

func TestQueueIsBounded(t *testing.T) {
	store, gate := held(storetest.Memory(t))
	ledger, channel := newLedger(t, store, func(s *channelstate.Settings) { s.WaitingCalls = 3 }), channelOf(7, 3)
	var done sync.WaitGroup
	for amount := uint64(1); amount <= 4; amount++ {
		done.Go(func() {
			if err := ledger.Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, 100+amount, 1)); err != nil {
				t.Error(err)
			}
		})
		if amount == 1 {
			<-gate.reached
		}
	}
	waitUntil(t, func() bool { return ledger.Waiting(keyOf(7)) == 3 })
	if err := ledger.Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, 200, 1)); !errors.Is(err, channelstate.ErrUnavailable) {
		t.Errorf("one call too many: %v", err)
	}
	close(gate.open)
	done.Wait()
	if stats := ledger.Stats(); stats.QueueFull != 1 || stats.Charges != 4 {
		t.Errorf("stats %+v", stats)
	}
}

// More calls than one transaction takes, of which some leave while they wait.
func TestCallersThatLeave(t *testing.T) {
	store, gate := held(storetest.Memory(t))
	ledger, channel := newLedger(t, store), channelOf(7, 3)
	const calls = 200
	ctx, leave := context.WithCancel(t.Context())
	var done sync.WaitGroup
	call := func(ctx context.Context, amount uint64, want error) {
		done.Go(func() {
			if err := ledger.Charge(ctx, keyOf(7), channel, chargeOf(7, 3, 10_000+amount, 1)); !errors.Is(err, want) {
				t.Errorf("amount %d: %v, want %v", amount, err, want)
			}
		})
	}
	call(ctx, 0, context.Canceled) // leads, and is charged after it has left
	<-gate.reached
	for amount := uint64(1); amount < calls; amount++ {
		if amount%3 == 0 {
			call(ctx, amount, context.Canceled)
		} else {
			call(t.Context(), amount, nil)
		}
	}
	waitUntil(t, func() bool { return ledger.Waiting(keyOf(7)) == calls-1 })
	leave()
	waitUntil(t, func() bool { return ledger.Waiting(keyOf(7)) == calls-1-(calls-1)/3 })
	close(gate.open)
	done.Wait()
	closeLedger(t, ledger) // waits for the refund
	stayed := uint64(calls - 1 - (calls-1)/3)
	record := wantBooks(t, ledger, 7, 3, 10_000+calls-1, stayed)
	for offset := uint64(3); offset < calls; offset += 3 {
		if amount := number(10_000 + offset); record.Window.Has(&amount) {
			t.Errorf("the amount of call %d is taken, its caller had left", offset)
		}
	}
	if stats := ledger.Stats(); stats.AbandonedCharges != 1 || stats.Charges != stayed+1 || stats.Refunds != 1 {
		t.Errorf("stats %+v", stats)
	}
}

// A caller who leaves while its charge is being written gets it back.
func TestCallerThatLeavesWithinATransaction(t *testing.T) {
	for _, leader := range []bool{true, false} {
		store, gate := held(storetest.Memory(t))
		ledger, channel := newLedger(t, store), channelOf(7, 3)
		ctx, leave := context.WithCancel(t.Context())
		var left, done sync.WaitGroup
		call := func(ctx context.Context, group *sync.WaitGroup, amount uint64, want error) {
			group.Go(func() {
				if err := ledger.Charge(ctx, keyOf(7), channel, chargeOf(7, 3, amount, 10)); !errors.Is(err, want) {
					t.Errorf("amount %d: %v, want %v", amount, err, want)
				}
			})
		}
		if leader {
			call(ctx, &left, 20, context.Canceled)
			<-gate.reached
			leave()
			close(gate.open)
		} else {
			call(t.Context(), &done, 10, nil)
			<-gate.reached
			call(t.Context(), &done, 30, nil)
			waitUntil(t, func() bool { return ledger.Waiting(keyOf(7)) == 1 })
			call(ctx, &left, 20, context.Canceled)
			waitUntil(t, func() bool { return ledger.Waiting(keyOf(7)) == 2 })
			gate.open <- struct{}{}
			<-gate.reached // the second transaction has both
			leave()
			left.Wait() // before the transaction is through
			close(gate.open)
		}
		left.Wait()
		done.Wait()
		closeLedger(t, ledger)
		if leader {
			wantBooks(t, ledger, 7, 3, 0, 0)
		} else {
			wantBooks(t, ledger, 7, 3, 30, 20)
		}
		if stats := ledger.Stats(); stats.AbandonedCharges != 1 || stats.Refunds != 1 || stats.LostRefunds != 0 {
			t.Errorf("stats %+v", stats)
		}
	}
}

func TestEndedContext(t *testing.T) {
	ledger := newLedger(t, storetest.Memory(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ledger.Charge(ctx, keyOf(7), channelOf(7, 3), chargeOf(7, 3, 10, 10)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if stats := ledger.Stats(); stats.Transactions != 0 || stats.Reads != 0 {
		t.Errorf("stats %+v", stats)
	}
}

// What one replica remembers is good for a charge, whose transaction checks
// it, and not for a refusal.
func TestRefusalsAreConfirmed(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		here, there := newLedger(t, store), newLedger(t, store)
		channel := channelOf(7, 3)
		charge := mustCharge(t, here, channel, chargeOf(7, 3, 10, 10))
		wantRefund(t, there, 7, refundOf(charge), channelstate.Refunded)
		mustCharge(t, here, channel, chargeOf(7, 3, 10, 10)) // here remembers that 10 is taken
		wantBooks(t, here, 7, 3, 10, 10)

		if _, err := there.StartClaim(t.Context(), keyOf(7), channel); err != nil { // there remembers that nothing is spent
			t.Error(err)
		}
		mustCharge(t, here, channel, chargeOf(7, 4, 10, 10)) // here remembers nonce 3
		wantRefusal(t, there.Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, 20, 10)), channelstate.ReasonNonce)
	})
}

// Refused calls of one channel share the read that confirms them.
func TestRefusedCallsShareReads(t *testing.T) {
	gate := newGate()
	var reads atomic.Int64
	store := &storetest.Faulty{Store: storetest.Memory(t)}
	ledger, channel := newLedger(t, store), channelOf(7, 3)
	mustCharge(t, ledger, channel, chargeOf(7, 3, 10, 10))
	store.BeforeLoad = func(channelstate.Key) error {
		reads.Add(1)
		gate.wait()
		return nil
	}
	var done sync.WaitGroup
	const calls = 60
	for range calls {
		done.Go(func() {
			wantRefusal(t, ledger.Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, 10, 10)), channelstate.ReasonAlreadyAccepted)
		})
	}
	<-gate.reached
	waitUntil(t, func() bool { return ledger.Waiting(keyOf(7)) == calls-1 })
	close(gate.open)
	done.Wait()
	if reads.Load() != 2 {
		t.Errorf("%d refused calls took %d reads", calls, reads.Load())
	}
}

func TestCacheIsBoundedAndKeepsChannelsInUse(t *testing.T) {
	store, gate := held(storetest.Memory(t))
	const most = 4
	ledger := newLedger(t, store, func(s *channelstate.Settings) { s.CachedChannels = most })
	var done sync.WaitGroup
	const busy = 10
	for channel := uint64(1); channel <= busy; channel++ {
		done.Go(func() { mustCharge(t, ledger, channelOf(channel, 0), chargeOf(channel, 0, 1, 1)) })
	}
	for range busy {
		<-gate.reached
	}
	if cached := ledger.Stats().CachedChannels; cached != busy {
		t.Errorf("%d of %d channels in use are held", cached, busy)
	}
	close(gate.open)
	done.Wait()
	for channel := uint64(1); channel <= busy; channel++ {
		mustCharge(t, ledger, channelOf(channel, 0), chargeOf(channel, 0, 2, 1))
		wantBooks(t, ledger, channel, 0, 2, 2)
	}
	if cached := ledger.Stats().CachedChannels; cached != most {
		t.Errorf("%d channels are held, want %d", cached, most)
	}
	before := ledger.Stats().Reads
	mustCharge(t, ledger, channelOf(busy, 0), chargeOf(busy, 0, 3, 1))     // used last, remembered
	mustCharge(t, ledger, channelOf(busy-5, 0), chargeOf(busy-5, 0, 3, 1)) // let go
	if reads := ledger.Stats().Reads - before; reads != 1 {
		t.Errorf("%d reads for one channel that is remembered and one that is not", reads)
	}
}

func TestWritersOfTwoReplicas(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledgers := []*channelstate.Ledger{newLedger(t, store), newLedger(t, store)}
		channel := channelOf(7, 3)
		const each = 30
		for _, err := range atOnce(2, func(i int) error {
			for call := range uint64(each) {
				charge := chargeOf(7, 3, 2*call+uint64(i)+1, 1)
				charge.Amount.AddUint64(&charge.Amount, 1000) // covers whoever comes later
				if err := ledgers[i].Charge(t.Context(), keyOf(7), channel, charge); err != nil {
					return err
				}
			}
			return nil
		}) {
			if err != nil {
				t.Error(err)
			}
		}
		record, _, err := ledgers[0].Read(t.Context(), keyOf(7))
		if err != nil || record.Spent != number(2*each) || record.Signed != number(1000+2*each) {
			t.Errorf("record %+v, error %v", record, err)
		}
	})
}

// waitUntil polls until the condition holds; go test's own limit ends it.
func waitUntil(t *testing.T, condition func() bool) {
	t.Helper()
	for !condition() {
		time.Sleep(time.Millisecond)
	}
}
