package blockchain

import (
	"context"
	"errors"
	"math/big"
	"testing"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
)

// hashBackend answers reads by hash with an error and by number with zeros.
type hashBackend struct {
	Backend
	byHash error
	number *big.Int
}

func (b *hashBackend) CodeAtHash(context.Context, common.Address, common.Hash) ([]byte, error) {
	return nil, b.byHash
}

func (b *hashBackend) CallContractAtHash(context.Context, ethereum.CallMsg, common.Hash) ([]byte, error) {
	return nil, b.byHash
}

func (b *hashBackend) CallContract(_ context.Context, _ ethereum.CallMsg, block *big.Int) ([]byte, error) {
	b.number = block
	return make([]byte, channelWords*wordLength), nil
}

type codedFailure int

func (codedFailure) Error() string    { return "refused" }
func (f codedFailure) ErrorCode() int { return int(f) }

func TestReadsByNumberWhereANodeTakesNoHash(t *testing.T) {
	block := BlockRef{Number: 77, Hash: common.Hash{1}}
	for _, test := range []struct {
		byHash error
		falls  bool
	}{
		{codedFailure(invalidParams), true},
		{codedFailure(-32000), false}, // it doesn't know the block: by number it would answer another one
		{errors.New("connection refused"), false},
	} {
		backend := &hashBackend{byHash: test.byHash}
		escrow, err := NewEscrow(common.Address{1}, backend)
		if err != nil {
			t.Fatal(err)
		}
		_, err = escrow.ChannelAt(t.Context(), new(uint256.Int), block)
		if fell := backend.number != nil; fell != test.falls || (err == nil) != test.falls {
			t.Errorf("%v: read by number %v, %v", test.byHash, backend.number, err)
		}
		if test.falls && backend.number.Uint64() != 77 {
			t.Errorf("read at block %s", backend.number)
		}
	}
}
