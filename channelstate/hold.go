package channelstate

import (
	"context"
	"slices"
)

// held is a channel on which nothing else of this process works until it is let go.
type held struct {
	queue *channelQueue
	op    *operation
}

// hold waits until it is this caller's turn on the channel. Who holds several
// channels must ask for them in one order.
func (l *Ledger) hold(ctx context.Context, key *Key) (*held, error) {
	q := l.queues.acquire(key, false)
	if q == nil {
		return nil, errClosed
	}
	op := newOperation(operationHold)
	op.urgent = true
	if lead, _ := q.join(op, 0); lead {
		return &held{q, op}, nil
	}
	select {
	case <-op.wake: // to lead: no leader takes a hold into its batch
		return &held{q, op}, nil
	case <-ctx.Done():
		q.leave(op)
		l.queues.release(q)
		return nil, ctx.Err()
	}
}

func (l *Ledger) letGo(h *held) {
	h.queue.mu.Lock()
	position := slices.Index(h.queue.waiting, h.op)
	h.queue.waiting = slices.Delete(h.queue.waiting, position, position+1)
	h.queue.handOver()
	h.queue.mu.Unlock()
	h.op.recycle()
	l.queues.release(h.queue)
}
