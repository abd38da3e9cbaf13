// Package storetest has the tests that every store of channel state must pass,
// the stores to run tests on, and one that fails on purpose.
package storetest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/mpegate/mpegate/channelstate"
)

// Opener opens an empty store that ends with the test.
type Opener func(t testing.TB) channelstate.Store

// Stores are all kinds of stores: in memory, the embedded etcd asked in its
// process, and an etcd asked over gRPC as a cluster is.
func Stores() map[string]Opener {
	return map[string]Opener{"memory": Memory, "embedded": Embedded, "etcd": Etcd}
}

// Memory opens a store in memory.
func Memory(testing.TB) channelstate.Store {
	return channelstate.NewMemoryStore(channelstate.DefaultSettings())
}

// Embedded opens an embedded etcd in a temporary folder.
func Embedded(t testing.TB) channelstate.Store {
	return openEmbedded(t, t.TempDir(), "").Store
}

// Etcd opens an etcd and a client that asks it through a socket.
func Etcd(t testing.TB) channelstate.Store {
	client, settings := EtcdClient(t)
	return channelstate.NewEtcdStore(client, settings)
}

// EtcdClient starts an etcd and returns a client that asks it through a
// socket, and settings for a store on it.
func EtcdClient(t testing.TB) (*clientv3.Client, channelstate.Settings) {
	t.Helper()
	folder, err := os.MkdirTemp("", "mpegate") // t.TempDir may be longer than a socket's path may be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	openEmbedded(t, folder, "unix:")
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"unix:" + filepath.Join(folder, "client.sock")}, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client, channelstate.DefaultSettings()
}

func openEmbedded(t testing.TB, folder, listen string) *channelstate.Opened {
	t.Helper()
	settings := channelstate.DefaultSettings()
	settings.Store = channelstate.StoreEmbedded
	settings.Embedded.DataDir, settings.Embedded.ListenClientURL = folder, listen
	opened, err := channelstate.Open(context.Background(), settings, nil, zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)))
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
