package blockchain

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
)

// modelChain is a chain whose hashes are drawn at random.
type modelChain struct {
	random *rand.Rand
	hashes []common.Hash
	asked  int
}

func newModelChain(seed uint64) *modelChain {
	chain := &modelChain{random: rand.New(rand.NewPCG(seed, 1))}
	chain.mine(1)
	return chain
}

func (m *modelChain) mine(blocks int) {
	for range blocks {
		var hash common.Hash
		binary.BigEndian.PutUint64(hash[:], m.random.Uint64())
		m.hashes = append(m.hashes, hash)
	}
}

func (m *modelChain) head() blockHeader { return m.header(uint64(len(m.hashes) - 1)) }

func (m *modelChain) header(number uint64) blockHeader {
	header := blockHeader{BlockRef: BlockRef{number, m.hashes[number]}}
	if number > 0 {
		header.Parent = m.hashes[number-1]
	}
	return header
}

func (m *modelChain) hashAt(number uint64) (common.Hash, error) {
	m.asked++
	if number >= uint64(len(m.hashes)) {
		return common.Hash{}, ethereum.NotFound
	}
	return m.hashes[number], nil
}

// TestKnownBlocksFindEveryReorganisation compares with a model over random
// growth, gaps and reorganisations.
func TestKnownBlocksFindEveryReorganisation(t *testing.T) {
	for seed := range uint64(200) {
		chain := newModelChain(seed)
		var known knownBlocks
		seen := map[uint64]common.Hash{} // what was believed of each number
		for range 200 {
			// The true fork is the lowest number that was believed and is replaced.
			if chain.random.IntN(4) == 0 {
				depth := min(chain.random.IntN(12), len(chain.hashes)-1)
				chain.hashes = chain.hashes[:len(chain.hashes)-depth]
				chain.mine(depth + chain.random.IntN(3))
			} else {
				chain.mine(1 + chain.random.IntN(3)*chain.random.IntN(5))
			}
			head := chain.head()
			replaced, any := lowestReplaced(seen, chain)
			chain.asked = 0
			result, fork, err := known.place(head, chain.hashAt)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if any && result != blockForks && result != blockIsBehind {
				t.Fatalf("seed %d: block %d replaced, head %d placed as %d", seed, replaced, head.Number, result)
			}
			if result == blockForks && any && fork > replaced {
				t.Fatalf("seed %d: fork %d reported, but block %d was replaced", seed, fork, replaced)
			}
			if result == blockForks && !any {
				t.Fatalf("seed %d: a fork at %d that never was", seed, fork)
			}
			if limit := 8; chain.asked > limit || (result == blockExtends && chain.asked > 1) {
				t.Fatalf("seed %d: %d questions to place one block", seed, chain.asked)
			}
			if result == blockIsBehind {
				continue // nothing new is believed
			}
			for number := range seen {
				if number >= fork && result == blockForks {
					delete(seen, number)
				}
			}
			seen[head.Number] = head.Hash
		}
	}
}

func lowestReplaced(seen map[uint64]common.Hash, chain *modelChain) (lowest uint64, any bool) {
	for number, hash := range seen {
		gone := number >= uint64(len(chain.hashes)) || chain.hashes[number] != hash
		if gone && (!any || number < lowest) {
			lowest, any = number, true
		}
	}
	return lowest, any
}

func TestKnownBlocksPlace(t *testing.T) {
	unreachable := func(uint64) (common.Hash, error) { return common.Hash{}, errors.New("not to be asked") }
	chain := newModelChain(7)
	chain.mine(20)
	var known knownBlocks
	for number := range uint64(11) {
		if result, _, err := known.place(chain.header(number), unreachable); err != nil || result != blockExtends {
			t.Fatalf("block %d: %d, %v", number, result, err)
		}
	}
	if result, _, err := known.place(chain.header(10), unreachable); result != blockIsLast || err != nil {
		t.Errorf("the same block again: %d, %v", result, err)
	}
	if result, _, err := known.place(chain.header(4), unreachable); result != blockIsBehind || err != nil {
		t.Errorf("an older block: %d, %v", result, err)
	}
	if _, _, err := known.place(chain.header(15), unreachable); err == nil {
		t.Error("a gap was bridged although the node could not be asked")
	}
	if last, _ := known.last(); last.Number != 10 {
		t.Errorf("head %d after a failure, want 10", last.Number)
	}
	if result, _, err := known.place(chain.header(15), chain.hashAt); result != blockExtends || err != nil || chain.asked != 1 {
		t.Errorf("a gap: %d, %v after %d questions, want one", result, err, chain.asked)
	}
}

func TestKnownBlocksRewindAndDepth(t *testing.T) {
	chain := newModelChain(9)
	var known knownBlocks
	for range 3 * keptBlocks {
		if _, _, err := known.place(chain.head(), chain.hashAt); err != nil {
			t.Fatal(err)
		}
		chain.mine(1)
	}
	if len(known.blocks) != keptBlocks {
		t.Fatalf("%d blocks are kept, want %d", len(known.blocks), keptBlocks)
	}
	fork, err := known.rewind(chain.header(3*keptBlocks-10), chain.hashAt)
	if err != nil || fork != 3*keptBlocks-10 {
		t.Errorf("rewound to fork %d, %v", fork, err)
	}
	if last, _ := known.last(); last.Number != 3*keptBlocks-10 {
		t.Errorf("head %d", last.Number)
	}
	// Another chain altogether.
	other := newModelChain(10)
	other.mine(4 * keptBlocks)
	result, fork, err := known.place(other.head(), other.hashAt)
	if result != blockForks || fork != 0 || err != nil || len(known.blocks) != 1 {
		t.Errorf("another chain: %d, fork %d, %v, %d blocks known", result, fork, err, len(known.blocks))
	}
}
