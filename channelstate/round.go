package channelstate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

// maxAttempts bounds how often a batch is tried again because another replica
// was faster.
const maxAttempts = 24

// lead works on what waits on the channel and then hands over. When the reply
// of a transaction was lost, a goroutine goes on leading and the callers wait.
func (l *Ledger) lead(q *channelQueue) {
	q.take()
	if lost := l.round(q); lost != nil {
		l.queues.hold(q)
		go l.resolve(q, lost)
		return
	}
	l.settle(q)
}

// round gives every operation of the batch its results, by one transaction or
// by none when nothing has to be written. It returns the transaction whose
// reply was lost; the results are then what they are if it was applied.
func (l *Ledger) round(q *channelQueue) (lost *Transaction) {
	store := l.stores(q.key)
	confirmed := !q.known // what this round itself has read is good for a refusal
	if !q.known && !l.load(q, store) {
		return nil
	}
	var pause *pause
	for attempt := 1; ; {
		draft := l.draft(q)
		if !draft.changed() {
			if !draft.unconfirmed || confirmed {
				return nil
			}
			if !l.load(q, store) {
				return nil
			}
			confirmed = true
			continue
		}
		transaction := draft.transaction(q.key)
		result, err := l.commit(l.base, store, transaction)
		if !isKnown(err) {
			l.counters.lostReplies.Add(1)
			return transaction
		}
		if err != nil {
			l.fail(q, err)
			return nil
		}
		q.stored = result.Stored
		if result.Applied || transaction.wroteLast(&result.Stored) {
			l.wrote(q, transaction)
			return nil
		}
		confirmed = true
		l.counters.conflicts.Add(1)
		q.markRepeated(result.Refunded)
		if pause == nil {
			pause = newPause(500*time.Microsecond, 30*time.Millisecond)
		}
		if attempt++; attempt > maxAttempts || !pause.wait(l.base) {
			l.fail(q, fmt.Errorf("channel %s is written by others too often", q.key.Channel.Dec()))
			return nil
		}
		q.dropAbandoned()
	}
}

// load reads the record; when it cannot, the batch has failed.
func (l *Ledger) load(q *channelQueue, store Store) bool {
	ctx, cancel := context.WithTimeout(l.base, l.requestTimeout)
	defer cancel()
	l.counters.reads.Add(1)
	stored, err := store.Load(ctx, q.key)
	if err != nil {
		l.fail(q, err)
		return false
	}
	q.stored, q.known = stored, true
	return true
}

func (l *Ledger) commit(ctx context.Context, store Store, transaction *Transaction) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, l.requestTimeout)
	defer cancel()
	l.counters.transactions.Add(1)
	return store.Commit(ctx, transaction)
}

// fail gives the whole batch the same error.
func (l *Ledger) fail(q *channelQueue, err error) {
	q.stored, q.known = Stored{}, false
	err = unavailable(err)
	for _, op := range q.batch {
		op.err, op.charged, op.outcome, op.claim = err, false, 0, Claim{}
	}
	l.counters.unavailable.Add(uint64(len(q.batch)))
}

// wrote counts what a transaction did.
func (l *Ledger) wrote(q *channelQueue, transaction *Transaction) {
	charged := uint64(0)
	for _, op := range q.batch {
		if op.charged {
			charged++
		}
	}
	if charged > 1 {
		l.counters.mergedCharges.Add(charged)
	}
	l.counters.asides.Add(uint64(len(transaction.Asides)))
	for i := range transaction.Asides {
		aside := &transaction.Asides[i]
		l.logger.Warn("the record of a channel no longer fits the blockchain and was set aside",
			zap.String("channel", aside.Channel.Dec()), zap.String("reason", string(aside.Reason)),
			zap.String("nonce", aside.Record.Nonce.Dec()), zap.String("spent", aside.Record.Spent.Dec()))
	}
}

// settle ends the leader's work on its batch.
func (l *Ledger) settle(q *channelQueue) {
	l.lookUpRefunds(q)
	for _, refund := range q.settle(l.count) {
		l.queues.hold(q)
		go l.giveBack(q, refund)
	}
}

// lookUpRefunds tells refunds that were delivered before from those of charges
// nobody knows: the record alone cannot.
func (l *Ledger) lookUpRefunds(q *channelQueue) {
	for _, op := range q.batch {
		if op.kind != operationRefund || (op.outcome != NotCharged && op.outcome != TooLate) {
			continue
		}
		ctx, cancel := context.WithTimeout(l.base, l.requestTimeout)
		known, err := l.stores(q.key).Refunded(ctx, q.key, op.refund.ID)
		cancel()
		switch {
		case err != nil:
			op.err, op.outcome = unavailable(err), 0
			l.counters.unavailable.Add(1)
		case known:
			op.outcome = AlreadyRefunded
		default:
			l.logger.Warn("a refund gave nothing back",
				append(refundFields(q.key, op.refund), zap.Stringer("outcome", op.outcome))...)
		}
	}
}

// count counts one settled operation.
func (l *Ledger) count(op *operation) {
	switch op.kind {
	case operationCharge, operationPrepaid:
		if op.err == nil {
			l.counters.charges.Add(1)
		} else if _, refused := op.err.(*Refusal); refused {
			l.counters.refusals.Add(1)
		}
		return
	case operationRaise:
		if op.err == nil {
			l.counters.raises.Add(1)
		} else if _, refused := op.err.(*Refusal); refused {
			l.counters.refusals.Add(1)
		}
		return
	}
	switch op.outcome {
	case Refunded, ClaimCorrected:
		l.counters.refunds.Add(1)
	case AlreadyRefunded:
		l.counters.repeatedRefunds.Add(1)
	case TooLate:
		l.counters.lateRefunds.Add(1)
	case NotCharged:
		l.counters.unknownRefunds.Add(1)
	}
}

// markRepeated notes the refunds that the store knows already.
func (q *channelQueue) markRepeated(refunds []ChargeID) {
	if len(refunds) == 0 {
		return
	}
	for _, op := range q.batch {
		if op.kind == operationRefund && slices.Contains(refunds, op.refund.ID) {
			op.repeated = true
		}
	}
}
