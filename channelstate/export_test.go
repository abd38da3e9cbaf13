package channelstate

// Waiting is how many operations wait on a channel for their batch.
func (l *Ledger) Waiting(key Key) int {
	q := l.queues.acquire(&key, true)
	defer l.queues.release(q)
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}
