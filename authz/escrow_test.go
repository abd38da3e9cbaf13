package authz

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

func TestAllow(t *testing.T) {
	w := newWorld(t)
	headers := w.headers(testPrice)
	headers[envoy.HeaderUserAddress] = "0x0000000000000000000000000000000000000001"
	got := w.check(headers)
	if got.code != 0 {
		t.Fatalf("refused: %d %s", got.code, got.message)
	}
	if want := w.sender.Hex(); got.user != want {
		t.Errorf("the service is told that %s pays, want %s", got.user, want)
	}
	for _, name := range append([]string{envoy.HeaderDaemonDebug}, envoy.SpendableHeaders...) {
		if !got.removed[name] {
			t.Errorf("%s reaches the service", name)
		}
	}
	if got.removed[envoy.HeaderUserAddress] {
		t.Error("the address that was set is taken away again")
	}
	if len(w.ledger.charges) != 1 {
		t.Fatalf("%d charges", len(w.ledger.charges))
	}
	charge, key := w.ledger.charges[0], w.ledger.keys[0]
	want := channelstate.Key{ChainID: testChain, MPE: testMPE, GroupID: w.metadata.Group.ID, Channel: *uint256.NewInt(testChannel)}
	if key != want {
		t.Errorf("charged %v, want %v", key, want)
	}
	if charge.Nonce != *uint256.NewInt(testNonce) || charge.Amount != *uint256.NewInt(testPrice) ||
		charge.Price != *uint256.NewInt(testPrice) || charge.Block != testBlock || charge.Threshold != 50 || charge.Fresh {
		t.Errorf("charged %+v", charge)
	}
	if base64.StdEncoding.EncodeToString(charge.Signature) != headers[envoy.HeaderChannelSignature] {
		t.Error("the signature is not the client's")
	}
	if got.charged == nil || got.charged.ID != charge.ID.String() {
		t.Fatalf("described as %+v", got.charged)
	}
	backKey, refund, err := readCharged(got.charged)
	if err != nil || backKey != key || refund != (channelstate.Refund{ID: charge.ID, Nonce: charge.Nonce, Amount: charge.Amount, Price: charge.Price, Sender: w.sender}) {
		t.Errorf("the description is read back as %v %+v, %v", backKey, refund, err)
	}
	if w.channels.client != "192.0.2.7" {
		t.Errorf("reads are counted for %q", w.channels.client)
	}
}

// A vector of payment-protocol.md section 5, so that the whole chain of header, message and recovery is tied to bytes
// that other clients made.
func TestVectorIsServed(t *testing.T) {
	w := newWorld(t, func(w *world) {
		channel := w.openChannel(1234)
		channel.Value = *uint256.NewInt(1_000_000_000_000)
		w.channels.set(channel)
	})
	got := w.check(map[string]string{
		envoy.HeaderChannelID: "1234", envoy.HeaderChannelNonce: "5", envoy.HeaderChannelAmount: "987654321000",
		envoy.HeaderChannelSignature: "K6wmL7Ajz1Pnh09L2Wnm9YQMjaDegtztoCVZL+uWsq95Ox8Vj+yOQmVP8LMZ0ghtYwE5Xjcz1XG88nT1zJO9eBs=",
	})
	if got.code != 0 {
		t.Fatalf("refused: %d %s", got.code, got.message)
	}
	if got.user != "0xFCAd0B19bB29D4674531d6f115237E16AfCE377c" {
		t.Errorf("paid by %s", got.user)
	}
}

func TestChannelRefusals(t *testing.T) {
	other := common.HexToAddress("0x00000000000000000000000000000000000000AA")
	cases := []struct {
		name    string
		adjust  func(*world)
		code    envoy.Code
		message string // begins with
	}{
		{"metadata not loaded", func(w *world) { w.metadata = nil; w.dependencies.Metadata = func() *blockchain.Metadata { return nil } },
			14, "the metadata of the service is not loaded yet"},
		{"method without a price", func(w *world) {
			w.metadata = testMetadata(blockchain.Pricing{PerMethod: map[string]uint256.Int{"/example.Service/Other": *uint256.NewInt(1)}})
		}, 7, "price is not defined for the Method /example.Service/Call"},
		{"unknown channel", func(w *world) { w.channels.known = nil }, 16, `payment channel "{ID: 1234}" not found`},
		{"channel of zeros", func(w *world) { w.channels.set(blockchain.Channel{ID: *uint256.NewInt(testChannel)}) },
			16, `payment channel "{ID: 1234}" not found`},
		{"too many reads", func(w *world) { w.channels.err = blockchain.ErrTooManyReads }, 8, "payment channel error: too many"},
		{"chain away", func(w *world) { w.channels.err = blockchain.ErrChainUnavailable },
			14, "payment channel error: the blockchain cannot be asked"},
		{"any fault of the chain", func(w *world) { w.channels.err = errTest }, 14, "payment channel error: the blockchain cannot be asked"},
		{"other recipient", func(w *world) {
			channel := w.openChannel(testChannel)
			channel.Recipient = other
			w.channels.set(channel)
		}, 16, "payment channel error: recipient of the channel differs from the organization metadata"},
		{"other group", func(w *world) {
			channel := w.openChannel(testChannel)
			channel.GroupID[31]++
			w.channels.set(channel)
		}, 16, "payment channel error: channel belongs to another replica group, channel: [0 1 2"},
		{"other signer", func(w *world) {
			channel := w.openChannel(testChannel)
			channel.Sender, channel.Signer = other, other
			w.channels.set(channel)
		}, 16, "payment is not signed by channel signer/sender"},
		{"height unknown", func(w *world) { w.head.err = errTest }, 14, "cannot determine current block"},
		{"state away", func(w *world) {
			w.ledger.charge = func(context.Context, *blockchain.Channel, *channelstate.Charge) error {
				return channelstate.ErrUnavailable
			}
		}, 14, "the state of the payment channel cannot be read or written"},
		{"any fault of the state", func(w *world) {
			w.ledger.charge = func(context.Context, *blockchain.Channel, *channelstate.Charge) error { return errTest }
		}, 14, "the state of the payment channel cannot be read or written"},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, test.adjust)
			got := w.check(w.headers(testPrice))
			if got.code != test.code || !strings.HasPrefix(got.message, test.message) {
				t.Errorf("got %d %q, want %d %q", got.code, got.message, test.code, test.message)
			}
			if strings.Contains(got.message, errTest.Error()) {
				t.Error("the client is told our own fault")
			}
			if charges, refunds := w.ledger.counts(); charges+refunds != 0 {
				t.Error("a refused call touched the ledger")
			}
		})
	}
}

func TestChannelSignerMaySign(t *testing.T) {
	provider := testKey(t, providerKeyHex)
	w := newWorld(t, func(w *world) {
		channel := w.openChannel(testChannel)
		channel.Signer = crypto.PubkeyToAddress(provider.PublicKey)
		w.channels.set(channel)
	})
	got := w.check(w.headersOf(provider, testChannel, testNonce, testPrice))
	if got.code != 0 {
		t.Fatalf("refused: %d %s", got.code, got.message)
	}
	if got.user != w.sender.Hex() {
		t.Errorf("the payer is the sender, not the signer: %s", got.user)
	}
}

func TestLedgerRefusals(t *testing.T) {
	cases := map[channelstate.Reason]struct {
		code  envoy.Code
		stale bool // a newer copy of the channel could decide otherwise
	}{
		channelstate.ReasonNonce: {1000, true}, channelstate.ReasonNearExpiry: {16, true},
		channelstate.ReasonAboveValue: {16, true}, channelstate.ReasonFunds: {16, true},
		channelstate.ReasonNotCovered: {16, false}, channelstate.ReasonAlreadyAccepted: {16, false},
		channelstate.ReasonChannelChanged: {14, true},
		"a reason of a later version":     {13, false},
	}
	for reason, test := range cases {
		t.Run(string(reason), func(t *testing.T) {
			attempts := 0
			w := newWorld(t)
			w.ledger.charge = func(context.Context, *blockchain.Channel, *channelstate.Charge) error {
				attempts++
				return &channelstate.Refusal{Reason: reason, Message: "the sentence of the ledger"}
			}
			got := w.check(w.headers(testPrice))
			if got.code != test.code || got.message != "the sentence of the ledger" {
				t.Errorf("got %d %q", got.code, got.message)
			}
			if refreshed := w.channels.refreshes == 1; refreshed != test.stale || w.channels.refreshes > 1 {
				t.Errorf("%d refreshes", w.channels.refreshes)
			}
			if attempts != 1 {
				t.Errorf("charged %d times though the channel had not changed", attempts)
			}
		})
	}
}

// A refusal that the cached channel explains is asked once more with the channel as it is now.
func TestStaleChannel(t *testing.T) {
	newer := func(change func(*blockchain.Channel)) func(*world) {
		return func(w *world) {
			channel := w.openChannel(testChannel)
			change(&channel)
			w.channels.onChain = map[uint256.Int]blockchain.Channel{channel.ID: channel}
		}
	}
	cases := []struct {
		name   string
		adjust func(*world)
		code   envoy.Code
		phrase string
	}{
		{"funds were added", newer(func(c *blockchain.Channel) { c.Value = *uint256.NewInt(5000) }), 0, ""},
		{"given to another recipient", newer(func(c *blockchain.Channel) { c.Recipient = common.Address{1} }), 16, "recipient"},
		{"the chain is away", func(w *world) {}, 16, "first refusal"},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, test.adjust)
			w.ledger.charge = func(_ context.Context, channel *blockchain.Channel, charge *channelstate.Charge) error {
				if channel.Value == *uint256.NewInt(testValue) {
					w.channels.mutex.Lock()
					defer w.channels.mutex.Unlock()
					if w.channels.onChain == nil {
						w.channels.err = blockchain.ErrChainUnavailable
					}
					return &channelstate.Refusal{Reason: channelstate.ReasonAboveValue, Message: "first refusal"}
				}
				if charge.Fresh {
					t.Error("a copy that may be cached was called fresh")
				}
				return nil
			}
			got := w.check(w.headers(2000))
			if got.code != test.code || !strings.Contains(got.message, test.phrase) {
				t.Errorf("got %d %q", got.code, got.message)
			}
			if charges, _ := w.ledger.counts(); (charges == 1) != (test.code == 0) {
				t.Errorf("%d charges", charges)
			}
		})
	}
}

func TestChannelGoneAfterReorganisation(t *testing.T) {
	w := newWorld(t)
	w.ledger.charge = func(context.Context, *blockchain.Channel, *channelstate.Charge) error {
		w.channels.mutex.Lock()
		defer w.channels.mutex.Unlock()
		w.channels.err = blockchain.ErrChannelNotFound
		return &channelstate.Refusal{Reason: channelstate.ReasonNonce, Message: "old"}
	}
	if got := w.check(w.headers(testPrice)); got.code != 16 || got.message != `payment channel "{ID: 1234}" not found` {
		t.Errorf("got %d %q", got.code, got.message)
	}
}

// freshChannels can tell that the chain was asked for this call.
type freshChannels struct {
	*fakeChannels
	fresh bool
}

func (f *freshChannels) Reread(ctx context.Context, id *uint256.Int) (blockchain.Channel, bool, error) {
	channel, _, err := f.fakeChannels.Reread(ctx, id)
	return channel, f.fresh, err
}

// Only a channel that was read for this call may set a record aside.
func TestChangedChannel(t *testing.T) {
	for _, fresh := range []bool{true, false} {
		w := newWorld(t, func(w *world) { w.dependencies.Channels = &freshChannels{w.channels, fresh} })
		w.ledger.charge = func(_ context.Context, _ *blockchain.Channel, charge *channelstate.Charge) error {
			if !charge.Fresh {
				return &channelstate.Refusal{Reason: channelstate.ReasonChannelChanged, Message: "changed"}
			}
			return nil
		}
		got := w.check(w.headers(testPrice))
		if fresh && got.code != 0 {
			t.Errorf("read again, yet refused: %d %s", got.code, got.message)
		}
		if !fresh && (got.code != 14 || got.message != "changed") {
			t.Errorf("not read again: %d %s", got.code, got.message)
		}
	}
}

func TestFreeMethod(t *testing.T) {
	w := newWorld(t, func(w *world) { w.metadata = testMetadata(blockchain.Pricing{Fixed: new(uint256.Int)}) })
	got := w.check(w.headers(testPrice))
	if got.code != 0 || got.charged != nil {
		t.Errorf("%d %s, %+v", got.code, got.message, got.charged)
	}
}
