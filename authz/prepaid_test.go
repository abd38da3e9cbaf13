package authz

import (
	"context"
	"encoding/base64"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

func (freeLedger) ChargePrepaid(context.Context, channelstate.Key, *blockchain.Channel, channelstate.Charge) (uint256.Int, error) {
	return uint256.Int{}, nil
}

func (f *fakeLedger) ChargePrepaid(
	ctx context.Context, key channelstate.Key, channel *blockchain.Channel, charge channelstate.Charge,
) (uint256.Int, error) {
	charge.Nonce = *uint256.NewInt(testNonce)
	return charge.Nonce, f.Charge(ctx, key, channel, charge)
}

// The secret and group of V12 of payment-protocol.md section 5.
const (
	vectorSecret = "spec-vector-secret-0123456789abcdef"
	vectorGroup  = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
)

// tokenOf signs a token of the test's user, with a change.
func tokenOf(t testing.TB, change func(*channelstate.Token)) string {
	t.Helper()
	token := channelstate.Token{
		Channel: *uint256.NewInt(testChannel), User: crypto.PubkeyToAddress(testKey(t, userKeyHex).PublicKey),
		OrganizationID: "example-org", GroupID: vectorGroup, Expires: time.Now().Add(time.Hour),
	}
	change(&token)
	text, err := token.Sign([]byte(vectorSecret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func goodToken(t testing.TB) string {
	t.Helper()
	return tokenOf(t, func(*channelstate.Token) {})
}

// withTokens makes a world take prepaid calls.
func withTokens(w *world) {
	w.metadata.Group.IDText = vectorGroup
	settings := channelstate.DefaultSettings()
	shared, ok := channelstate.NewMemoryStore(settings).(channelstate.SharedStore)
	if !ok {
		w.t.Fatal("no shared store")
	}
	tokenSettings := channelstate.DefaultTokenSettings()
	tokenSettings.Secret = vectorSecret
	tokens, err := channelstate.OpenTokens(context.Background(), shared, channelstate.Group{}, tokenSettings, settings, zap.NewNop())
	if err != nil {
		w.t.Fatal(err)
	}
	w.dependencies.Tokens = tokens
}

func prepaidHeaders(token string) map[string]string {
	return map[string]string{
		envoy.HeaderRequestID: "9f2b6c1e-0000-4000-8000-prepaid", envoy.HeaderContentType: "application/grpc",
		envoy.HeaderPaymentType: "prepaid-call", envoy.HeaderChannelID: "1234", envoy.HeaderChannelNonce: "whatever, it is not read",
		envoy.HeaderPrepaidToken: base64.StdEncoding.EncodeToString([]byte(token)),
	}
}

// raise is what GetToken does before it gives a token.
func (w *world) raise(amount uint64) {
	w.t.Helper()
	channel := w.channels.known[*uint256.NewInt(testChannel)]
	key := channelstate.Key{ChainID: testChain, MPE: testMPE, GroupID: w.metadata.Group.ID, Channel: channel.ID}
	if _, err := w.real.Raise(context.Background(), key, &channel, channelstate.Charge{
		Nonce: channel.Nonce, Amount: *uint256.NewInt(amount), Signature: []byte("of the client"), Block: testBlock,
	}); err != nil {
		w.t.Fatal(err)
	}
}

func TestPrepaidCall(t *testing.T) {
	w := newWorld(t, realLedger, withTokens)
	w.raise(2 * testPrice)
	headers := prepaidHeaders(goodToken(t))
	headers[envoy.HeaderUserAddress] = "0x0000000000000000000000000000000000000001"
	got := w.check(headers)
	if got.code != 0 {
		t.Fatalf("refused: %d %s", got.code, got.message)
	}
	if got.user != w.sender.Hex() {
		t.Errorf("the service is told that %s pays", got.user)
	}
	if !got.removed[envoy.HeaderPrepaidToken] {
		t.Error("the service gets the token")
	}
	w.expectBooks(testPrice, 2*testPrice)
	want := envoy.Charged{
		ID: got.charged.ID, Channel: "1234", Nonce: "5", Amount: "0", Price: "10", ChainID: "11155111", MPE: testMPE.Hex(),
		Group: got.charged.Group, PaymentType: "prepaid-call", Sender: w.sender.Hex(),
	}
	if *got.charged != want {
		t.Errorf("described as %+v, want %+v", *got.charged, want)
	}
	headers[envoy.HeaderPrepaidToken] = strings.TrimRight(headers[envoy.HeaderPrepaidToken], "=") // as C-core sends it
	if second := w.check(headers); second.code != 0 {
		t.Errorf("the second call: %d %s", second.code, second.message)
	}
	third := w.check(headers)
	if third.code != 8 || !strings.HasPrefix(third.message, "Usage Exceeded on channel Id 1234") {
		t.Errorf("a call that is not paid for: %d %q", third.code, third.message)
	}
	w.report(logged{charged: got.charged, status: "13", code: 200}.entry(), logged{charged: got.charged, status: "13", code: 200}.entry())
	w.close()
	w.expectBooks(testPrice, 2*testPrice)
}

func TestPrepaidRefusals(t *testing.T) {
	token := func(change func(*channelstate.Token)) string { return tokenOf(t, change) }
	base64Of := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	cases := []struct {
		name    string
		adjust  func(*world, map[string]string)
		code    envoy.Code
		message string // begins with
	}{
		{"no channel", func(_ *world, h map[string]string) { delete(h, envoy.HeaderChannelID) }, 3, `missing "snet-payment-channel-id"`},
		{"no token", func(_ *world, h map[string]string) { delete(h, envoy.HeaderPrepaidToken) }, 3, `missing "snet-prepaid-auth-token-bin"`},
		{"neither", func(_ *world, h map[string]string) {
			delete(h, envoy.HeaderPrepaidToken)
			delete(h, envoy.HeaderChannelID)
		}, 3, `missing "snet-payment-channel-id"`},
		{"two tokens", func(_ *world, h map[string]string) { h[envoy.HeaderPrepaidToken] = "YQ==,YQ==" }, 3, `too many values for key "snet-prepaid-auth-token-bin"`},
		{"no base64", func(_ *world, h map[string]string) { h[envoy.HeaderPrepaidToken] = "!" }, 3, `incorrect format "snet-prepaid-auth-token-bin"`},
		{"long", func(_ *world, h map[string]string) { h[envoy.HeaderPrepaidToken] = strings.Repeat("A", 8000) }, 3, `incorrect format "snet-prepaid-auth-token-bin"`},
		{"octal channel", func(_ *world, h map[string]string) { h[envoy.HeaderChannelID] = "0x4d2" }, 3, `incorrect format "snet-payment-channel-id"`},
		{"no price", func(w *world, _ map[string]string) {
			w.metadata.ServiceGroup.Pricing = blockchain.Pricing{PerMethod: map[string]uint256.Int{}}
		}, 7, "price is not defined for the Method"},
		{"no JWT", func(_ *world, h map[string]string) { h[envoy.HeaderPrepaidToken] = base64Of("abc") }, 16, "token is not valid"},
		{"another channel", func(w *world, h map[string]string) { h[envoy.HeaderChannelID] = "1235" }, 16,
			"token is not valid: payload, organization or groupId"},
		{"another organisation", func(w *world, h map[string]string) {
			h[envoy.HeaderPrepaidToken] = base64Of(token(func(t *channelstate.Token) { t.OrganizationID = "other" }))
		}, 16, "token is not valid: payload, organization or groupId"},
		{"another group", func(w *world, h map[string]string) {
			h[envoy.HeaderPrepaidToken] = base64Of(token(func(t *channelstate.Token) { t.GroupID = "other" }))
		}, 16, "token is not valid: payload, organization or groupId"},
		{"expired", func(w *world, h map[string]string) {
			h[envoy.HeaderPrepaidToken] = base64Of(token(func(t *channelstate.Token) { t.Expires = time.Now().Add(-time.Hour) }))
		}, 16, "token is expired"},
		{"of nobody who has to do with the channel", func(w *world, h map[string]string) {
			h[envoy.HeaderPrepaidToken] = base64Of(token(func(t *channelstate.Token) { t.User = common.HexToAddress("0x99") }))
		}, 16, "token is not valid: 0x0000000000000000000000000000000000000099 is not"},
		{"not listed", func(w *world, _ map[string]string) {
			w.server.methods[typePrepaid].(*prepaid).listed = allowList{common.HexToAddress("0x99"): {}}
		}, 16, "token is not valid"},
		{"unknown channel", func(w *world, _ map[string]string) { w.channels.known = nil }, 16, `payment channel "{ID: 1234}" not found`},
		{"chain away", func(w *world, _ map[string]string) { w.channels.err = blockchain.ErrChainUnavailable }, 14, "payment channel error"},
		{"other recipient", func(w *world, _ map[string]string) {
			channel := w.openChannel(testChannel)
			channel.Recipient[0]++
			w.channels.set(channel)
		}, 16, "payment channel error: recipient of the channel differs"},
		{"other group of the channel", func(w *world, _ map[string]string) {
			channel := w.openChannel(testChannel)
			channel.GroupID[0]++
			w.channels.set(channel)
		}, 16, "payment channel error: channel belongs to another replica group"},
		{"height not known", func(w *world, _ map[string]string) { w.head.err = blockchain.ErrHeadStale }, 14, "cannot determine current block"},
		{"near its end", func(w *world, _ map[string]string) { w.head.block = 9_950 }, 16, "payment channel is near to be expired, expiration time: 10000"},
		{"closed", func(w *world, _ map[string]string) {
			channel := w.openChannel(testChannel)
			channel.Nonce, channel.Value, channel.Expiration = *uint256.NewInt(6), uint256.Int{}, uint256.Int{}
			w.channels.set(channel)
		}, 16, "payment channel is near to be expired, expiration time: 0"},
		{"claimed by others", func(w *world, _ map[string]string) {
			channel := w.openChannel(testChannel)
			channel.Nonce = *uint256.NewInt(6)
			w.channels.set(channel)
		}, 8, "Usage Exceeded on channel Id 1234"},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, realLedger, withTokens)
			w.raise(100)
			headers := prepaidHeaders(goodToken(t))
			test.adjust(w, headers)
			got := w.check(headers)
			if got.code != test.code || !strings.HasPrefix(got.message, test.message) {
				t.Errorf("got %d %q, want %d %q", got.code, got.message, test.code, test.message)
			}
			w.expectBooks(0, 100)
		})
	}
}

// A token is checked before anything is asked.
func TestBadTokensReachNobody(t *testing.T) {
	w := newWorld(t, withTokens)
	good := goodToken(t)
	for _, token := range []string{"", "x", good[:100], good + "A"} {
		if got := w.check(prepaidHeaders(token)); got.code != 16 {
			t.Errorf("token %q: %d %s", token, got.code, got.message)
		}
	}
	if charges, _ := w.ledger.counts(); charges != 0 || w.channels.gets != 0 {
		t.Errorf("%d charges, %d channels asked for", charges, w.channels.gets)
	}
}

// The channel was extended and the cache does not know yet.
func TestPrepaidReadsTheChannelAgain(t *testing.T) {
	w := newWorld(t, realLedger, withTokens)
	w.raise(100)
	old := w.openChannel(testChannel)
	old.Expiration = *uint256.NewInt(testBlock)
	w.channels.set(old)
	w.channels.onChain = map[uint256.Int]blockchain.Channel{old.ID: w.openChannel(testChannel)}
	if got := w.check(prepaidHeaders(goodToken(t))); got.code != 0 || w.channels.refreshes != 1 {
		t.Errorf("%d %s after %d reads", got.code, got.message, w.channels.refreshes)
	}
}

// What the recipient's own programs ask for is served to them.
func TestPrepaidCallOfSignerAndRecipient(t *testing.T) {
	w := newWorld(t, realLedger, withTokens)
	w.raise(100)
	provider := crypto.PubkeyToAddress(testKey(t, providerKeyHex).PublicKey)
	for _, user := range []common.Address{provider, common.HexToAddress("0x01")} {
		text := tokenOf(t, func(token *channelstate.Token) { token.User = user })
		if got := w.check(prepaidHeaders(text)); got.code != 0 || got.user != user.Hex() {
			t.Errorf("%d %s for %s", got.code, got.message, got.user)
		}
	}
}

func TestFreePrepaidCallChargesNothing(t *testing.T) {
	w := newWorld(t, realLedger, withTokens, func(w *world) { w.metadata.ServiceGroup.Pricing = blockchain.Pricing{Fixed: new(uint256.Int)} })
	if got := w.check(prepaidHeaders(goodToken(t))); got.code != 0 || got.charged != nil {
		t.Errorf("%d %s, charged %+v", got.code, got.message, got.charged)
	}
	w.expectBooks(0, 0)
}

func TestPrepaidCallsAtOnce(t *testing.T) {
	w := newWorld(t, realLedger, withTokens)
	const paid = 10
	w.raise(paid * testPrice)
	headers := prepaidHeaders(goodToken(t))
	var served, refused atomic.Int64
	var all sync.WaitGroup
	for range 2 * paid {
		all.Go(func() {
			switch got := w.check(headers); got.code {
			case 0:
				served.Add(1)
			case 8:
				refused.Add(1)
			default:
				t.Errorf("%d %s", got.code, got.message)
			}
		})
	}
	all.Wait()
	if served.Load() != paid || refused.Load() != paid {
		t.Errorf("%d served, %d refused", served.Load(), refused.Load())
	}
	w.expectBooks(paid*testPrice, paid*testPrice)
}

func TestPrepaidIsRefusedWithoutTokens(t *testing.T) {
	w := newWorld(t)
	if got := w.check(prepaidHeaders(goodToken(t))); got.code != 3 || !strings.Contains(got.message, `unexpected "snet-payment-type"`) {
		t.Errorf("%d %s", got.code, got.message)
	}
}

// Whatever stands in the headers, nothing is charged without the token that was given out.
func FuzzPrepaid(f *testing.F) {
	w, good := newWorld(f, withTokens), goodToken(f)
	f.Add("1234", base64.StdEncoding.EncodeToString([]byte(good)))
	f.Add("1234", base64.RawStdEncoding.EncodeToString([]byte(good)))
	f.Add("01234", base64.RawStdEncoding.EncodeToString([]byte(good)))
	f.Add("1,2", "")
	f.Fuzz(func(t *testing.T, channel, token string) {
		w.t = t
		defer func() { w.t = f }()
		before, _ := w.ledger.counts()
		headers := prepaidHeaders("")
		headers[envoy.HeaderChannelID], headers[envoy.HeaderPrepaidToken] = channel, token
		got := w.check(headers)
		after, _ := w.ledger.counts()
		decoded, err := envoy.DecodeBinary(token)
		isGood := err == nil && string(decoded) == good && strings.TrimLeft(channel, "0") == "1234" && len(channel) <= 78
		if got.code == 13 || isGood != (got.code == 0) || after-before != map[bool]int{true: 1}[isGood] {
			t.Errorf("channel %q, token %q: %d %s, %d charges", channel, token, got.code, got.message, after-before)
		}
	})
}
