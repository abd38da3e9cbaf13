package channelstate

import (
	"context"
	"encoding/hex"
	"slices"
	"sync"
	"time"

	"github.com/holiman/uint256"
)

// memoryHistory is how many versions of a record BatchAfter can look back.
const memoryHistory = 1024

// memoryStore keeps what it was given: records and claims are never changed,
// so it need not copy them.
type memoryStore struct {
	retention time.Duration
	now       func() time.Time

	mu        sync.Mutex // guards all below
	revision  int64
	channels  map[Key]*memoryChannel
	claims    map[memoryClaim]Claim
	settled   map[memoryClaim]Claim
	latest    map[memoryClaim]BatchID // by key and nonce: the last claim started
	asides    map[Group][]Aside
	refunds   map[memoryRefund]time.Time // until when each is remembered
	sweepAt   int                        // how many refunds make the next sweep worth its cost
	shared    map[memoryShared]Shared
	freeCalls map[FreeCallUser]StoredFreeCalls
}

type memoryChannel struct {
	stored  Stored
	batches []BatchID // of the last versions, the newest at the end
}

type memoryClaim struct {
	key   Key
	nonce uint256.Int
	id    BatchID
}

type memoryRefund struct {
	group Group
	id    ChargeID
}

// NewMemoryStore makes a store that lives and ends with the process. Of the
// settings it needs how long refunds are remembered.
func NewMemoryStore(settings Settings) Store {
	return &memoryStore{
		retention: settings.RefundRetention,
		now:       time.Now,
		channels:  map[Key]*memoryChannel{},
		claims:    map[memoryClaim]Claim{},
		settled:   map[memoryClaim]Claim{},
		latest:    map[memoryClaim]BatchID{},
		asides:    map[Group][]Aside{},
		refunds:   map[memoryRefund]time.Time{},
		sweepAt:   1024,
		shared:    map[memoryShared]Shared{},
		freeCalls: map[FreeCallUser]StoredFreeCalls{},
	}
}

func (s *memoryStore) Load(ctx context.Context, key Key) (Stored, error) {
	if err := ctx.Err(); err != nil {
		return Stored{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if channel := s.channels[key]; channel != nil {
		return channel.stored, nil
	}
	return Stored{}, nil
}

func (s *memoryStore) Commit(ctx context.Context, transaction *Transaction) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	group, now := transaction.Key.Group(), s.now()
	var known []ChargeID
	for _, id := range transaction.Refunds {
		if s.remembers(memoryRefund{group, id}, now) {
			known = append(known, id)
		}
	}
	if stored := s.stored(transaction.Key); stored.Revision != transaction.Base.Revision || len(known) > 0 {
		return Result{Stored: stored, Refunded: known}, nil
	}
	s.revision++
	s.apply(transaction, now)
	s.sweep(now)
	return Result{Applied: true, Stored: s.stored(transaction.Key)}, nil
}

func (s *memoryStore) stored(key Key) Stored {
	if channel := s.channels[key]; channel != nil {
		return channel.stored
	}
	return Stored{}
}

// apply writes a transaction at the store's revision.
func (s *memoryStore) apply(transaction *Transaction, now time.Time) {
	key, group := transaction.Key, transaction.Key.Group()
	channel := s.channels[key]
	if channel == nil {
		channel = &memoryChannel{}
	}
	channel.stored = Stored{Record: transaction.Record, Revision: s.revision, Version: channel.stored.Version + 1}
	channel.batches = append(channel.batches, transaction.Record.Batch)
	if len(channel.batches) >= 2*memoryHistory {
		channel.batches = slices.Clone(channel.batches[len(channel.batches)-memoryHistory:])
	}
	s.channels[key] = channel
	for _, claim := range transaction.Claims {
		nonce := memoryClaim{key: key, nonce: claim.Nonce}
		id := memoryClaim{key, claim.Nonce, claim.ID}
		if _, found := s.claims[id]; !found {
			s.latest[nonce] = claim.ID
		}
		s.claims[id] = claim
	}
	for _, claim := range transaction.Settled {
		id := memoryClaim{key, claim.Nonce, claim.ID}
		delete(s.claims, id)
		s.settled[id] = claim
	}
	s.asides[group] = append(s.asides[group], transaction.Asides...)
	for _, id := range transaction.Refunds {
		s.refunds[memoryRefund{group, id}] = now.Add(s.retention)
	}
}

func (s *memoryStore) remembers(refund memoryRefund, now time.Time) bool {
	until, found := s.refunds[refund]
	return found && now.Before(until)
}

// sweep forgets old refunds each time their number has doubled.
func (s *memoryStore) sweep(now time.Time) {
	if len(s.refunds) < s.sweepAt {
		return
	}
	for refund := range s.refunds {
		if !s.remembers(refund, now) {
			delete(s.refunds, refund)
		}
	}
	s.sweepAt = max(1024, 2*len(s.refunds))
}

func (s *memoryStore) BatchAfter(ctx context.Context, key Key, base Stored) (BatchID, error) {
	if err := ctx.Err(); err != nil {
		return BatchID{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	channel := s.channels[key]
	if channel == nil {
		return BatchID{}, ErrHistoryGone
	}
	position := len(channel.batches) - int(channel.stored.Version-base.Version)
	if position < 0 || position >= len(channel.batches) {
		return BatchID{}, ErrHistoryGone
	}
	return channel.batches[position], nil
}

func (s *memoryStore) Refunded(ctx context.Context, key Key, id ChargeID) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remembers(memoryRefund{key.Group(), id}, s.now()), nil
}

func (s *memoryStore) Claim(ctx context.Context, key Key, nonce *uint256.Int) (Claim, bool, error) {
	if err := ctx.Err(); err != nil {
		return Claim{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := memoryClaim{key, *nonce, s.latest[memoryClaim{key: key, nonce: *nonce}]}
	claim, found := s.claims[id]
	if !found {
		claim, found = s.settled[id]
	}
	return claim, found, nil
}

func (s *memoryStore) Channels(ctx context.Context, group Group, cursor string, limit int) ([]ChannelRecord, string, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := map[string]ChannelRecord{}
	for key, channel := range s.channels {
		if key.Group() == group {
			entries[string(appendNumber(nil, &key.Channel))] = ChannelRecord{Channel: key.Channel, Record: channel.stored.Record}
		}
	}
	page, next := pageOf(entries, cursor, limit)
	return page, next, nil
}

func (s *memoryStore) Claims(ctx context.Context, group Group, cursor string, limit int) ([]Claim, string, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := map[string]Claim{}
	for id, claim := range s.claims {
		if id.key.Group() == group {
			entries[string(hex.AppendEncode(append(appendClaim(nil, &claim.Channel, &claim.Nonce), '/'), claim.ID[:]))] = claim
		}
	}
	page, next := pageOf(entries, cursor, limit)
	return page, next, nil
}

func (s *memoryStore) Asides(ctx context.Context, group Group, cursor string, limit int) ([]Aside, string, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := map[string]Aside{}
	for i, aside := range s.asides[group] {
		number := uint256.NewInt(uint64(i))
		entries[string(appendClaim(nil, &aside.Channel, number))] = aside
	}
	page, next := pageOf(entries, cursor, limit)
	return page, next, nil
}

// pageOf cuts one page out of what is listed in the order of its paths.
func pageOf[T any](entries map[string]T, cursor string, limit int) (page []T, next string) {
	paths := make([]string, 0, len(entries))
	for path := range entries {
		if path >= cursor {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	limit = clampPage(limit)
	if len(paths) > limit {
		paths, next = paths[:limit], paths[limit]
	}
	for _, path := range paths {
		page = append(page, entries[path])
	}
	return page, next
}

func clampPage(limit int) int { return max(1, min(limit, maxPage)) }
