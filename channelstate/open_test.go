package channelstate

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holiman/uint256"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
)

func testSettings(t *testing.T, store string) Settings {
	settings := DefaultSettings()
	settings.Store = store
	settings.Embedded.DataDir = t.TempDir()
	return settings
}

func openStore(t *testing.T, settings Settings, endpoints ...string) *Opened {
	t.Helper()
	opened, err := Open(t.Context(), settings, endpoints, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	})
	return opened
}

func TestOpenEveryStore(t *testing.T) {
	member, _ := startMember(t, nil)
	tests := map[string]struct {
		endpoints []string // of the settings
		metadata  []string
	}{
		StoreMemory:   {},
		StoreEmbedded: {metadata: []string{deadEndpoint(t)}}, // not asked
		StoreEtcd:     {endpoints: []string{member}, metadata: []string{deadEndpoint(t)}},
	}
	for store, test := range tests {
		t.Run(store, func(t *testing.T) {
			settings := testSettings(t, store)
			settings.Etcd.Endpoints = test.endpoints
			opened := openStore(t, settings, test.metadata...)
			if err := opened.Ready(t.Context()); err != nil {
				t.Errorf("not ready: %v", err)
			}
			chargeAndRead(t, opened.Store, settings)
			select {
			case <-opened.Failed():
				t.Error("the store has failed")
			default:
			}
		})
	}
}

func chargeAndRead(t *testing.T, store Store, settings Settings) {
	t.Helper()
	ledger := NewLedger(func(Key) Store { return store }, settings, zap.NewNop())
	channel := blockchain.Channel{ID: *uint256.NewInt(7), Value: *uint256.NewInt(100), Expiration: *uint256.NewInt(1000), Sender: [20]byte{1}}
	key := Key{ChainID: 1, Channel: channel.ID}
	charge := Charge{ID: NewChargeID(), Amount: *uint256.NewInt(10), Price: *uint256.NewInt(10), Signature: make([]byte, 65), Block: 1}
	if err := ledger.Charge(t.Context(), key, &channel, charge); err != nil {
		t.Fatal(err)
	}
	record, found, err := ledger.Read(t.Context(), key)
	if err != nil || !found || record.Spent != charge.Price {
		t.Errorf("read %v, %v, %v", record, found, err)
	}
	if err := ledger.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOpenTakesTheEndpointsOfTheMetadata(t *testing.T) {
	member, _ := startMember(t, nil)
	opened := openStore(t, testSettings(t, StoreEtcd), member)
	if err := opened.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOpenWithoutAnythingToOpen(t *testing.T) {
	_, err := Open(t.Context(), testSettings(t, StoreEtcd), nil, zap.NewNop())
	wantError(t, err, "etcd.endpoints is empty")
	_, err = Open(t.Context(), testSettings(t, "redis"), nil, zap.NewNop())
	wantError(t, err, `store is "redis"`, "embedded, etcd or memory")
	settings := testSettings(t, StoreEmbedded)
	settings.Embedded.ListenClientURL = "http://0.0.0.0:2379"
	_, err = Open(t.Context(), settings, nil, zap.NewNop())
	wantError(t, err, "embedded.listen_client_url")
}

// A read that needs a majority is not answered by a member that has stopped.
func TestReadyIsBoundedAndTellsWhyNot(t *testing.T) {
	settings := testSettings(t, StoreEmbedded)
	settings.Etcd.RequestTimeout = 50 * time.Millisecond
	server := openEmbedded(t, settings.Embedded, zap.NewNop())
	defer closeEmbedded(t, server)
	opened := &Opened{ready: bounded(server.client, settings, server.health)}
	if err := opened.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.server.Server.HardStop()
	err := opened.Ready(t.Context())
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("after the server has stopped: %v", err)
	}
	server.fault.once.Do(func() {
		server.fault.reason = errors.New("etcd: no space left on device")
		close(server.fault.raised)
	})
	wantError(t, opened.Ready(context.Background()), "the embedded etcd has stopped: etcd: no space left on device")
}
