// Package bench measures calls through Envoy side by side in one run: with nothing in front, with an ext_authz that
// allows all, and paid. It is run by `task bench`; nothing in it is asserted.
package bench

import (
	"context"
	"slices"
	"sync"
	"time"
)

// load is a number of clients that call one after the other for a while.
type load struct {
	clients  int
	duration time.Duration
	call     func(ctx context.Context, client, number int) error
}

// result is what a load has seen.
type result struct {
	calls, failed  int
	elapsed        time.Duration
	median, tail99 time.Duration
	failure        error // one of those that failed
}

func (r result) perSecond() float64 { return float64(r.calls) / r.elapsed.Seconds() }

// run lets the clients call until the time is over. Calls under way then are finished and counted.
func (l load) run(ctx context.Context) result {
	var group sync.WaitGroup
	took := make([][]time.Duration, l.clients)
	failures := make([][]error, l.clients)
	began := time.Now()
	for client := range l.clients {
		group.Go(func() {
			for number := 0; time.Since(began) < l.duration && ctx.Err() == nil; number++ {
				started := time.Now()
				if err := l.call(ctx, client, number); err != nil {
					failures[client] = append(failures[client], err)
					continue
				}
				took[client] = append(took[client], time.Since(started))
			}
		})
	}
	group.Wait()
	return summary(slices.Concat(took...), slices.Concat(failures...), time.Since(began))
}

func summary(took []time.Duration, failures []error, elapsed time.Duration) result {
	r := result{calls: len(took), failed: len(failures), elapsed: elapsed}
	if len(failures) > 0 {
		r.failure = failures[0]
	}
	if len(took) > 0 {
		slices.Sort(took)
		r.median, r.tail99 = took[len(took)/2], took[len(took)*99/100]
	}
	return r
}
