package desk

import (
	"context"
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

func hexOf(data []byte) string { return hex.EncodeToString(data) }

// fixedChain has the same channel under every id.
type fixedChain struct{ channel blockchain.Channel }

func (f *fixedChain) Channel(_ context.Context, id *uint256.Int) (blockchain.Channel, error) {
	channel := f.channel
	channel.ID = *id
	return channel, nil
}

func (f *fixedChain) Earlier(ctx context.Context, id *uint256.Int, _ uint64) (blockchain.Channel, error) {
	return f.Channel(ctx, id)
}

func (f *fixedChain) Estimate(_ context.Context, _ common.Address, orders []blockchain.ClaimOrder) (uint64, error) {
	return uint64(len(orders)), nil
}

// office is a process with books in memory, in which channels 1 to 3 have spent 50 of 60 signed cogs.
func office(t *testing.T, owner *ecdsa.PrivateKey) (*Local, *fixedChain, string) {
	t.Helper()
	settings := channelstate.DefaultSettings()
	store := channelstate.NewMemoryStore(settings)
	ledger := channelstate.NewLedger(func(channelstate.Key) channelstate.Store { return store }, settings, nil)
	t.Cleanup(func() { _ = ledger.Close(context.Background()) })
	terms := Terms{Organization: "org", ChainID: 5, MPE: common.HexToAddress("0x9"), PaymentAddress: crypto.PubkeyToAddress(owner.PublicKey)}
	chain := &fixedChain{onChain(0)}
	for id := range uint64(3) {
		channel := onChain(0)
		channel.ID = n(id + 1)
		if err := ledger.Charge(t.Context(), terms.group().Key(&channel.ID), &channel, channelstate.Charge{
			ID: channelstate.NewChargeID(), Amount: n(60), Price: n(50), Signature: []byte("signed"), Block: 1,
		}); err != nil {
			t.Fatal(err)
		}
	}
	books := &Local{Current: func() (Terms, error) { return terms, nil }, Store: store, Ledger: ledger, OnChain: chain}
	server := httptest.NewServer(&Server{Books: books, Head: func(context.Context) (uint64, error) { return 100, nil }})
	t.Cleanup(server.Close)
	return books, chain, strings.TrimPrefix(server.URL, "http://")
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func atBlock(block uint64) func(context.Context) (uint64, error) {
	return func(context.Context) (uint64, error) { return block, nil }
}

func TestRemoteBooks(t *testing.T) {
	owner := newKey(t)
	_, chain, address := office(t, owner)
	books := &Remote{Address: address, Key: owner, Block: atBlock(103)}
	ctx := t.Context()
	if page, next, err := books.Channels(ctx, ""); err != nil || len(page) != 3 || next != "" || page[2].Spent != n(50) || page[2].Sender != sender {
		t.Fatalf("%+v, %q, %v", page, next, err)
	}
	if gas, err := books.Estimate(ctx, []Name{{Channel: n(1)}, {Channel: n(2)}}); err != nil || gas != 2 {
		t.Errorf("estimated %d, %v", gas, err)
	}
	if _, err := books.Estimate(ctx, []Name{{Channel: n(1), Nonce: n(4)}}); err == nil {
		t.Error("a nonce that holds nothing is estimated")
	}
	started, refused, err := books.Start(ctx, []uint256.Int{n(1), n(3), n(9)})
	if err != nil || len(started) != 2 || len(refused) != 1 || refused[0].Channel != n(9) {
		t.Fatalf("started %+v, refused %+v, %v", started, refused, err)
	}
	if started, refused, err = books.Start(ctx, []uint256.Int{n(1)}); err != nil || len(started) != 0 || len(refused) != 1 {
		t.Errorf("a second claim: %+v, %+v, %v", started, refused, err)
	}
	page, _, err := books.Claims(ctx, "")
	if err != nil || len(page) != 2 || page[0].Signature != nil || page[0].Sent {
		t.Errorf("claims %+v, %v", page, err)
	}
	names := []Name{{Channel: n(1)}, {Channel: n(2)}, {Channel: n(3)}}
	for range 2 { // again after a reply was lost
		sent, refused, err := books.Send(ctx, names)
		if err != nil || len(sent) != 2 || string(sent[0].Signature) != "signed" || !sent[0].Sent || len(refused) != 1 || refused[0].Channel != n(2) {
			t.Fatalf("sent %+v, refused %+v, %v", sent, refused, err)
		}
	}
	// Not before the chain has passed them.
	if err := books.Settle(ctx, names); err != nil {
		t.Fatal(err)
	}
	if page, _, err := books.Claims(ctx, ""); err != nil || len(page) != 2 {
		t.Errorf("%d claims are left, %v", len(page), err)
	}
	chain.channel = onChain(1)
	if err := books.Settle(ctx, names); err != nil {
		t.Fatal(err)
	}
	if page, _, err := books.Claims(ctx, ""); err != nil || len(page) != 0 {
		t.Errorf("%d claims are left, %v", len(page), err)
	}
}

// Only the payment address changes claims, with a signature that is fresh and of this very request.
func TestRemoteBooksRefuse(t *testing.T) {
	owner := newKey(t)
	local, _, address := office(t, owner)
	expect := func(what string, books *Remote, want string) {
		t.Helper()
		if _, _, err := books.Start(t.Context(), []uint256.Int{n(1)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	expect("no key", &Remote{Address: address, Block: atBlock(100)}, "key of the payment address")
	expect("a stranger", &Remote{Address: address, Key: newKey(t), Block: atBlock(100)}, "payment address")
	expect("an old block", &Remote{Address: address, Key: owner, Block: atBlock(94)}, "block 94")
	expect("a later block", &Remote{Address: address, Key: owner, Block: atBlock(106)}, "block 106")

	terms, _ := local.Current()
	signed := &request{Channels: []uint256.Int{n(1)}, Block: 100}
	message, err := signed.message(askSend, &terms)
	if err != nil {
		t.Fatal(err)
	}
	if signed.Signature, err = blockchain.Sign(message, owner); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Remote{Address: address}).ask(t.Context(), askStart, signed); err == nil {
		t.Error("the signature of another operation was taken")
	}
	for body, content := range map[string]string{`{}`: "text/plain", `{"other":1}`: "application/json", `[`: "application/json"} {
		response, err := http.Post("http://"+address+Path+askTerms, content, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode < 400 || response.StatusCode >= 500 {
			t.Errorf("%s as %s: %d", body, content, response.StatusCode)
		}
	}
	if page, _, err := local.Claims(t.Context(), ""); err != nil || len(page) != 0 {
		t.Errorf("%d claims were started, %v", len(page), err)
	}
	if _, err := (&Remote{Address: "127.0.0.1:1"}).Terms(t.Context()); !errors.Is(err, ErrNobody) {
		t.Errorf("nobody listens: %v", err)
	}
}

// A command that would work on another provider's books is stopped.
func TestBooksAreTheRightOnes(t *testing.T) {
	place := Place{Admin: "127.0.0.1:7390"}
	place.Chain.ChainID, place.Metadata.OrganizationID, place.Metadata.GroupName = 5, "org", "default_group"
	right := Terms{Organization: "org", GroupName: "default_group", ChainID: 5}
	if err := place.matches(&right); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Terms){
		"organization": func(terms *Terms) { terms.Organization = "other" },
		"group":        func(terms *Terms) { terms.GroupName = "other" },
		"chain":        func(terms *Terms) { terms.ChainID = 1 },
	} {
		wrong := right
		change(&wrong)
		if err := place.matches(&wrong); err == nil || !strings.Contains(err.Error(), "--admin") {
			t.Errorf("another %s: %v", name, err)
		}
	}
}
