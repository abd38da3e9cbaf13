package channelstate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common/lru"
	"go.uber.org/zap"
)

// freeCallCounter counts the free calls of users. Calls of one user take
// turns here, so that only other replicas can be faster; calls under way hold
// nothing. Each costs one transaction.
type freeCallCounter struct {
	stores     func(FreeCallUser) FreeCallStore
	timeout    time.Duration // of one request to the store
	retention  time.Duration // of refunds
	maxWaiting int
	logger     *zap.Logger
	now        func() time.Time

	mu    sync.Mutex // guards turns and known
	turns map[FreeCallUser]*freeCallTurn
	known lru.BasicLRU[FreeCallUser, StoredFreeCalls] // as last read or written here
}

// freeCallTurn is held by one of the callers of a user.
type freeCallTurn struct {
	held    chan struct{}
	waiting int // the one who holds it, too; guarded by the counter's mutex
}

func newFreeCallCounter(stores func(FreeCallUser) FreeCallStore, settings Settings, logger *zap.Logger) *freeCallCounter {
	return &freeCallCounter{
		stores: stores, timeout: settings.Etcd.RequestTimeout, retention: settings.RefundRetention, maxWaiting: settings.WaitingCalls,
		logger: logger, now: time.Now, turns: map[FreeCallUser]*freeCallTurn{},
		known: lru.NewBasicLRU[FreeCallUser, StoredFreeCalls](settings.CachedChannels),
	}
}

// charge counts one call. The error is a *FreeCallRefusal, the context's, or
// one that wraps ErrUnavailable. Once the call is counted it is so also when
// the context has ended.
func (c *freeCallCounter) charge(ctx context.Context, user FreeCallUser, quota Quota) error {
	_, err := c.change(ctx, user, false, nil, func(count *FreeCallCount) (*FreeCallCount, error) { return count.take(quota) })
	return err
}

// refund gives one call back, once for each id.
func (c *freeCallCounter) refund(ctx context.Context, user FreeCallUser, id ChargeID) (RefundOutcome, error) {
	if c.now().Sub(id.Time()) > c.retention {
		return TooLate, nil // an earlier refund of it could have been forgotten
	}
	refunded, err := c.change(ctx, user, true, &id, func(count *FreeCallCount) (*FreeCallCount, error) {
		if count.used() == 0 {
			return nil, errNothingUsed
		}
		return count.with(count.used() - 1), nil
	})
	switch {
	case errors.Is(err, errNothingUsed):
		return c.lookUp(ctx, user, id)
	case err != nil:
		return 0, err
	case refunded:
		return AlreadyRefunded, nil
	}
	return Refunded, nil
}

var errNothingUsed = errors.New("no free call is counted")

// lookUp tells a refund that was delivered before from one of a call nobody knows.
func (c *freeCallCounter) lookUp(ctx context.Context, user FreeCallUser, id ChargeID) (RefundOutcome, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	group := user.Group
	known, err := c.stores(user).Refunded(ctx, Key{ChainID: group.ChainID, MPE: group.MPE, GroupID: group.GroupID}, id)
	switch {
	case err != nil:
		return 0, unavailable(err)
	case known:
		return AlreadyRefunded, nil
	}
	return NotCharged, nil
}

// reset lets a user begin again.
func (c *freeCallCounter) reset(ctx context.Context, user FreeCallUser) error {
	_, err := c.change(ctx, user, true, nil, func(count *FreeCallCount) (*FreeCallCount, error) {
		if count.used() == 0 {
			return nil, errNothingUsed
		}
		return count.with(0), nil
	})
	if errors.Is(err, errNothingUsed) {
		return nil
	}
	return err
}

// used reads how many calls are counted.
func (c *freeCallCounter) used(ctx context.Context, user FreeCallUser) (uint64, error) {
	stored, err := c.load(ctx, user)
	return stored.Count.used(), err
}

func (c *freeCallCounter) load(ctx context.Context, user FreeCallUser) (StoredFreeCalls, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	stored, err := c.stores(user).LoadFreeCalls(ctx, user)
	if err != nil {
		return stored, unavailable(err)
	}
	return stored, nil
}

// change writes what the rule makes of the counter. refunded says that
// nothing was written because the store knows the refund.
func (c *freeCallCounter) change(
	ctx context.Context, user FreeCallUser, urgent bool, refund *ChargeID, rule func(*FreeCallCount) (*FreeCallCount, error),
) (refunded bool, err error) {
	leave, err := c.enter(ctx, user, urgent)
	if err != nil {
		return false, err
	}
	defer leave()
	stored, remembered := c.remembered(user)
	confirmed := !remembered // what this call itself has read is good for a refusal
	if !remembered {
		if stored, err = c.load(ctx, user); err != nil {
			return false, err
		}
	}
	pause := newPause(500*time.Microsecond, 30*time.Millisecond)
	for range maxAttempts {
		next, err := rule(stored.Count)
		if err != nil && confirmed {
			c.remember(user, stored)
			return false, err
		}
		if err != nil { // another replica may have written since
			if stored, err = c.load(ctx, user); err != nil {
				return false, err
			}
			confirmed = true
			continue
		}
		result, err := c.commit(ctx, &FreeCallTransaction{User: user, Base: stored, Count: next, Refund: refund})
		if err != nil {
			c.forget(user)
			return false, err
		}
		c.remember(user, result.Stored)
		if result.Applied || result.Refunded {
			return result.Refunded, nil
		}
		stored, confirmed = result.Stored, true
		if !pause.wait(ctx) {
			return false, ctx.Err()
		}
	}
	return false, unavailable(errors.New("the counter is written by others too often"))
}

// commit sends a transaction until it is known what became of it. Its requests
// outlive the caller, since one that was cut off would leave that open.
func (c *freeCallCounter) commit(ctx context.Context, transaction *FreeCallTransaction) (FreeCallResult, error) {
	ctx = context.WithoutCancel(ctx)
	limit, cancel := context.WithTimeout(ctx, resolveRequests*c.timeout)
	defer cancel()
	pause := newPause(5*time.Millisecond, 200*time.Millisecond)
	for sent := 1; ; sent++ {
		result, err := c.send(ctx, transaction)
		switch {
		case err != nil && isKnown(err):
			return result, unavailable(err)
		case err == nil && sent == 1:
			return result, nil
		case err == nil:
			wrote, known := result.Stored.wrote(transaction)
			result.Applied = result.Applied || wrote
			if result.Applied || known {
				result.Refunded = result.Refunded && !wrote
				return result, nil
			}
			err = ErrHistoryGone
		}
		if errors.Is(err, ErrHistoryGone) || !pause.wait(limit) {
			c.logger.Warn("it is not known whether a free call was counted",
				zap.Stringer("address", transaction.User.Address), zap.Bool("refund", transaction.Refund != nil), zap.Error(err))
			return result, unavailable(err)
		}
	}
}

func (c *freeCallCounter) send(ctx context.Context, transaction *FreeCallTransaction) (FreeCallResult, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.stores(transaction.User).CommitFreeCalls(ctx, transaction)
}

// enter waits for the user's turn; leave ends it. Urgent callers wait however
// many wait already.
func (c *freeCallCounter) enter(ctx context.Context, user FreeCallUser, urgent bool) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	turn := c.turns[user]
	if turn == nil {
		turn = &freeCallTurn{held: make(chan struct{}, 1)}
		c.turns[user] = turn
	}
	if turn.waiting > c.maxWaiting && !urgent {
		c.mu.Unlock()
		return nil, fmt.Errorf("%w: too many calls wait on this user", ErrUnavailable)
	}
	turn.waiting++
	c.mu.Unlock()
	gone := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if turn.waiting--; turn.waiting == 0 {
			delete(c.turns, user)
		}
	}
	select {
	case turn.held <- struct{}{}:
		return func() { <-turn.held; gone() }, nil
	case <-ctx.Done():
		gone()
		return nil, ctx.Err()
	}
}

func (c *freeCallCounter) remembered(user FreeCallUser) (StoredFreeCalls, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known.Get(user)
}

func (c *freeCallCounter) remember(user FreeCallUser, stored StoredFreeCalls) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known.Add(user, stored)
}

func (c *freeCallCounter) forget(user FreeCallUser) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known.Remove(user)
}
