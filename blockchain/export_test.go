package blockchain

import "time"

// SetClock replaces the clock of a head and of the cache on it.
func SetClock(head *Head, cache *ChannelCache, now func() time.Time) {
	head.now, head.started = now, now()
	if cache != nil {
		cache.now = now
	}
}

// Subscribed tells whether new blocks are announced to head.
func Subscribed(head *Head) bool { return head.subscribed.Load() }
