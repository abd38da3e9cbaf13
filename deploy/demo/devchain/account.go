package devchain

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"math/big"
	"sync"

	"github.com/ethereum/go-ethereum/accounts/abi/bind"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/params"
	"github.com/holiman/uint256"
)

// Account is a key pair everybody can derive from its name. Never use one outside an embedded chain.
type Account struct {
	Name    string
	Key     *ecdsa.PrivateKey
	Address common.Address

	mutex  sync.Mutex // one transaction at a time, so that nonces follow each other
	funded bool       // guarded by mutex
}

const (
	deployerName = "deployer" // deploys the contracts, mints tokens
	providerName = "provider" // owns what RegisterService registers
)

// genesisNames have ether from the first block on; other accounts get theirs with their first transaction.
var genesisNames = []string{deployerName, providerName, "client", "signer", "stranger"}

// initialEther is what each account gets, in wei: 1000 ether.
var initialEther = new(big.Int).Mul(big.NewInt(1000), big.NewInt(params.Ether))

// initialTokens is what each account of genesisNames gets, in cogs.
var initialTokens = new(uint256.Int).Exp(uint256.NewInt(10), uint256.NewInt(24))

func newAccount(name string) *Account {
	// A hash of any text is a valid key but for a chance of 2^-128.
	key, err := crypto.ToECDSA(crypto.Keccak256([]byte("mpegate embedded chain account " + name)))
	if err != nil {
		panic(fmt.Sprintf("devchain: the name %q gives no key: %v", name, err))
	}
	return &Account{Name: name, Key: key, Address: crypto.PubkeyToAddress(key.PublicKey)}
}

func genesisAccounts() types.GenesisAlloc {
	alloc := types.GenesisAlloc{}
	for _, name := range genesisNames {
		alloc[newAccount(name).Address] = types.Account{Balance: initialEther}
	}
	// The deployer gives ether to everybody else.
	alloc[newAccount(deployerName).Address] = types.Account{Balance: new(big.Int).Mul(initialEther, big.NewInt(1_000_000))}
	return alloc
}

// Account returns the account of a name, always with the same key. "deployer", "provider", "client", "signer"
// and "stranger" have ether and tokens from the start; others get ether when Transact first uses them.
// OpenChannel mints the tokens it needs.
func (c *Chain) Account(name string) *Account {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	account, known := c.accounts[name]
	if !known {
		account = newAccount(name)
		c.accounts[name] = account
	}
	return account
}

// Transact signs what send builds with the account's key, mines it and returns its receipt. A transaction that
// the contract reverts is an error. send must use the options as they are.
func (c *Chain) Transact(ctx context.Context, from *Account, send func(*bind.TransactOpts) (*types.Transaction, error)) (*types.Receipt, error) {
	from.mutex.Lock()
	defer from.mutex.Unlock()
	if err := c.ensureEther(ctx, from); err != nil {
		return nil, err
	}
	options, err := bind.NewKeyedTransactorWithChainID(from.Key, new(big.Int).SetUint64(c.ChainID))
	if err != nil {
		return nil, err
	}
	options.Context = ctx
	transaction, err := send(options)
	if err != nil {
		return nil, err
	}
	return c.mined(ctx, transaction)
}

func (c *Chain) mined(ctx context.Context, transaction *types.Transaction) (*types.Receipt, error) {
	if err := c.node.minePending(); err != nil {
		return nil, err
	}
	receipt, err := c.node.receipt(ctx, transaction)
	if err != nil {
		return nil, err
	}
	if receipt.Status != types.ReceiptStatusSuccessful {
		return receipt, fmt.Errorf("transaction %s was reverted", transaction.Hash())
	}
	return receipt, nil
}

// ensureEther must be called with the account's mutex held.
func (c *Chain) ensureEther(ctx context.Context, account *Account) error {
	if account.funded {
		return nil
	}
	balance, err := c.Client.BalanceAt(ctx, account.Address, nil)
	if err != nil {
		return err
	}
	if balance.Cmp(big.NewInt(params.Ether)) < 0 {
		if account.Name == deployerName {
			return errors.New("the deployer of the embedded chain has no ether left")
		}
		if err := c.SendEther(ctx, account.Address, initialEther); err != nil {
			return fmt.Errorf("giving ether to %s: %w", account.Name, err)
		}
	}
	account.funded = true
	return nil
}

// SendEther gives an address ether, in wei, from the deployer.
func (c *Chain) SendEther(ctx context.Context, to common.Address, amount *big.Int) error {
	_, err := c.Transact(ctx, c.Account(deployerName), func(options *bind.TransactOpts) (*types.Transaction, error) {
		options.Value, options.GasLimit = amount, params.TxGas
		return bind.NewBoundContract(to, c.artifacts[tokenName].abi, c.Client, c.Client, c.Client).RawTransact(options, nil)
	})
	return err
}

// Mint gives an address tokens, in cogs.
func (c *Chain) Mint(ctx context.Context, to common.Address, amount *uint256.Int) error {
	_, err := c.Transact(ctx, c.Account(deployerName), func(options *bind.TransactOpts) (*types.Transaction, error) {
		return c.TokenContract.Transact(options, "mint", to, amount.ToBig())
	})
	if err != nil {
		return fmt.Errorf("minting tokens for %s: %w", to, err)
	}
	return nil
}

// TokenBalance returns an address's tokens outside the escrow, in cogs.
func (c *Chain) TokenBalance(ctx context.Context, owner common.Address) (*uint256.Int, error) {
	return c.readAmount(ctx, c.TokenContract, "balanceOf", owner)
}

// EscrowBalance returns what an address has in the escrow contract outside channels, in cogs.
func (c *Chain) EscrowBalance(ctx context.Context, owner common.Address) (*uint256.Int, error) {
	return c.readAmount(ctx, c.MPEContract, "balances", owner)
}

func (c *Chain) readAmount(ctx context.Context, contract *bind.BoundContract, method string, parameters ...any) (*uint256.Int, error) {
	var results []any
	if err := contract.Call(&bind.CallOpts{Context: ctx}, &results, method, parameters...); err != nil {
		return nil, err
	}
	amount, isInteger := results[0].(*big.Int)
	if !isInteger {
		return nil, fmt.Errorf("%s returned a %T", method, results[0])
	}
	return uint256.MustFromBig(amount), nil
}
