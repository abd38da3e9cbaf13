package blockchain

import (
	"context"
	"encoding/binary"
	"errors"
	"math/big"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
)

// tokenNode is a node with an MPE contract and its token.
type tokenNode struct {
	Backend  // the rest is not asked
	mu       sync.Mutex
	decimals uint64
	balances map[common.Address]uint256.Int
	err      error
	asked    atomic.Int64
	hold     chan struct{} // questions wait for it to be closed
}

var (
	mpeOfNode   = common.HexToAddress("0x01")
	tokenOfNode = common.HexToAddress("0x02")
	richOwner   = common.HexToAddress("0xaa")
	poorOwner   = common.HexToAddress("0xbb")
)

func (n *tokenNode) CallContract(_ context.Context, message ethereum.CallMsg, _ *big.Int) ([]byte, error) {
	n.asked.Add(1)
	if n.hold != nil {
		<-n.hold
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return nil, n.err
	}
	var word [32]byte
	switch [4]byte(message.Data) {
	case selectorToken:
		copy(word[12:], tokenOfNode[:])
	case selectorDecimals:
		binary.BigEndian.PutUint64(word[24:], n.decimals)
	case selectorBalanceOf:
		balance := n.balances[common.BytesToAddress(message.Data[4:])]
		word = balance.Bytes32()
	}
	return word[:], nil
}

func (n *tokenNode) set(owner common.Address, tokens uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	unit := new(uint256.Int).Exp(uint256.NewInt(10), uint256.NewInt(n.decimals))
	n.balances[owner] = *new(uint256.Int).Mul(uint256.NewInt(tokens), unit)
}

func newTokenNode(t *testing.T, decimals uint64) (*tokenNode, *TokenBalances, func(time.Duration)) {
	t.Helper()
	node := &tokenNode{decimals: decimals, balances: map[common.Address]uint256.Int{}}
	escrow, err := NewEscrow(mpeOfNode, node)
	if err != nil {
		t.Fatal(err)
	}
	balances := NewTokenBalances(escrow, DefaultSettings())
	now := time.Unix(1_800_000_000, 0)
	balances.now = func() time.Time { return now }
	node.set(richOwner, 10)
	node.set(poorOwner, 9)
	return node, balances, func(later time.Duration) { now = now.Add(later) }
}

func holds(t *testing.T, balances *TokenBalances, owner common.Address, tokens uint64, want bool) {
	t.Helper()
	if got, err := balances.Holds(t.Context(), owner, tokens, ""); err != nil || got != want {
		t.Errorf("holds %d: %v, error %v, want %v", tokens, got, err, want)
	}
}

func TestTokenBalances(t *testing.T) {
	for _, decimals := range []uint64{0, 8, 18, 77} {
		_, balances, _ := newTokenNode(t, decimals)
		if decimals == 77 { // ten of them do not fit 256 bits
			holds(t, balances, richOwner, 10, false)
			continue
		}
		holds(t, balances, richOwner, 10, true)
		holds(t, balances, richOwner, 11, false)
		holds(t, balances, poorOwner, 10, false)
		holds(t, balances, poorOwner, 9, true)
		holds(t, balances, common.Address{}, 1, false)
		holds(t, balances, richOwner, 1<<63, false)
	}
	_, balances, _ := newTokenNode(t, 78)
	if _, err := balances.Holds(t.Context(), richOwner, 1, ""); !errors.Is(err, ErrChainUnavailable) {
		t.Errorf("78 decimals: %v", err)
	}
}

func TestTokenBalancesAreRemembered(t *testing.T) {
	node, balances, wait := newTokenNode(t, 18)
	asked := func(what string, want int64) {
		t.Helper()
		if got := node.asked.Swap(0); got != want {
			t.Errorf("%s: the node was asked %d times, want %d", what, got, want)
		}
	}
	holds(t, balances, richOwner, 0, true)
	asked("no tokens", 0)
	holds(t, balances, richOwner, 10, true)
	asked("first", 3) // token, decimals and balance
	node.set(richOwner, 0)
	wait(9 * time.Minute)
	holds(t, balances, richOwner, 10, true)
	asked("remembered", 0)
	wait(2 * time.Minute)
	holds(t, balances, richOwner, 10, false)
	asked("forgotten", 1)
	holds(t, balances, richOwner, 10, false)
	asked("too little, remembered for a moment", 0)
	node.set(richOwner, 10)
	wait(16 * time.Second)
	holds(t, balances, richOwner, 10, true)
	asked("enough again", 1)
}

func TestTokenBalancesWhileTheNodeIsAway(t *testing.T) {
	node, balances, wait := newTokenNode(t, 18)
	holds(t, balances, richOwner, 10, true)
	holds(t, balances, poorOwner, 10, false)
	node.mu.Lock()
	node.err = errors.New("node away")
	node.mu.Unlock()
	wait(59 * time.Minute)
	holds(t, balances, richOwner, 10, true)
	for _, owner := range []common.Address{poorOwner, common.HexToAddress("0xcc")} {
		if _, err := balances.Holds(t.Context(), owner, 10, ""); !errors.Is(err, ErrChainUnavailable) {
			t.Errorf("of %s nothing is known: %v", owner, err)
		}
	}
	wait(2 * time.Minute)
	if _, err := balances.Holds(t.Context(), richOwner, 10, ""); !errors.Is(err, ErrChainUnavailable) {
		t.Errorf("known too long ago: %v", err)
	}
}

func TestReadsOfTokenBalancesAreBounded(t *testing.T) {
	node, balances, wait := newTokenNode(t, 18)
	refused := 0
	owner := func(i int) common.Address { return common.BigToAddress(big.NewInt(int64(1000 + i))) }
	for i := range 100 {
		if _, err := balances.Holds(t.Context(), owner(i), 10, "192.0.2.7"); errors.Is(err, ErrTooManyReads) {
			refused++
		}
	}
	if refused != 50 {
		t.Errorf("%d of 100 strangers of one client were refused", refused)
	}
	holds(t, balances, owner(0), 10, false)
	if _, err := balances.Holds(t.Context(), owner(200), 10, "192.0.2.8"); err != nil {
		t.Errorf("another client: %v", err)
	}
	wait(time.Minute)
	node.asked.Store(0)
	if _, err := balances.Holds(t.Context(), owner(99), 10, "192.0.2.7"); err != nil || node.asked.Load() != 1 {
		t.Errorf("a minute later: %v, asked %d times", err, node.asked.Load())
	}
}

func TestReadsOfOneBalanceAreShared(t *testing.T) {
	node, balances, _ := newTokenNode(t, 18)
	holds(t, balances, poorOwner, 10, false)
	node.asked.Store(0)
	node.hold = make(chan struct{})
	var done sync.WaitGroup
	for range 20 {
		done.Go(func() { holds(t, balances, richOwner, 10, true) })
	}
	for node.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(node.hold)
	done.Wait()
	if asked := node.asked.Load(); asked > 2 { // who came meanwhile waits for one more
		t.Errorf("20 calls asked the node %d times", asked)
	}
}
