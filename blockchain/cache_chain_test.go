package blockchain_test

import (
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/holiman/uint256"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
)

// cacheOnChain is a cache with its head on a real chain; Run is the caller's.
func cacheOnChain(t *testing.T, chain *devchain.Chain, confirmations uint64) (*blockchain.ChannelCache, *blockchain.Head, *blockchain.Client) {
	t.Helper()
	settings := chainSettings(t, chain)
	settings.Confirmations = confirmations
	client := dial(t, settings)
	head := blockchain.NewHead(client, settings, zap.NewNop())
	return blockchain.NewChannelCache(newEscrow(t, chain, client), head, settings, zap.NewNop()), head, client
}

func TestCacheServesNewChannelsOfARealChainAtOnce(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	cache, head, client := cacheOnChain(t, chain, 0)
	if _, err := head.Latest(t.Context()); err != nil { // known, and old by the time of the calls
		t.Fatal(err)
	}
	for range 8 {
		next, err := cacheNext(t, chain)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cache.Get(t.Context(), next, "192.0.2.1"); !errors.Is(err, blockchain.ErrChannelNotFound) {
			t.Fatalf("a channel that is to come: %v", err)
		}
		id := openChannel(t, chain, 10)
		channel, err := cache.Get(t.Context(), id, "192.0.2.1")
		expectChannel(t, channel, err, 0, 10)
	}
	before := client.Requests()
	for range 1000 {
		channel, err := cache.Get(t.Context(), uint256.NewInt(3), "192.0.2.1")
		expectChannel(t, channel, err, 0, 10)
	}
	if client.Requests() != before {
		t.Errorf("%d requests for a known channel", client.Requests()-before)
	}
}

func cacheNext(t *testing.T, chain *devchain.Chain) (*uint256.Int, error) {
	t.Helper()
	next, err := newEscrow(t, chain, chain.Client).NextChannelID(t.Context())
	return &next, err
}

func TestCacheFollowsARealChain(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	cache, head, _ := cacheOnChain(t, chain, 0)
	escrow := newEscrow(t, chain, chain.Client)
	id := openChannel(t, chain, 100)
	runHead(t, head)
	channel, err := cache.Get(t.Context(), id, "")
	expectChannel(t, channel, err, 0, 100)

	if err := chain.Mint(t.Context(), chain.Account("client").Address, uint256.NewInt(1000)); err != nil {
		t.Fatal(err)
	}
	transact(t, chain, "client", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return chain.TokenContract.Transact(opts, "approve", chain.MPE, big.NewInt(1000))
	})
	transact(t, chain, "client", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return escrow.Deposit(opts, uint256.NewInt(1000))
	})
	addFunds := func(amount uint64) {
		t.Helper()
		transact(t, chain, "client", func(opts *bind.TransactOpts) (*types.Transaction, error) {
			return escrow.AddFunds(opts, id, uint256.NewInt(amount))
		})
	}
	addFunds(11)
	// Who needs it now asks for it; it comes by itself as well.
	channel, err = cache.Refresh(t.Context(), id)
	expectChannel(t, channel, err, 0, 111)
	addFunds(22)
	waitUntil(t, "the added funds are known", func() bool {
		channel, err := cache.Get(t.Context(), id, "")
		return err == nil && channel.Value.Uint64() == 133
	})
	signature, err := blockchain.Sign(blockchain.ClaimMessage(chain.MPE, id, new(uint256.Int), uint256.NewInt(33)), chain.Account("client").Key)
	if err != nil {
		t.Fatal(err)
	}
	transact(t, chain, "provider", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return escrow.Claim(opts, id, uint256.NewInt(33), uint256.NewInt(33), signature, false)
	})
	waitUntil(t, "the claim is known", func() bool {
		channel, err := cache.Get(t.Context(), id, "")
		return err == nil && channel.Nonce.Uint64() == 1 && channel.Value.Uint64() == 100
	})
}

// TestCacheReorganisationOfARealChain lets a channel change hands under its id.
func TestCacheReorganisationOfARealChain(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	cache, head, _ := cacheOnChain(t, chain, 0)
	old := openChannel(t, chain, 5)
	if _, err := cache.Get(t.Context(), old, ""); err != nil {
		t.Fatal(err)
	}
	fork := chain.Block()
	runHead(t, head)
	id := openChannel(t, chain, 100)
	channel, err := cache.Get(t.Context(), id, "")
	expectChannel(t, channel, err, 0, 100)
	height := chain.Block()

	if err := chain.Fork(fork); err != nil {
		t.Fatal(err)
	}
	stranger := chain.Account("stranger")
	taken, err := chain.OpenChannel(t.Context(), stranger, stranger.Address, chain.Account("provider").Address, testGroup,
		uint256.NewInt(7), chain.Block()+1000)
	if err != nil || !taken.Eq(id) {
		t.Fatalf("channel %s, %v", taken.Dec(), err)
	}
	if err := chain.MineTo(height + 1); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the new branch", reaches(head, height+1))
	channel, err = cache.Get(t.Context(), id, "")
	expectChannel(t, channel, err, 0, 7)
	if channel.Sender != stranger.Address {
		t.Errorf("the channel is still served as that of %s", channel.Sender)
	}
	if kept, err := cache.Get(t.Context(), old, ""); err != nil || kept.Value.Uint64() != 5 {
		t.Errorf("the channel from before the fork: %v, %v", kept, err)
	}
}

func TestCacheConfirmationsOnARealChain(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	cache, head, _ := cacheOnChain(t, chain, 3)
	id := openChannel(t, chain, 100)
	for confirmations := range 4 {
		if _, err := head.Latest(t.Context()); err != nil {
			t.Fatal(err)
		}
		channel, err := cache.Get(t.Context(), id, "")
		if confirmations == 3 {
			expectChannel(t, channel, err, 0, 100)
			return
		}
		if !errors.Is(err, blockchain.ErrChannelNotFound) || !strings.Contains(err.Error(), "blockchain.confirmations") {
			t.Errorf("after %d blocks: %v", confirmations, err)
		}
		if _, err := chain.Commit(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCacheSurvivesTheNode shows that known channels are served without a node,
// for as long as the height may be used.
func TestCacheSurvivesTheNode(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	cache, head, client := cacheOnChain(t, chain, 0)
	now := time.Unix(1_700_000_000, 0)
	blockchain.SetClock(head, cache, func() time.Time { return now })
	id, other := openChannel(t, chain, 100), openChannel(t, chain, 200)
	if _, err := head.Latest(t.Context()); err != nil {
		t.Fatal(err)
	}
	channel, err := cache.Get(t.Context(), id, "")
	expectChannel(t, channel, err, 0, 100)
	client.Close()
	chain.Close()

	now = now.Add(4 * time.Minute)
	channel, err = cache.Get(t.Context(), id, "")
	expectChannel(t, channel, err, 0, 100)
	if _, err := head.Block(); err != nil {
		t.Errorf("the height of 4 minutes ago: %v", err)
	}
	if _, err := cache.Refresh(t.Context(), id); !errors.Is(err, blockchain.ErrChainUnavailable) {
		t.Errorf("refreshing without a node: %v", err)
	}
	if _, err := cache.Get(t.Context(), other, ""); !errors.Is(err, blockchain.ErrChainUnavailable) {
		t.Errorf("a channel that was never read: %v", err)
	}
	now = now.Add(2 * time.Minute)
	if _, err := head.Block(); !errors.Is(err, blockchain.ErrHeadStale) {
		t.Errorf("the height of 6 minutes ago: %v", err)
	}
}
