package blockchain

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common/lru"
	"github.com/holiman/uint256"
	"golang.org/x/time/rate"
)

// bucket is a token bucket: burst at once, then perSecond.
type bucket struct {
	perSecond rate.Limit
	burst     int
}

func (b bucket) limiter() *rate.Limiter { return rate.NewLimiter(b.perSecond, b.burst) }

// What strangers can make the cache ask of the node. A channel is read once and
// then held, so the first two matter only while many channels are new.
var (
	clientBudget  = bucket{perSecond: 10, burst: 50}   // channels not held, per client address
	missBudget    = bucket{perSecond: 200, burst: 500} // channels not held, all clients
	refreshBudget = bucket{perSecond: 5, burst: 10}    // per channel: waited for as long as refreshPatience
	againBudget   = bucket{perSecond: 200, burst: 500} // refreshes of all channels
	nextIDBudget  = bucket{perSecond: 2, burst: 20}    // questions for the next id: waited for, and shared by all who wait
)

const (
	// Who asks for a refresh has signed for the channel, and may have topped it up a moment ago.
	refreshPatience = time.Second
	// Buckets remembered; who is forgotten starts with a full one, so the common
	// buckets bound what many addresses or channels can do together.
	rememberedBuckets = 10_000
	// An IPv6 user commonly has a whole /64.
	clientPrefixIPv6  = 64
	longestClientName = 64
)

// budgets bounds the reads of a ChannelCache. The caller gives the time.
type budgets struct {
	misses *rate.Limiter
	again  *rate.Limiter
	nextID *rate.Limiter

	mu        sync.Mutex
	clients   lru.BasicLRU[string, *rate.Limiter]
	refreshes lru.BasicLRU[uint256.Int, *rate.Limiter]
}

func newBudgets() *budgets {
	return &budgets{
		misses:    missBudget.limiter(),
		again:     againBudget.limiter(),
		nextID:    nextIDBudget.limiter(),
		clients:   lru.NewBasicLRU[string, *rate.Limiter](rememberedBuckets),
		refreshes: lru.NewBasicLRU[uint256.Int, *rate.Limiter](rememberedBuckets),
	}
}

func (b *budgets) allowClient(client string, now time.Time) bool {
	if client == "" {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return remembered(&b.clients, clientKey(client), clientBudget).AllowN(now, 1)
}

// awaitRefresh waits until the channel may be read again; false when that would be too long, or ctx has ended.
func (b *budgets) awaitRefresh(ctx context.Context, id *uint256.Int, now time.Time) bool {
	b.mu.Lock()
	turn := remembered(&b.refreshes, *id, refreshBudget).ReserveN(now, 1)
	b.mu.Unlock()
	if !turn.OK() {
		return false
	}
	delay := turn.DelayFrom(now)
	if delay > refreshPatience {
		turn.CancelAt(now)
		return false
	}
	if delay == 0 {
		return true
	}
	wait := time.NewTimer(delay)
	defer wait.Stop()
	select {
	case <-wait.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func remembered[K comparable](buckets *lru.BasicLRU[K, *rate.Limiter], key K, fresh bucket) *rate.Limiter {
	if limiter, known := buckets.Get(key); known {
		return limiter
	}
	limiter := fresh.limiter()
	buckets.Add(key, limiter)
	return limiter
}

// clientKey is what counts as one client.
func clientKey(client string) string {
	address, err := netip.ParseAddr(client)
	if err != nil {
		return client[:min(len(client), longestClientName)]
	}
	address = address.Unmap().WithZone("")
	if address.Is4() {
		return address.String()
	}
	prefix, err := address.Prefix(clientPrefixIPv6)
	if err != nil {
		return address.String()
	}
	return prefix.String()
}
