package channelstate

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// pause waits between attempts, each time about twice as long, with jitter so
// that replicas that collide do not collide again.
type pause struct{ backoff backoff.ExponentialBackOff }

func newPause(first, most time.Duration) *pause {
	return &pause{backoff.ExponentialBackOff{
		InitialInterval: first, MaxInterval: most, Multiplier: 2, RandomizationFactor: 0.5,
	}}
}

// wait is false when the context has ended instead.
func (p *pause) wait(ctx context.Context) bool {
	timer := time.NewTimer(p.backoff.NextBackOff())
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
