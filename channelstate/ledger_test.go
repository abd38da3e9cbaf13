package channelstate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

var (
	alice = common.HexToAddress("0xa11ce00000000000000000000000000000000001")
	bob   = common.HexToAddress("0xb0b0000000000000000000000000000000000002")
	carol = common.HexToAddress("0xca20100000000000000000000000000000000003")
	group = channelstate.Group{ChainID: 1337, MPE: common.HexToAddress("0xabc"), GroupID: [32]byte{9}}
)

func number(value uint64) uint256.Int { return *uint256.NewInt(value) }

func keyOf(channel uint64) channelstate.Key {
	id := number(channel)
	return group.Key(&id)
}

// channelOf is a channel as the chain has it, with much value and a far end.
func channelOf(id, nonce uint64) *blockchain.Channel {
	return &blockchain.Channel{
		ID: number(id), Nonce: number(nonce), Value: number(1_000_000), Expiration: number(1_000_000), Sender: alice, Signer: bob,
	}
}

// signatureOf stands for the client's signature.
func signatureOf(channel, nonce, amount *uint256.Int) []byte {
	return fmt.Appendf(nil, "%s signs %s at nonce %s", channel.Dec(), amount.Dec(), nonce.Dec())
}

func chargeOf(channel, nonce, amount, price uint64) channelstate.Charge {
	charge := channelstate.Charge{
		ID: channelstate.NewChargeID(), Nonce: number(nonce), Amount: number(amount), Price: number(price), Block: 1, Threshold: 1,
	}
	id := number(channel)
	charge.Signature = signatureOf(&id, &charge.Nonce, &charge.Amount)
	return charge
}

func refundOf(charge channelstate.Charge) channelstate.Refund {
	return channelstate.Refund{ID: charge.ID, Nonce: charge.Nonce, Amount: charge.Amount, Price: charge.Price}
}

func newLedger(t testing.TB, store channelstate.Store, change ...func(*channelstate.Settings)) *channelstate.Ledger {
	t.Helper()
	logger := zap.NewNop()
	if _, benchmark := t.(*testing.B); !benchmark {
		logger = zaptest.NewLogger(t)
	}
	return newLedgerWith(t, store, logger, change...)
}

func newLedgerWith(t testing.TB, store channelstate.Store, logger *zap.Logger, change ...func(*channelstate.Settings)) *channelstate.Ledger {
	t.Helper()
	settings := channelstate.DefaultSettings()
	for _, change := range change {
		change(&settings)
	}
	ledger := channelstate.NewLedger(func(channelstate.Key) channelstate.Store { return store }, settings, logger)
	t.Cleanup(func() { closeLedger(t, ledger) })
	return ledger
}

func closeLedger(t testing.TB, ledger *channelstate.Ledger) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := ledger.Close(ctx); err != nil {
		t.Error(err)
	}
}

// forEachStore runs a test on every kind of store.
func forEachStore(t *testing.T, test func(*testing.T, channelstate.Store)) {
	for name, open := range storetest.Stores() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func mustCharge(t testing.TB, ledger *channelstate.Ledger, channel *blockchain.Channel, charge channelstate.Charge) channelstate.Charge {
	t.Helper()
	if err := ledger.Charge(t.Context(), group.Key(&channel.ID), channel, charge); err != nil {
		t.Fatalf("charge of %s: %v", charge.Amount.Dec(), err)
	}
	return charge
}

func wantRefusal(t *testing.T, err error, reason channelstate.Reason) {
	t.Helper()
	var refusal *channelstate.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != reason {
		t.Errorf("error %v, want a refusal with reason %s", err, reason)
	}
}

func wantRefund(t *testing.T, ledger *channelstate.Ledger, channel uint64, refund channelstate.Refund, want channelstate.RefundOutcome) {
	t.Helper()
	if outcome, err := ledger.Refund(t.Context(), keyOf(channel), refund); err != nil || outcome != want {
		t.Errorf("refund of %s: outcome %s, error %v, want %s", refund.Amount.Dec(), outcome, err, want)
	}
}

func wantBooks(t *testing.T, ledger *channelstate.Ledger, channel, nonce, signed, spent uint64) channelstate.Record {
	t.Helper()
	key := keyOf(channel)
	record, found, err := ledger.Read(t.Context(), key)
	if err != nil || !found {
		t.Fatalf("record found %v, error %v", found, err)
	}
	if record.Nonce != number(nonce) || record.Signed != number(signed) || record.Spent != number(spent) {
		t.Errorf("nonce %s signed %s spent %s, want %d %d %d",
			record.Nonce.Dec(), record.Signed.Dec(), record.Spent.Dec(), nonce, signed, spent)
	}
	var signature []byte
	if signed > 0 {
		signature = signatureOf(&key.Channel, &record.Nonce, &record.Signed)
	}
	if !bytes.Equal(record.Signature, signature) {
		t.Errorf("signature %q, want %q", record.Signature, signature)
	}
	return record
}

func TestChargesAndRefunds(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledger, channel := newLedger(t, store), channelOf(7, 3)
		first := mustCharge(t, ledger, channel, chargeOf(7, 3, 10, 10))
		second := mustCharge(t, ledger, channel, chargeOf(7, 3, 20, 10))
		wantBooks(t, ledger, 7, 3, 20, 20)
		wantRefusal(t, ledger.Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, 20, 10)), channelstate.ReasonAlreadyAccepted)

		wantRefund(t, ledger, 7, refundOf(second), channelstate.Refunded)
		wantBooks(t, ledger, 7, 3, 10, 10)
		wantRefund(t, ledger, 7, refundOf(second), channelstate.AlreadyRefunded)
		wantRefund(t, ledger, 7, refundOf(chargeOf(7, 3, 15, 10)), channelstate.NotCharged)
		wantRefund(t, ledger, 8, refundOf(first), channelstate.NotCharged)

		again := mustCharge(t, ledger, channel, chargeOf(7, 3, 20, 10)) // the same signature for another call
		wantRefund(t, ledger, 7, refundOf(second), channelstate.AlreadyRefunded)
		wantBooks(t, ledger, 7, 3, 20, 20)
		wantRefund(t, ledger, 7, refundOf(again), channelstate.Refunded)
		wantRefund(t, ledger, 7, refundOf(first), channelstate.Refunded)
		wantBooks(t, ledger, 7, 3, 10, 0)

		stats := ledger.Stats()
		if stats.Charges != 3 || stats.Refusals != 1 || stats.Refunds != 3 || stats.RepeatedRefunds != 2 || stats.UnknownRefunds != 2 ||
			stats.Transactions != 7 { // one of them for the repeated refund whose amount was charged again
			t.Errorf("stats %+v", stats)
		}
	})
}

func TestOneTransactionACall(t *testing.T) {
	ledger, channel := newLedger(t, storetest.Memory(t)), channelOf(7, 0)
	const calls = 100
	for call := uint64(1); call <= calls; call++ {
		mustCharge(t, ledger, channel, chargeOf(7, 0, call, 1))
	}
	if stats := ledger.Stats(); stats.Transactions != calls || stats.Reads != 1 {
		t.Errorf("%d calls took %d transactions and %d reads", calls, stats.Transactions, stats.Reads)
	}
}

func TestClaims(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledger, channel := newLedger(t, store), channelOf(7, 3)
		if _, err := ledger.StartClaim(t.Context(), keyOf(7), channel); !errors.Is(err, channelstate.ErrNothingToClaim) {
			t.Errorf("a claim of nothing: %v", err)
		}
		first := mustCharge(t, ledger, channel, chargeOf(7, 3, 10, 10))
		second := mustCharge(t, ledger, channel, chargeOf(7, 3, 30, 20))
		claim, err := ledger.StartClaim(t.Context(), keyOf(7), channel)
		if err != nil || claim.Spent != number(30) || claim.Signed != number(30) {
			t.Fatalf("claim %+v, error %v", claim, err)
		}
		wantBooks(t, ledger, 7, 4, 0, 0)
		wantRefusal(t, ledger.Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, 40, 10)), channelstate.ReasonNonce)
		mustCharge(t, ledger, channel, chargeOf(7, 4, 10, 10))
		if _, err := ledger.StartClaim(t.Context(), keyOf(7), channel); !errors.Is(err, channelstate.ErrClaimPending) {
			t.Errorf("a second claim: %v", err)
		}
		wantRefund(t, ledger, 7, refundOf(second), channelstate.ClaimCorrected)
		wantRefund(t, ledger, 7, refundOf(second), channelstate.AlreadyRefunded)
		nonce := number(3)
		if claim, found, err := ledger.Claim(t.Context(), keyOf(7), &nonce); err != nil || !found || claim.Spent != number(10) || claim.Signed != number(30) {
			t.Errorf("claim %+v, found %v, error %v", claim, found, err)
		}
		if claim, err = ledger.SendClaim(t.Context(), keyOf(7), &nonce); err != nil || !claim.Sent || claim.Spent != number(10) {
			t.Errorf("sent claim %+v, error %v", claim, err)
		}
		if again, err := ledger.SendClaim(t.Context(), keyOf(7), &nonce); err != nil || again.Spent != claim.Spent {
			t.Errorf("sent again %+v, error %v", again, err)
		}
		wantRefund(t, ledger, 7, refundOf(first), channelstate.TooLate)
		if claim, found, err := ledger.Claim(t.Context(), keyOf(7), &nonce); err != nil || !found || claim.Spent != number(10) || !claim.Sent {
			t.Errorf("claim %+v, found %v, error %v", claim, found, err)
		}
		channel.Nonce, channel.Value = number(4), number(1000)
		mustCharge(t, ledger, channel, chargeOf(7, 4, 20, 10))
		wantBooks(t, ledger, 7, 4, 20, 20)
		if claim, err := ledger.StartClaim(t.Context(), keyOf(7), channel); err != nil || claim.Nonce != number(4) || claim.Spent != number(20) {
			t.Errorf("the next claim %+v, error %v", claim, err)
		}
		wantBooks(t, ledger, 7, 5, 0, 0)
	})
}

func TestRefusedChargesWriteNothing(t *testing.T) {
	store := storetest.Memory(t)
	ledger, channel := newLedger(t, store), channelOf(7, 3)
	for _, charge := range []channelstate.Charge{chargeOf(7, 2, 10, 10), chargeOf(7, 3, 9, 10), chargeOf(7, 3, 0, 0), chargeOf(7, 3, 1<<40, 1)} {
		err := ledger.Charge(t.Context(), keyOf(7), channel, charge)
		if free := charge.Price.IsZero(); free != (err == nil) {
			t.Errorf("charge of %s: %v", charge.Amount.Dec(), err)
		}
	}
	if stored, err := store.Load(t.Context(), keyOf(7)); err != nil || stored.Record != nil || ledger.Stats().Transactions != 0 {
		t.Errorf("stored %+v, error %v, stats %+v", stored, err, ledger.Stats())
	}
}

func TestRecordsAreSetAside(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledger := newLedger(t, store)
		lost := mustCharge(t, ledger, channelOf(7, 3), chargeOf(7, 3, 10, 10))
		mustCharge(t, ledger, channelOf(7, 5), chargeOf(7, 5, 20, 20)) // somebody has claimed
		wantBooks(t, ledger, 7, 5, 20, 20)
		wantRefund(t, ledger, 7, refundOf(lost), channelstate.TooLate)

		reopened := channelOf(7, 0) // after a reorganisation the id is another one's channel
		reopened.Sender, reopened.Signer = carol, carol
		charge := chargeOf(7, 0, 30, 30)
		wantRefusal(t, ledger.Charge(t.Context(), keyOf(7), reopened, charge), channelstate.ReasonChannelChanged)
		wantBooks(t, ledger, 7, 5, 20, 20)
		charge.Fresh = true
		mustCharge(t, ledger, reopened, charge)
		if record := wantBooks(t, ledger, 7, 0, 30, 30); record.Sender != carol {
			t.Errorf("the new record is of %s", record.Sender)
		}
		page, _, err := store.Asides(t.Context(), group, "", 10)
		if err != nil || len(page) != 2 {
			t.Fatalf("set aside %+v, error %v", page, err)
		}
		kept := map[channelstate.AsideReason]channelstate.Aside{page[0].Reason: page[0], page[1].Reason: page[1]}
		passed, other := kept[channelstate.AsideNoncePassed], kept[channelstate.AsideOtherParties]
		if passed.Record == nil || passed.Record.Spent != number(10) || other.Record == nil || other.Record.Spent != number(20) ||
			len(passed.Record.Signature) == 0 || time.Since(passed.Time) > time.Hour || ledger.Stats().Asides != 2 {
			t.Errorf("set aside %+v, stats %+v", page, ledger.Stats())
		}
	})
}

func TestRefundsAreRememberedLongEnough(t *testing.T) {
	ledger, channel := newLedger(t, storetest.Memory(t)), channelOf(7, 3)
	charge := chargeOf(7, 3, 10, 10)
	old := uint64(time.Now().Add(-25 * time.Hour).UnixMilli())
	for i := range 6 { // the id's first bytes are its time
		charge.ID[i] = byte(old >> (40 - 8*i))
	}
	mustCharge(t, ledger, channel, charge)
	wantRefund(t, ledger, 7, refundOf(charge), channelstate.TooLate)
	wantBooks(t, ledger, 7, 3, 10, 10)
}

func TestStoreThatCannotBeAsked(t *testing.T) {
	store := &storetest.Faulty{Store: storetest.Memory(t)}
	ledger, channel := newLedger(t, store), channelOf(7, 3)
	fail := func(err error) {
		t.Helper()
		if !errors.Is(err, channelstate.ErrUnavailable) || !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("error %v", err)
		}
	}
	store.BeforeLoad = func(channelstate.Key) error { return storetest.ErrInjected }
	fail(ledger.Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, 10, 10)))
	_, err := ledger.Refund(t.Context(), keyOf(7), refundOf(chargeOf(7, 3, 10, 10)))
	fail(err)
	_, err = ledger.StartClaim(t.Context(), keyOf(7), channel)
	fail(err)
	_, _, err = ledger.Read(t.Context(), keyOf(7))
	fail(err)
	store.BeforeLoad = nil
	store.Next = func(*channelstate.Transaction) storetest.Fault { return storetest.Failed }
	fail(ledger.Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, 10, 10)))
	store.Next = nil
	mustCharge(t, ledger, channel, chargeOf(7, 3, 10, 10))
	wantBooks(t, ledger, 7, 3, 10, 10)
	if stats := ledger.Stats(); stats.Unavailable != 4 {
		t.Errorf("stats %+v", stats)
	}
}

func TestArgumentsThatDoNotFit(t *testing.T) {
	ledger := newLedger(t, storetest.Memory(t))
	if err := ledger.Charge(t.Context(), keyOf(8), channelOf(7, 3), chargeOf(7, 3, 10, 10)); err == nil || !strings.Contains(err.Error(), "channel 8") {
		t.Errorf("another channel: %v", err)
	}
	if _, err := ledger.StartClaim(t.Context(), keyOf(8), channelOf(7, 3)); err == nil || !strings.Contains(err.Error(), "channel 8") {
		t.Errorf("another channel: %v", err)
	}
	charge := chargeOf(7, 3, 10, 10)
	charge.Signature = make([]byte, 1000)
	if err := ledger.Charge(t.Context(), keyOf(7), channelOf(7, 3), charge); err == nil || !strings.Contains(err.Error(), "1000 bytes") {
		t.Errorf("a long signature: %v", err)
	}
}

func TestClosedLedger(t *testing.T) {
	ledger, channel := newLedger(t, storetest.Memory(t)), channelOf(7, 3)
	mustCharge(t, ledger, channel, chargeOf(7, 3, 10, 10))
	closeLedger(t, ledger)
	if err := ledger.Charge(t.Context(), keyOf(7), channel, chargeOf(7, 3, 20, 10)); !errors.Is(err, channelstate.ErrUnavailable) {
		t.Errorf("a closed ledger: %v", err)
	}
}
