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
	reads   *flights[common.Address, knownBalance]

	mu    sync.Mutex // guards all below
	token *erc20     // nil until it is known
	known lru.BasicLRU[common.Address, knownBalance]
}

type erc20 struct {
	address common.Address
	unit    uint256.Int // how many cogs are one token
}

type knownBalance struct {
	cogs, unit uint256.Int
	read       time.Time
}

// NewTokenBalances makes one for the token of a contract. Nothing is asked yet.
func NewTokenBalances(escrow *Escrow, settings Settings) *TokenBalances {
	return &TokenBalances{
		escrow: escrow, timeout: settings.RequestTimeout, now: time.Now, budgets: newBudgets(),
		reads: newFlights[common.Address, knownBalance](),
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
	known, found := b.look(owner)
	enough, age := known.covers(tokens), b.now().Sub(known.read)
	if found && (enough && age < balanceHolds || !enough && age < lowBalanceHolds) {
		return enough, nil
	}
	balance, err := b.reads.do(ctx, owner, false, func() error { return b.admit(client) }, func(bool) (knownBalance, error) {
		return b.read(owner)
	})
	if err != nil {
		if found && enough && age < balanceOutlives && errors.Is(err, ErrChainUnavailable) {
			return true, nil
		}
		return false, err
	}
	return balance.covers(tokens), nil
}

// covers tells whether the balance is at least so many whole tokens.
func (k *knownBalance) covers(tokens uint64) bool {
	needed, overflow := new(uint256.Int).MulOverflow(uint256.NewInt(tokens), &k.unit)
	return !overflow && !k.cogs.Lt(needed)
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
func (b *TokenBalances) read(owner common.Address) (balance knownBalance, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	token, err := b.findToken(ctx)
	if err != nil {
		return balance, err
	}
	data := make([]byte, 4+wordLength)
	copy(data, selectorBalanceOf[:])
	copy(data[4+wordLength-common.AddressLength:], owner[:])
	balance.unit = token.unit
	if balance.cogs, err = b.ask(ctx, token.address, data); err != nil {
		return balance, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	balance.read = b.now()
	b.known.Add(owner, balance)
	return balance, nil
}

// findToken asks for the token and its decimals, which never change, once.
func (b *TokenBalances) findToken(ctx context.Context) (*erc20, error) {
	b.mu.Lock()
	known := b.token
	b.mu.Unlock()
	if known != nil {
		return known, nil
	}
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
	token := &erc20{address: address}
	token.unit.Exp(uint256.NewInt(10), &decimals)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.token = token
	return token, nil
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
