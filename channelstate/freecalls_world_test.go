package channelstate_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

const block = 1000

// caller makes free calls.
type caller struct {
	key     *ecdsa.PrivateKey
	address common.Address
}

func newCaller(t testing.TB) caller {
	t.Helper()
	key, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return caller{key, crypto.PubkeyToAddress(key.PublicKey)}
}

// balances are what callers hold.
type balances struct {
	mu     sync.Mutex
	tokens map[common.Address]uint64
	err    error
	asked  int
}

func (b *balances) Holds(_ context.Context, owner common.Address, tokens uint64, _ string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	return b.tokens[owner] >= tokens, b.err
}

// office is free calls with what they need.
type office struct {
	t        testing.TB
	calls    *channelstate.FreeCalls
	balances *balances
	metadata *blockchain.Metadata
	block    uint64
}

func newOffice(t testing.TB, store channelstate.Store, change ...func(*channelstate.FreeCallSettings)) *office {
	t.Helper()
	free, ok := store.(channelstate.FreeCallStore)
	if !ok {
		t.Fatalf("%T keeps no counters of free calls", store)
	}
	return newOfficeOn(t, free, sharedOf(t, store), change...)
}

func newOfficeOn(t testing.TB, free channelstate.FreeCallStore, shared channelstate.SharedStore, change ...func(*channelstate.FreeCallSettings)) *office {
	t.Helper()
	settings := channelstate.DefaultFreeCallSettings()
	settings.MinBalance = 0
	for _, change := range change {
		change(&settings)
	}
	o := &office{t: t, balances: &balances{tokens: map[common.Address]uint64{}}, block: block}
	var err error
	o.calls, err = channelstate.OpenFreeCalls(t.Context(), channelstate.FreeCallParts{
		Stores: func(channelstate.FreeCallUser) channelstate.FreeCallStore { return free }, Shared: shared, Balances: o.balances,
	}, group, settings, channelstate.DefaultSettings())
	if err != nil {
		t.Fatal(err)
	}
	o.metadata = &blockchain.Metadata{
		OrganizationID: "org", ServiceID: "service", Service: &blockchain.Service{MPE: group.MPE},
		Group:        &blockchain.OrganizationGroup{Name: "default_group", ID: group.GroupID, IDText: "CQAA"},
		ServiceGroup: &blockchain.ServiceGroup{FreeCalls: 3, FreeCallSigner: o.calls.Signer()},
	}
	return o
}

func (o *office) current(context.Context, uint64) (uint64, error) { return o.block, nil }

// proof signs a request; token is nil in one for a token.
func (o *office) proof(by caller, userID string, token []byte) *channelstate.FreeCallProof {
	o.t.Helper()
	proof := &channelstate.FreeCallProof{Address: by.address.Hex(), UserID: userID, Block: o.block, Token: token}
	signature, err := blockchain.Sign(blockchain.FreeCallMessage(blockchain.FreeCallRequest{
		Address: proof.Address, UserID: userID, OrganizationID: "org", ServiceID: "service", GroupID: "CQAA", Block: o.block,
	}, token), by.key)
	if err != nil {
		o.t.Fatal(err)
	}
	proof.Signature = signature
	return proof
}

func (o *office) token(by caller, userID string) []byte {
	o.t.Helper()
	token, expiry, err := o.calls.IssueToken(o.t.Context(), o.metadata, o.proof(by, userID, nil), nil, o.current)
	if err != nil || expiry != o.block+172800 {
		o.t.Fatalf("token until %d, error %v", expiry, err)
	}
	return token
}

func (o *office) left(by caller, userID string) uint64 {
	o.t.Helper()
	left, err := o.calls.Available(o.t.Context(), o.metadata, o.proof(by, userID, o.token(by, userID)), o.current, "")
	if err != nil {
		o.t.Fatal(err)
	}
	return left
}

// call makes a free call as authz does.
func (o *office) call(by caller, userID string) (channelstate.FreeCallUser, error) {
	o.t.Helper()
	return o.callWith(o.proof(by, userID, o.token(by, userID)))
}

func (o *office) callWith(proof *channelstate.FreeCallProof) (channelstate.FreeCallUser, error) {
	user, quota, err := o.calls.Admit(o.t.Context(), o.metadata, proof, o.current, "")
	if err != nil {
		return user, err
	}
	return user, o.calls.Charge(o.t.Context(), user, quota)
}

func wantFreeCallRefusal(t *testing.T, what string, err error, reason channelstate.FreeCallReason, phrase string) {
	t.Helper()
	var refusal *channelstate.FreeCallRefusal
	if !errors.As(err, &refusal) || refusal.Reason != reason || !strings.HasPrefix(refusal.Message, phrase) {
		t.Errorf("%s: %v, want %s: %s", what, err, reason, phrase)
	}
}
