package blockchain

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/rpc"
	"github.com/holiman/uint256"
)

// Backend is a connection to a node. *Client, *ethclient.Client and the client
// of go-ethereum's simulated backend are all one.
type Backend interface {
	bind.Backend
	ethereum.BlockNumberReader
	ethereum.ChainIDReader
}

// BlockRef names one block of the chain for good: a number alone may come to
// mean another block.
type BlockRef struct {
	Number uint64
	Hash   common.Hash
}

// ErrNoContract: the address holds no code, so it is another chain's address or
// a mistyped one.
var ErrNoContract = errors.New("no contract at this address")

// invalidParams is the JSON-RPC error code of a node that doesn't take a block
// hash (EIP-1898).
const invalidParams = -32602

// call asks a view function of contract. block nil is the latest one; a hash
// takes precedence where the node takes one.
func call(ctx context.Context, backend Backend, contract common.Address, data []byte, block *big.Int, hash common.Hash) ([]byte, error) {
	message := ethereum.CallMsg{To: &contract, Data: data}
	output, err := callAtHash(ctx, backend, message, hash)
	var refused rpc.Error
	if errors.Is(err, errNoHash) || (errors.As(err, &refused) && refused.ErrorCode() == invalidParams) {
		output, err = backend.CallContract(ctx, message, block)
	}
	if err != nil {
		return nil, err
	}
	if len(output) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoContract, contract)
	}
	return output, nil
}

var errNoHash = errors.New("no block hash to read at")

func callAtHash(ctx context.Context, backend Backend, message ethereum.CallMsg, hash common.Hash) ([]byte, error) {
	caller, ok := backend.(bind.BlockHashContractCaller)
	if !ok || hash == (common.Hash{}) {
		return nil, errNoHash
	}
	return caller.CallContractAtHash(ctx, message, hash)
}

// wordAt reads the index-th 32-byte word of what a contract answered.
func wordAt(output []byte, index int) []byte {
	return output[index*wordLength : (index+1)*wordLength]
}

func setWord(number *uint256.Int, output []byte, index int) {
	number.SetBytes32(wordAt(output, index))
}

func addressAt(output []byte, index int) common.Address {
	return common.BytesToAddress(wordAt(output, index))
}
