package blockchain_test

import (
	"testing"

	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
)

func TestBalancesOfThePublishedToken(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	balances := blockchain.NewTokenBalances(newEscrow(t, chain, dial(t, chainSettings(t, chain))), chainSettings(t, chain))
	var decimals []any
	if err := chain.TokenContract.Call(&bind.CallOpts{Context: t.Context()}, &decimals, "decimals"); err != nil {
		t.Fatal(err)
	}
	exponent, ok := decimals[0].(uint8)
	if !ok {
		t.Fatalf("decimals are a %T", decimals[0])
	}
	owner := chain.Account("holder").Address
	ten := new(uint256.Int).Exp(uint256.NewInt(10), uint256.NewInt(uint64(exponent)+1))
	if err := chain.Mint(t.Context(), owner, ten); err != nil {
		t.Fatal(err)
	}
	for tokens, want := range map[uint64]bool{10: true, 11: false} {
		if got, err := balances.Holds(t.Context(), owner, tokens, ""); err != nil || got != want {
			t.Errorf("of %d decimals, holds %d: %v, error %v", exponent, tokens, got, err)
		}
	}
}
