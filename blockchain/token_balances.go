package blockchain

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/lru"
	"github.com/holiman/uint256"
)

// How long what is known of a balance holds. Who has too little is looked at
// again soon, as he may just have bought tokens.
const (
	balanceHolds     = 10 * time.Minute
	lowBalanceHolds  = 15 * time.Second
	balanceOutlives  = time.Hour // while the node cannot be asked
	rememberedOwners = 10_000
	mostDecimals     = 77 // 10^77 is below 2^256
)

var (
	selectorBalanceOf = selector("balanceOf(address)") // ERC-20
	selectorDecimals  = selector("decimals()")
)

// TokenBalances knows who holds how much of the ERC-20 token that an MPE
// contract pays in. It asks the node seldom, and within bounds for each client
// and for all. It is safe for concurrent use.
type TokenBalances struct {
	escrow  *Escrow
	timeout time.Duration
	now     func() time.Time
	budgets *budgets
	reads   *flights[common.Address, uint256.Int]

	mu    sync.Mutex // guards all below
	token *tokenUnit
	known lru.BasicLRU[common.Address, knownBalance]
}

// tokenUnit is the token and how many cogs are one.
type tokenUnit struct {
	address common.Address
	cogs    uint256.Int
}

type knownBalance struct {
	cogs uint256.Int
	read time.Time
}

// NewTokenBalances makes one for the token of a contract. Nothing is asked yet.
func NewTokenBalances(escrow *Escrow, settings Settings) *TokenBalances {
	return &TokenBalances{
		escrow: escrow, timeout: settings.RequestTimeout, now: time.Now, budgets: newBudgets(),
		reads: newFlights[common.Address, uint256.Int](),
		known: lru.NewBasicLRU[common.Address, knownBalance](rememberedOwners),
	}
}

// Holds tells whether an owner has at least so many whole tokens, as of some
// minutes ago. client is the IP address of who asks, "" for ourselves. Errors
// wrap ErrTooManyReads, ErrChainUnavailable, or are the context's.
func (b *TokenBalances) Holds(ctx context.Context, owner common.Address, tokens uint64, client string) (bool, error) {
	if tokens == 0 {
		return true, nil
	}
	unit, err := b.unit(ctx)
	if err != nil {
		return false, err
	}
	needed, overflow := new(uint256.Int).MulOverflow(uint256.NewInt(tokens), &unit.cogs)
	if overflow {
		return false, nil
	}
	known, found := b.look(owner)
	age, enough := b.now().Sub(known.read), !known.cogs.Lt(needed)
	if found && (enough && age < balanceHolds || !enough && age < lowBalanceHolds) {
		return enough, nil
	}
	balance, err := b.reads.do(ctx, owner, false, func() error { return b.admit(client) }, func(bool) (uint256.Int, error) {
		return b.read(unit, owner)
	})
	if err != nil {
		if found && enough && age < balanceOutlives && errors.Is(err, ErrChainUnavailable) {
			return true, nil
		}
		return false, err
	}
	return !balance.Lt(needed), nil
}

func (b *TokenBalances) look(owner common.Address) (knownBalance, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known.Get(owner)
}

func (b *TokenBalances) admit(client string) error {
	now := b.now()
	if !b.budgets.allowClient(client, now) || !b.budgets.misses.AllowN(now, 1) {
		return fmt.Errorf("%w: balances too", ErrTooManyReads)
	}
	return nil
}

// read asks the node, for all who wait for this owner.
func (b *TokenBalances) read(unit *tokenUnit, owner common.Address) (uint256.Int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	data := make([]byte, 4+wordLength)
	copy(data, selectorBalanceOf[:])
	copy(data[4+wordLength-common.AddressLength:], owner[:])
	balance, err := b.ask(ctx, unit.address, data)
	if err != nil {
		return balance, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known.Add(owner, knownBalance{cogs: balance, read: b.now()})
	return balance, nil
}

// unit asks for the token and its decimals, which never change, once.
func (b *TokenBalances) unit(ctx context.Context) (*tokenUnit, error) {
	b.mu.Lock()
	known := b.token
	b.mu.Unlock()
	if known != nil {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	address, err := b.escrow.Token(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChainUnavailable, err)
	}
	decimals, err := b.ask(ctx, address, selectorDecimals[:])
	if err != nil {
		return nil, err
	}
	if !decimals.LtUint64(mostDecimals + 1) {
		return nil, fmt.Errorf("%w: token %s says it has %s decimals", ErrChainUnavailable, address, decimals.Dec())
	}
	unit := &tokenUnit{address: address}
	unit.cogs.Exp(uint256.NewInt(10), &decimals)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.token = unit
	return unit, nil
}

func (b *TokenBalances) ask(ctx context.Context, token common.Address, data []byte) (number uint256.Int, err error) {
	output, err := call(ctx, b.escrow.backend, token, data, nil, common.Hash{})
	if err == nil && len(output) < wordLength {
		err = fmt.Errorf("it answered %d bytes", len(output))
	}
	if err != nil {
		return number, fmt.Errorf("%w: token %s could not be read: %w", ErrChainUnavailable, token, err)
	}
	setWord(&number, output, 0)
	return number, nil
}
