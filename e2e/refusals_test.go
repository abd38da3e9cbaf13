package e2e_test

import (
	"context"
	"strings"
	"testing"

	"github.com/holiman/uint256"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/e2e/harness"
	"github.com/mpegate/mpegate/envoy"
)

// TestRefusals sends payments that are wrong in one way each and expects the code and the phrase that clients match on
// (payment-protocol.md section 6.1). None may reach the service or change the channel.
func TestRefusals(t *testing.T) {
	world := harness.New(t, harness.Options{})
	good := world.OpenChannel(10 * harness.Price)
	used := world.OpenChannel(10 * harness.Price)
	if _, err := world.Client().Echo(paying(t, used, 2*harness.Price), &samplev1.EchoRequest{}); err != nil {
		t.Fatal(err)
	}
	provider := world.Chain.Account("provider").Address
	otherGroup := world.OpenChannelWith(10*harness.Price, [32]byte{9}, provider, 1_000_000)
	otherRecipient := world.OpenChannelWith(10*harness.Price, harness.Group, world.Chain.Account("stranger").Address, 1_000_000)
	expiring := world.OpenChannelWith(10*harness.Price, harness.Group, provider, harness.ExpirationThreshold/2)

	stranger := *good
	stranger.Key = world.Chain.Account("stranger").Key
	elsewhere := *good
	elsewhere.MPE = world.Chain.Registry
	wrongNonce := *good
	wrongNonce.Nonce.SetUint64(3)
	unknown := *good
	unknown.Channel.SetUint64(4_000_000)

	with := func(p *payer.Payer, amount uint64, change func(metadata.MD)) metadata.MD {
		headers := payment(t, p, amount)
		if change != nil {
			change(headers)
		}
		return headers
	}
	set := func(name string, values ...string) func(metadata.MD) {
		return func(headers metadata.MD) { headers[name] = values }
	}
	drop := func(name string) func(metadata.MD) {
		return func(headers metadata.MD) { headers.Delete(name) }
	}
	cases := []struct {
		name    string
		headers metadata.MD
		code    codes.Code
		phrase  string
	}{
		{"no payment", nil, codes.InvalidArgument, `missing "snet-payment-channel-id"`},
		{"unknown payment type", with(good, harness.Price, set(envoy.HeaderPaymentType, "gift")), codes.InvalidArgument, `unexpected "snet-payment-type", value: "gift"`},
		{"no nonce", with(good, harness.Price, drop(envoy.HeaderChannelNonce)), codes.InvalidArgument, `missing "snet-payment-channel-nonce"`},
		{"no amount", with(good, harness.Price, drop(envoy.HeaderChannelAmount)), codes.InvalidArgument, `missing "snet-payment-channel-amount"`},
		{"no signature", with(good, harness.Price, drop(envoy.HeaderChannelSignature)), codes.InvalidArgument, `missing "snet-payment-channel-signature-bin"`},
		{"two amounts", with(good, harness.Price, set(envoy.HeaderChannelAmount, "1000", "2000")), codes.InvalidArgument, `too many values for key "snet-payment-channel-amount"`},
		{"octal id", with(good, harness.Price, set(envoy.HeaderChannelID, "0o7")), codes.InvalidArgument, `incorrect format "snet-payment-channel-id"`},
		{"hexadecimal amount", with(good, harness.Price, set(envoy.HeaderChannelAmount, "0x3e8")), codes.InvalidArgument, `incorrect format "snet-payment-channel-amount"`},
		{"negative nonce", with(good, harness.Price, set(envoy.HeaderChannelNonce, "-1")), codes.InvalidArgument, `incorrect format "snet-payment-channel-nonce"`},
		{"amount past 256 bits", with(good, harness.Price, set(envoy.HeaderChannelAmount, strings.Repeat("9", 78))), codes.InvalidArgument, `incorrect format`},
		{"endless amount", with(good, harness.Price, set(envoy.HeaderChannelAmount, strings.Repeat("1", 5000))), codes.InvalidArgument, `incorrect format`},
		{"empty amount", with(good, harness.Price, set(envoy.HeaderChannelAmount, "")), codes.InvalidArgument, ``},
		{"short signature", with(good, harness.Price, set(envoy.HeaderChannelSignature, "short")), codes.Unauthenticated, `payment signature is not valid`},
		{"signature of zeros", with(good, harness.Price, set(envoy.HeaderChannelSignature, string(make([]byte, 65)))), codes.Unauthenticated, `payment signature is not valid`},
		{"signature of a stranger", with(&stranger, harness.Price, nil), codes.Unauthenticated, `payment is not signed by channel signer/sender`},
		{"signature for another contract", with(&elsewhere, harness.Price, nil), codes.Unauthenticated, `payment is not signed by channel signer/sender`},
		{"amount raised after signing", with(good, harness.Price, set(envoy.HeaderChannelAmount, "2000")), codes.Unauthenticated, `payment is not signed by channel signer/sender`},
		{"unknown channel", with(&unknown, harness.Price, nil), codes.Unauthenticated, `payment channel "{ID: 4000000}" not found`},
		{"channel of another group", with(otherGroup, harness.Price, nil), codes.Unauthenticated, `group`},
		{"channel to another recipient", with(otherRecipient, harness.Price, nil), codes.Unauthenticated, `recipient`},
		{"wrong nonce", with(&wrongNonce, harness.Price, nil), codes.Code(envoy.CodeIncorrectNonce), `incorrect payment channel nonce, latest: 0, sent: 3`},
		{"nearly expired", with(expiring, harness.Price, nil), codes.Unauthenticated, `payment channel is near to be expired, expiration time: `},
		{"more than the channel holds", with(good, 11*harness.Price, nil), codes.Unauthenticated, `not enough tokens on payment channel, channel amount: 10000, payment amount: 11000`},
		{"less than the price", with(good, harness.Price-1, nil), codes.Unauthenticated, `income 999 does not equal to price 1000`},
		{"spent amount", with(used, 2*harness.Price, nil), codes.Unauthenticated, `income 0 does not equal to price 1000`},
	}
	reached := world.Service.CallsOf(samplev1.Sample_Echo_FullMethodName).GetReceived()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
			defer cancel()
			_, err := world.Client().Echo(metadata.NewOutgoingContext(ctx, c.headers), &samplev1.EchoRequest{})
			if got := status.Convert(err); got.Code() != c.code || !strings.Contains(got.Message(), c.phrase) {
				t.Errorf("code %d, %q; wanted %d with %q", got.Code(), got.Message(), c.code, c.phrase)
			}
		})
	}
	if now := world.Service.CallsOf(samplev1.Sample_Echo_FullMethodName).GetReceived(); now != reached {
		t.Errorf("%d refused calls reached the service", now-reached)
	}
	expectBooks(t, world, good, 0, 0)
	expectBooks(t, world, used, 2*harness.Price, harness.Price)

	t.Run("funds and time added at the last moment", func(t *testing.T) {
		p := world.OpenChannel(harness.Price)
		if _, err := world.Client().Echo(paying(t, p, harness.Price), &samplev1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
		_, err := world.Client().Echo(paying(t, p, 2*harness.Price), &samplev1.EchoRequest{})
		expectCode(t, err, codes.Unauthenticated)
		world.AddFunds(p, 5*harness.Price)
		if _, err := world.Client().Echo(paying(t, p, 2*harness.Price), &samplev1.EchoRequest{}); err != nil {
			t.Fatalf("the channel was topped up: %v", err)
		}
		world.Extend(expiring, uint256.NewInt(world.Block()+1_000_000))
		if _, err := world.Client().Echo(paying(t, expiring, harness.Price), &samplev1.EchoRequest{}); err != nil {
			t.Fatalf("the channel was extended: %v", err)
		}
	})
}
