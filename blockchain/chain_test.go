package blockchain_test

import (
	"context"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
)

// What the tests against a real chain with the published contracts share.

var testGroup = [32]byte{0, 1, 2, 3}

func startChain(t *testing.T, options devchain.Options) *devchain.Chain {
	t.Helper()
	chain, err := devchain.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chain.Close)
	return chain
}

func chainSettings(t *testing.T, chain *devchain.Chain) blockchain.Settings {
	t.Helper()
	settings := blockchain.DefaultSettings()
	settings.Network, settings.ChainID = blockchain.NetworkCustom, chain.ChainID
	settings.RPCURL, settings.RegistryAddress = chain.HTTPURL, chain.Registry.Hex()
	settings.PollInterval = 50 * time.Millisecond
	if err := settings.Validate(); err != nil {
		t.Fatal(err)
	}
	return settings
}

func dial(t *testing.T, settings blockchain.Settings) *blockchain.Client {
	t.Helper()
	client, err := blockchain.Dial(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func newEscrow(t *testing.T, chain *devchain.Chain, backend blockchain.Backend) *blockchain.Escrow {
	t.Helper()
	escrow, err := blockchain.NewEscrow(chain.MPE, backend)
	if err != nil {
		t.Fatal(err)
	}
	return escrow
}

// openChannel opens a channel of the client to the provider that expires far away.
func openChannel(t *testing.T, chain *devchain.Chain, value uint64) *uint256.Int {
	t.Helper()
	id, err := chain.OpenChannel(t.Context(), chain.Account("client"), chain.Account("signer").Address,
		chain.Account("provider").Address, testGroup, uint256.NewInt(value), chain.Block()+1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	return &id
}

func transact(t *testing.T, chain *devchain.Chain, account string, send func(*bind.TransactOpts) (*types.Transaction, error)) {
	t.Helper()
	if _, err := chain.Transact(t.Context(), chain.Account(account), send); err != nil {
		t.Fatal(err)
	}
}

func expectChannel(t *testing.T, channel blockchain.Channel, err error, nonce, value uint64) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if channel.Nonce.Uint64() != nonce || channel.Value.Uint64() != value {
		t.Fatalf("nonce %s and value %s, want %d and %d", channel.Nonce.Dec(), channel.Value.Dec(), nonce, value)
	}
}

// runHead follows the chain until the test ends.
func runHead(t *testing.T, head *blockchain.Head) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- head.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// waitUntil waits for a condition that something else brings about.
func waitUntil(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(30 * time.Second)
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("never came true: %s", what)
		}
	}
}

func reaches(head *blockchain.Head, block uint64) func() bool {
	return func() bool {
		number, err := head.Block()
		return err == nil && number == block
	}
}
