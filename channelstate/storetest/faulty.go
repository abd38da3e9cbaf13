package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/mpegate/mpegate/channelstate"
)

// Fault is what goes wrong with one transaction.
type Fault int

// What can go wrong.
const (
	NoFault          Fault = iota
	LostRequest            // it never arrives; nobody tells the caller
	LostReply              // it arrives, its reply does not
	DelayedRequest         // it arrives just before the next one, which finds its work
	OvertakenRequest       // it arrives just after the next one
	Failed                 // it is turned away, and the caller is told
)

// ErrInjected is in every error that a Faulty store makes up.
var ErrInjected = errors.New("fault of the test")

// Faulty is a store whose transactions fail as a test wants.
type Faulty struct {
	channelstate.Store

	// Next chooses the fault of a transaction. It may block to hold the
	// transaction back, and is called by several goroutines at once.
	Next func(*channelstate.Transaction) Fault
	// BeforeLoad is called before a record is read; its error is the answer.
	BeforeLoad func(channelstate.Key) error

	mu        sync.Mutex
	queued    map[channelstate.Key][]delayed
	queuedAll []delayedAll
}

type delayed struct {
	transaction *channelstate.Transaction
	fault       Fault
}

// Load implements channelstate.Store.
func (f *Faulty) Load(ctx context.Context, key channelstate.Key) (channelstate.Stored, error) {
	if f.BeforeLoad != nil {
		if err := f.BeforeLoad(key); err != nil {
			return channelstate.Stored{}, err
		}
	}
	return f.Store.Load(ctx, key)
}

// Commit implements channelstate.Store.
func (f *Faulty) Commit(ctx context.Context, transaction *channelstate.Transaction) (channelstate.Result, error) {
	fault := NoFault
	if f.Next != nil {
		fault = f.Next(transaction)
	}
	unknown := fmt.Errorf("%w: %w", channelstate.ErrOutcomeUnknown, ErrInjected)
	switch fault {
	case LostRequest:
		return channelstate.Result{}, unknown
	case DelayedRequest, OvertakenRequest:
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.queued == nil {
			f.queued = map[channelstate.Key][]delayed{}
		}
		f.queued[transaction.Key] = append(f.queued[transaction.Key], delayed{transaction, fault})
		return channelstate.Result{}, unknown
	case Failed:
		return channelstate.Result{}, ErrInjected
	}
	result, err := f.commitWithDelayed(ctx, transaction)
	if fault == LostReply {
		return channelstate.Result{}, unknown
	}
	return result, err
}

// commitWithDelayed lets the delayed transactions of the channel arrive too.
func (f *Faulty) commitWithDelayed(ctx context.Context, transaction *channelstate.Transaction) (channelstate.Result, error) {
	f.mu.Lock()
	queued := f.queued[transaction.Key]
	delete(f.queued, transaction.Key)
	f.mu.Unlock()
	for _, before := range queued {
		if before.fault == DelayedRequest {
			if _, err := f.Store.Commit(ctx, before.transaction); err != nil {
				return channelstate.Result{}, err
			}
		}
	}
	result, err := f.Store.Commit(ctx, transaction)
	for _, after := range queued {
		if after.fault == OvertakenRequest {
			if _, late := f.Store.Commit(ctx, after.transaction); late != nil && err == nil {
				return channelstate.Result{}, fmt.Errorf("%w: %w", channelstate.ErrOutcomeUnknown, late)
			}
		}
	}
	return result, err
}

// Randomly is a Next that lets some of the transactions fail, in all ways.
func Randomly(seed uint64, share float64) func(*channelstate.Transaction) Fault {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, seed))
	return func(*channelstate.Transaction) Fault {
		mu.Lock()
		defer mu.Unlock()
		if random.Float64() >= share {
			return NoFault
		}
		return Fault(1 + random.IntN(int(Failed)))
	}
}
