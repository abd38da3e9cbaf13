package authz

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/mpegate/mpegate/envoy"
)

// How much is remembered of calls whose answer Envoy may not have got. Envoy reports such a call within moments.
const (
	recentLifetime   = 2 * time.Minute
	recentAnswered   = 65_536
	recentUnanswered = 8_192
)

// requestKey stands for a request id: 128 bits under random seeds, so that ids cannot be made to collide.
type requestKey [2]uint64

// recentCharges finds the charge of a call that Envoy ended before our answer reached it. Such a call has no metadata
// in the access log, so its request id is all there is; it is Envoy's own and never the client's.
type recentCharges struct {
	seeds [2]maphash.Seed

	mutex sync.Mutex
	// charges that were answered, until Envoy says that it never got the answer
	charges ring[*envoy.Charged]
	// calls that Envoy reported as ended without an answer, before their charge was done
	unanswered ring[struct{}]
}

func newRecentCharges() *recentCharges {
	return &recentCharges{
		seeds:      [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		charges:    newRing[*envoy.Charged](recentAnswered, recentLifetime),
		unanswered: newRing[struct{}](recentUnanswered, recentLifetime),
	}
}

func (r *recentCharges) key(requestID string) requestKey {
	return requestKey{maphash.String(r.seeds[0], requestID), maphash.String(r.seeds[1], requestID)}
}

// answered remembers a charge that is about to be answered. unheard says that Envoy has already ended the call.
func (r *recentCharges) answered(requestID string, charged *envoy.Charged, now time.Time) (unheard bool) {
	if requestID == "" {
		return false
	}
	key := r.key(requestID)
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if _, unheard = r.unanswered.take(key, now); unheard {
		return true
	}
	r.charges.put(key, charged, now)
	return false
}

// ended gives the charge of a call that ended without our answer, nil if there is none (yet).
func (r *recentCharges) ended(requestID string, now time.Time) *envoy.Charged {
	if requestID == "" {
		return nil
	}
	key := r.key(requestID)
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if charged, found := r.charges.take(key, now); found {
		return charged
	}
	r.unanswered.put(key, struct{}{}, now)
	return nil
}

// ring is a map of bounded size whose oldest entry makes room for the newest.
type ring[V any] struct {
	limit    int
	lifetime time.Duration
	index    map[requestKey]int
	entries  []ringEntry[V] // grows to limit as needed
	next     int
}

type ringEntry[V any] struct {
	key   requestKey
	added time.Time
	value V
}

func newRing[V any](limit int, lifetime time.Duration) ring[V] {
	return ring[V]{limit: limit, lifetime: lifetime, index: map[requestKey]int{}}
}

func (r *ring[V]) put(key requestKey, value V, now time.Time) {
	entry := ringEntry[V]{key: key, added: now, value: value}
	if len(r.entries) < r.limit {
		r.index[key] = len(r.entries)
		r.entries = append(r.entries, entry)
		return
	}
	oldest := &r.entries[r.next]
	// A key put twice points at its newer entry.
	if position, indexed := r.index[oldest.key]; indexed && position == r.next {
		delete(r.index, oldest.key)
	}
	*oldest = entry
	r.index[key] = r.next
	r.next = (r.next + 1) % r.limit
}

// take gives a value once, and only within its lifetime.
func (r *ring[V]) take(key requestKey, now time.Time) (value V, found bool) {
	position, indexed := r.index[key]
	if !indexed {
		return value, false
	}
	delete(r.index, key)
	entry := &r.entries[position]
	if now.Sub(entry.added) > r.lifetime {
		return value, false
	}
	value = entry.value
	var nothing V
	entry.value = nothing
	return value, true
}
