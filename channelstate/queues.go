package channelstate

import "sync"

// channelQueues has the queue, and so the cached record, of each channel in
// use and of those used lately. One in use is never let go.
type channelQueues struct {
	most int

	mu             sync.Mutex // guards all below and the lists through the queues
	byKey          map[Key]*channelQueue
	oldest, newest *channelQueue // of those that nobody uses
	users          int           // of all queues
	closed         bool
	idle           chan struct{} // closed when closed and nobody uses a queue
}

func newChannelQueues(most int) *channelQueues {
	return &channelQueues{most: most, byKey: map[Key]*channelQueue{}, idle: make(chan struct{})}
}

// acquire returns the channel's queue until release; nil when closed, unless
// it is for work that had begun before.
func (c *channelQueues) acquire(key *Key, begun bool) *channelQueue {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed && !begun {
		return nil
	}
	q := c.byKey[*key]
	if q == nil {
		q = &channelQueue{key: *key}
		c.byKey[*key] = q
		c.evict()
	} else if q.users == 0 {
		c.unlink(q)
	}
	q.users++
	c.users++
	return q
}

// hold is acquire for a queue that the caller has already.
func (c *channelQueues) hold(q *channelQueue) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q.users++
	c.users++
}

func (c *channelQueues) release(q *channelQueue) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q.users--
	c.users--
	if q.users == 0 {
		q.older = c.newest
		if c.newest != nil {
			c.newest.newer = q
		} else {
			c.oldest = q
		}
		c.newest = q
		c.evict()
	}
	if c.closed && c.users == 0 {
		c.markIdle()
	}
}

// evict lets go of the channels that were not used for the longest time.
func (c *channelQueues) evict() {
	for len(c.byKey) > c.most && c.oldest != nil {
		q := c.oldest
		c.unlink(q)
		delete(c.byKey, q.key)
	}
}

func (c *channelQueues) unlink(q *channelQueue) {
	if q.older != nil {
		q.older.newer = q.newer
	} else {
		c.oldest = q.newer
	}
	if q.newer != nil {
		q.newer.older = q.older
	} else {
		c.newest = q.older
	}
	q.older, q.newer = nil, nil
}

// close turns new callers away; idle is closed once the last one is through.
func (c *channelQueues) close() (idle <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.users == 0 {
		c.markIdle()
	}
	return c.idle
}

func (c *channelQueues) markIdle() {
	select {
	case <-c.idle:
	default:
		close(c.idle)
	}
}

func (c *channelQueues) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byKey)
}
