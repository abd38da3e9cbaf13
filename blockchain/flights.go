package blockchain

import (
	"context"
	"sync"
)

// flights runs at most one call per key at a time. Who comes while one is under
// way waits for the next one, together with everyone else who came meanwhile:
// the one under way may have looked at the chain before the newcomer's
// transaction was mined. A caller that gives up does not end the call.
type flights[K comparable, T any] struct {
	mu     sync.Mutex
	queues map[K]*queue[T]
}

// queue is a key with a call under way and, maybe, one that starts after it.
type queue[T any] struct {
	waiting *flight[T]
}

type flight[T any] struct {
	run   func(force bool) (T, error)
	force bool // one of the callers wants the chain asked, whatever is cached
	done  chan struct{}
	value T
	err   error
}

func newFlights[K comparable, T any]() *flights[K, T] {
	return &flights[K, T]{queues: make(map[K]*queue[T])}
}

// do answers what run answers. admit is asked, and may refuse, only when this
// caller causes a call that nobody else waits for.
func (f *flights[K, T]) do(ctx context.Context, key K, force bool, admit func() error, run func(force bool) (T, error)) (T, error) {
	joined, err := f.join(key, force, admit, run)
	if err != nil {
		var none T
		return none, err
	}
	select {
	case <-joined.done:
		return joined.value, joined.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func (f *flights[K, T]) join(key K, force bool, admit func() error, run func(force bool) (T, error)) (*flight[T], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	line, busy := f.queues[key]
	if busy && line.waiting != nil {
		line.waiting.force = line.waiting.force || force
		return line.waiting, nil
	}
	if err := admit(); err != nil {
		return nil, err
	}
	created := &flight[T]{run: run, force: force, done: make(chan struct{})}
	if busy {
		line.waiting = created
		return created, nil
	}
	f.queues[key] = &queue[T]{}
	go f.fly(key, created)
	return created, nil
}

func (f *flights[K, T]) fly(key K, current *flight[T]) {
	for current != nil {
		current.value, current.err = current.run(current.force)
		close(current.done)

		f.mu.Lock()
		line := f.queues[key]
		current, line.waiting = line.waiting, nil
		if current == nil {
			delete(f.queues, key)
		}
		f.mu.Unlock()
	}
}

// always admits everyone.
func always() error { return nil }
