package blockchain_test

import (
	"context"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
)

func TestHeadOnARealChain(t *testing.T) {
	for _, subscribe := range []bool{false, true} {
		name := map[bool]string{false: "poll", true: "subscription"}[subscribe]
		t.Run(name, func(t *testing.T) {
			chain := startChain(t, devchain.Options{})
			settings := chainSettings(t, chain)
			if subscribe {
				settings.WebSocketURL = chain.WebSocketURL
				settings.PollInterval = time.Minute // what is seen was announced
			}
			head := blockchain.NewHead(dial(t, settings), settings, zap.NewNop())
			forks := make(chan uint64, 10)
			head.OnReorganisation(func(fork uint64) { forks <- fork })
			blocks := make(chan blockchain.BlockRef, 1000)
			head.OnBlock(func(_ context.Context, block blockchain.BlockRef) { blocks <- block })
			runHead(t, head)
			waitUntil(t, "the first block", reaches(head, chain.Block()))
			if subscribe {
				waitUntil(t, "the subscription", func() bool { return blockchain.Subscribed(head) })
			}

			fork := chain.Block() + 1
			for range 5 {
				if _, err := chain.Commit(); err != nil {
					t.Fatal(err)
				}
				waitUntil(t, "the next block", reaches(head, chain.Block()))
			}
			height := chain.Block()
			if err := chain.Fork(fork - 1); err != nil {
				t.Fatal(err)
			}
			// Another transaction makes other hashes.
			if err := chain.SendEther(t.Context(), common.Address{42}, big.NewInt(1)); err != nil {
				t.Fatal(err)
			}
			if err := chain.MineTo(height + 1); err != nil {
				t.Fatal(err)
			}
			waitUntil(t, "the new branch", reaches(head, height+1))
			if got := <-forks; got != fork {
				t.Errorf("fork at %d, want %d", got, fork)
			}
			var last blockchain.BlockRef
			waitUntil(t, "listeners were told", func() bool { last = <-blocks; return last.Number == height+1 })
			if last.Hash != chain.BlockHash(height+1) {
				t.Errorf("head %s, the chain has %s", last.Hash, chain.BlockHash(height+1))
			}
		})
	}
}

// TestHeadFallsBackToPolling gives a WebSocket URL where nobody listens.
func TestHeadFallsBackToPolling(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	settings := chainSettings(t, chain)
	settings.WebSocketURL = "ws://127.0.0.1:1"
	head := blockchain.NewHead(chain.Client, settings, zap.NewNop())
	runHead(t, head)
	for range 3 {
		if _, err := chain.Commit(); err != nil {
			t.Fatal(err)
		}
		waitUntil(t, "the next block", reaches(head, chain.Block()))
	}
}

// TestHeadSubscribesAgain cuts the connection over which blocks are announced.
func TestHeadSubscribesAgain(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	proxy := startCuttingProxy(t, strings.TrimPrefix(chain.WebSocketURL, "ws://"))
	settings := chainSettings(t, chain)
	settings.WebSocketURL = "ws://" + proxy.listener.Addr().String()
	head := blockchain.NewHead(chain.Client, settings, zap.NewNop())
	runHead(t, head)
	for range 2 {
		waitUntil(t, "the subscription", func() bool { return blockchain.Subscribed(head) })
		proxy.cut()
		waitUntil(t, "the loss is noticed", func() bool { return !blockchain.Subscribed(head) })
		if _, err := chain.Commit(); err != nil {
			t.Fatal(err)
		}
		waitUntil(t, "the block mined meanwhile", reaches(head, chain.Block()))
	}
	waitUntil(t, "the subscription", func() bool { return blockchain.Subscribed(head) })
}

// cuttingProxy passes TCP connections on until they are cut.
type cuttingProxy struct {
	listener net.Listener
	mu       sync.Mutex
	open     []net.Conn
}

func startCuttingProxy(t *testing.T, target string) *cuttingProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := &cuttingProxy{listener: listener}
	t.Cleanup(func() { listener.Close(); proxy.cut() })
	go func() {
		for {
			incoming, err := listener.Accept()
			if err != nil {
				return
			}
			outgoing, err := net.Dial("tcp", target)
			if err != nil {
				incoming.Close()
				continue
			}
			proxy.mu.Lock()
			proxy.open = append(proxy.open, incoming, outgoing)
			proxy.mu.Unlock()
			go io.Copy(incoming, outgoing)
			go io.Copy(outgoing, incoming)
		}
	}()
	return proxy
}

func (p *cuttingProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, connection := range p.open {
		connection.Close()
	}
	p.open = nil
}

// TestHeadRefusesAnnouncementsOfAnotherChain gives the WebSocket of one chain and
// the HTTP endpoint of another.
func TestHeadRefusesAnnouncementsOfAnotherChain(t *testing.T) {
	chain, other := startChain(t, devchain.Options{}), startChain(t, devchain.Options{ChainID: 4711})
	if err := other.MineTo(chain.Block() + 100); err != nil {
		t.Fatal(err)
	}
	settings := chainSettings(t, chain)
	settings.WebSocketURL = other.WebSocketURL
	logs, observed := observer.New(zap.WarnLevel)
	head := blockchain.NewHead(chain.Client, settings, zap.New(logs))
	runHead(t, head)
	waitUntil(t, "the fault is logged", func() bool { return observed.Len() > 0 })
	if text := fmt.Sprint(observed.All()[0].ContextMap()); !strings.Contains(text, "4711") || !strings.Contains(text, "blockchain.websocket_url") {
		t.Errorf("logged %s", text)
	}
	waitUntil(t, "the right chain is polled", reaches(head, chain.Block()))
	if blockchain.Subscribed(head) {
		t.Error("another chain's blocks are listened to")
	}
}
