package storetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/channelstate"
)

// Run tests that a store keeps the contract of channelstate.Store.
func Run(t *testing.T, open Opener) {
	for name, test := range map[string]func(*testing.T, channelstate.Store){
		"versions and revisions":           testVersions,
		"a transaction on an old revision": testConflict,
		"a known refund":                   testKnownRefund,
		"a transaction sent twice":         testReplay,
		"history":                          testHistory,
		"every field is kept":              testRoundTrip,
		"groups share nothing":             testGroups,
		"lists":                            testLists,
		"claims of one nonce":              testClaimsOfOneNonce,
		"claims put away":                  testSettled,
		"several channels at once":         testCommitAll,
		"writers at once":                  testWriters,
		"a context that has ended":         testContext,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

var (
	sender = common.HexToAddress("0x5e0de50000000000000000000000000000000001")
	signer = common.HexToAddress("0x5190e40000000000000000000000000000000002")
	group  = channelstate.Group{ChainID: 1337, MPE: common.HexToAddress("0xabcdef0000000000000000000000000000000003"), GroupID: [32]byte{1, 31: 2}}
)

func amount(value uint64) uint256.Int { return *uint256.NewInt(value) }

func keyOf(channel uint64) channelstate.Key {
	id := amount(channel)
	return group.Key(&id)
}

func batch(number uint64) (id channelstate.BatchID) {
	binary.BigEndian.PutUint64(id[:], number)
	return id
}

// recordOf is a record that differs for each number.
func recordOf(number uint64) *channelstate.Record {
	return &channelstate.Record{
		Sender: sender, Signer: signer, Nonce: amount(3), Signed: amount(10 * number), Signature: []byte{1, byte(number)},
		Spent: amount(number), Batch: batch(number),
	}
}

func claimOf(channel, nonce uint64) channelstate.Claim {
	return channelstate.Claim{
		Channel: amount(channel), Nonce: amount(nonce), Signed: amount(30), Signature: []byte{7}, Spent: amount(20),
		Sender: sender, Signer: signer,
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func load(t *testing.T, store channelstate.Store, key channelstate.Key) channelstate.Stored {
	t.Helper()
	return must[channelstate.Stored](t)(store.Load(t.Context(), key))
}

// commit sends a transaction and wants it applied or not.
func commit(t *testing.T, store channelstate.Store, transaction *channelstate.Transaction, applied bool) channelstate.Result {
	t.Helper()
	result := must[channelstate.Result](t)(store.Commit(t.Context(), transaction))
	if result.Applied != applied {
		t.Fatalf("applied %v, want %v: %+v", result.Applied, applied, result)
	}
	if now := load(t, store, transaction.Key); !reflect.DeepEqual(now, result.Stored) {
		t.Fatalf("the result says %+v is stored, but it is %+v", result.Stored, now)
	}
	return result
}

func testVersions(t *testing.T, store channelstate.Store) {
	key := keyOf(7)
	if stored := load(t, store, key); stored != (channelstate.Stored{}) {
		t.Fatalf("there is something: %+v", stored)
	}
	var base channelstate.Stored
	for number := uint64(1); number <= 5; number++ {
		commit(t, store, &channelstate.Transaction{Key: keyOf(number + 100), Record: recordOf(number)}, true)
		result := commit(t, store, &channelstate.Transaction{Key: key, Base: base, Record: recordOf(number)}, true)
		if result.Stored.Version != int64(number) || result.Stored.Revision <= base.Revision {
			t.Fatalf("version %d and revision %d after %+v", result.Stored.Version, result.Stored.Revision, base)
		}
		if !reflect.DeepEqual(result.Stored.Record, recordOf(number)) {
			t.Fatalf("record %+v", result.Stored.Record)
		}
		base = result.Stored
	}
}

func testConflict(t *testing.T, store channelstate.Store) {
	key, id := keyOf(7), channelstate.NewChargeID()
	first := commit(t, store, &channelstate.Transaction{Key: key, Record: recordOf(1)}, true).Stored
	second := commit(t, store, &channelstate.Transaction{Key: key, Base: first, Record: recordOf(2)}, true).Stored
	for name, base := range map[string]channelstate.Stored{
		"none": {}, "the first": first, "one to come": {Revision: second.Revision + 1, Version: 3},
	} {
		result := commit(t, store, &channelstate.Transaction{
			Key: key, Base: base, Record: recordOf(3), Refunds: []channelstate.ChargeID{id},
			Claims: []channelstate.Claim{claimOf(7, 3)}, Asides: []channelstate.Aside{{Channel: amount(7), Record: recordOf(9)}},
		}, false)
		if !reflect.DeepEqual(result.Stored.Record, recordOf(2)) || len(result.Refunded) != 0 {
			t.Errorf("%s: result %+v", name, result)
		}
	}
	if must[bool](t)(store.Refunded(t.Context(), key, id)) {
		t.Error("a transaction that was not applied has left a refund")
	}
	if _, found, err := store.Claim(t.Context(), key, uint256.NewInt(3)); found || err != nil {
		t.Errorf("a transaction that was not applied has left a claim (error %v)", err)
	}
	if page, _, err := store.Asides(t.Context(), group, "", 10); len(page) != 0 || err != nil {
		t.Errorf("a transaction that was not applied has set aside %+v (error %v)", page, err)
	}
}

func testKnownRefund(t *testing.T, store channelstate.Store) {
	key := keyOf(7)
	ids := make([]channelstate.ChargeID, 64) // as many as a ledger may have in one batch
	for i := range ids {
		ids[i] = channelstate.NewChargeID()
	}
	base := commit(t, store, &channelstate.Transaction{Key: key, Record: recordOf(1), Refunds: ids[:2]}, true).Stored
	for i, id := range ids[:3] {
		if known := must[bool](t)(store.Refunded(t.Context(), key, id)); known != (i < 2) {
			t.Errorf("refund %d is known: %v", i, known)
		}
	}
	result := commit(t, store, &channelstate.Transaction{Key: key, Base: base, Record: recordOf(2), Refunds: ids[1:]}, false)
	if !reflect.DeepEqual(result.Refunded, ids[1:2]) {
		t.Errorf("known refunds %v, want %v", result.Refunded, ids[1:2])
	}
	commit(t, store, &channelstate.Transaction{Key: key, Base: base, Record: recordOf(2), Refunds: ids[2:]}, true)
	if !must[bool](t)(store.Refunded(t.Context(), key, ids[63])) {
		t.Error("the last refund is not known")
	}
}

func testReplay(t *testing.T, store channelstate.Store) {
	key := keyOf(7)
	transaction := &channelstate.Transaction{
		Key: key, Record: recordOf(1), Refunds: []channelstate.ChargeID{channelstate.NewChargeID()}, Claims: []channelstate.Claim{claimOf(7, 2)},
	}
	applied := commit(t, store, transaction, true)
	again := commit(t, store, transaction, false)
	if again.Stored.Record.Batch != transaction.Record.Batch || again.Stored.Version != applied.Stored.Version {
		t.Errorf("the second time shows %+v, want what the first has left: %+v", again.Stored, applied.Stored)
	}
}

func testHistory(t *testing.T, store channelstate.Store) {
	key, bases := keyOf(7), []channelstate.Stored{{}}
	const versions = 70
	for number := uint64(1); number <= versions; number++ {
		for range number % 4 { // others write between
			other := keyOf(1000 + number%4)
			commit(t, store, &channelstate.Transaction{Key: other, Base: load(t, store, other), Record: recordOf(1)}, true)
		}
		result := commit(t, store, &channelstate.Transaction{Key: key, Base: bases[number-1], Record: recordOf(number)}, true)
		bases = append(bases, result.Stored)
	}
	for version, base := range bases[:versions] {
		if id := must[channelstate.BatchID](t)(store.BatchAfter(t.Context(), key, base)); id != batch(uint64(version+1)) {
			t.Errorf("after version %d came %x", version, id)
		}
	}
	if id, err := store.BatchAfter(t.Context(), key, bases[versions]); !errors.Is(err, channelstate.ErrHistoryGone) {
		t.Errorf("after the last version came %x, error %v", id, err)
	}
	if id, err := store.BatchAfter(t.Context(), keyOf(8), channelstate.Stored{}); !errors.Is(err, channelstate.ErrHistoryGone) {
		t.Errorf("a record that does not exist was written by %x, error %v", id, err)
	}
}

func testRoundTrip(t *testing.T, store channelstate.Store) {
	key, claim := keyOf(7), claimOf(7, 2)
	claim.Sent, claim.Passed = true, true
	record := recordOf(1)
	record.Signed, record.Spent = *new(uint256.Int).SetAllOne(), *new(uint256.Int).SetAllOne()
	record.Previous = &channelstate.SignedAmount{Amount: amount(5), Signature: []byte{5}}
	record.Window = channelstate.Window{Floor: amount(2), Runs: []channelstate.Run{
		{First: amount(3), Last: amount(3)}, {First: amount(10), Last: amount(300), Step: amount(29)}, {First: record.Signed, Last: record.Signed},
	}}
	record.Pending = &claim
	aside := channelstate.Aside{
		Channel: amount(7), Reason: channelstate.AsideNonceAhead, Time: time.Unix(1_700_000_000, 0), Record: recordOf(4),
	}
	result := commit(t, store, &channelstate.Transaction{
		Key: key, Record: record, Claims: []channelstate.Claim{claim}, Asides: []channelstate.Aside{aside, aside},
	}, true)
	if !reflect.DeepEqual(result.Stored.Record, record) {
		t.Errorf("record %+v, want %+v", result.Stored.Record, record)
	}
	if read, found, err := store.Claim(t.Context(), key, &claim.Nonce); err != nil || !found || !reflect.DeepEqual(read, claim) {
		t.Errorf("claim %+v, found %v, error %v", read, found, err)
	}
	if _, found, err := store.Claim(t.Context(), key, uint256.NewInt(9)); err != nil || found {
		t.Errorf("a claim of another nonce is found: %v, error %v", found, err)
	}
	page, next, err := store.Asides(t.Context(), group, "", 10)
	if err != nil || next != "" || !reflect.DeepEqual(page, []channelstate.Aside{aside, aside}) {
		t.Errorf("set aside %+v, next %q, error %v", page, next, err)
	}
}

// A reorganisation can bring a nonce back; what was signed before is not lost.
func testClaimsOfOneNonce(t *testing.T, store channelstate.Store) {
	first, second, nonce := claimOf(7, 2), claimOf(7, 2), amount(2)
	first.ID, second.ID = batch(9), batch(1)
	base := commit(t, store, &channelstate.Transaction{Key: keyOf(7), Record: recordOf(1), Claims: []channelstate.Claim{first}}, true).Stored
	base = commit(t, store, &channelstate.Transaction{Key: keyOf(7), Base: base, Record: recordOf(2), Claims: []channelstate.Claim{second}}, true).Stored
	first.Spent = amount(1)
	commit(t, store, &channelstate.Transaction{Key: keyOf(7), Base: base, Record: recordOf(3), Claims: []channelstate.Claim{first}}, true)
	if claim, found, err := store.Claim(t.Context(), keyOf(7), &nonce); err != nil || !found || claim.ID != second.ID {
		t.Errorf("claim %+v, found %v, error %v", claim, found, err)
	}
	page, _, err := store.Claims(t.Context(), group, "", 10)
	if err != nil || !reflect.DeepEqual(page, []channelstate.Claim{second, first}) {
		t.Errorf("claims %+v, error %v", page, err)
	}
}

func testGroups(t *testing.T, store channelstate.Store) {
	id, channel := channelstate.NewChargeID(), amount(7)
	commit(t, store, &channelstate.Transaction{
		Key: keyOf(7), Record: recordOf(1), Refunds: []channelstate.ChargeID{id}, Claims: []channelstate.Claim{claimOf(7, 2)},
		Asides: []channelstate.Aside{{Channel: amount(7), Record: recordOf(2), Time: time.Unix(1, 0)}},
	}, true)
	others := map[string]channelstate.Group{"chain": group, "contract": group, "group": group}
	for name, other := range others {
		switch name {
		case "chain":
			other.ChainID = 1
		case "contract":
			other.MPE[19]++
		case "group":
			other.GroupID[0]++
		}
		key := other.Key(&channel)
		if stored := load(t, store, key); stored.Record != nil {
			t.Errorf("another %s has the record", name)
		}
		if must[bool](t)(store.Refunded(t.Context(), key, id)) {
			t.Errorf("another %s has the refund", name)
		}
		if _, found, err := store.Claim(t.Context(), key, uint256.NewInt(2)); found || err != nil {
			t.Errorf("another %s has the claim (error %v)", name, err)
		}
		channels, _, err1 := store.Channels(t.Context(), other, "", 10)
		claims, _, err2 := store.Claims(t.Context(), other, "", 10)
		asides, _, err3 := store.Asides(t.Context(), other, "", 10)
		if len(channels)+len(claims)+len(asides) != 0 || errors.Join(err1, err2, err3) != nil {
			t.Errorf("another %s lists %v %v %v, error %v", name, channels, claims, asides, errors.Join(err1, err2, err3))
		}
	}
}

func testWriters(t *testing.T, store channelstate.Store) {
	key := keyOf(7)
	const writers, each = 8, 20
	var group sync.WaitGroup
	failures := make(chan error, writers)
	for range writers {
		group.Go(func() {
			var base channelstate.Stored
			for done := 0; done < each; {
				next := channelstate.Record{Sender: sender}
				if base.Record != nil {
					next = *base.Record
				}
				next.Spent.AddUint64(&next.Spent, 1)
				next.Signed = next.Spent
				result, err := store.Commit(t.Context(), &channelstate.Transaction{Key: key, Base: base, Record: &next})
				if err != nil {
					failures <- err
					return
				}
				if base = result.Stored; result.Applied {
					done++
				}
			}
		})
	}
	group.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	if stored := load(t, store, key); stored.Record.Spent != amount(writers*each) || stored.Version != writers*each {
		t.Errorf("%s after %d versions, want %d", stored.Record.Spent.Dec(), stored.Version, writers*each)
	}
}

func testContext(t *testing.T, store channelstate.Store) {
	key := keyOf(7)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	calls := map[string]error{}
	_, calls["Load"] = store.Load(ended, key)
	_, calls["Commit"] = store.Commit(ended, &channelstate.Transaction{Key: key, Record: recordOf(1)})
	_, calls["Commit with refunds"] = store.Commit(ended, &channelstate.Transaction{
		Key: key, Record: recordOf(1), Refunds: []channelstate.ChargeID{channelstate.NewChargeID()},
	})
	_, calls["BatchAfter"] = store.BatchAfter(ended, key, channelstate.Stored{})
	_, calls["Refunded"] = store.Refunded(ended, key, channelstate.NewChargeID())
	_, _, calls["Claim"] = store.Claim(ended, key, uint256.NewInt(1))
	_, _, calls["Channels"] = store.Channels(ended, group, "", 1)
	_, _, calls["Claims"] = store.Claims(ended, group, "", 1)
	_, _, calls["Asides"] = store.Asides(ended, group, "", 1)
	for name, err := range calls {
		if err == nil {
			t.Errorf("%s answers", name)
		}
	}
	if stored := load(t, store, key); stored.Record != nil {
		t.Errorf("%s has written", fmt.Sprint(stored))
	}
}
