package authz

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

const (
	refundAttemptTimeout = 5 * time.Second
	queueFullWait        = 250 * time.Millisecond // how long a full queue may hold up the access log
	retryFirst           = 50 * time.Millisecond
	retryLongest         = 5 * time.Second
)

type refundFunction func(ctx context.Context, charged *envoy.Charged) (channelstate.RefundOutcome, error)

// refunds gives charges back on its own time: the call that was charged is over, and its context with it.
type refunds struct {
	refund   refundFunction
	retryFor time.Duration
	metrics  *metrics
	logger   *zap.Logger

	queue   chan *envoy.Charged
	work    context.Context // ends when waiting for the refunds under way is over
	stop    context.CancelFunc
	workers sync.WaitGroup
	lost    atomic.Uint64

	mutex  sync.RWMutex // guards closed and the closing of queue
	closed bool
}

func startRefunds(settings SettlementSettings, refund refundFunction, metrics *metrics, logger *zap.Logger) *refunds {
	r := &refunds{
		refund: refund, retryFor: settings.RetryFor, metrics: metrics, logger: logger,
		queue: make(chan *envoy.Charged, settings.QueueLength),
	}
	r.work, r.stop = context.WithCancel(context.Background())
	for range settings.Workers {
		r.workers.Go(r.run)
	}
	return r
}

func (r *refunds) waiting() int {
	if r == nil {
		return 0
	}
	return len(r.queue)
}

// add hands a charge to the workers. A full queue holds the caller up for a moment, which slows Envoy's log down; a
// charge that finds no place then is lost.
func (r *refunds) add(charged *envoy.Charged) {
	r.mutex.RLock()
	defer r.mutex.RUnlock()
	if r.closed {
		r.lose(charged, lostStopped, nil)
		return
	}
	select {
	case r.queue <- charged:
		return
	default:
	}
	timer := time.NewTimer(queueFullWait)
	defer timer.Stop()
	select {
	case r.queue <- charged:
	case <-timer.C:
		r.lose(charged, lostQueueFull, nil)
	}
}

func (r *refunds) run() {
	for charged := range r.queue {
		r.giveBack(charged)
	}
}

// giveBack tries until the ledger has answered, within bounds.
func (r *refunds) giveBack(charged *envoy.Charged) {
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval, delay.MaxInterval = retryFirst, retryLongest
	result, err := backoff.Retry(r.work, func() (channelstate.RefundOutcome, error) { return r.attempt(charged) },
		backoff.WithBackOff(delay), backoff.WithMaxElapsedTime(r.retryFor),
		backoff.WithNotify(func(error, time.Duration) { r.metrics.refundRetries.Inc() }))
	switch {
	case err == nil:
		r.metrics.refunded(result)
		r.report(charged, result)
	case errors.Is(err, errMalformedCharge), errors.Is(err, errNothingToRefund):
		r.lose(charged, lostMalformed, err)
	case r.work.Err() != nil:
		r.lose(charged, lostStopped, err)
	default:
		r.lose(charged, lostFailed, err)
	}
}

func (r *refunds) attempt(charged *envoy.Charged) (result channelstate.RefundOutcome, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			r.metrics.panics.Inc()
			err = fmt.Errorf("the refund panicked: %s", faultText(fault))
		}
	}()
	ctx, cancel := context.WithTimeout(r.work, refundAttemptTimeout)
	defer cancel()
	started := time.Now()
	result, err = r.refund(ctx, charged)
	r.metrics.refundSeconds.Observe(time.Since(started).Seconds())
	if errors.Is(err, errMalformedCharge) || errors.Is(err, errNothingToRefund) {
		return result, backoff.Permanent(err)
	}
	return result, err
}

func (r *refunds) report(charged *envoy.Charged, result channelstate.RefundOutcome) {
	switch result {
	case channelstate.TooLate, channelstate.NotCharged:
		// The client has paid for a call that failed: an operator may want to make it good.
		r.logger.Warn("a charge could not be given back", append(describe(charged), zap.Stringer("outcome", result))...)
		return
	}
	if entry := r.logger.Check(zap.DebugLevel, "charge refunded"); entry != nil {
		entry.Write(append(describe(charged), zap.Stringer("outcome", result))...)
	}
}

// lose says that a charge will not be given back, with all that is needed to do it by hand.
func (r *refunds) lose(charged *envoy.Charged, reason string, err error) {
	r.lost.Add(1)
	r.metrics.refundsLost.WithLabelValues(reason).Inc()
	r.logger.Error("a refund was lost", append(describe(charged), zap.String("reason", reason), zap.Error(err))...)
}

func describe(charged *envoy.Charged) []zap.Field {
	return []zap.Field{
		zap.String("charge", shown(charged.ID)), zap.String("payment_type", shown(charged.PaymentType)),
		zap.String("channel", shown(charged.Channel)), zap.String("nonce", shown(charged.Nonce)),
		zap.String("amount", shown(charged.Amount)), zap.String("price", shown(charged.Price)),
		zap.String("chain_id", shown(charged.ChainID)), zap.String("mpe", shown(charged.MPE)),
		zap.String("group", shown(charged.Group)),
	}
}

// close takes no more refunds and waits for the workers to finish the queue. When the context ends first, the rest
// counts as lost and close says how many.
func (r *refunds) close(ctx context.Context) error {
	r.mutex.Lock()
	if !r.closed {
		r.closed = true
		close(r.queue)
	}
	r.mutex.Unlock()
	lostBefore := r.lost.Load()
	done := make(chan struct{})
	go func() {
		r.workers.Wait()
		close(done)
	}()
	select {
	case <-done:
		r.stop()
		return nil
	case <-ctx.Done():
	}
	r.stop()
	// The workers end now, unless the ledger does not heed its context.
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	if lost := r.lost.Load() - lostBefore; lost > 0 {
		return fmt.Errorf("%d refunds were lost, see the log: %w", lost, ctx.Err())
	}
	return nil
}
