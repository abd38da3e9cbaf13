package channelstate_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

func TestFreeCalls(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		o, alice := newOffice(t, store), newCaller(t)
		for left := uint64(3); left > 0; left-- {
			if got := o.left(alice, ""); got != left {
				t.Errorf("%d left, want %d", got, left)
			}
			if _, err := o.call(alice, ""); err != nil {
				t.Fatal(err)
			}
		}
		user, err := o.call(alice, "")
		wantFreeCallRefusal(t, "n+1", err, channelstate.FreeCallLimit, "free call limit has been exceeded, calls made = 3, total free calls eligible = 3")
		if left := o.left(alice, ""); left != 0 {
			t.Errorf("%d left", left)
		}

		id := channelstate.NewChargeID()
		for i, want := range []channelstate.RefundOutcome{channelstate.Refunded, channelstate.AlreadyRefunded} {
			if outcome, err := o.calls.Refund(t.Context(), user, id); err != nil || outcome != want {
				t.Errorf("refund %d: %s, %v", i, outcome, err)
			}
		}
		if left := o.left(alice, ""); left != 1 {
			t.Errorf("%d left after a refund", left)
		}
		if _, err := o.call(alice, ""); err != nil {
			t.Error(err)
		}
		if err := o.calls.Reset(t.Context(), user); err != nil || o.left(alice, "") != 3 {
			t.Errorf("%d left after a reset, %v", o.left(alice, ""), err)
		}
		if err := o.calls.Reset(t.Context(), user); err != nil {
			t.Error(err)
		}
		if outcome, err := o.calls.Refund(t.Context(), user, channelstate.NewChargeID()); err != nil || outcome != channelstate.NotCharged {
			t.Errorf("a refund of nothing: %s, %v", outcome, err)
		}
		if outcome, err := o.calls.Refund(t.Context(), user, id); err != nil || outcome != channelstate.AlreadyRefunded {
			t.Errorf("an old refund after a reset: %s, %v", outcome, err)
		}
	})
}

// Many at once, of two replicas, with the same signed headers: the quota bounds them.
func TestFreeCallsAtOnce(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		offices := []*office{newOffice(t, store), newOffice(t, store)}
		alice := newCaller(t)
		offices[0].metadata.ServiceGroup.FreeCalls, offices[1].metadata.ServiceGroup.FreeCalls = 10, 10
		proof := offices[0].proof(alice, "", offices[0].token(alice, ""))
		var made atomic.Int64
		for _, err := range atOnce(40, func(i int) error {
			_, err := offices[i%2].callWith(proof)
			if err == nil {
				made.Add(1)
			}
			return err
		}) {
			if err != nil {
				wantFreeCallRefusal(t, "at once", err, channelstate.FreeCallLimit, "free call limit has been exceeded")
			}
		}
		if made.Load() != 10 || offices[1].left(alice, "") != 0 {
			t.Errorf("%d calls were made, %d left", made.Load(), offices[1].left(alice, ""))
		}
	})
}

func TestQuotasPerAddress(t *testing.T) {
	alice, bob, carol, dave := newCaller(t), newCaller(t), newCaller(t), newCaller(t)
	o := newOffice(t, storetest.Memory(t), func(s *channelstate.FreeCallSettings) {
		s.PerAddress = map[string]any{strings.ToLower(alice.address.Hex()): 1, bob.address.Hex(): 0, carol.address.Hex(): "unlimited"}
	})
	for _, test := range []struct {
		caller caller
		left   uint64
		calls  int
	}{{alice, 1, 1}, {bob, 0, 0}, {carol, 99999999, 50}, {dave, 3, 3}} {
		if left := o.left(test.caller, ""); left != test.left {
			t.Errorf("%d left, want %d", left, test.left)
		}
		made := 0
		for range 50 {
			if _, err := o.call(test.caller, ""); err == nil {
				made++
			}
		}
		if made != test.calls {
			t.Errorf("%d calls made, want %d", made, test.calls)
		}
	}
}

// However the address is written, it is one user.
func TestAddressesAreOneUser(t *testing.T) {
	o, alice := newOffice(t, storetest.Memory(t)), newCaller(t)
	token := o.token(alice, "")
	made := 0
	for i := range 8 {
		text := []string{alice.address.Hex(), strings.ToLower(alice.address.Hex()), alice.address.Hex()[2:], "0X" + strings.ToUpper(alice.address.Hex()[2:])}[i%4]
		proof := &channelstate.FreeCallProof{Address: text, Block: block, Token: token}
		signature, err := blockchain.Sign(blockchain.FreeCallMessage(blockchain.FreeCallRequest{
			Address: text, OrganizationID: "org", ServiceID: "service", GroupID: "CQAA", Block: block,
		}, token), alice.key)
		if err != nil {
			t.Fatal(err)
		}
		proof.Signature = signature
		if _, err := o.callWith(proof); err == nil {
			made++
		}
	}
	if made != 3 {
		t.Errorf("%d calls were made by one user with 3", made)
	}
}

func TestTrustedSigners(t *testing.T) {
	market, alice, store := newCaller(t), newCaller(t), storetest.Memory(t)
	o := newOffice(t, store, func(s *channelstate.FreeCallSettings) {
		s.TrustedSigners, s.MinBalance = []string{market.address.Hex()}, 10
	})
	for _, userID := range []string{"", "ann", "bert"} { // each with a quota of his own
		for range 3 {
			if _, err := o.call(market, userID); err != nil {
				t.Errorf("%q: %v", userID, err)
			}
		}
		_, err := o.call(market, userID)
		wantFreeCallRefusal(t, userID, err, channelstate.FreeCallLimit, "free call limit has been exceeded")
	}
	if o.balances.asked != 0 {
		t.Errorf("the balance of a trusted signer was asked for %d times", o.balances.asked)
	}
	_, _, err := o.calls.IssueToken(t.Context(), o.metadata, o.proof(alice, "ann", nil), nil, o.current)
	wantFreeCallRefusal(t, "a token for a user of who is not trusted", err, channelstate.FreeCallUserID, "address "+alice.address.Hex()+" is not trusted, user_id is not allowed")

	token := o.token(market, "ann")
	distrusting := newOffice(t, store)
	_, err = distrusting.callWith(o.proof(market, "ann", token))
	wantFreeCallRefusal(t, "trusted no longer", err, channelstate.FreeCallUserID, "address ")
}

func TestBalanceForFreeCalls(t *testing.T) {
	rich, poor := newCaller(t), newCaller(t)
	o := newOffice(t, storetest.Memory(t), func(s *channelstate.FreeCallSettings) { s.MinBalance = 10 })
	o.balances.tokens[rich.address], o.balances.tokens[poor.address] = 10, 9
	if _, err := o.call(rich, ""); err != nil || o.left(rich, "") != 2 {
		t.Errorf("%d left, %v", o.left(rich, ""), err)
	}
	asked := o.balances.asked
	o.token(poor, "") // is given
	if o.balances.asked != asked {
		t.Error("a token asks for a balance")
	}
	_, err := o.call(poor, "")
	wantFreeCallRefusal(t, "poor", err, channelstate.FreeCallBalance, "you must have at least 10 FET (ASI) in your balance to use free calls")
	if left := o.left(poor, ""); left != 0 {
		t.Errorf("%d left for who has too little", left)
	}
	o.balances.err = blockchain.ErrChainUnavailable
	if _, err := o.call(rich, ""); !errors.Is(err, blockchain.ErrChainUnavailable) {
		t.Errorf("a balance that cannot be asked for: %v", err)
	}
}

// Where there are no free calls a token is given all the same, and none are left.
func TestFreeCallsThatAreOff(t *testing.T) {
	other := newCaller(t).address
	for name, test := range map[string]struct {
		change func(*channelstate.FreeCallSettings)
		signer func(own common.Address) common.Address
		status string
	}{
		"disabled": {func(s *channelstate.FreeCallSettings) { s.Enabled = false }, func(own common.Address) common.Address { return own }, "free calls are off: free_calls.enabled is false"},
		"not published": {func(*channelstate.FreeCallSettings) {}, func(common.Address) common.Address { return common.Address{} },
			"free calls are off: to offer them, publish free_call_signer_address 0x"},
		"another key published": {func(*channelstate.FreeCallSettings) {}, func(common.Address) common.Address { return other },
			"free calls are off: the service's metadata names free_call_signer_address " + other.Hex()},
		"another key configured": {func(s *channelstate.FreeCallSettings) { s.PrivateKey = strings.Repeat("1", 64) }, func(common.Address) common.Address { return other },
			"free calls are off: free_calls.private_key is the key of 0x"},
	} {
		o, alice := newOffice(t, storetest.Memory(t), test.change), newCaller(t)
		o.metadata.ServiceGroup.FreeCallSigner = test.signer(o.calls.Signer())
		if status := o.calls.Status(o.metadata); !strings.HasPrefix(status, test.status) || o.calls.Offered(o.metadata) {
			t.Errorf("%s: %s", name, status)
		}
		if left := o.left(alice, ""); left != 0 {
			t.Errorf("%s: %d left", name, left)
		}
		_, err := o.call(alice, "")
		wantFreeCallRefusal(t, name, err, channelstate.FreeCallLimit, "free call limit has been exceeded, calls made = 0, total free calls eligible = 0")
	}
	o := newOffice(t, storetest.Memory(t))
	if status := o.calls.Status(o.metadata); status != "free calls are offered, 3 for each caller unless free_calls.per_address says otherwise" {
		t.Error(status)
	}
}

func TestLifetimeOfFreeCallTokens(t *testing.T) {
	o, alice := newOffice(t, storetest.Memory(t)), newCaller(t)
	number := func(value uint64) *uint64 { return &value }
	for _, test := range []struct {
		asked  *uint64
		expiry uint64
	}{{nil, block + 172800}, {number(0), block}, {number(5), block + 5}, {number(172800), block + 172800}, {number(172801), block + 172800}, {number(1 << 63), block + 172800}} {
		token, expiry, err := o.calls.IssueToken(t.Context(), o.metadata, o.proof(alice, "", nil), test.asked, o.current)
		if err != nil || expiry != test.expiry {
			t.Errorf("until %d, want %d, %v", expiry, test.expiry, err)
			continue
		}
		o.block = expiry
		if _, err := o.calls.Available(t.Context(), o.metadata, o.proof(alice, "", token), o.current, ""); err != nil {
			t.Errorf("at its last block: %v", err)
		}
		o.block = expiry + 1
		_, err = o.calls.Available(t.Context(), o.metadata, o.proof(alice, "", token), o.current, "")
		wantFreeCallRefusal(t, "a block later", err, channelstate.FreeCallTokenExpired, "free call token has expired")
		o.block = block
	}
	stale := o.proof(alice, "", nil)
	o.block += 6
	_, _, err := o.calls.IssueToken(t.Context(), o.metadata, stale, nil, o.current)
	wantFreeCallRefusal(t, "an old request", err, channelstate.FreeCallSignatureOld, "signature has expired")
}

// Nobody is asked for a request that is not rightly signed.
func TestBadFreeCallsReachNobody(t *testing.T) {
	alice := newCaller(t)
	o := newOffice(t, storetest.Memory(t), func(s *channelstate.FreeCallSettings) { s.MinBalance = 10 })
	asked := 0
	ask := func(context.Context, uint64) (uint64, error) { asked++; return block, nil }
	good := o.proof(alice, "", o.token(alice, ""))
	for name, change := range map[string]func(*channelstate.FreeCallProof){
		"signature": func(p *channelstate.FreeCallProof) { p.Signature = make([]byte, 65) },
		"token":     func(p *channelstate.FreeCallProof) { p.Token = []byte("x_1") },
		"no token":  func(p *channelstate.FreeCallProof) { p.Token = nil },
		"user id":   func(p *channelstate.FreeCallProof) { p.UserID = "x" },
	} {
		proof := *good
		change(&proof)
		_, _, err := o.calls.Admit(t.Context(), o.metadata, &proof, ask, "")
		var refusal *channelstate.FreeCallRefusal
		if !errors.As(err, &refusal) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if asked != 0 || o.balances.asked != 0 {
		t.Errorf("the height was asked for %d times, balances %d times", asked, o.balances.asked)
	}
	_, _, err := o.calls.Admit(t.Context(), o.metadata, good, func(context.Context, uint64) (uint64, error) { return 0, errors.New("node away") }, "")
	if err == nil || err.Error() != "node away" {
		t.Errorf("a height that is not known: %v", err)
	}
}

func TestReplicasAgreeOnTheKeyOfFreeCalls(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		offices := make([]*office, 6)
		var mu sync.Mutex
		for i, err := range atOnce(len(offices), func(i int) error {
			made, err := channelstate.OpenFreeCalls(t.Context(), channelstate.FreeCallParts{Shared: sharedOf(t, store)}, group,
				channelstate.DefaultFreeCallSettings(), channelstate.DefaultSettings())
			mu.Lock()
			defer mu.Unlock()
			offices[i] = &office{calls: made}
			return err
		}) {
			if err != nil {
				t.Fatalf("replica %d: %v", i, err)
			}
			if signer := offices[i].calls.Signer(); signer != offices[0].calls.Signer() || signer == (common.Address{}) {
				t.Errorf("replica %d signs with the key of %s", i, signer)
			}
		}
	})
	shared := sharedOf(t, storetest.Memory(t))
	if _, _, err := shared.SwapShared(t.Context(), group, "free-call-key", 0, []byte{8, 1}); err != nil {
		t.Fatal(err)
	}
	_, err := channelstate.OpenFreeCalls(t.Context(), channelstate.FreeCallParts{Shared: shared, Logger: zap.NewNop()}, group,
		channelstate.DefaultFreeCallSettings(), channelstate.DefaultSettings())
	if !errors.Is(err, channelstate.ErrCorrupt) {
		t.Errorf("a key that cannot be read: %v", err)
	}
}
