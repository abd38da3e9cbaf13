package blockchain

import (
	"fmt"
	"sort"

	"github.com/ethereum/go-ethereum/common"
)

// keptBlocks bounds how deep a reorganisation can be located; a deeper one
// counts as one of the whole chain.
const keptBlocks = 128

// blockHeader is what is needed of a block's header.
type blockHeader struct {
	BlockRef
	Parent common.Hash
}

// knownBlocks are the newest blocks the node confirmed, oldest first. Numbers may
// be missing in between when the chain grew by more than one block at a time.
type knownBlocks struct {
	blocks []BlockRef
}

type placement uint8

const (
	blockIsLast   placement = iota // already the newest one
	blockExtends                   // the new newest one
	blockIsBehind                  // older than the newest and no contradiction: a node that lags, or a chain set back
	blockForks                     // the chain was reorganised
)

func (k *knownBlocks) last() (BlockRef, bool) {
	if len(k.blocks) == 0 {
		return BlockRef{}, false
	}
	return k.blocks[len(k.blocks)-1], true
}

// place compares the newest block of the node with what is known and remembers
// it. hashAt asks the node; it is called at most once while the chain only grows.
// fork is the lowest number whose block may have been replaced.
func (k *knownBlocks) place(block blockHeader, hashAt func(number uint64) (common.Hash, error)) (result placement, fork uint64, err error) {
	last, any := k.last()
	if !any {
		k.push(block.BlockRef)
		return blockExtends, 0, nil
	}
	if block.Hash == last.Hash {
		return blockIsLast, 0, nil
	}
	below := sort.Search(len(k.blocks), func(i int) bool { return k.blocks[i].Number >= block.Number })
	conflict := below < len(k.blocks) && k.blocks[below].Number == block.Number
	if conflict && k.blocks[below].Hash == block.Hash {
		return blockIsBehind, 0, nil
	}
	matching, err := k.matching(below, block, hashAt)
	switch {
	case err != nil:
		return blockIsLast, 0, err
	case matching == len(k.blocks):
		k.push(block.BlockRef)
		return blockExtends, 0, nil
	case matching == below && !conflict:
		return blockIsBehind, 0, nil
	}
	return blockForks, k.cut(matching, block.BlockRef), nil
}

// rewind makes block the newest although higher ones are known: for a chain that
// was set back.
func (k *knownBlocks) rewind(block blockHeader, hashAt func(number uint64) (common.Hash, error)) (fork uint64, err error) {
	below := sort.Search(len(k.blocks), func(i int) bool { return k.blocks[i].Number >= block.Number })
	matching, err := k.matching(below, block, hashAt)
	if err != nil {
		return 0, err
	}
	return k.cut(matching, block.BlockRef), nil
}

// cut keeps the first matching blocks, adds block and answers the lowest number
// that may have been replaced.
func (k *knownBlocks) cut(matching int, block BlockRef) (fork uint64) {
	if matching > 0 {
		fork = k.blocks[matching-1].Number + 1
	}
	k.blocks = k.blocks[:matching]
	k.push(block)
	return fork
}

// matching counts how many of the first below known blocks are on the chain of
// block. Ancestors of a matching block match as well.
func (k *knownBlocks) matching(below int, block blockHeader, hashAt func(number uint64) (common.Hash, error)) (int, error) {
	var failure error
	matches := func(i int) bool {
		if failure != nil {
			return false
		}
		known := k.blocks[i]
		if known.Number == block.Number-1 {
			return known.Hash == block.Parent
		}
		hash, err := hashAt(known.Number)
		if err != nil {
			failure = fmt.Errorf("the hash of block %d could not be read: %w", known.Number, err)
		}
		return hash == known.Hash
	}
	if below == 0 || matches(below-1) {
		return below, failure
	}
	first := sort.Search(below-1, func(i int) bool { return !matches(i) })
	return first, failure
}

func (k *knownBlocks) push(block BlockRef) {
	k.blocks = append(k.blocks, block)
	if excess := len(k.blocks) - keptBlocks; excess > 0 {
		k.blocks = append(k.blocks[:0], k.blocks[excess:]...)
	}
}
