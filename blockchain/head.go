package blockchain

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// ErrHeadStale: the node has not confirmed the newest block for too long, so the
// height of the chain is not known well enough to accept payments.
var ErrHeadStale = errors.New("the height of the chain is not known")

const (
	// How often callers of Refresh can make the node be asked.
	headRefreshBurst = 5
	headRefreshRate  = 1 // a second

	// A node that answers older blocks for this long does not lag: the chain was
	// set back (a development chain, or a provider that changed its mind).
	setBackAfter = 10 * time.Second

	longestKeepAlive = 15 * time.Second
)

// Head follows the newest block of the chain and notices reorganisations. It is
// safe for concurrent use.
type Head struct {
	source   headSource
	settings Settings
	logger   *zap.Logger
	count    func() // of requests made past the client
	now      func() time.Time
	started  time.Time

	state      atomic.Pointer[headState]
	subscribed atomic.Bool
	asking     *flights[struct{}, BlockRef]
	refreshes  *rate.Limiter

	// updating is held while an answer is placed, which may ask the node again.
	updating     sync.Mutex
	known        knownBlocks
	behindSince  time.Time
	lastNotified BlockRef // only Run uses it

	listeners        sync.Mutex
	onReorganisation []func(fork uint64)
	onBlock          []func(ctx context.Context, block BlockRef)
}

type headState struct {
	block     BlockRef
	confirmed time.Time // when the node was asked for the answer that confirmed block
}

// NewHead prepares a follower; Run makes it follow. client is *Client,
// *ethclient.Client or the client of a simulated backend.
func NewHead(client headerReader, settings Settings, logger *zap.Logger) *Head {
	if logger == nil {
		logger = zap.NewNop()
	}
	head := &Head{
		source:    newHeadSource(client),
		settings:  settings,
		logger:    logger.Named("head"),
		count:     func() {},
		now:       time.Now,
		asking:    newFlights[struct{}, BlockRef](),
		refreshes: rate.NewLimiter(headRefreshRate, headRefreshBurst),
	}
	if counter, ok := client.(interface{ countRequest() }); ok {
		head.count = counter.countRequest
	}
	head.started = head.now()
	return head
}

// Block is the number of the newest block. ErrHeadStale when the node has not
// confirmed it within blockchain.max_block_age.
func (h *Head) Block() (uint64, error) {
	state := h.state.Load()
	if state == nil {
		return 0, fmt.Errorf("%w: the node has not answered since start, %s ago", ErrHeadStale, h.Age().Round(time.Second))
	}
	if age := h.now().Sub(state.confirmed); age > h.settings.MaxBlockAge {
		return 0, fmt.Errorf("%w: the node last confirmed block %d %s ago, blockchain.max_block_age is %s",
			ErrHeadStale, state.block.Number, age.Round(time.Second), h.settings.MaxBlockAge)
	}
	return state.block.Number, nil
}

// Age is how long ago the node last confirmed the newest block; since start if
// it never did. The time stamp of the block plays no part.
func (h *Head) Age() time.Duration {
	if state := h.state.Load(); state != nil {
		return h.now().Sub(state.confirmed)
	}
	return h.now().Sub(h.started)
}

// Recent is the newest block if the node confirmed it so lately that its state
// can stand for the chain's.
func (h *Head) Recent() (BlockRef, bool) {
	state := h.state.Load()
	if state == nil || h.now().Sub(state.confirmed) > 2*longestKeepAlive {
		return BlockRef{}, false
	}
	return state.block, true
}

// Refresh asks the node for the newest block now, at most once a second in the
// long run. When the bucket is empty or the node does not answer it is Block.
func (h *Head) Refresh(ctx context.Context) (uint64, error) {
	if !h.refreshes.AllowN(h.now(), 1) {
		return h.Block()
	}
	block, err := h.Latest(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return h.Block()
	}
	return block.Number, nil
}

// Latest asks the node for the newest block now. The answer is never older than
// the call; calls made together share one request. It is for callers that bound
// themselves how often they ask.
func (h *Head) Latest(ctx context.Context) (BlockRef, error) {
	return h.asking.do(ctx, struct{}{}, true, always, func(bool) (BlockRef, error) {
		detached, cancel := context.WithTimeout(context.Background(), h.settings.RequestTimeout)
		defer cancel()
		asked := h.now()
		block, err := h.source.header(detached, nil)
		if err != nil {
			return BlockRef{}, fmt.Errorf("the newest block could not be read: %w", err)
		}
		return h.observe(detached, block, asked)
	})
}

// OnReorganisation registers what is to be told the lowest number whose block
// may have been replaced. By then Latest and Recent answer the new chain. Call
// it before Run.
func (h *Head) OnReorganisation(listener func(fork uint64)) {
	h.listeners.Lock()
	defer h.listeners.Unlock()
	h.onReorganisation = append(h.onReorganisation, listener)
}

// OnBlock registers what Run tells each new head, one after the other. Call it
// before Run.
func (h *Head) OnBlock(listener func(ctx context.Context, block BlockRef)) {
	h.listeners.Lock()
	defer h.listeners.Unlock()
	h.onBlock = append(h.onBlock, listener)
}

// observe takes in what a node says is its newest block.
func (h *Head) observe(ctx context.Context, block blockHeader, asked time.Time) (BlockRef, error) {
	h.updating.Lock()
	defer h.updating.Unlock()
	hashAt := func(number uint64) (common.Hash, error) {
		header, err := h.source.header(ctx, &number)
		return header.Hash, err
	}
	result, fork, err := h.known.place(block, hashAt)
	if err != nil {
		return BlockRef{}, err
	}
	if result != blockIsBehind {
		h.behindSince = time.Time{}
	} else if h.isSetBack(block.Number) {
		result = blockForks
		if fork, err = h.known.rewind(block, hashAt); err != nil {
			return BlockRef{}, err
		}
		h.behindSince = time.Time{}
	}
	return h.publish(result, block, fork, asked), nil
}

// isSetBack tells whether older blocks have been answered for long enough to
// believe them. A node far behind is believed only once the height is stale
// anyway: a lower one lets channels be paid from that are about to expire.
func (h *Head) isSetBack(number uint64) bool {
	if h.behindSince.IsZero() {
		h.behindSince = h.now()
	}
	patience := setBackAfter
	if last, _ := h.known.last(); last.Number-number > keptBlocks {
		patience = h.settings.MaxBlockAge
	}
	return h.now().Sub(h.behindSince) >= patience
}

func (h *Head) publish(result placement, block blockHeader, fork uint64, asked time.Time) BlockRef {
	last, _ := h.known.last()
	state := h.state.Load()
	switch {
	case result == blockIsBehind && last.Number-block.Number > keptBlocks:
		return last // too far behind to confirm anything
	case state != nil && state.block == last && state.confirmed.After(asked):
		return last // a newer answer overtook this one
	}
	h.state.Store(&headState{block: last, confirmed: asked})
	if result == blockForks {
		h.logger.Warn("the chain was reorganised",
			zap.Uint64("fork_block", fork), zap.Uint64("head", last.Number), zap.Stringer("head_hash", last.Hash))
		h.listeners.Lock()
		listeners := h.onReorganisation
		h.listeners.Unlock()
		// Only now: whoever starts to read after being told reads the new chain.
		for _, listener := range listeners {
			listener(fork)
		}
	}
	return last
}

// notify tells the listeners of OnBlock when there is a new head.
func (h *Head) notify(ctx context.Context) {
	state := h.state.Load()
	if state == nil || state.block == h.lastNotified {
		return
	}
	h.lastNotified = state.block
	h.listeners.Lock()
	listeners := h.onBlock
	h.listeners.Unlock()
	for _, listener := range listeners {
		listener(ctx, state.block)
	}
}
