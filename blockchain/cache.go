package blockchain

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ethereum/go-ethereum/common/lru"
	"github.com/holiman/uint256"
	"go.uber.org/zap"
)

var (
	// ErrChannelNotFound: the contract has no such channel, or not yet under
	// enough confirmations.
	ErrChannelNotFound = errors.New("channel not found")
	// ErrTooManyReads: answering would need the chain to be read, and the budget
	// for that is used up. It can be tried again in a second.
	ErrTooManyReads = errors.New("too many unknown channels are asked for")
)

const (
	cachedChannels = 100_000 // about 40 MB
	readAttempts   = 3       // of one read that keeps being overtaken by the chain
)

// ChannelReader reads the MPE contract; *Escrow is one.
type ChannelReader interface {
	Channel(ctx context.Context, id *uint256.Int, block *big.Int) (Channel, error)
	ChannelAt(ctx context.Context, id *uint256.Int, block BlockRef) (Channel, error)
	NextChannelID(ctx context.Context) (uint256.Int, error)
	Events(ctx context.Context, from, to uint64) ([]ChannelEvent, error)
}

// ChainHead is what the cache needs of Head.
type ChainHead interface {
	Recent() (BlockRef, bool)
	Latest(ctx context.Context) (BlockRef, error)
	OnReorganisation(listener func(fork uint64))
	OnBlock(listener func(ctx context.Context, block BlockRef))
}

// ChannelCache holds the channels of one MPE contract.
//
// A cached channel is served without asking the chain although it may be old:
// before it expires only its recipient, the provider, can lower its value or
// raise its nonce, so the copy is a lower bound. The caller asks for Refresh
// where the copy would refuse a payment. The one way in which a channel can
// change hands is a reorganisation: what was read at or after the fork is
// dropped.
//
// What a stranger can make it read is bounded: ids the contract has not given
// out are refused by comparing with the next id, existing channels are read once,
// each under the budget of the client's address and of all clients together.
type ChannelCache struct {
	escrow   ChannelReader
	head     ChainHead
	settings Settings
	logger   *zap.Logger
	now      func() time.Time
	budgets  *budgets
	requests atomic.Uint64

	reads     *flights[uint256.Int, reading]
	nextReads *flights[struct{}, uint256.Int]

	mu       sync.Mutex
	channels lru.BasicLRU[uint256.Int, cachedChannel]
	// reorganisations counts them: a read that saw another count is void.
	reorganisations uint64
	nextID          *uint256.Int // nil: not known
	followed        uint64       // events up to this block were applied
}

// cachedChannel is a channel as of one block.
type cachedChannel struct {
	channel   Channel
	block     uint64
	confirmed bool // the channel existed blockchain.confirmations blocks earlier
}

// NewChannelCache makes a cache that follows head. It owns no goroutine: events
// are followed while head runs.
func NewChannelCache(escrow ChannelReader, head ChainHead, settings Settings, logger *zap.Logger) *ChannelCache {
	if logger == nil {
		logger = zap.NewNop()
	}
	cache := &ChannelCache{
		escrow:    escrow,
		head:      head,
		settings:  settings,
		logger:    logger.Named("channels"),
		now:       time.Now,
		budgets:   newBudgets(),
		reads:     newFlights[uint256.Int, reading](),
		nextReads: newFlights[struct{}, uint256.Int](),
		channels:  lru.NewBasicLRU[uint256.Int, cachedChannel](cachedChannels),
	}
	head.OnReorganisation(cache.dropFrom)
	head.OnBlock(cache.follow)
	return cache
}

// Get answers a channel from the cache, or reads it once. client is the address
// of the caller whose budget a read is counted against; "" for none. Errors:
// ErrChannelNotFound, ErrTooManyReads, ErrChainUnavailable, or that of ctx.
func (c *ChannelCache) Get(ctx context.Context, id *uint256.Int, client string) (Channel, error) {
	if channel, found, err := c.lookup(id); found {
		return channel, err
	}
	read, err := c.reads.do(ctx, *id, false, c.admission(client), c.reader(*id))
	return read.channel, err
}

func (c *ChannelCache) admission(client string) func() error {
	return func() error {
		if !c.budgets.allowClient(client, c.now()) {
			return fmt.Errorf("%w by this client", ErrTooManyReads)
		}
		return nil
	}
}

// Refresh reads a channel again. It waits a second at most for the channel's
// budget (10 at once, then 5 a second); when that would be longer, or the budget
// of all channels is used up, the cached one is the answer. Errors as of
// Get; when the chain can't be asked the cached channel stays usable by Get.
func (c *ChannelCache) Refresh(ctx context.Context, id *uint256.Int) (Channel, error) {
	channel, _, err := c.Reread(ctx, id)
	return channel, err
}

// Reread is Refresh, and tells whether the chain was asked after the call began. Only then does the answer say
// something about the chain as it is.
func (c *ChannelCache) Reread(ctx context.Context, id *uint256.Int) (channel Channel, fresh bool, err error) {
	channel, found, err := c.lookup(id)
	if found && !c.budgets.awaitRefresh(ctx, id, c.now()) {
		return channel, false, err
	}
	admit := always
	if !found {
		admit = c.admission("")
	}
	// A channel that is not cached is read whether or not it is forced to be.
	read, err := c.reads.do(ctx, *id, found, admit, c.reader(*id))
	return read.channel, read.fresh, err
}

// Requests is the number of requests to the chain this cache caused.
func (c *ChannelCache) Requests() uint64 { return c.requests.Load() }

// Len is the number of channels held.
func (c *ChannelCache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.channels.Len()
}

// lookup answers from memory alone. A channel that waits for confirmations is
// found, with an error, until there is another block.
func (c *ChannelCache) lookup(id *uint256.Int) (channel Channel, found bool, err error) {
	c.mu.Lock()
	cached, found := c.channels.Get(*id)
	c.mu.Unlock()
	if !found {
		return Channel{}, false, nil
	}
	if cached.confirmed {
		return cached.channel, true, nil
	}
	if head, known := c.head.Recent(); known && head.Number <= cached.block {
		return Channel{}, true, c.unconfirmed(id)
	}
	return Channel{}, false, nil
}

func (c *ChannelCache) unconfirmed(id *uint256.Int) error {
	return fmt.Errorf("%w: channel %s was opened too recently, it is served after %d more blocks at most (blockchain.confirmations)",
		ErrChannelNotFound, id.Dec(), c.settings.Confirmations)
}

// store keeps what was read unless the chain went on under the read: after a
// reorganisation the channel may be another one, and an event that was applied
// before it came here is lost on it.
func (c *ChannelCache) store(read cachedChannel, reorganisations uint64) (kept, void bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reorganisations != reorganisations {
		return false, true
	}
	if read.block < c.followed {
		return false, false
	}
	if c.followed == 0 {
		c.followed = read.block
	}
	c.channels.Add(read.channel.ID, read)
	return true, false
}

func (c *ChannelCache) remove(id *uint256.Int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.channels.Remove(*id)
}
