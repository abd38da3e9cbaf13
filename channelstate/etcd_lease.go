package channelstate

import (
	"context"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/singleflight"
)

// Refunds share leases, so that etcd neither counts down one lease a refund
// nor has to delete a day's refunds at once when a lease ends.
const (
	leaseShares     = 1440 // leases within the retention, a minute each for a day
	minLeaseSpan    = 10 * time.Second
	refundsPerLease = 2000
)

// leases hands out the lease for the refunds of now.
type leases struct {
	client    *clientv3.Client
	retention time.Duration
	span      time.Duration // how long one lease is handed out
	now       func() time.Time
	grants    singleflight.Group

	mu      sync.Mutex // guards all below
	current clientv3.LeaseID
	until   time.Time
	left    int // refunds it may still take
}

func newLeases(client *clientv3.Client, retention time.Duration) *leases {
	return &leases{client: client, retention: retention, span: max(retention/leaseShares, minLeaseSpan), now: time.Now}
}

// take returns a lease that outlives the retention, for some refunds.
func (l *leases) take(ctx context.Context, refunds int) (clientv3.LeaseID, error) {
	for {
		l.mu.Lock()
		if l.current != clientv3.NoLease && l.left > 0 && l.now().Before(l.until) {
			l.left -= refunds
			lease := l.current
			l.mu.Unlock()
			return lease, nil
		}
		l.mu.Unlock()
		if _, err, _ := l.grants.Do("", func() (any, error) { return nil, l.grant(ctx) }); err != nil {
			return clientv3.NoLease, err
		}
		if err := ctx.Err(); err != nil {
			return clientv3.NoLease, err
		}
	}
}

func (l *leases) grant(ctx context.Context) error {
	until := l.now().Add(l.span)
	response, err := l.client.Grant(ctx, int64((l.retention+l.span)/time.Second)+1)
	if err != nil {
		return fmt.Errorf("cannot get a lease for refunds: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current, l.until, l.left = response.ID, until, refundsPerLease
	return nil
}

// drop forgets a lease that etcd does not know any more.
func (l *leases) drop(lease clientv3.LeaseID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == lease {
		l.current = clientv3.NoLease
	}
}
