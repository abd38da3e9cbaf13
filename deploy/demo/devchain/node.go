package devchain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core"
	"github.com/ethereum/go-ethereum/core/rawdb"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/eth"
	"github.com/ethereum/go-ethereum/eth/catalyst"
	"github.com/ethereum/go-ethereum/eth/ethconfig"
	"github.com/ethereum/go-ethereum/eth/filters"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/node"
	"github.com/ethereum/go-ethereum/p2p"
	"github.com/ethereum/go-ethereum/params"
	"github.com/ethereum/go-ethereum/rpc"
)

// maxRounds bounds the blocks mined for one batch of transactions, should one of them never be executable.
const maxRounds = 64

// embeddedNode is what go-ethereum's ethclient/simulated puts together, put together here because that package
// hides the node: with the node at hand the system picks the ports and arriving transactions can be watched.
type embeddedNode struct {
	stack    *node.Node
	ethereum *eth.Ethereum
	client   *ethclient.Client

	mutex  sync.Mutex // the beacon takes one caller at a time
	beacon *catalyst.SimulatedBeacon
}

func startNode(options Options) (started *embeddedNode, err error) {
	stackConfig := node.DefaultConfig
	stackConfig.DataDir = "" // in memory
	stackConfig.P2P = p2p.Config{NoDiscovery: true}
	stackConfig.HTTPHost, stackConfig.HTTPPort = options.Host, options.HTTPPort
	stackConfig.WSHost, stackConfig.WSPort = options.Host, options.WSPort
	stackConfig.HTTPModules = []string{"eth", "net", "web3"}
	stackConfig.WSModules = stackConfig.HTTPModules
	stack, err := node.New(&stackConfig)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = stack.Close()
		}
	}()

	ethereum, err := eth.New(stack, chainConfig(options.ChainID))
	if err != nil {
		return nil, err
	}
	stack.RegisterAPIs([]rpc.API{{
		Namespace: "eth",
		Service:   filters.NewFilterAPI(filters.NewFilterSystem(ethereum.APIBackend, filters.Config{})),
	}})
	if err := stack.Start(); err != nil {
		return nil, err
	}
	beacon, err := catalyst.NewSimulatedBeacon(0, common.Address{}, ethereum)
	if err != nil {
		return nil, err
	}
	if err := beacon.Fork(ethereum.BlockChain().GetCanonicalHash(0)); err != nil {
		return nil, err
	}
	return &embeddedNode{stack: stack, ethereum: ethereum, beacon: beacon, client: ethclient.NewClient(stack.Attach())}, nil
}

func chainConfig(chainID uint64) *ethconfig.Config {
	rules := *params.AllDevChainProtocolChanges
	rules.ChainID = new(big.Int).SetUint64(chainID)

	alloc := core.SystemContractAllocs()
	maps.Copy(alloc, genesisAccounts())
	config := ethconfig.Defaults
	config.Genesis = &core.Genesis{Config: &rules, GasLimit: config.Miner.GasCeil, Alloc: alloc}
	config.SyncMode = ethconfig.FullSync
	config.TxPool.NoLocals = true
	config.LogNoHistory = true // small chain: search logs without an index
	// The state of every block stays readable, in caches that suit a chain of this size.
	config.StateScheme = rawdb.HashScheme
	config.NoPruning = true
	config.DatabaseCache, config.TrieCleanCache, config.TrieDirtyCache, config.SnapshotCache = 16, 16, 16, 0
	return &config
}

// mineOnArrival mines whenever transactions arrive, until ctx ends.
func (n *embeddedNode) mineOnArrival(ctx context.Context, ended *sync.WaitGroup) {
	arrived := make(chan core.NewTxsEvent, 64)
	subscription := n.ethereum.TxPool().SubscribeTransactions(arrived, true)
	ended.Go(func() {
		defer subscription.Unsubscribe()
		for {
			select {
			case <-ctx.Done():
				return
			case <-subscription.Err():
				return
			case <-arrived:
				_ = n.minePending() // a transaction that is never executable stays in the pool, as on any node
			}
		}
	})
}

// minePending seals blocks until no transaction waits.
func (n *embeddedNode) minePending() error {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	pool := n.ethereum.TxPool()
	for range maxRounds {
		if err := pool.Sync(); err != nil {
			return err
		}
		if executable, _ := pool.Stats(); executable == 0 {
			return nil
		}
		if _, err := n.commitLocked(); err != nil {
			return err
		}
	}
	return errors.New("transactions stay in the pool although blocks are mined")
}

// commitLocked seals one block. The beacon itself only logs a failure, so the height is compared.
func (n *embeddedNode) commitLocked() (common.Hash, error) {
	before := n.ethereum.BlockChain().CurrentBlock().Number.Uint64()
	hash := n.beacon.Commit()
	if after := n.ethereum.BlockChain().CurrentBlock().Number.Uint64(); after <= before {
		return hash, fmt.Errorf("no block was mined on top of block %d", before)
	}
	return hash, nil
}

func (n *embeddedNode) close() {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	n.client.Close()
	_ = n.beacon.Stop()
	_ = n.stack.Close()
}

// Commit mines one block, with what waits in the pool or empty.
func (c *Chain) Commit() (common.Hash, error) {
	c.node.mutex.Lock()
	defer c.node.mutex.Unlock()
	return c.node.commitLocked()
}

// MineTo mines blocks until the chain's head has at least the given number.
func (c *Chain) MineTo(block uint64) error {
	for c.Block() < block {
		if _, err := c.Commit(); err != nil {
			return err
		}
	}
	return nil
}

// Block returns the number of the chain's head.
func (c *Chain) Block() uint64 {
	return c.node.ethereum.BlockChain().CurrentBlock().Number.Uint64()
}

// BlockHash returns the hash of a block of the current chain, zero when there is none of that number.
func (c *Chain) BlockHash(block uint64) common.Hash {
	return c.node.ethereum.BlockChain().GetCanonicalHash(block)
}

// Fork makes the given block the head again, as at the beginning of a reorganisation: blocks above it and their
// transactions are gone, and what is mined next follows on it. Mine more blocks than there were to let clients
// that compare heights see the new branch.
func (c *Chain) Fork(block uint64) error {
	if err := c.node.minePending(); err != nil {
		return err
	}
	c.node.mutex.Lock()
	defer c.node.mutex.Unlock()
	hash := c.BlockHash(block)
	if hash == (common.Hash{}) {
		return fmt.Errorf("there is no block %d to fork from", block)
	}
	if err := c.node.beacon.Fork(hash); err != nil {
		return err
	}
	// The pool takes back the transactions of the blocks that are gone; here they stay gone.
	pool := c.node.ethereum.TxPool()
	if err := pool.Sync(); err != nil {
		return err
	}
	pool.Clear()
	return nil
}

// receipt waits for a transaction that has been mined to show up in the node's index.
func (n *embeddedNode) receipt(ctx context.Context, transaction *types.Transaction) (*types.Receipt, error) {
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		receipt, err := n.client.TransactionReceipt(ctx, transaction.Hash())
		if err == nil {
			return receipt, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the receipt of %s: %w (last answer: %w)", transaction.Hash(), ctx.Err(), err)
		case <-ticker.C:
		}
	}
}
