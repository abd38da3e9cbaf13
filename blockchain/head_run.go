package blockchain

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"
)

// Run follows the chain until ctx ends, then returns nil. With a WebSocket URL
// new blocks are announced by the node and polled for only now and then, to see
// that the node is there; without one, or while the connection is down, they are
// polled for. Run may be called once.
func (h *Head) Run(ctx context.Context) error {
	announced := make(chan blockHeader)
	wake := make(chan struct{}, 1)
	var background sync.WaitGroup
	defer background.Wait()
	if h.settings.WebSocketURL != "" {
		background.Go(func() { h.subscribe(ctx, announced, wake) })
	}

	poller := poller{head: h, retry: h.pollRetry()}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case block := <-announced:
			poller.take(ctx, block)
			continue
		case <-wake:
		case <-timer.C:
		}
		timer.Reset(poller.poll(ctx))
	}
}

// pollRetry spaces polls of a node that does not answer, close enough not to
// lose the height of the chain for want of asking.
func (h *Head) pollRetry() *backoff.ExponentialBackOff {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval = h.settings.PollInterval
	retry.MaxInterval = max(h.settings.PollInterval, h.keepAlive())
	return retry
}

// keepAlive is the time between polls while new blocks are announced.
func (h *Head) keepAlive() time.Duration {
	return max(h.settings.PollInterval, min(longestKeepAlive, h.settings.MaxBlockAge/4))
}

// poller is the state of Run's loop.
type poller struct {
	head    *Head
	retry   *backoff.ExponentialBackOff
	failing bool
}

// poll asks once and answers when to ask again.
func (p *poller) poll(ctx context.Context) time.Duration {
	_, err := p.head.Latest(ctx)
	if ctx.Err() != nil {
		return 0
	}
	p.report(err)
	if err != nil {
		return p.retry.NextBackOff()
	}
	p.retry.Reset()
	p.head.notify(ctx)
	if p.head.subscribed.Load() {
		return p.head.keepAlive()
	}
	return p.head.settings.PollInterval
}

// take places an announced block. A fault is left to the next poll to report.
func (p *poller) take(ctx context.Context, block blockHeader) {
	bounded, cancel := context.WithTimeout(ctx, p.head.settings.RequestTimeout)
	defer cancel()
	if _, err := p.head.observe(bounded, block, p.head.now()); err != nil {
		p.head.logger.Debug("an announced block could not be placed", zap.Uint64("block", block.Number), zap.Error(err))
		return
	}
	p.head.notify(ctx)
}

// report logs when the node stops and starts to answer, not every failure.
func (p *poller) report(err error) {
	if (err != nil) == p.failing {
		return
	}
	p.failing = err != nil
	if p.failing {
		p.head.logger.Warn("the node does not answer: known channels are served until the age reaches blockchain.max_block_age",
			zap.Error(err), zap.Duration("age", p.head.Age()), zap.Duration("max_block_age", p.head.settings.MaxBlockAge))
		return
	}
	state := p.head.state.Load()
	p.head.logger.Info("the node answers again", zap.Uint64("block", state.block.Number))
}

// subscribe keeps a subscription to new blocks alive until ctx ends.
func (h *Head) subscribe(ctx context.Context, announced chan<- blockHeader, wake chan<- struct{}) {
	retry := backoff.NewExponentialBackOff()
	retry.MaxInterval = 30 * time.Second
	failing := false
	for {
		err := h.listen(ctx, announced, func() {
			retry.Reset()
			failing = false
			h.logger.Info("new blocks are announced by the node", zap.String("websocket_url", RedactURL(h.settings.WebSocketURL)))
		})
		h.subscribed.Store(false)
		if ctx.Err() != nil {
			return
		}
		if !failing {
			failing = true
			h.logger.Warn("no announcements of new blocks, polling instead",
				zap.Error(err), zap.Duration("poll_interval", h.settings.PollInterval))
		}
		select {
		case wake <- struct{}{}: // the poll due next may be a keep-alive away
		default:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry.NextBackOff()):
		}
	}
}

// listen passes on announced blocks until the connection fails or ctx ends.
func (h *Head) listen(ctx context.Context, announced chan<- blockHeader, ready func()) error {
	client, err := dialWebSocket(ctx, h.settings, h.count)
	if err != nil {
		return err
	}
	defer client.Close()

	headers := make(chan *rpcHeader, 16)
	h.count()
	subscribing, cancel := context.WithTimeout(ctx, h.settings.RequestTimeout)
	defer cancel()
	subscription, err := client.EthSubscribe(subscribing, headers, "newHeads")
	if err != nil {
		return fmt.Errorf("the node refused to announce new blocks: %w", err)
	}
	defer subscription.Unsubscribe()
	h.subscribed.Store(true)
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-subscription.Err():
			return fmt.Errorf("the announcement of new blocks ended: %w", err)
		case raw := <-headers:
			block, err := raw.parse()
			if err != nil {
				return err
			}
			select {
			case announced <- block:
			case <-ctx.Done():
				return nil
			}
		}
	}
}
