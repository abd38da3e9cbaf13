package channelstate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holiman/uint256"
)

// ChannelError says which of several channels an error is of.
type ChannelError struct {
	Channel uint256.Int
	Err     error
}

// Error names the channel.
func (e *ChannelError) Error() string { return fmt.Sprintf("channel %s: %v", e.Channel.Dec(), e.Err) }

// Unwrap is the error of the channel.
func (e *ChannelError) Unwrap() error { return e.Err }

// rule computes what to write for one of several channels from its record, in
// a transaction that has a record, claims and settled claims.
type rule func(i int, record *Record) (*Transaction, error)

// together writes several channels, in ascending order, in one transaction:
// all or none. The rule may be asked several times. An error is a
// *ChannelError when the rule refuses, the context's, or wraps ErrUnavailable:
// then it may have happened.
func (l *Ledger) together(ctx context.Context, keys []Key, rule rule) error {
	store := l.stores(keys[0])
	channels := make([]*held, 0, len(keys))
	defer func() {
		for _, channel := range channels {
			l.letGo(channel)
		}
	}()
	for i := range keys {
		if l.stores(keys[i]) != store {
			return fmt.Errorf("%w: the channels are kept in several stores and cannot be written together", ErrUnavailable)
		}
		channel, err := l.hold(ctx, &keys[i])
		if err != nil {
			return err
		}
		channels = append(channels, channel)
	}
	return l.writeHeld(ctx, store, channels, rule)
}

func (l *Ledger) writeHeld(ctx context.Context, store Store, channels []*held, rule rule) error {
	confirmed := false // the records are what the store had lately: a refusal holds
	pause := newPause(500*time.Microsecond, 30*time.Millisecond)
	for attempt := 1; ; attempt++ {
		transactions, err := l.draftHeld(store, channels, rule)
		var refused *ChannelError
		switch {
		case errors.As(err, &refused) && !confirmed:
			forget(channels)
			confirmed = true
			continue
		case err != nil:
			return err
		}
		applied, err := l.commitHeld(store, channels, transactions)
		switch {
		case err != nil:
			forget(channels)
			return unavailable(err)
		case applied:
			return nil
		}
		confirmed = true
		l.counters.conflicts.Add(1)
		if attempt == maxAttempts {
			return unavailable(errors.New("one of the channels is written by others too often"))
		}
		if !pause.wait(ctx) {
			return ctx.Err()
		}
	}
}

// draftHeld applies the rule to every channel.
func (l *Ledger) draftHeld(store Store, channels []*held, rule rule) ([]*Transaction, error) {
	transactions := make([]*Transaction, len(channels))
	for i, channel := range channels {
		q := channel.queue
		if !q.known {
			stored, err := l.loadHeld(store, q.key)
			if err != nil {
				return nil, unavailable(err)
			}
			q.stored, q.known = stored, true
		}
		transaction, err := rule(i, q.stored.Record)
		if err != nil {
			return nil, &ChannelError{Channel: q.key.Channel, Err: err}
		}
		transaction.Key, transaction.Base = q.key, q.stored
		transaction.Record.Batch = newBatchID()
		transactions[i] = transaction
	}
	return transactions, nil
}

func (l *Ledger) loadHeld(store Store, key Key) (Stored, error) {
	ctx, cancel := context.WithTimeout(l.base, l.requestTimeout)
	defer cancel()
	l.counters.reads.Add(1)
	return store.Load(ctx, key)
}

// commitHeld sends the transactions until it is known what became of them, or
// says that nobody knows.
func (l *Ledger) commitHeld(store Store, channels []*held, transactions []*Transaction) (applied bool, err error) {
	ctx, cancel := context.WithTimeout(l.base, resolveRequests*l.requestTimeout)
	defer cancel()
	pause := newPause(5*time.Millisecond, 500*time.Millisecond)
	for lost := false; ; lost = true {
		applied, stored, err := l.commitAll(ctx, store, transactions)
		if err == nil && !applied {
			applied, err = l.appliedBefore(ctx, store, transactions, stored)
		}
		if err == nil {
			for i, channel := range channels {
				channel.queue.stored = stored[i]
			}
			return applied, nil
		}
		if isKnown(err) && !lost {
			return false, err
		}
		if !lost {
			l.counters.lostReplies.Add(1)
		}
		if !pause.wait(ctx) {
			return false, err
		}
	}
}

func (l *Ledger) commitAll(ctx context.Context, store Store, transactions []*Transaction) (bool, []Stored, error) {
	ctx, cancel := context.WithTimeout(ctx, l.requestTimeout)
	defer cancel()
	l.counters.transactions.Add(1)
	return store.CommitAll(ctx, transactions)
}

// appliedBefore tells whether an earlier attempt to send transactions that were
// turned away now was applied. If it was, every record is beyond its base.
func (l *Ledger) appliedBefore(ctx context.Context, store Store, transactions []*Transaction, stored []Stored) (bool, error) {
	for i, transaction := range transactions {
		if stored[i].Version <= transaction.Base.Version {
			return false, nil // and it never will be: the record that has changed does not return to its revision
		}
	}
	for i, transaction := range transactions {
		if stored[i].Version == transaction.Base.Version+1 {
			return transaction.wroteLast(&stored[i]), nil
		}
	}
	first := transactions[0]
	ctx, cancel := context.WithTimeout(ctx, l.requestTimeout)
	defer cancel()
	batch, err := store.BatchAfter(ctx, first.Key, first.Base)
	return err == nil && batch == first.Record.Batch, err
}

// forget makes the records be read again.
func forget(channels []*held) {
	for _, channel := range channels {
		channel.queue.stored, channel.queue.known = Stored{}, false
	}
}
