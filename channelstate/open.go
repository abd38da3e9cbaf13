package channelstate

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Opened is a store that answered when it was opened.
type Opened struct {
	Store Store

	ready  func(context.Context) error
	failed <-chan struct{}
	close  func() error
}

// Open opens the store that the settings name: the embedded etcd, which must
// not be in use, a cluster, or memory. endpoints are those of the organisation
// metadata; they are used when the settings name none. It may take minutes
// (a long log of writes to read, a cluster that is away) and tells in the log
// that it waits; errors are sentences that name the setting to change.
func Open(ctx context.Context, settings Settings, endpoints []string, logger *zap.Logger) (*Opened, error) {
	switch settings.Store {
	case StoreMemory:
		logger.Warn("channel state is kept in memory: what clients have signed is lost when this process ends")
		return &Opened{
			Store: NewMemoryStore(settings),
			ready: func(context.Context) error { return nil },
			close: func() error { return nil },
		}, nil
	case StoreEmbedded:
		server, err := startEmbedded(ctx, settings.Embedded, logger)
		if err != nil {
			return nil, err
		}
		return &Opened{
			Store:  NewEtcdStore(server.client, settings),
			ready:  bounded(server.client, settings, server.health),
			failed: server.fault.raised,
			close:  server.close,
		}, nil
	case StoreEtcd:
		if len(settings.Etcd.Endpoints) > 0 {
			endpoints = settings.Etcd.Endpoints
		}
		client, err := dialCluster(ctx, settings.Etcd, endpoints, logger)
		if err != nil {
			return nil, err
		}
		return &Opened{
			Store: NewEtcdStore(client, settings),
			ready: bounded(client, settings, func() error { return nil }),
			close: client.Close,
		}, nil
	default:
		return nil, fmt.Errorf("store is %q: write %s, %s or %s", settings.Store, StoreEmbedded, StoreEtcd, StoreMemory)
	}
}

// bounded makes the readiness check of an etcd: a read that needs a majority,
// answered within the time that a call would wait.
func bounded(client *clientv3.Client, settings Settings, health func() error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := health(); err != nil {
			return err
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(ctx, settings.Etcd.RequestTimeout)
		defer cancel()
		err := probe(ctx, client, settings.Etcd.KeyPrefix)
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("etcd did not answer within %s", time.Since(began).Round(time.Millisecond))
		}
		return err
	}
}

// Ready tells, as a sentence, why a call could not be charged now; nil when it could.
func (o *Opened) Ready(ctx context.Context) error {
	if err := o.ready(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// Failed is closed when the store has stopped for good, such as the embedded
// etcd on a disk error: only a new process can open it again. It is nil, and
// so never ready, for stores that come back by themselves.
func (o *Opened) Failed() <-chan struct{} { return o.failed }

// Close closes the store. Nothing may use it any more.
func (o *Opened) Close() error { return o.close() }
