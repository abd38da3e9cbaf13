package channelstate_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

func raise(t testing.TB, ledger *channelstate.Ledger, channel *blockchain.Channel, amount uint64) channelstate.Balance {
	t.Helper()
	balance, err := ledger.Raise(t.Context(), group.Key(&channel.ID), channel, chargeOf(channel.ID.Uint64(), channel.Nonce.Uint64(), amount, 0))
	if err != nil {
		t.Fatalf("raise to %d: %v", amount, err)
	}
	return balance
}

// prepaidOf is one prepaid call of a channel.
func prepaidOf(price uint64) channelstate.Charge {
	return channelstate.Charge{ID: channelstate.NewChargeID(), Price: number(price), Block: 1, Threshold: 1}
}

// mustChargePrepaid returns what a refund of the call is.
func mustChargePrepaid(t testing.TB, ledger *channelstate.Ledger, channel *blockchain.Channel, price uint64) channelstate.Refund {
	t.Helper()
	charge := prepaidOf(price)
	nonce, err := ledger.ChargePrepaid(t.Context(), group.Key(&channel.ID), channel, charge)
	if err != nil {
		t.Fatalf("prepaid call of %d: %v", price, err)
	}
	return channelstate.Refund{ID: charge.ID, Nonce: nonce, Price: charge.Price}
}

func wantBalance(t *testing.T, got channelstate.Balance, nonce, signed, spent uint64) {
	t.Helper()
	if want := (channelstate.Balance{Nonce: number(nonce), Signed: number(signed), Spent: number(spent)}); got != want {
		t.Errorf("balance %+v, want %+v", got, want)
	}
}

func TestPrepaidOnTheLedger(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledger, channel := newLedger(t, store), channelOf(7, 3)
		_, err := ledger.ChargePrepaid(t.Context(), keyOf(7), channel, prepaidOf(1))
		wantRefusal(t, err, channelstate.ReasonCredit)
		wantBalance(t, raise(t, ledger, channel, 0), 3, 0, 0)
		wantBalance(t, raise(t, ledger, channel, 30), 3, 30, 0)
		first := mustChargePrepaid(t, ledger, channel, 10)
		mustChargePrepaid(t, ledger, channel, 20)
		_, err = ledger.ChargePrepaid(t.Context(), keyOf(7), channel, prepaidOf(1))
		wantRefusal(t, err, channelstate.ReasonCredit)
		wantBalance(t, raise(t, ledger, channel, 30), 3, 30, 30)
		wantBalance(t, raise(t, ledger, channel, 20), 3, 30, 30)
		wantBooks(t, ledger, 7, 3, 30, 30)

		wantRefund(t, ledger, 7, first, channelstate.Refunded)
		wantRefund(t, ledger, 7, first, channelstate.AlreadyRefunded)
		wantBooks(t, ledger, 7, 3, 30, 20)
		mustChargePrepaid(t, ledger, channel, 10)

		// The same channel with escrow: a call, and a refund of it.
		charge := mustCharge(t, ledger, channel, chargeOf(7, 3, 45, 15))
		wantBalance(t, raise(t, ledger, channel, 45), 3, 45, 45)
		wantRefund(t, ledger, 7, refundOf(charge), channelstate.Refunded)
		wantBooks(t, ledger, 7, 3, 30, 30)

		_, err = ledger.Raise(t.Context(), keyOf(7), channel, chargeOf(7, 2, 60, 0))
		wantRefusal(t, err, channelstate.ReasonNonce)
		_, err = ledger.Raise(t.Context(), keyOf(7), channel, chargeOf(7, 3, 1_000_001, 0))
		wantRefusal(t, err, channelstate.ReasonAboveValue)
	})
}

// One write a call, none for a token that is asked for again.
func TestPrepaidTransactions(t *testing.T) {
	ledger, channel := newLedger(t, storetest.Memory(t)), channelOf(7, 0)
	raise(t, ledger, channel, 100)
	const calls = 50
	for range calls {
		mustChargePrepaid(t, ledger, channel, 1)
		raise(t, ledger, channel, 100)
	}
	stats := ledger.Stats()
	if stats.Transactions != 1+calls || stats.Charges != calls || stats.Raises != 1+calls {
		t.Errorf("stats %+v", stats)
	}
}

// Many requests for tokens at once, of two replicas: the highest amount is
// what is signed, and nobody is told less than what he has signed himself.
func TestRaisesAtOnce(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledgers := []*channelstate.Ledger{newLedger(t, store), newLedger(t, store)}
		channel := channelOf(7, 3)
		for i, err := range atOnce(64, func(i int) error {
			amount := number(uint64(i/2+1) * 10) // each twice
			balance, err := ledgers[i%2].Raise(t.Context(), keyOf(7), channel, chargeOf(7, 3, amount.Uint64(), 0))
			if err == nil && balance.Signed.Lt(&amount) {
				return errors.New("signed " + balance.Signed.Dec() + " of " + amount.Dec())
			}
			return err
		}) {
			if err != nil {
				t.Errorf("raise %d: %v", i, err)
			}
		}
		wantBooks(t, ledgers[0], 7, 3, 320, 0)
	})
}

// Raises and calls at once: exactly what is signed is spent.
func TestPrepaidCallsAtOnce(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledgers := []*channelstate.Ledger{newLedger(t, store), newLedger(t, store)}
		channel := channelOf(7, 3)
		raise(t, ledgers[0], channel, 50)
		var served atomic.Int64
		for _, err := range atOnce(64, func(i int) error {
			if i%16 == 0 {
				_, err := ledgers[i/16%2].Raise(t.Context(), keyOf(7), channel, chargeOf(7, 3, 50, 0))
				return err
			}
			_, err := ledgers[i%2].ChargePrepaid(t.Context(), keyOf(7), channel, prepaidOf(1))
			if err == nil {
				served.Add(1)
			}
			return err
		}) {
			if err != nil {
				wantRefusal(t, err, channelstate.ReasonCredit)
			}
		}
		if served.Load() != 50 {
			t.Errorf("%d calls were served for the price of 50", served.Load())
		}
		wantBooks(t, ledgers[0], 7, 3, 50, 50)
	})
}

// What one replica remembers is good neither for a token's balance nor for a refusal.
func TestPrepaidAnswersAreConfirmed(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		here, there := newLedger(t, store), newLedger(t, store)
		channel := channelOf(7, 3)
		raise(t, here, channel, 10)
		mustChargePrepaid(t, here, channel, 10)
		wantBalance(t, raise(t, there, channel, 30), 3, 30, 10)
		mustChargePrepaid(t, here, channel, 10)
		wantBalance(t, raise(t, there, channel, 30), 3, 30, 20)
		if _, err := there.StartClaim(t.Context(), keyOf(7), channel); err != nil {
			t.Fatal(err)
		}
		_, err := here.ChargePrepaid(t.Context(), keyOf(7), channel, prepaidOf(1))
		wantRefusal(t, err, channelstate.ReasonCredit)
	})
}

func TestPrepaidLostReplies(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		channelID := uint64(0)
		for name, fault := range lostFaults {
			channelID++
			faulty := &storetest.Faulty{Store: store}
			ledger, channel := newLedger(t, faulty), channelOf(channelID, 3)
			faulty.Next = faults(fault)
			wantBalance(t, raise(t, ledger, channel, 30), 3, 30, 0)
			faulty.Next = faults(fault, fault)
			refund := mustChargePrepaid(t, ledger, channel, 10)
			wantBooks(t, ledger, channelID, 3, 30, 10)
			faulty.Next = faults(fault)
			wantRefund(t, ledger, channelID, refund, channelstate.Refunded)
			wantBooks(t, ledger, channelID, 3, 30, 0)
			if stats := ledger.Stats(); stats.LostReplies < 3 || stats.Unresolved != 0 || stats.Charges != 1 || stats.Refunds != 1 {
				t.Errorf("%s: stats %+v", name, stats)
			}
		}
	})
}

// A caller who leaves while its call is being paid for gets it back.
func TestPrepaidCallerThatLeaves(t *testing.T) {
	inner := storetest.Memory(t)
	raise(t, newLedger(t, inner), channelOf(7, 3), 30)
	store, gate := held(inner)
	ledger, channel := newLedger(t, store), channelOf(7, 3)
	ctx, leave := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := ledger.ChargePrepaid(ctx, keyOf(7), channel, prepaidOf(10))
		result <- err
	}()
	<-gate.reached
	leave()
	close(gate.open)
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	closeLedger(t, ledger)
	wantBooks(t, ledger, 7, 3, 30, 0)
	if stats := ledger.Stats(); stats.AbandonedCharges != 1 || stats.Refunds != 1 || stats.LostRefunds != 0 {
		t.Errorf("stats %+v", stats)
	}
}

func TestPrepaidStoreThatCannotBeAsked(t *testing.T) {
	store := &storetest.Faulty{Store: storetest.Memory(t)}
	ledger, channel := newLedger(t, store), channelOf(7, 3)
	raise(t, ledger, channel, 30)
	store.Next = func(*channelstate.Transaction) storetest.Fault { return storetest.Failed }
	if _, err := ledger.ChargePrepaid(t.Context(), keyOf(7), channel, prepaidOf(10)); !errors.Is(err, channelstate.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if _, err := ledger.Raise(t.Context(), keyOf(7), channel, chargeOf(7, 3, 40, 0)); !errors.Is(err, channelstate.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	store.Next = nil
	wantBooks(t, ledger, 7, 3, 30, 0)
	if _, err := ledger.ChargePrepaid(t.Context(), keyOf(8), channel, prepaidOf(10)); err == nil {
		t.Error("another channel's key is taken")
	}
	if _, err := ledger.Raise(t.Context(), keyOf(8), channel, chargeOf(7, 3, 40, 0)); err == nil {
		t.Error("another channel's key is taken")
	}
	long := chargeOf(7, 3, 40, 0)
	long.Signature = make([]byte, 1000)
	if _, err := ledger.Raise(t.Context(), keyOf(7), channel, long); err == nil {
		t.Error("a long signature is kept")
	}
}

// Amounts beyond 64 bits are kept whole.
func TestPrepaidOfLargeAmounts(t *testing.T) {
	ledger, channel := newLedger(t, storetest.Memory(t)), channelOf(7, 3)
	channel.Value = *new(uint256.Int).SetAllOne()
	large := chargeOf(7, 3, 0, 0)
	large.Amount = *new(uint256.Int).Lsh(uint256.NewInt(1), 200)
	balance, err := ledger.Raise(t.Context(), keyOf(7), channel, large)
	if err != nil || balance.Signed != large.Amount {
		t.Fatalf("balance %+v, error %v", balance, err)
	}
	call := prepaidOf(0)
	call.Price = *new(uint256.Int).Sub(&large.Amount, uint256.NewInt(1))
	if _, err := ledger.ChargePrepaid(t.Context(), keyOf(7), channel, call); err != nil {
		t.Fatal(err)
	}
	mustChargePrepaid(t, ledger, channel, 1)
	_, err = ledger.ChargePrepaid(t.Context(), keyOf(7), channel, prepaidOf(1))
	wantRefusal(t, err, channelstate.ReasonCredit)
}
