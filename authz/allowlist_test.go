package authz

import (
	"testing"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/mpegate/mpegate/envoy"
)

func unpaid(w *world) {
	w.dependencies = Dependencies{WithoutPayment: true, Logger: w.dependencies.Logger}
}

func listUser(w *world) {
	w.settings.AllowList = AllowListSettings{Enabled: true, Addresses: []string{w.sender.Hex()}}
}

func TestWithoutPayment(t *testing.T) {
	w := newWorld(t, unpaid)
	for name, headers := range map[string]map[string]string{
		"nothing sent":      nil,
		"a payment is sent": w.headers(testPrice),
		"nonsense is sent":  {envoy.HeaderPaymentType: "barter", envoy.HeaderChannelID: "x", envoy.HeaderUserAddress: "0x01"},
	} {
		got := w.check(headers)
		if got.code != 0 || got.charged != nil || got.user != "" {
			t.Errorf("%s: %+v", name, got)
		}
		for _, header := range append([]string{envoy.HeaderUserAddress, envoy.HeaderDaemonDebug}, envoy.SpendableHeaders...) {
			if !got.removed[header] {
				t.Errorf("%s: %s reaches the service", name, header)
			}
		}
	}
	if got := w.checkPath("/a.B/../C", nil); got.code != 12 {
		t.Errorf("not a method: %d", got.code)
	}
	if charges, refunds := w.ledger.counts(); charges+refunds+w.channels.gets != 0 {
		t.Error("a call without payment touched the ledger or the chain")
	}
}

func TestAllowListWithoutPayment(t *testing.T) {
	provider := testKey(t, providerKeyHex)
	w := newWorld(t, unpaid, listUser)
	with := func(headers map[string]string, name, value string) map[string]string {
		headers[name] = value
		return headers
	}
	mine := func() map[string]string { return with(w.headers(testPrice), envoy.HeaderMPEAddress, testMPE.Hex()) }
	cases := []struct {
		name    string
		headers map[string]string
		code    envoy.Code
		message string
	}{
		{"listed", mine(), 0, ""},
		{"listed, without payment type", func() map[string]string { h := mine(); delete(h, envoy.HeaderPaymentType); return h }(), 0, ""},
		{"not listed", with(w.headersOf(provider, 1, 1, 1), envoy.HeaderMPEAddress, testMPE.Hex()), 16, "payment signature is not valid"},
		{"signed for another contract", with(w.headers(testPrice), envoy.HeaderMPEAddress, w.sender.Hex()), 16, "payment signature is not valid"},
		{"no contract", w.headers(testPrice), 3, `missing "snet-payment-mpe-address"`},
		{"contract twice", with(w.headers(testPrice), envoy.HeaderMPEAddress, "0x1,0x2"), 3, `too many values for key "snet-payment-mpe-address": [0x1 0x2]`},
		{"no address", with(w.headers(testPrice), envoy.HeaderMPEAddress, "0x1234"), 3, `incorrect format "snet-payment-mpe-address": "0x1234"`},
		{"no hex", with(w.headers(testPrice), envoy.HeaderMPEAddress, "0x"+"zz"+testMPE.Hex()[4:]), 3, `incorrect format "snet-payment-mpe-address": "0xzz` + testMPE.Hex()[4:] + `"`},
		{"no channel", with(mine(), envoy.HeaderChannelID, ""), 3, `incorrect format "snet-payment-channel-id": ""`},
		{"broken signature", with(mine(), envoy.HeaderChannelSignature, "QUJD"), 16, "payment signature is not valid"},
		{"other payment type", with(mine(), envoy.HeaderPaymentType, "free-call"), 3, `unexpected "snet-payment-type", value: "free-call"`},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			got := w.check(test.headers)
			if got.code != test.code || got.message != test.message {
				t.Errorf("got %d %q, want %d %q", got.code, got.message, test.code, test.message)
			}
			if test.code == 0 && (got.charged != nil || got.user != w.sender.Hex()) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestAllowListWithPayment(t *testing.T) {
	provider := testKey(t, providerKeyHex)
	w := newWorld(t, listUser, func(w *world) {
		channel := w.openChannel(77)
		channel.Signer = crypto.PubkeyToAddress(provider.PublicKey)
		w.channels.set(channel)
	})
	if got := w.check(w.headers(testPrice)); got.code != 0 || got.charged == nil {
		t.Errorf("listed: %d %s", got.code, got.message)
	}
	gets := w.channels.gets
	// The signer of the channel may pay by the contract's rules, but is not on the list.
	got := w.check(w.headersOf(provider, 77, testNonce, testPrice))
	if got.code != 16 || got.message != "payment signature is not valid" {
		t.Errorf("not listed: %d %s", got.code, got.message)
	}
	if w.channels.gets != gets {
		t.Error("somebody who is not listed had the chain asked")
	}
}
