package channelstate

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
)

// verdict is what became of a transaction whose reply was lost.
type verdict int

const (
	verdictUnknown verdict = iota
	verdictApplied
	verdictNotApplied // and never will be
)

// resolve leads on after a lost reply: it learns what became of the
// transaction, and tries the batch again if nothing did. Callers who have
// waited long enough get ErrUnavailable, and the search goes on without them.
func (l *Ledger) resolve(q *channelQueue, lost *Transaction) {
	defer l.queues.release(q)
	ctx, cancel := context.WithTimeout(l.base, resolveRequests*l.requestTimeout)
	defer cancel()
	for lost != nil {
		verdict, stored, err := l.learn(ctx, lost, q.wanted)
		switch verdict {
		case verdictApplied:
			q.stored, q.known = stored, true
			l.wrote(q, lost)
			lost = nil
		case verdictNotApplied:
			q.stored, q.known = stored, true
			q.dropAbandoned()
			lost = l.round(q)
		default:
			l.search(lost, q.charged())
			l.fail(q, err)
			lost = nil
		}
	}
	l.settle(q)
}

// charged are refunds of what the batch has charged if its transaction was applied.
func (q *channelQueue) charged() []Refund {
	var charged []Refund
	for _, op := range q.batch {
		if op.charged {
			charged = append(charged, op.refundOfCharge())
		}
	}
	return charged
}

// search learns in the background what became of a transaction whose callers
// have been told that it failed, and gives back what it has charged.
func (l *Ledger) search(lost *Transaction, charged []Refund) {
	if l.unresolved.Add(1) > maxUnresolved {
		l.unresolved.Add(-1)
		l.giveUp(lost, charged, errors.New("too many outcomes are unknown"))
		return
	}
	q := l.queues.acquire(&lost.Key, true)
	go func() {
		defer l.queues.release(q)
		defer l.unresolved.Add(-1)
		ctx, cancel := context.WithTimeout(l.base, backgroundLimit)
		defer cancel()
		verdict, _, err := l.learn(ctx, lost, func() bool { return false })
		switch verdict {
		case verdictApplied:
			for _, refund := range charged {
				l.giveBackLater(q, refund)
			}
		case verdictUnknown:
			l.giveUp(lost, charged, err)
		}
	}()
}

func (l *Ledger) giveUp(lost *Transaction, charged []Refund, err error) {
	l.counters.unresolved.Add(1)
	l.logger.Error("it is not known whether a transaction was written, compare the channel with its calls",
		zap.String("channel", lost.Key.Channel.Dec()), zap.Int64("version", lost.Base.Version+1),
		zap.Int("charges", len(charged)), zap.Int("refunds", len(lost.Refunds)), zap.Error(err))
	for _, refund := range charged {
		l.logger.Error("this charge may have been taken for a call that was not served", refundFields(lost.Key, refund)...)
	}
}

// learn asks until it knows what became of a transaction, or the context ends.
// It asks by sending the transaction again, which is applied at most once, or,
// when nobody wants it any more, by a fence that rules it out.
func (l *Ledger) learn(ctx context.Context, lost *Transaction, wanted func() bool) (verdict, Stored, error) {
	store := l.stores(lost.Key)
	fence := lost.fence()
	pause := newPause(5*time.Millisecond, 500*time.Millisecond)
	for {
		attempt := fence
		if wanted() {
			attempt = lost
		}
		result, err := l.commit(ctx, store, attempt)
		if err == nil {
			verdict, err := l.judge(ctx, store, lost, attempt, &result)
			if verdict != verdictUnknown || errors.Is(err, ErrHistoryGone) {
				return verdict, result.Stored, err
			}
		}
		if !pause.wait(ctx) {
			if err == nil {
				err = ctx.Err()
			}
			return verdictUnknown, Stored{}, err
		}
	}
}

// judge draws the conclusion from a definite result of an attempt.
func (l *Ledger) judge(ctx context.Context, store Store, lost, attempt *Transaction, result *Result) (verdict, error) {
	following := lost.Base.Version + 1
	switch {
	case result.Applied && attempt == lost:
		return verdictApplied, nil
	case result.Applied:
		return verdictNotApplied, nil
	case result.Stored.Version < following: // turned away for a refund that is known: it always would be
		return verdictNotApplied, nil
	case result.Stored.Version == following:
		if lost.wroteLast(&result.Stored) {
			return verdictApplied, nil
		}
		return verdictNotApplied, nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.requestTimeout)
	defer cancel()
	batch, err := store.BatchAfter(ctx, lost.Key, lost.Base)
	switch {
	case err != nil:
		return verdictUnknown, err
	case batch == lost.Record.Batch:
		return verdictApplied, nil
	default:
		return verdictNotApplied, nil
	}
}
