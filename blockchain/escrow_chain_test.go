package blockchain_test

import (
	"errors"
	"math/big"
	"testing"

	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
)

func TestEscrowReadsAndClaims(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	escrow := newEscrow(t, chain, dial(t, chainSettings(t, chain)))
	client, signer, provider := chain.Account("client"), chain.Account("signer"), chain.Account("provider")

	if token, err := escrow.Token(t.Context()); err != nil || token != chain.Token {
		t.Errorf("token %s, %v", token, err)
	}
	before := big.NewInt(int64(chain.Block()))
	id := openChannel(t, chain, 1000)
	channel, err := escrow.Channel(t.Context(), id, nil)
	expectChannel(t, channel, err, 0, 1000)
	if !channel.ID.Eq(id) || channel.Sender != client.Address || channel.Signer != signer.Address ||
		channel.Recipient != provider.Address || channel.GroupID != testGroup || !channel.Exists() {
		t.Errorf("channel %+v", channel)
	}
	if !channel.MaySign(client.Address) || !channel.MaySign(signer.Address) || channel.MaySign(provider.Address) || channel.MaySign(common.Address{}) {
		t.Error("not exactly sender and signer may sign")
	}
	if earlier, err := escrow.Channel(t.Context(), id, before); err != nil || earlier.Exists() {
		t.Errorf("before it was opened: %+v, %v", earlier, err)
	}
	if next, err := escrow.NextChannelID(t.Context()); err != nil || next.Uint64() != id.Uint64()+1 {
		t.Errorf("next id %s, %v", next.Dec(), err)
	}

	// The contract accepts our message and signature, and pays what was spent.
	sign := func(account *devchain.Account, nonce, planned uint64) []byte {
		t.Helper()
		signature, err := blockchain.Sign(blockchain.ClaimMessage(chain.MPE, id, uint256.NewInt(nonce), uint256.NewInt(planned)), account.Key)
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	signature := sign(signer, 0, 300)
	signature[64] -= 27 // the contract needs 27 or 28, whatever the client sent
	transact(t, chain, "provider", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return escrow.Claim(opts, id, uint256.NewInt(120), uint256.NewInt(300), signature, false)
	})
	channel, err = escrow.Channel(t.Context(), id, nil)
	expectChannel(t, channel, err, 1, 880)
	if balance, err := escrow.Balance(t.Context(), provider.Address); err != nil || balance.Uint64() != 120 {
		t.Errorf("the provider's balance %s, %v", balance.Dec(), err)
	}
	if _, err := chain.Transact(t.Context(), provider, func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return escrow.Claim(opts, id, uint256.NewInt(1), uint256.NewInt(2), sign(chain.Account("stranger"), 1, 2), false)
	}); err == nil {
		t.Error("the contract paid for a stranger's signature")
	}

	second := openChannel(t, chain, 50)
	forSecond, err := blockchain.Sign(blockchain.ClaimMessage(chain.MPE, second, new(uint256.Int), uint256.NewInt(20)), client.Key)
	if err != nil {
		t.Fatal(err)
	}
	transact(t, chain, "provider", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return escrow.MultiClaim(opts, []blockchain.ClaimOrder{
			{Channel: *id, Actual: *uint256.NewInt(7), Planned: *uint256.NewInt(10), Signature: sign(signer, 1, 10)},
			{Channel: *second, Actual: *uint256.NewInt(20), Planned: *uint256.NewInt(20), Signature: forSecond, SendBack: true},
		})
	})
	channel, err = escrow.Channel(t.Context(), id, nil)
	expectChannel(t, channel, err, 2, 873)
	channel, err = escrow.Channel(t.Context(), second, nil)
	expectChannel(t, channel, err, 1, 0)
}

func TestEscrowSenderFunctions(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	escrow := newEscrow(t, chain, chain.Client)
	client, provider := chain.Account("client"), chain.Account("provider")
	transact(t, chain, "client", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return chain.TokenContract.Transact(opts, "approve", chain.MPE, big.NewInt(10_000))
	})
	transact(t, chain, "client", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return escrow.Deposit(opts, uint256.NewInt(1000))
	})
	start := chain.Block()
	expiration := uint256.NewInt(start + 10)
	transact(t, chain, "client", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return escrow.OpenChannel(opts, client.Address, provider.Address, testGroup, uint256.NewInt(600), expiration)
	})
	transact(t, chain, "client", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return escrow.DepositAndOpenChannel(opts, client.Address, provider.Address, testGroup, uint256.NewInt(5), expiration)
	})
	id := new(uint256.Int)
	transact(t, chain, "client", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return escrow.AddFunds(opts, id, uint256.NewInt(50))
	})
	transact(t, chain, "client", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return escrow.Extend(opts, id, uint256.NewInt(start+20))
	})
	channel, err := escrow.Channel(t.Context(), id, nil)
	expectChannel(t, channel, err, 0, 650)
	if channel.Expiration.Uint64() != start+20 {
		t.Errorf("expiration %s", channel.Expiration.Dec())
	}
	if err := chain.MineTo(start + 20); err != nil {
		t.Fatal(err)
	}
	transact(t, chain, "client", func(opts *bind.TransactOpts) (*types.Transaction, error) {
		return escrow.ClaimTimeout(opts, id)
	})
	channel, err = escrow.Channel(t.Context(), id, nil)
	expectChannel(t, channel, err, 1, 0)

	events, err := escrow.Events(t.Context(), start, chain.Block())
	if err != nil {
		t.Fatal(err)
	}
	var kinds []blockchain.EventKind
	for i, event := range events {
		kinds = append(kinds, event.Kind)
		if want := uint64(0); event.Channel.Uint64() != want && i != 1 {
			t.Errorf("event %d is of channel %s", i, event.Channel.Dec())
		}
	}
	want := []blockchain.EventKind{blockchain.ChannelOpened, blockchain.ChannelOpened, blockchain.ChannelRaised, blockchain.ChannelRaised, blockchain.ChannelClaimed}
	if len(kinds) != len(want) {
		t.Fatalf("events %v, want %v", kinds, want)
	}
	for i := range want {
		if kinds[i] != want[i] {
			t.Errorf("events %v, want %v", kinds, want)
		}
	}
}

func TestEscrowFaultsAreSentences(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	if _, err := blockchain.NewEscrow(common.Address{}, chain.Client); err == nil {
		t.Error("the zero address is an MPE contract")
	}
	nowhere, err := blockchain.NewEscrow(common.Address{1}, chain.Client)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nowhere.Channel(t.Context(), new(uint256.Int), nil); !errors.Is(err, blockchain.ErrNoContract) {
		t.Errorf("no contract: %v", err)
	}
	// A contract of another kind.
	wrong, err := blockchain.NewEscrow(chain.Token, chain.Client)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Channel(t.Context(), new(uint256.Int), nil); err == nil {
		t.Error("the token answered for a channel")
	}
	escrow := newEscrow(t, chain, chain.Client)
	opts := &bind.TransactOpts{}
	one := uint256.NewInt(1)
	if _, err := escrow.Claim(opts, one, one, one, make([]byte, 64), false); !errors.Is(err, blockchain.ErrSignatureLength) {
		t.Errorf("a short signature: %v", err)
	}
	bad := make([]byte, 65)
	bad[64] = 5
	if _, err := escrow.MultiClaim(opts, []blockchain.ClaimOrder{{Channel: *one, Signature: bad}}); !errors.Is(err, blockchain.ErrSignatureData) {
		t.Errorf("a bad v: %v", err)
	}
	if _, err := escrow.MultiClaim(opts, nil); err == nil {
		t.Error("no claims were sent")
	}
}

func TestEscrowReadsOneBlockWhateverBecomesOfIt(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	escrow := newEscrow(t, chain, dial(t, chainSettings(t, chain)))
	fork := chain.Block()
	id := openChannel(t, chain, 100)
	replaced := blockchain.BlockRef{Number: chain.Block(), Hash: chain.BlockHash(chain.Block())}
	if err := chain.Fork(fork); err != nil {
		t.Fatal(err)
	}
	if err := chain.SendEther(t.Context(), common.Address{42}, big.NewInt(1)); err != nil {
		t.Fatal(err)
	}
	if err := chain.MineTo(replaced.Number + 1); err != nil {
		t.Fatal(err)
	}
	channel, err := escrow.ChannelAt(t.Context(), id, replaced)
	expectChannel(t, channel, err, 0, 100)
	now := blockchain.BlockRef{Number: replaced.Number, Hash: chain.BlockHash(replaced.Number)}
	if channel, err := escrow.ChannelAt(t.Context(), id, now); err != nil || channel.Exists() {
		t.Errorf("on the new branch: %+v, %v", channel, err)
	}
}
