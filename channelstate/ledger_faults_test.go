package channelstate_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

// lostFaults are those after which nobody knows what became of a transaction.
var lostFaults = map[string]storetest.Fault{
	"request lost": storetest.LostRequest, "reply lost": storetest.LostReply,
	"request delayed": storetest.DelayedRequest, "request overtaken": storetest.OvertakenRequest,
}

// faults are those of the first transactions; later ones have none.
func faults(list ...storetest.Fault) func(*channelstate.Transaction) storetest.Fault {
	var mu sync.Mutex
	return func(*channelstate.Transaction) storetest.Fault {
		mu.Lock()
		defer mu.Unlock()
		if len(list) == 0 {
			return storetest.NoFault
		}
		fault := list[0]
		list = list[1:]
		return fault
	}
}

// A charge whose reply is lost is learnt to be there, or made again: never twice.
func TestLostReplies(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		channelID := uint64(0)
		for name, fault := range lostFaults {
			for _, times := range []int{1, 3} {
				channelID++
				faulty := &storetest.Faulty{Store: store}
				ledger, channel := newLedger(t, faulty), channelOf(channelID, 3)
				for call := uint64(1); call <= 3; call++ { // the first creates the record
					list := make([]storetest.Fault, times)
					for i := range list {
						list[i] = fault
					}
					faulty.Next = faults(list...)
					charge := mustCharge(t, ledger, channel, chargeOf(channelID, 3, call*10, 10))
					wantBooks(t, ledger, channelID, 3, call*10, call*10)
					faulty.Next = faults(list...)
					wantRefund(t, ledger, channelID, refundOf(charge), channelstate.Refunded)
					wantBooks(t, ledger, channelID, 3, call*10-10, call*10-10)
					mustCharge(t, ledger, channel, chargeOf(channelID, 3, call*10, 10))
				}
				faulty.Next = faults(fault)
				if claim, err := ledger.StartClaim(t.Context(), keyOf(channelID), channel); err != nil || claim.Spent != number(30) {
					t.Errorf("%s: claim %+v, error %v", name, claim, err)
				}
				wantBooks(t, ledger, channelID, 4, 0, 0)
				if stats := ledger.Stats(); stats.LostReplies != 7 || stats.Unresolved != 0 || stats.Charges != 6 || stats.Refunds != 3 {
					t.Errorf("%s: stats %+v", name, stats)
				}
			}
		}
	})
}

// Others write before the ledger asks what became of its transaction, so the
// answer is in the store's history.
func TestLostRepliesAndOtherWriters(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		channelID := uint64(0)
		for _, arrived := range []bool{true, false} {
			for _, created := range []bool{true, false} {
				for _, others := range []uint64{1, 2, 30} {
					channelID++
					t.Run(fmt.Sprintf("arrived %v, created %v, %d others", arrived, created, others), func(t *testing.T) {
						testOtherWriters(t, store, channelID, arrived, created, others)
					})
				}
			}
		}
	})
}

func testOtherWriters(t *testing.T, store channelstate.Store, channelID uint64, arrived, created bool, others uint64) {
	faulty := &storetest.Faulty{Store: store}
	here, there, channel := newLedger(t, faulty), newLedger(t, store), channelOf(channelID, 3)
	spent := uint64(0)
	if !created {
		mustCharge(t, here, channel, chargeOf(channelID, 3, 100, 1))
		spent++
	}
	var count atomic.Int64
	faulty.Next = func(*channelstate.Transaction) storetest.Fault {
		if count.Add(1) == 1 {
			if arrived {
				return storetest.LostReply
			}
			return storetest.LostRequest
		}
		if count.Load() == 2 { // between the lost one and the question
			for call := range others {
				mustCharge(t, there, channel, chargeOf(channelID, 3, 300+call, 1))
				mustCharge(t, there, channelOf(channelID+1000, 3), chargeOf(channelID+1000, 3, 300+call, 1))
			}
		}
		return storetest.NoFault
	}
	mustCharge(t, here, channel, chargeOf(channelID, 3, 200, 1))
	wantBooks(t, here, channelID, 3, 300+others-1, spent+others+1)
	if stats := here.Stats(); stats.LostReplies != 1 || stats.Unresolved != 0 {
		t.Errorf("stats %+v", stats)
	}
}

func impatient(s *channelstate.Settings) { s.Etcd.RequestTimeout = 20 * time.Millisecond }

// While the store does not answer, the caller is told so in bounded time. What
// was written nevertheless is given back once the store answers again.
func TestStoreThatIsAwayForLong(t *testing.T) {
	for name, fault := range lostFaults {
		t.Run(name, func(t *testing.T) {
			var away atomic.Bool
			store := &storetest.Faulty{Store: storetest.Memory(t)}
			store.Next = func(*channelstate.Transaction) storetest.Fault {
				if away.Load() {
					return fault
				}
				return storetest.NoFault
			}
			ledger, channel := newLedger(t, store, impatient), channelOf(7, 3)
			mustCharge(t, ledger, channel, chargeOf(7, 3, 10, 10))
			away.Store(true)
			for _, err := range atOnce(5, func(i int) error {
				return ledger.Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, uint64(20+i), 1))
			}) {
				if !errors.Is(err, channelstate.ErrUnavailable) || !errors.Is(err, channelstate.ErrOutcomeUnknown) {
					t.Errorf("error %v", err)
				}
			}
			away.Store(false)
			closeLedger(t, ledger)
			if stats := ledger.Stats(); stats.Unresolved != 0 || stats.LostRefunds != 0 || stats.Unavailable != 5 {
				t.Errorf("stats %+v", stats)
			}
			after := newLedger(t, store)
			record, _, err := after.Read(t.Context(), keyOf(7))
			if err != nil || record.Spent != number(10) {
				t.Errorf("record %+v, error %v", record, err)
			}
			mustCharge(t, after, channel, chargeOf(7, 3, 30, 1))
		})
	}
}

// Callers who leave while the outcome is searched for are not charged.
func TestCallersThatLeaveWhileAReplyIsLost(t *testing.T) {
	for name, fault := range lostFaults {
		t.Run(name, func(t *testing.T) {
			gate := newGate()
			var count atomic.Int64
			store := &storetest.Faulty{Store: storetest.Memory(t)}
			store.Next = func(*channelstate.Transaction) storetest.Fault {
				switch count.Add(1) {
				case 1:
					return fault
				case 2:
					gate.wait()
				}
				return storetest.NoFault
			}
			ledger, channel := newLedger(t, store), channelOf(7, 3)
			ctx, leave := context.WithCancel(t.Context())
			result := make(chan error, 1)
			go func() { result <- ledger.Charge(ctx, keyOf(7), channel, chargeOf(7, 3, 10, 10)) }()
			<-gate.reached
			leave()
			if err := <-result; !errors.Is(err, context.Canceled) { // though the store has not answered yet
				t.Errorf("error %v", err)
			}
			close(gate.open)
			mustCharge(t, ledger, channel, chargeOf(7, 3, 15, 15))
			closeLedger(t, ledger)
			record, _, err := ledger.Read(t.Context(), keyOf(7))
			if err != nil || record.Spent != number(15) || record.Signed != number(15) {
				t.Errorf("record %+v, error %v", record, err)
			}
			if stats := ledger.Stats(); stats.Unresolved != 0 || stats.LostRefunds != 0 {
				t.Errorf("stats %+v", stats)
			}
		})
	}
}

// forgetful is a store that has let go of its history.
type forgetful struct{ *storetest.Faulty }

func (f forgetful) BatchAfter(context.Context, channelstate.Key, channelstate.Stored) (channelstate.BatchID, error) {
	return channelstate.BatchID{}, channelstate.ErrHistoryGone
}

// An outcome that can no longer be learnt is told, counted and does not stop the channel.
func TestOutcomeThatIsNeverLearnt(t *testing.T) {
	inner := storetest.Memory(t)
	store := forgetful{&storetest.Faulty{Store: inner}}
	there, channel := newLedger(t, inner), channelOf(7, 3)
	var count atomic.Int64
	store.Next = func(*channelstate.Transaction) storetest.Fault {
		switch count.Add(1) {
		case 1:
			return storetest.LostReply
		case 2:
			mustCharge(t, there, channel, chargeOf(7, 3, 20, 1))
			mustCharge(t, there, channel, chargeOf(7, 3, 30, 1))
		}
		return storetest.NoFault
	}
	here := newLedger(t, store)
	if err := here.Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, 10, 1)); !errors.Is(err, channelstate.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	mustCharge(t, here, channel, chargeOf(7, 3, 40, 1))
	closeLedger(t, here)
	if stats := here.Stats(); stats.Unresolved != 1 {
		t.Errorf("stats %+v", stats)
	}
	wantBooks(t, here, 7, 3, 40, 4)
}

// A refund that another replica has made already is noticed by the transaction.
func TestRefundOnTwoReplicas(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledgers := []*channelstate.Ledger{newLedger(t, store), newLedger(t, store)}
		channel := channelOf(7, 3)
		var charges []channelstate.Charge
		for amount := uint64(1); amount <= 40; amount++ {
			charges = append(charges, mustCharge(t, ledgers[0], channel, chargeOf(7, 3, amount, 1)))
		}
		outcomes := map[channelstate.RefundOutcome]int{}
		var mu sync.Mutex
		for _, err := range atOnce(2*len(charges)+20, func(i int) error {
			if i >= 2*len(charges) { // other calls go on meanwhile
				return ledgers[i%2].Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, uint64(i)+1000, 1))
			}
			outcome, err := ledgers[i%2].Refund(t.Context(), keyOf(7), refundOf(charges[i/2]))
			mu.Lock()
			defer mu.Unlock()
			outcomes[outcome]++
			return err
		}) {
			if err != nil {
				t.Error(err)
			}
		}
		if outcomes[channelstate.Refunded] != len(charges) || outcomes[channelstate.AlreadyRefunded] != len(charges) {
			t.Errorf("outcomes %v", outcomes)
		}
		record, _, err := ledgers[0].Read(t.Context(), keyOf(7))
		if err != nil || record.Spent != *uint256.NewInt(20) {
			t.Errorf("record %+v, error %v", record, err)
		}
	})
}
