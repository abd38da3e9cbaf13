package authz

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"github.com/holiman/uint256"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

// realLedger puts the real ledger, over the store in memory, in the place of the fake one.
func realLedger(w *world) {
	settings := channelstate.DefaultSettings()
	settings.Store = channelstate.StoreMemory
	store := channelstate.NewMemoryStore(settings)
	ledger := channelstate.NewLedger(func(channelstate.Key) channelstate.Store { return store }, settings, zap.NewNop())
	w.real, w.dependencies.Ledger = ledger, ledger
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := ledger.Close(ctx); err != nil {
			w.t.Error(err)
		}
	})
}

// books are what the ledger has of the test's channel.
func (w *world) books() channelstate.Record {
	w.t.Helper()
	key := channelstate.Key{ChainID: testChain, MPE: testMPE, GroupID: w.metadata.Group.ID, Channel: *uint256.NewInt(testChannel)}
	record, found, err := w.real.Read(context.Background(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	if !found {
		return channelstate.Record{}
	}
	return record
}

func (w *world) expectBooks(spent, signed uint64) {
	w.t.Helper()
	books := w.books()
	if books.Spent != *uint256.NewInt(spent) || books.Signed != *uint256.NewInt(signed) {
		w.t.Errorf("spent %s and signed %s, want %d and %d", books.Spent.Dec(), books.Signed.Dec(), spent, signed)
	}
}

// The refusals of payment-protocol.md section 6.1 as a client gets them, with the real rules behind them.
func TestRefusalsOfTheRealLedger(t *testing.T) {
	w := newWorld(t, realLedger)
	if got := w.check(w.headers(10)); got.code != 0 {
		t.Fatalf("%d %s", got.code, got.message)
	}
	refused := func(name string, headers map[string]string, code envoy.Code, phrase string) {
		t.Helper()
		got := w.check(headers)
		if got.code != code || len(got.message) < len(phrase) || got.message[:len(phrase)] != phrase {
			t.Errorf("%s: got %d %q, want %d %q", name, got.code, got.message, code, phrase)
		}
	}
	refused("nonce passed", w.headersOf(w.user, testChannel, 4, 20), 1000, "incorrect payment channel nonce, latest: 5, sent: 4")
	refused("nonce not reached", w.headersOf(w.user, testChannel, 6, 20), 1000, "incorrect payment channel nonce, latest: 5, sent: 6")
	refused("replay", w.headers(10), 16, "income 0 does not equal to price 10")
	refused("too little", w.headers(15), 16, "income 5 does not equal to price 10")
	refused("less than signed", w.headers(5), 16, "income -5 does not equal to price 10")
	refused("above the value", w.headers(testValue+1), 16, "not enough tokens on payment channel, channel amount: 1000, payment amount: 1001")
	w.head.block = 9_950
	refused("near expiry", w.headers(20), 16,
		"payment channel is near to be expired, expiration time: 10000, current block: 9950, expiration threshold: 50")
	w.head.block = 9_949
	if got := w.check(w.headers(20)); got.code != 0 {
		t.Errorf("one block earlier: %d %s", got.code, got.message)
	}
	w.expectBooks(20, 20)
}

// Rounds of eight at once, in any order within a round. Without rounds one caller could fall more amounts behind than
// the window of the record holds, and such an amount is refused by design.
func TestEightCallersOfOneChannel(t *testing.T) {
	w := newWorld(t, realLedger)
	const callers, rounds = 8, 12
	for round := range uint64(rounds) {
		start := make(chan struct{})
		var all sync.WaitGroup
		for caller := range uint64(callers) {
			headers := w.headers((round*callers + caller + 1) * testPrice)
			all.Go(func() {
				<-start
				if got := w.check(headers); got.code != 0 {
					t.Errorf("refused: %d %s", got.code, got.message)
				}
			})
		}
		close(start)
		all.Wait()
	}
	w.expectBooks(callers*rounds*testPrice, callers*rounds*testPrice)
}

func TestReplayAtOnce(t *testing.T) {
	w := newWorld(t, realLedger)
	headers := w.headers(testPrice)
	var allowed atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			switch got := w.check(headers); got.code {
			case 0:
				allowed.Add(1)
			case 16:
			default:
				t.Errorf("%d %s", got.code, got.message)
			}
		})
	}
	all.Wait()
	if allowed.Load() != 1 {
		t.Errorf("one signature paid for %d calls", allowed.Load())
	}
	w.expectBooks(testPrice, testPrice)
}

// Random calls, failures, reports that come twice, late and in another order: what is spent is what was served.
func TestBooksAfterRandomSettlement(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, realLedger)
	var reports []*dataaccesslogv3.HTTPAccessLogEntry
	var spent uint64
	for amount := uint64(testPrice); amount <= testValue; amount += testPrice {
		headers := w.headers(amount)
		got := w.check(headers)
		if got.code != 0 {
			t.Fatalf("%d %s", got.code, got.message)
		}
		ended := logged{requestID: headers[envoy.HeaderRequestID], charged: got.charged, code: 200}
		switch random.IntN(6) {
		case 0: // failed
			ended.status = "13"
		case 1: // client gone before any answer
			ended.flags, ended.code = clientGoneFlags, 0
		case 2: // our answer never reached Envoy
			ended.charged, ended.flags, ended.code = nil, clientGoneFlags, 0
		case 3: // read and cancelled
			ended.flags, ended.bytes = clientGoneFlags, 100
			spent += testPrice
		default: // served
			spent += testPrice
			continue
		}
		for range 1 + random.IntN(3) {
			reports = append(reports, ended.entry())
		}
	}
	random.Shuffle(len(reports), func(i, j int) { reports[i], reports[j] = reports[j], reports[i] })
	var streams sync.WaitGroup
	half := len(reports) / 2
	for _, part := range [][]*dataaccesslogv3.HTTPAccessLogEntry{reports[:half], reports[half:]} {
		streams.Go(func() { w.report(part...) })
	}
	streams.Wait()
	w.close()
	books := w.books()
	if books.Spent != *uint256.NewInt(spent) {
		t.Errorf("spent %s, served for %d", books.Spent.Dec(), spent)
	}
	if books.Spent.Gt(&books.Signed) {
		t.Errorf("spent %s, signed only %s", books.Spent.Dec(), books.Signed.Dec())
	}
}

// toldLedger tells when a refund is done.
type toldLedger struct {
	Ledger
	refunded chan struct{}
}

func (l *toldLedger) Refund(ctx context.Context, key channelstate.Key, refund channelstate.Refund) (channelstate.RefundOutcome, error) {
	defer func() { l.refunded <- struct{}{} }()
	return l.Ledger.Refund(ctx, key, refund)
}

// After a failed call the client may send the same signature again.
func TestSameSignatureAfterRefund(t *testing.T) {
	refunded := make(chan struct{})
	w := newWorld(t, realLedger, func(w *world) { w.dependencies.Ledger = &toldLedger{w.dependencies.Ledger, refunded} })
	headers := w.headers(testPrice)
	for range 3 {
		got := w.check(headers)
		if got.code != 0 {
			t.Fatalf("%d %s", got.code, got.message)
		}
		w.report(logged{charged: got.charged, status: "14", code: 200}.entry())
		<-refunded
	}
	w.expectBooks(0, 0)
}
