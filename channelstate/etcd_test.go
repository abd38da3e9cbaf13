package channelstate

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// storeOn is a store on an embedded etcd of its own, with a client beside it.
func storeOn(t *testing.T, change func(*EmbeddedSettings)) (*etcdStore, *clientv3.Client) {
	t.Helper()
	settings := embeddedIn(t.TempDir())
	if change != nil {
		change(&settings)
	}
	server := openEmbedded(t, settings, zap.NewNop())
	t.Cleanup(func() { closeEmbedded(t, server) })
	return NewEtcdStore(server.client, DefaultSettings()).(*etcdStore), server.client
}

// write commits the next version of a record, with refunds.
func write(t *testing.T, store Store, base Stored, refunds ...ChargeID) Stored {
	t.Helper()
	record := newRecord(channelAt(3))
	record.Batch = newBatchID()
	result, err := store.Commit(t.Context(), &Transaction{Key: testKey(), Base: base, Record: record, Refunds: refunds})
	if err != nil || !result.Applied {
		t.Fatalf("result %+v, error %v", result, err)
	}
	return result.Stored
}

func testKey() Key { return Key{ChainID: 1337, Channel: number(7)} }

func leaseOf(t *testing.T, store *etcdStore, id ChargeID) int64 {
	t.Helper()
	response, err := store.client.Get(t.Context(), store.refundPath(testKey(), id))
	if err != nil || len(response.Kvs) != 1 {
		t.Fatalf("refund %s is not there: %v, %v", id, response, err)
	}
	return response.Kvs[0].Lease
}

func TestRefundsShareLeases(t *testing.T) {
	store, client := storeOn(t, nil)
	now := time.Now()
	store.leases.now = func() time.Time { return now }
	ids := make([]ChargeID, 6)
	for i := range ids {
		ids[i] = NewChargeID()
	}
	base := write(t, store, Stored{}, ids[0], ids[1])
	base = write(t, store, base, ids[2])
	first := leaseOf(t, store, ids[0])
	if first == 0 || leaseOf(t, store, ids[1]) != first || leaseOf(t, store, ids[2]) != first {
		t.Error("refunds of the same minute have leases of their own")
	}
	remaining, err := client.TimeToLive(t.Context(), clientv3.LeaseID(first))
	if err != nil || remaining.GrantedTTL <= int64(24*time.Hour/time.Second) || remaining.GrantedTTL > int64(25*time.Hour/time.Second) {
		t.Errorf("the lease lasts %+v, error %v", remaining, err)
	}

	now = now.Add(61 * time.Second)
	base = write(t, store, base, ids[3])
	second := leaseOf(t, store, ids[3])
	if second == 0 || second == first {
		t.Error("a refund of the next minute has the lease of the last")
	}
	store.leases.left = 0
	base = write(t, store, base, ids[4])
	if third := leaseOf(t, store, ids[4]); third == second {
		t.Error("a full lease takes more refunds")
	}
	if _, err := client.Revoke(t.Context(), store.leases.current); err != nil {
		t.Fatal(err)
	}
	write(t, store, base, ids[5])
	if leaseOf(t, store, ids[5]) == 0 {
		t.Error("a refund is kept for ever")
	}
	if known, err := store.Refunded(t.Context(), testKey(), ids[4]); err != nil || known {
		t.Errorf("a refund has outlived its lease: %v, error %v", known, err)
	}
}

func TestHistoryThatIsGone(t *testing.T) {
	store, client := storeOn(t, nil)
	bases := []Stored{{}}
	for range 20 {
		bases = append(bases, write(t, store, bases[len(bases)-1]))
	}
	if _, err := client.Compact(t.Context(), bases[10].Revision); err != nil {
		t.Fatal(err)
	}
	for version, base := range bases[:20] {
		batch, err := store.BatchAfter(t.Context(), testKey(), base)
		switch {
		case version+1 < 10 && !errors.Is(err, ErrHistoryGone): // version 10 was the latest then, and stays
			t.Errorf("version %d was compacted, but was written by %x (error %v)", version+1, batch, err)
		case version+1 >= 10 && (err != nil || batch != bases[version+1].Record.Batch):
			t.Errorf("version %d was written by %x, error %v", version+1, batch, err)
		}
	}
}

// What etcd says about a full database does not say whether it has written.
func TestFullDatabase(t *testing.T) {
	store, client := storeOn(t, func(s *EmbeddedSettings) { s.QuotaBytes = 4 << 20 })
	large := make([]byte, 16<<10)
	for size := 0; size < 3<<20; size += len(large) {
		if _, err := client.Put(t.Context(), fmt.Sprint("filler ", size), string(large)); err != nil {
			t.Fatal(err)
		}
	}
	bases := []Stored{{}}
	aside := Aside{Channel: number(7), Record: fullRecord(t)}
	for full := 0; full < 3; {
		base := bases[len(bases)-1]
		record := newRecord(channelAt(3))
		record.Batch = newBatchID()
		result, err := store.Commit(t.Context(), &Transaction{
			Key: testKey(), Base: base, Record: record, Asides: []Aside{aside, aside, aside, aside, aside, aside, aside, aside},
		})
		stored, loadErr := store.Load(t.Context(), testKey())
		if loadErr != nil {
			t.Fatal(loadErr)
		}
		switch {
		case err == nil && (!result.Applied || stored.Record.Batch != record.Batch):
			t.Fatalf("applied %v, but %+v is stored", result.Applied, stored)
		case err != nil && (stored.Version != base.Version || errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, rpctypes.ErrNoSpace)):
			t.Fatalf("version %d is stored after version %d: %v", stored.Version, base.Version, err)
		case err != nil:
			full++
		default:
			bases = append(bases, stored)
		}
	}
	last := len(bases) - 1
	full := fmt.Errorf("%w: %w", ErrOutcomeUnknown, rpctypes.ErrNoSpace)
	for version := 1; version <= last; version++ { // as if that write had filled the database
		lost := &Transaction{Key: testKey(), Record: bases[version].Record, Base: bases[version-1]}
		if result, err := store.afterNoSpace(t.Context(), lost, full); err != nil || !result.Applied {
			t.Errorf("version %d has filled the database: %+v, error %v", version, result, err)
		}
		lost.Record = newRecord(channelAt(3))
		lost.Record.Batch = newBatchID()
		if result, err := store.afterNoSpace(t.Context(), lost, full); err != nil || result.Applied {
			t.Errorf("version %d is of somebody else: %+v, error %v", version, result, err)
		}
	}
}

func TestCommitErrors(t *testing.T) {
	for _, test := range []struct {
		err     error
		unknown bool
	}{
		{context.DeadlineExceeded, true},
		{context.Canceled, true},
		{errors.New("the connection is gone"), true},
		{rpctypes.ErrTimeout, true},
		{rpctypes.ErrLeaderChanged, true},
		{rpctypes.ErrNoSpace, true}, // Commit then looks
		{status.Error(codes.Unavailable, "transport is closing"), true},
		{status.Error(codes.Internal, "?"), true},
		{status.Error(codes.ResourceExhausted, "received message larger than max"), true},
		{rpctypes.ErrTooManyRequests, false},
		{rpctypes.ErrPermissionDenied, false},
		{rpctypes.ErrInvalidAuthToken, false},
		{rpctypes.ErrLeaseNotFound, false},
		{rpctypes.ErrRequestTooLarge, false},
		{status.Error(codes.PermissionDenied, "no"), false},
	} {
		err := commitError("it", test.err)
		if errors.Is(err, ErrOutcomeUnknown) != test.unknown || !errors.Is(err, test.err) {
			t.Errorf("%v becomes %v", test.err, err)
		}
	}
}

func TestMemoryForgetsRefundsInTime(t *testing.T) {
	settings := DefaultSettings()
	store := NewMemoryStore(settings).(*memoryStore)
	now := time.Now()
	store.now = func() time.Time { return now }
	first, second := NewChargeID(), NewChargeID()
	base := write(t, store, Stored{}, first)
	now = now.Add(settings.RefundRetention - time.Second)
	base = write(t, store, base, second)
	known := func(id ChargeID) bool {
		known, err := store.Refunded(t.Context(), testKey(), id)
		if err != nil {
			t.Fatal(err)
		}
		return known
	}
	if !known(first) || !known(second) {
		t.Error("a refund is forgotten early")
	}
	now = now.Add(2 * time.Second)
	if known(first) || !known(second) {
		t.Error("the wrong refund is forgotten")
	}
	for range 2000 {
		now = now.Add(time.Hour)
		base = write(t, store, base, NewChargeID())
	}
	if count := len(store.refunds); count > 1100 {
		t.Errorf("%d refunds are kept, 24 are remembered", count)
	}
}
