// Package devchain runs an Ethereum chain of one node inside the process, with the published contracts of
// SingularityNET (token, MultiPartyEscrow, Registry) deployed on it, reachable over HTTP and WebSocket.
//
// It is for the demo and for tests only: the keys are known to everybody and nothing is kept on disk. A block
// is mined for each transaction, whether it comes from this package or from outside over JSON-RPC.
package devchain

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/ethereum/go-ethereum/accounts/abi/bind"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/ethclient"
)

// Options of Start. The zero value is ready to use.
type Options struct {
	ChainID  uint64    // default 1337
	Host     string    // address to listen on, default 127.0.0.1
	HTTPPort int       // 0 = a free port
	WSPort   int       // 0 = a free port
	Manual   bool      // mine only in Commit, MineTo and Transact, so a test decides what a block holds
	Progress io.Writer // lines about what Start does, nil = none
}

// Chain is a running chain. Its methods may be used from several goroutines.
type Chain struct {
	HTTPURL, WebSocketURL string
	ChainID               uint64
	Token, MPE, Registry  common.Address
	// Client is connected in-process.
	Client *ethclient.Client

	// The deployed contracts with the ABI of the published package, for calls that have no method here.
	TokenContract, MPEContract, RegistryContract *bind.BoundContract

	node    *embeddedNode
	stop    context.CancelFunc
	ended   sync.WaitGroup
	closing sync.Once

	artifacts map[string]artifact

	mutex    sync.Mutex // guards accounts
	accounts map[string]*Account
}

// Start runs a chain and deploys the contracts. ctx bounds the start only; Close ends the chain.
func Start(ctx context.Context, options Options) (*Chain, error) {
	if options.Progress == nil {
		options.Progress = io.Discard
	}
	if options.ChainID == 0 {
		options.ChainID = 1337
	}
	if options.Host == "" {
		options.Host = "127.0.0.1"
	}
	artifacts, err := loadArtifacts(ctx, options.Progress)
	if err != nil {
		return nil, fmt.Errorf("embedded chain: %w", err)
	}
	node, err := startNode(options)
	if err != nil {
		return nil, fmt.Errorf("embedded chain: %w", err)
	}
	running, stop := context.WithCancel(context.Background())
	chain := &Chain{
		HTTPURL: node.stack.HTTPEndpoint(), WebSocketURL: node.stack.WSEndpoint(), ChainID: options.ChainID,
		Client: node.client, node: node, stop: stop, artifacts: artifacts, accounts: map[string]*Account{},
	}
	if !options.Manual {
		node.mineOnArrival(running, &chain.ended)
	}
	if err := chain.deploy(ctx); err != nil {
		chain.Close()
		return nil, fmt.Errorf("embedded chain: %w", err)
	}
	fmt.Fprintf(options.Progress, "embedded chain %d is ready at %s\n", chain.ChainID, chain.HTTPURL)
	return chain, nil
}

// Close ends the chain. Nothing of it is kept. Closing twice does no harm.
func (c *Chain) Close() {
	c.closing.Do(func() {
		c.stop()
		c.ended.Wait()
		c.node.close()
	})
}
