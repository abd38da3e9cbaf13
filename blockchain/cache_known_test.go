package blockchain_test

import (
	"errors"
	"testing"

	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
)

func TestKnownAsksNobody(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	cache, _, client := cacheOnChain(t, chain, 0)
	id := openChannel(t, chain, 100)
	before := client.Requests()
	if _, known := cache.Known(id); known {
		t.Error("a channel nobody has asked for is known")
	}
	if client.Requests() != before {
		t.Error("the node was asked")
	}
	if _, err := cache.Get(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
	before = client.Requests()
	channel, known := cache.Known(id)
	if !known || client.Requests() != before {
		t.Errorf("known %v, %d requests", known, client.Requests()-before)
	}
	expectChannel(t, channel, nil, 0, 100)
}

func TestKnownLeavesOutWhatIsNotConfirmed(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	cache, _, _ := cacheOnChain(t, chain, 20)
	id := openChannel(t, chain, 100)
	if _, err := cache.Get(t.Context(), id, ""); !errors.Is(err, blockchain.ErrChannelNotFound) {
		t.Fatal(err)
	}
	if _, known := cache.Known(id); known {
		t.Error("a channel that waits for confirmations is known")
	}
}

func TestEarlierReadsThePast(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	cache, head, _ := cacheOnChain(t, chain, 0)
	id := openChannel(t, chain, 100)
	transact(t, chain, "client", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return newEscrow(t, chain, chain.Client).Extend(opts, id, uint256.NewInt(chain.Block()+2_000_000))
	})
	extended := chain.Block()
	if err := chain.MineTo(extended + 10); err != nil {
		t.Fatal(err)
	}
	if _, err := head.Latest(t.Context()); err != nil {
		t.Fatal(err)
	}
	expiration := func(blocks uint64) uint64 {
		t.Helper()
		channel, err := cache.Earlier(t.Context(), id, blocks)
		if err != nil {
			t.Fatal(err)
		}
		return channel.Expiration.Uint64()
	}
	if now, before := expiration(10), expiration(11); now <= before || expiration(0) != now {
		t.Errorf("expires at %d, before it was extended at %d", now, before)
	}
	for _, blocks := range []uint64{12, extended + 11, 1 << 63} {
		if _, err := cache.Earlier(t.Context(), id, blocks); !errors.Is(err, blockchain.ErrChannelNotFound) {
			t.Errorf("%d blocks ago: %v", blocks, err)
		}
	}
	if _, known := cache.Known(id); known {
		t.Error("the past is held as if it were the present")
	}
}
