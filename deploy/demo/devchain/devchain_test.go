package devchain

import (
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/accounts/abi/bind"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/holiman/uint256"
)

func startChain(t *testing.T, options Options) *Chain {
	t.Helper()
	chain, err := Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chain.Close)
	return chain
}

func channelValue(t *testing.T, chain *Chain, id *uint256.Int) (nonce, value, expiration *big.Int) {
	t.Helper()
	var results []any
	if err := chain.MPEContract.Call(&bind.CallOpts{Context: t.Context()}, &results, "channels", id.ToBig()); err != nil {
		t.Fatal(err)
	}
	return results[0].(*big.Int), results[5].(*big.Int), results[6].(*big.Int)
}

// claimSignature is message 4.1 of the payment protocol, written out here so that the test stands alone.
func claimSignature(t *testing.T, chain *Chain, signer *Account, id *uint256.Int, nonce, amount uint64) []byte {
	t.Helper()
	word := func(value *uint256.Int) []byte { bytes := value.Bytes32(); return bytes[:] }
	message := append([]byte("__MPE_claim_message"), chain.MPE.Bytes()...)
	message = append(message, word(id)...)
	message = append(message, word(uint256.NewInt(nonce))...)
	message = append(message, word(uint256.NewInt(amount))...)
	digest := crypto.Keccak256([]byte("\x19Ethereum Signed Message:\n32"), crypto.Keccak256(message))
	signature, err := crypto.Sign(digest, signer.Key)
	if err != nil {
		t.Fatal(err)
	}
	signature[64] += 27
	return signature
}

func TestChannelOpenedAndClaimed(t *testing.T) {
	chain := startChain(t, Options{})
	client, signer, provider := chain.Account("client"), chain.Account("signer"), chain.Account("provider")
	group := [32]byte{1, 2, 3}
	var id uint256.Int
	for want := range uint64(2) {
		var err error
		id, err = chain.OpenChannel(t.Context(), client, signer.Address, provider.Address, group, uint256.NewInt(1000), chain.Block()+500)
		if err != nil {
			t.Fatal(err)
		}
		if id.Uint64() != want {
			t.Errorf("channel id %s, want %d", id.Dec(), want)
		}
	}
	signature := claimSignature(t, chain, signer, &id, 0, 300)
	_, err := chain.Transact(t.Context(), provider, func(options *bind.TransactOpts) (*types.Transaction, error) {
		return chain.MPEContract.Transact(options, "channelClaim", id.ToBig(), big.NewInt(250), big.NewInt(300),
			signature[64], common.BytesToHash(signature[:32]), common.BytesToHash(signature[32:64]), false)
	})
	if err != nil {
		t.Fatal(err)
	}
	nonce, value, _ := channelValue(t, chain, &id)
	if nonce.Uint64() != 1 || value.Uint64() != 750 {
		t.Errorf("nonce %s, value %s after the claim", nonce, value)
	}
	if earned, err := chain.EscrowBalance(t.Context(), provider.Address); err != nil || earned.Uint64() != 250 {
		t.Errorf("the provider earned %v, %v", earned, err)
	}
}

func TestFailedTransactionIsAnError(t *testing.T) {
	chain := startChain(t, Options{})
	stranger := chain.Account("stranger")
	_, err := chain.Transact(t.Context(), stranger, func(options *bind.TransactOpts) (*types.Transaction, error) {
		return chain.TokenContract.Transact(options, "mint", stranger.Address, big.NewInt(1))
	})
	if err == nil {
		t.Error("a stranger could mint tokens")
	}
	_, err = chain.Transact(t.Context(), stranger, func(options *bind.TransactOpts) (*types.Transaction, error) {
		options.GasLimit = 200_000 // no estimate, so that the contract reverts in a block
		return chain.TokenContract.Transact(options, "mint", stranger.Address, big.NewInt(1))
	})
	if err == nil || !strings.Contains(err.Error(), "reverted") {
		t.Errorf("error %v", err)
	}
}

func TestAnyNameIsAFundedAccount(t *testing.T) {
	chain := startChain(t, Options{})
	late := chain.Account("late comer")
	if late != chain.Account("late comer") || late.Address != newAccount("late comer").Address {
		t.Error("the account of a name changes")
	}
	if _, err := chain.OpenChannel(t.Context(), late, late.Address, late.Address, [32]byte{}, uint256.NewInt(7), 10_000); err != nil {
		t.Error(err)
	}
	if balance, err := chain.TokenBalance(t.Context(), late.Address); err != nil || !balance.IsZero() {
		t.Errorf("balance %v, %v: the minted tokens should be in the channel", balance, err)
	}
	if balance, err := chain.TokenBalance(t.Context(), chain.Account("client").Address); err != nil || !balance.Eq(initialTokens) {
		t.Errorf("balance of the client %v, %v", balance, err)
	}
}

func TestOutsideTransactionsAreMined(t *testing.T) {
	chain := startChain(t, Options{ChainID: 11155111})
	client, err := ethclient.DialContext(t.Context(), chain.HTTPURL)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	chainID, err := client.ChainID(t.Context())
	if err != nil || chainID.Uint64() != 11155111 {
		t.Errorf("chain id %v, %v", chainID, err)
	}
	if network, err := client.NetworkID(t.Context()); err != nil || network.Uint64() != 11155111 {
		t.Errorf("network id %v, %v", network, err)
	}
	socket, err := ethclient.DialContext(t.Context(), chain.WebSocketURL)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	heads := make(chan *types.Header, 16)
	subscription, err := socket.SubscribeNewHead(t.Context(), heads)
	if err != nil {
		t.Fatal(err)
	}
	defer subscription.Unsubscribe()

	before := chain.Block()
	sender := chain.Account("client")
	options, err := bind.NewKeyedTransactorWithChainID(sender.Key, chainID)
	if err != nil {
		t.Fatal(err)
	}
	options.Context = t.Context()
	token := bind.NewBoundContract(chain.Token, chain.artifacts[tokenName].abi, client, client, client)
	transaction, err := token.Transact(options, "transfer", chain.Account("stranger").Address, big.NewInt(5))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case head := <-heads:
		if head.Number.Uint64() != before+1 {
			t.Errorf("block %d follows %d", head.Number, before)
		}
	case err := <-subscription.Err():
		t.Fatal(err)
	case <-t.Context().Done():
		t.Fatal("no block was mined")
	}
	receipt, err := chain.node.receipt(t.Context(), transaction)
	if err != nil || receipt.Status != types.ReceiptStatusSuccessful {
		t.Errorf("receipt %v, %v", receipt, err)
	}
}

func TestForkTakesBackAChannel(t *testing.T) {
	chain := startChain(t, Options{})
	fork := chain.Block()
	group := [32]byte{9}
	first, err := chain.OpenChannel(t.Context(), chain.Account("client"), chain.Account("signer").Address,
		chain.Account("provider").Address, group, uint256.NewInt(100), fork+1000)
	if err != nil {
		t.Fatal(err)
	}
	height, replaced := chain.Block(), chain.BlockHash(fork+1)
	if err := chain.Fork(fork); err != nil {
		t.Fatal(err)
	}
	if chain.Block() != fork {
		t.Errorf("head %d, want %d", chain.Block(), fork)
	}
	second, err := chain.OpenChannel(t.Context(), chain.Account("stranger"), chain.Account("stranger").Address,
		chain.Account("provider").Address, group, uint256.NewInt(777), fork+2000)
	if err != nil {
		t.Fatal(err)
	}
	if !first.Eq(&second) {
		t.Errorf("the new channel has id %s, the one taken back %s", second.Dec(), first.Dec())
	}
	if err := chain.MineTo(height + 1); err != nil {
		t.Fatal(err)
	}
	if chain.Block() != height+1 || chain.BlockHash(fork+1) == replaced {
		t.Errorf("head %d, want %d on another branch", chain.Block(), height+1)
	}
	if _, value, _ := channelValue(t, chain, &second); value.Uint64() != 777 {
		t.Errorf("value %s", value)
	}
	// The chain still takes transactions of the account whose blocks are gone.
	if _, err := chain.OpenChannel(t.Context(), chain.Account("client"), chain.Account("signer").Address,
		chain.Account("provider").Address, group, uint256.NewInt(100), fork+1000); err != nil {
		t.Error(err)
	}
}

func TestManualChainMinesOnlyWhenTold(t *testing.T) {
	chain := startChain(t, Options{Manual: true})
	before := chain.Block()
	options, err := bind.NewKeyedTransactorWithChainID(chain.Account("client").Key, big.NewInt(1337))
	if err != nil {
		t.Fatal(err)
	}
	options.Context = t.Context()
	for range 2 {
		if _, err := chain.TokenContract.Transact(options, "transfer", chain.Account("stranger").Address, big.NewInt(1)); err != nil {
			t.Fatal(err)
		}
	}
	if chain.Block() != before {
		t.Error("a block was mined without being asked for")
	}
	hash, err := chain.Commit()
	if err != nil {
		t.Fatal(err)
	}
	block, err := chain.Client.BlockByHash(t.Context(), hash)
	if err != nil || len(block.Transactions()) != 2 || block.NumberU64() != before+1 {
		t.Errorf("block %v, %v", block, err)
	}
}

func TestRegistryHoldsWhatWasRegistered(t *testing.T) {
	chain := startChain(t, Options{})
	for _, version := range []string{"1", "2"} {
		if err := chain.RegisterService(t.Context(), "acme", "ipfs://organization"+version, "captioner", "ipfs://service"+version); err != nil {
			t.Fatal(err)
		}
		organization, _ := registryID("acme")
		service, _ := registryID("captioner")
		var results []any
		if err := chain.RegistryContract.Call(nil, &results, "getOrganizationById", organization); err != nil {
			t.Fatal(err)
		}
		if uri := strings.TrimRight(string(results[2].([]byte)), "\x00"); uri != "ipfs://organization"+version {
			t.Errorf("organization URI %q", uri)
		}
		results = nil
		if err := chain.RegistryContract.Call(nil, &results, "getServiceRegistrationById", organization, service); err != nil {
			t.Fatal(err)
		}
		if uri := strings.TrimRight(string(results[2].([]byte)), "\x00"); uri != "ipfs://service"+version {
			t.Errorf("service URI %q", uri)
		}
	}
	if err := chain.RegisterService(t.Context(), strings.Repeat("x", 33), "u", "s", "u"); err == nil {
		t.Error("an id that does not fit was accepted")
	}
}
