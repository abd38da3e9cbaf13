package channelstate_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

func TestSettledClaims(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledger := newLedger(t, store)
		mustCharge(t, ledger, channelOf(1, 3), chargeOf(1, 3, 10, 10))
		claim, err := ledger.StartClaim(t.Context(), keyOf(1), channelOf(1, 3))
		if err != nil {
			t.Fatal(err)
		}
		late := mustCharge(t, ledger, channelOf(1, 3), chargeOf(1, 4, 10, 10))
		if err := ledger.PassClaim(t.Context(), keyOf(1), &claim); err != nil {
			t.Fatal(err)
		}
		listed, _, err := store.Claims(t.Context(), group, "", 10)
		if err != nil || len(listed) != 1 || !listed[0].Passed {
			t.Errorf("listed %+v, %v", listed, err)
		}
		wantRefund(t, ledger, 1, channelstate.Refund{ID: channelstate.NewChargeID(), Nonce: number(3), Amount: number(10), Price: number(10)}, channelstate.TooLate)
		for range 2 {
			if err := ledger.SettleClaim(t.Context(), keyOf(1), &claim); err != nil {
				t.Fatal(err)
			}
			listed, _, err := store.Claims(t.Context(), group, "", 10)
			if err != nil || len(listed) != 0 {
				t.Errorf("%d claims are listed, error %v", len(listed), err)
			}
			settled, found, err := ledger.Claim(t.Context(), keyOf(1), &claim.Nonce)
			if err != nil || !found || !settled.Passed || settled.Spent != claim.Spent {
				t.Errorf("settled claim %+v, %v, %v", settled, found, err)
			}
		}
		wantBooks(t, ledger, 1, 4, 10, 10)
		wantRefund(t, ledger, 1, refundOf(late), channelstate.Refunded)
		wantRefund(t, ledger, 1, channelstate.Refund{ID: channelstate.NewChargeID(), Nonce: number(3), Amount: number(10), Price: number(10)}, channelstate.TooLate)

		// A claim that the record knows no more is put away as it was listed.
		mustCharge(t, ledger, channelOf(1, 4), chargeOf(1, 4, 20, 10))
		if _, err := ledger.StartClaim(t.Context(), keyOf(1), channelOf(1, 4)); err != nil {
			t.Fatal(err)
		}
		if err := ledger.SettleClaim(t.Context(), keyOf(1), &claim); err != nil {
			t.Fatal(err)
		}
		if record := wantBooks(t, ledger, 1, 5, 0, 0); record.Pending == nil || record.Pending.Nonce != number(4) || record.Pending.Passed {
			t.Errorf("pending claim %+v", record.Pending)
		}
		if err := ledger.SettleClaim(t.Context(), keyOf(99), &claim); err == nil {
			t.Error("a claim without a record was put away")
		}
	})
}

// Who waits for several channels can be called off and holds up nobody.
func TestSeveralClaimsWhoseCallerLeaves(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	faulty := &storetest.Faulty{Store: storetest.Memory(t)}
	ledger := newLedger(t, faulty)
	mustCharge(t, ledger, channelOf(1, 3), chargeOf(1, 3, 10, 10))
	mustCharge(t, ledger, channelOf(2, 3), chargeOf(2, 3, 10, 10))
	faulty.Next = func(*channelstate.Transaction) storetest.Fault {
		close(arrived)
		<-release
		return storetest.NoFault
	}
	var group sync.WaitGroup
	group.Go(func() { mustCharge(t, ledger, channelOf(2, 3), chargeOf(2, 3, 20, 10)) })
	<-arrived // a charge of channel 2 is under way, so a claim has to wait for it
	ctx, cancel := context.WithCancel(t.Context())
	group.Go(func() {
		if _, err := startClaims(ctx, ledger, 3, 1, 2); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	waitUntil(t, func() bool { return ledger.Waiting(keyOf(2)) == 1 })
	cancel()
	waitUntil(t, func() bool { return ledger.Waiting(keyOf(2)) == 0 })
	faulty.Next = nil
	close(release)
	group.Wait()
	mustCharge(t, ledger, channelOf(1, 3), chargeOf(1, 3, 20, 10))
	wantBooks(t, ledger, 1, 3, 20, 20)
	wantBooks(t, ledger, 2, 3, 20, 20)
}
