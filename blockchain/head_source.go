package blockchain

import (
	"context"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/rpc"
)

// headSource asks a node for block headers. A nil number means the newest.
type headSource interface {
	header(ctx context.Context, number *uint64) (blockHeader, error)
}

// headerReader is the part of a client that Head needs.
type headerReader interface {
	HeaderByNumber(ctx context.Context, number *big.Int) (*types.Header, error)
}

// newHeadSource prefers the raw answer: the hash the node states holds even on
// a chain whose headers have fields that go-ethereum doesn't know.
func newHeadSource(client headerReader) headSource {
	if raw, ok := client.(interface{ Client() *rpc.Client }); ok && raw.Client() != nil {
		return rpcSource{raw.Client()}
	}
	return clientSource{client}
}

type rpcSource struct{ client *rpc.Client }

// rpcHeader is a block of JSON-RPC: eth_getBlockByNumber and newHeads.
type rpcHeader struct {
	Number     *hexutil.Uint64 `json:"number"`
	Hash       *common.Hash    `json:"hash"`
	ParentHash *common.Hash    `json:"parentHash"`
}

func (h *rpcHeader) parse() (blockHeader, error) {
	if h == nil {
		return blockHeader{}, ethereum.NotFound
	}
	if h.Number == nil || h.Hash == nil || h.ParentHash == nil {
		return blockHeader{}, fmt.Errorf("the node answered a block without number, hash or parentHash")
	}
	return blockHeader{BlockRef{uint64(*h.Number), *h.Hash}, *h.ParentHash}, nil
}

func (s rpcSource) header(ctx context.Context, number *uint64) (blockHeader, error) {
	tag := "latest"
	if number != nil {
		tag = hexutil.EncodeUint64(*number)
	}
	var answer *rpcHeader
	if err := s.client.CallContext(ctx, &answer, "eth_getBlockByNumber", tag, false); err != nil {
		return blockHeader{}, err
	}
	return answer.parse()
}

type clientSource struct{ client headerReader }

func (s clientSource) header(ctx context.Context, number *uint64) (blockHeader, error) {
	var wanted *big.Int
	if number != nil {
		wanted = new(big.Int).SetUint64(*number)
	}
	header, err := s.client.HeaderByNumber(ctx, wanted)
	if err != nil {
		return blockHeader{}, err
	}
	return blockHeader{BlockRef{header.Number.Uint64(), header.Hash()}, header.ParentHash}, nil
}
