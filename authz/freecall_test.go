package authz

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

// fakeBalances says that everybody holds enough, unless a test wants something else.
type fakeBalances struct {
	poor  atomic.Bool
	err   error
	asked atomic.Int64
}

func (f *fakeBalances) Holds(context.Context, common.Address, uint64, string) (bool, error) {
	f.asked.Add(1)
	return !f.poor.Load(), f.err
}

// office is what issues and counts free calls in a test.
type office struct {
	*world
	calls    *channelstate.FreeCalls
	balances *fakeBalances
	provider *ecdsa.PrivateKey // a trusted signer
}

// newOffice makes a world that gives three free calls to everyone.
func newOffice(t testing.TB, adjust ...func(*world)) *office {
	t.Helper()
	o := &office{balances: &fakeBalances{}, provider: testKey(t, providerKeyHex)}
	o.world = newWorld(t, append([]func(*world){func(w *world) {
		w.metadata.Group.IDText, w.metadata.Group.Name = vectorGroup, "default_group"
		settings, free := channelstate.DefaultSettings(), channelstate.DefaultFreeCallSettings()
		free.PrivateKey = daemonKeyHex
		free.TrustedSigners = []string{crypto.PubkeyToAddress(o.provider.PublicKey).Hex()}
		store, ok := channelstate.NewMemoryStore(settings).(channelstate.FreeCallStore)
		if !ok {
			t.Fatal("no counters")
		}
		var err error
		group := channelstate.Group{ChainID: testChain, MPE: testMPE, GroupID: w.metadata.Group.ID}
		o.calls, err = channelstate.OpenFreeCalls(context.Background(), channelstate.FreeCallParts{
			Stores: func(channelstate.FreeCallUser) channelstate.FreeCallStore { return store }, Balances: o.balances,
		}, group, free, settings)
		if err != nil {
			t.Fatal(err)
		}
		w.metadata.ServiceGroup.FreeCalls, w.metadata.ServiceGroup.FreeCallSigner = 3, o.calls.Signer()
		w.dependencies.FreeCalls = o.calls
	}}, adjust...)...)
	return o
}

func (o *office) request(key *ecdsa.PrivateKey, userID string) blockchain.FreeCallRequest {
	return blockchain.FreeCallRequest{
		Address: crypto.PubkeyToAddress(key.PublicKey).Hex(), UserID: userID, OrganizationID: "example-org", ServiceID: "example-service",
		GroupID: vectorGroup, Block: testBlock,
	}
}

func (o *office) token(key *ecdsa.PrivateKey, userID string) []byte {
	o.t.Helper()
	request := o.request(key, userID)
	token, _, err := o.calls.IssueToken(context.Background(), o.metadata, &channelstate.FreeCallProof{
		Address: request.Address, UserID: userID, Block: testBlock, Signature: o.sign(blockchain.FreeCallTokenRequestMessage(request), key),
	}, nil, func(context.Context, uint64) (uint64, error) { return testBlock, nil })
	if err != nil {
		o.t.Fatal(err)
	}
	return token
}

func (o *office) sign(message []byte, key *ecdsa.PrivateKey) []byte {
	o.t.Helper()
	signature, err := blockchain.Sign(message, key)
	if err != nil {
		o.t.Fatal(err)
	}
	return signature
}

// free are the headers of a free call.
func (o *office) free(key *ecdsa.PrivateKey, userID string, token []byte) map[string]string {
	o.t.Helper()
	request := o.request(key, userID)
	headers := map[string]string{
		envoy.HeaderRequestID: "9f2b6c1e-0000-4000-8000-free", envoy.HeaderContentType: "application/grpc", envoy.HeaderPaymentType: "free-call",
		envoy.HeaderFreeCallUserAddress: request.Address, envoy.HeaderCurrentBlock: strconv.Itoa(testBlock),
		envoy.HeaderChannelSignature: base64.StdEncoding.EncodeToString(o.sign(blockchain.FreeCallMessage(request, token), key)),
		envoy.HeaderFreeCallToken:    base64.StdEncoding.EncodeToString(token),
	}
	if userID != "" {
		headers[envoy.HeaderFreeCallUserID] = userID
	}
	return headers
}

func TestFreeCalls(t *testing.T) {
	o := newOffice(t)
	headers := o.free(o.user, "", o.token(o.user, ""))
	for call := range 3 {
		got := o.check(headers) // the same headers: the quota bounds the replay
		if got.code != 0 || got.user != o.sender.Hex() || got.charged == nil {
			t.Fatalf("call %d: %d %s, user %s, charged %+v", call, got.code, got.message, got.user, got.charged)
		}
		for _, name := range envoy.SpendableHeaders {
			if !got.removed[name] {
				t.Errorf("%s reaches the service", name)
			}
		}
	}
	got := o.check(headers)
	if want := "free call limit has been exceeded, calls made = 3, total free calls eligible = 3"; got.code != 8 || got.message != want {
		t.Errorf("one too many: %d %q", got.code, got.message)
	}
	if charges, _ := o.ledger.counts(); charges != 0 {
		t.Errorf("%d charges for free calls", charges)
	}
}

func TestFailedFreeCallIsGivenBack(t *testing.T) {
	refunded := make(chan struct{})
	o := newOffice(t, func(w *world) { w.dependencies.FreeCalls = &toldFreeCalls{w.dependencies.FreeCalls, refunded} })
	market := o.token(o.provider, "ann, müller /1")
	headers := o.free(o.provider, "ann, müller /1", market)
	for range 10 {
		got := o.check(headers)
		if got.code != 0 {
			t.Fatalf("%d %s", got.code, got.message)
		}
		entry := logged{charged: got.charged, status: "14", code: 200}.entry()
		o.report(entry)
		<-refunded
		o.report(entry) // once more
		<-refunded
	}
	kept := o.check(headers)
	o.report(logged{charged: kept.charged, status: "0", code: 200}.entry(), logged{charged: kept.charged, flags: clientGoneFlags, bytes: 100}.entry())
	left := 0
	for o.check(headers).code == 0 {
		left++
	}
	if left != 2 {
		t.Errorf("%d calls were left", left)
	}
}

// toldFreeCalls tells when a refund is done.
type toldFreeCalls struct {
	FreeCalls
	refunded chan struct{}
}

func (f *toldFreeCalls) Refund(ctx context.Context, user channelstate.FreeCallUser, id channelstate.ChargeID) (channelstate.RefundOutcome, error) {
	defer func() { f.refunded <- struct{}{} }()
	return f.FreeCalls.Refund(ctx, user, id)
}

func TestDescriptionOfAFreeCall(t *testing.T) {
	user := channelstate.FreeCallUser{
		Group:          channelstate.Group{ChainID: testChain, MPE: testMPE, GroupID: [32]byte{1, 31: 2}},
		OrganizationID: "an organisation. with=odd/text", ServiceID: "ser vice", Address: common.HexToAddress("0xabc"), UserID: "ann müller, \xff",
	}
	for _, userID := range []string{user.UserID, ""} {
		user.UserID = userID
		id := channelstate.NewChargeID()
		charged := describeFreeCall(id, &user)
		for _, text := range []string{charged.ID, charged.Channel, charged.Nonce, charged.Amount, charged.Price, charged.ChainID, charged.MPE, charged.Group, charged.PaymentType} {
			if strings.ContainsAny(text, " ,\n") {
				t.Errorf("%q does not fit", text)
			}
		}
		read, readID, err := readFreeCall(charged)
		if err != nil || read != user || readID != id {
			t.Errorf("read %+v %s, %v", read, readID, err)
		}
		through, found := envoy.ChargedFrom(charged.Struct())
		if !found || through != *charged {
			t.Errorf("Envoy brings back %+v", through)
		}
	}
	good := *describeFreeCall(channelstate.NewChargeID(), &user)
	for name, change := range map[string]func(*envoy.Charged){
		"id": func(c *envoy.Charged) { c.ID = "x" }, "chain": func(c *envoy.Charged) { c.ChainID = "x" }, "mpe": func(c *envoy.Charged) { c.MPE = "x" },
		"group": func(c *envoy.Charged) { c.Group = "x" }, "address": func(c *envoy.Charged) { c.Channel = "7" }, "user": func(c *envoy.Charged) { c.Nonce = "!" },
		"organisation": func(c *envoy.Charged) { c.Amount = "YQ" }, "service": func(c *envoy.Charged) { c.Amount = "YQ.!" },
	} {
		charged := good
		change(&charged)
		if _, _, err := readFreeCall(&charged); !errors.Is(err, errMalformedCharge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFreeCallRefusals(t *testing.T) {
	cases := []struct {
		name    string
		adjust  func(*office, map[string]string)
		code    envoy.Code
		message string // begins with
	}{
		{"no address", func(_ *office, h map[string]string) { delete(h, envoy.HeaderFreeCallUserAddress) }, 3, `missing "snet-free-call-user-address"`},
		{"headers of an older client", func(_ *office, h map[string]string) {
			delete(h, envoy.HeaderFreeCallUserAddress)
			h[envoy.HeaderFreeCallTokenExpiry] = "7654400"
		}, 3, `missing "snet-free-call-user-address": the headers are those of clients before version 6`},
		{"no block", func(_ *office, h map[string]string) { delete(h, envoy.HeaderCurrentBlock) }, 3, `missing "snet-current-block-number"`},
		{"no signature", func(_ *office, h map[string]string) { delete(h, envoy.HeaderChannelSignature) }, 3, `missing "snet-payment-channel-signature-bin"`},
		{"no token", func(_ *office, h map[string]string) { delete(h, envoy.HeaderFreeCallToken) }, 3, `missing "snet-free-call-auth-token-bin"`},
		{"address twice", func(_ *office, h map[string]string) { h[envoy.HeaderFreeCallUserAddress] += ",0x1" }, 3, `too many values for key "snet-free-call-user-address"`},
		{"no such address", func(_ *office, h map[string]string) { h[envoy.HeaderFreeCallUserAddress] = "alice" }, 3, `incorrect format "snet-free-call-user-address": "alice"`},
		{"block in octal", func(_ *office, h map[string]string) { h[envoy.HeaderCurrentBlock] = "0x64" }, 3, `incorrect format "snet-current-block-number"`},
		{"block beyond all", func(_ *office, h map[string]string) { h[envoy.HeaderCurrentBlock] = "9223372036854775808" }, 3, `incorrect format "snet-current-block-number"`},
		{"a block of 2^64 more", func(_ *office, h map[string]string) { h[envoy.HeaderCurrentBlock] = "18446744073709551716" }, 3, `incorrect format "snet-current-block-number"`},
		{"token no base64", func(_ *office, h map[string]string) { h[envoy.HeaderFreeCallToken] = "!" }, 3, `incorrect format "snet-free-call-auth-token-bin"`},
		{"token too long", func(_ *office, h map[string]string) { h[envoy.HeaderFreeCallToken] = strings.Repeat("A", 1000) }, 3, "invalid token"},
		{"no underscore", func(o *office, h map[string]string) { h[envoy.HeaderFreeCallToken] = "AAAA" }, 3, "invalid token: no '_' found"},
		{"no block in the token", func(o *office, h map[string]string) {
			h[envoy.HeaderFreeCallToken] = base64.StdEncoding.EncodeToString([]byte("abc_x"))
		}, 3, "invalid token: invalid block number"},
		{"another block", func(_ *office, h map[string]string) { h[envoy.HeaderCurrentBlock] = "101" }, 16, "sign is not valid"},
		{"a user id that was not signed", func(_ *office, h map[string]string) { h[envoy.HeaderFreeCallUserID] = "ann" }, 16, "sign is not valid"},
		{"token of another", func(o *office, h map[string]string) {
			for name, value := range o.free(o.user, "", o.token(o.provider, "")) {
				h[name] = value
			}
		}, 16, "token sign is not valid"},
		{"token expired", func(o *office, _ map[string]string) { o.head.block = testBlock + 172801 }, 16, "free call token has expired"},
		{"signature expired", func(o *office, _ map[string]string) { o.head.block = testBlock + 6 }, 16, "signature has expired"},
		{"height not known", func(o *office, _ map[string]string) { o.head.err = blockchain.ErrHeadStale }, 14, "cannot determine current block"},
		{"balance too low", func(o *office, _ map[string]string) { o.balances.poor.Store(true) }, 7, "you must have at least 10 FET (ASI)"},
		{"balance not to be had", func(o *office, _ map[string]string) { o.balances.err = blockchain.ErrChainUnavailable }, 14, "the balance cannot be asked for"},
		{"too many balances", func(o *office, _ map[string]string) { o.balances.err = blockchain.ErrTooManyReads }, 8, "too many addresses"},
		{"off", func(o *office, _ map[string]string) {
			o.metadata.ServiceGroup.FreeCallSigner = common.HexToAddress("0x99")
		}, 8,
			"free call limit has been exceeded, calls made = 0, total free calls eligible = 0"},
		{"a method that is not for sale", func(o *office, _ map[string]string) {
			o.metadata = testMetadata(blockchain.Pricing{PerMethod: map[string]uint256.Int{}})
		}, 7, "price is not defined for the Method /example.Service/Call"},
		{"not listed", func(o *office, _ map[string]string) {
			o.server.methods[typeFree].(*freeCall).listed = allowList{common.HexToAddress("0x99"): {}}
		}, 16, "sign is not valid"},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			o := newOffice(t)
			headers := o.free(o.user, "", o.token(o.user, ""))
			signer := o.metadata.ServiceGroup.FreeCallSigner
			test.adjust(o, headers)
			got := o.check(headers)
			if got.code != test.code || !strings.HasPrefix(got.message, test.message) {
				t.Errorf("got %d %q, want %d %q", got.code, got.message, test.code, test.message)
			}
			for _, secret := range []string{headers[envoy.HeaderFreeCallToken], headers[envoy.HeaderChannelSignature]} {
				if len(secret) > 20 && strings.Contains(got.message, secret) {
					t.Errorf("the answer repeats a secret: %s", got.message)
				}
			}
			// Nothing was counted.
			o.head.block, o.head.err, o.balances.err = testBlock, nil, nil
			o.balances.poor.Store(false)
			o.metadata = testMetadata(blockchain.Pricing{Fixed: uint256.NewInt(testPrice)})
			o.metadata.Group.IDText, o.metadata.Group.Name = vectorGroup, "default_group"
			o.metadata.ServiceGroup.FreeCalls, o.metadata.ServiceGroup.FreeCallSigner = 3, o.calls.Signer()
			o.server.methods[typeFree].(*freeCall).listed = nil
			made := 0
			for o.check(o.free(o.user, "", o.token(o.user, ""))).code == 0 {
				made++
			}
			if made != 3 {
				t.Errorf("%d calls were left (token signer %s)", made, signer)
			}
		})
	}
}

func TestFreeCallsAtOnce(t *testing.T) {
	o := newOffice(t)
	o.metadata.ServiceGroup.FreeCalls = 10
	headers := o.free(o.user, "", o.token(o.user, ""))
	var made, refused atomic.Int64
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			switch got := o.check(headers); got.code {
			case 0:
				made.Add(1)
			case 8:
				refused.Add(1)
			default:
				t.Errorf("%d %s", got.code, got.message)
			}
		})
	}
	all.Wait()
	if made.Load() != 10 || refused.Load() != 20 {
		t.Errorf("%d made, %d refused", made.Load(), refused.Load())
	}
}

func TestFreeCallsAreRefusedWhereThereIsNothingForThem(t *testing.T) {
	w := newWorld(t)
	if got := w.check(map[string]string{envoy.HeaderPaymentType: "free-call"}); got.code != 3 || !strings.Contains(got.message, `unexpected "snet-payment-type"`) {
		t.Errorf("%d %s", got.code, got.message)
	}
}

// brokenFreeCalls fail in ways that the real ones do not.
type brokenFreeCalls struct {
	FreeCalls
	charge error
}

func (b *brokenFreeCalls) Charge(context.Context, channelstate.FreeCallUser, channelstate.Quota) error {
	return b.charge
}

func TestFreeCallsThatCannotBeCounted(t *testing.T) {
	for _, test := range []struct {
		err  error
		code envoy.Code
	}{{channelstate.ErrUnavailable, 14}, {errTest, 14}, {&channelstate.FreeCallRefusal{Reason: "new"}, 13}} {
		o := newOffice(t, func(w *world) { w.dependencies.FreeCalls = &brokenFreeCalls{w.dependencies.FreeCalls, test.err} })
		if got := o.check(o.free(o.user, "", o.token(o.user, ""))); got.code != test.code {
			t.Errorf("%v: %d %s", test.err, got.code, got.message)
		}
	}
}

// Whatever stands in the headers, no call is counted but those that the user has signed.
func FuzzFreeCall(f *testing.F) {
	o := newOffice(f)
	o.metadata.ServiceGroup.FreeCalls = 1 << 40
	good := o.free(o.user, "", o.token(o.user, ""))
	f.Add(good[envoy.HeaderFreeCallUserAddress], "", good[envoy.HeaderCurrentBlock], good[envoy.HeaderChannelSignature], good[envoy.HeaderFreeCallToken])
	f.Add("0x", "x", "-1", "AA", "Xw==")
	f.Add(good[envoy.HeaderFreeCallUserAddress][2:], ",", "00100", "", "__")
	f.Fuzz(func(t *testing.T, address, userID, block, signature, token string) {
		o.t = t
		defer func() { o.t = f }()
		headers := map[string]string{
			envoy.HeaderPaymentType: "free-call", envoy.HeaderContentType: "application/grpc", envoy.HeaderFreeCallUserAddress: address,
			envoy.HeaderFreeCallUserID: userID, envoy.HeaderCurrentBlock: block, envoy.HeaderChannelSignature: signature, envoy.HeaderFreeCallToken: token,
		}
		got := o.check(headers)
		if got.code == 13 {
			t.Errorf("our own fault: %s", got.message)
		}
		if got.code == 0 && (common.HexToAddress(address) != o.sender || got.user != o.sender.Hex()) {
			t.Errorf("a call of %q is let through for %s", address, got.user)
		}
	})
}
