package authz

import (
	"strings"
	"testing"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/envoy"
)

// Whatever a client sends, Check answers, and charges only what the channel's sender has signed.
func FuzzCheck(f *testing.F) {
	w := newWorld(f)
	add := func(change func(map[string]string)) {
		headers := w.headers(testPrice)
		change(headers)
		f.Add(testMethod, headers[envoy.HeaderPaymentType], headers[envoy.HeaderChannelID], headers[envoy.HeaderChannelNonce],
			headers[envoy.HeaderChannelAmount], headers[envoy.HeaderChannelSignature], "10S", "application/grpc")
	}
	add(func(map[string]string) {})
	add(func(h map[string]string) { h[envoy.HeaderChannelID] = "1234,1234" })
	add(func(h map[string]string) { h[envoy.HeaderChannelAmount] = "00000000000000000010" })
	add(func(h map[string]string) { h[envoy.HeaderChannelNonce] = "-1" })
	add(func(h map[string]string) { h[envoy.HeaderChannelSignature] = "====" })
	add(func(h map[string]string) { h[envoy.HeaderChannelSignature] = strings.Repeat("A", 87) })
	f.Add("/a.B/../C", "escrow", "1", "1", "1", "AA", "99999999H", "")
	f.Fuzz(func(t *testing.T, path, paymentType, channel, nonce, amount, signature, timeout, contentType string) {
		w.t = t
		defer func() { w.t = f }()
		before, _ := w.ledger.counts()
		got := w.checkPath(path, map[string]string{
			envoy.HeaderPaymentType: paymentType, envoy.HeaderChannelID: channel, envoy.HeaderChannelNonce: nonce,
			envoy.HeaderChannelAmount: amount, envoy.HeaderChannelSignature: signature, envoy.HeaderGRPCTimeout: timeout,
			envoy.HeaderContentType: contentType,
		})
		after, _ := w.ledger.counts()
		switch {
		case got.code == 13:
			t.Errorf("our own fault: %s", got.message)
		case got.code != 0 && after != before && got.code != 4:
			t.Errorf("refused with %d and charged", got.code)
		case got.code != 0:
			if signature != "" && len(signature) > 20 && strings.Contains(got.message, signature) &&
				!strings.Contains(channel+nonce+amount+paymentType, signature) {
				t.Errorf("the answer repeats the signature: %s", got.message)
			}
			return
		case after != before+1:
			t.Error("allowed and not charged once")
		}
		charge := w.ledger.charges[after-1]
		if charge.Amount.Dec() != strings.TrimLeft(amount, "0") && amount != strings.Repeat("0", len(amount)) {
			t.Errorf("%q was charged as %s", amount, charge.Amount.Dec())
		}
		message := blockchain.ClaimMessage(testMPE, uint256.NewInt(testChannel), &charge.Nonce, &charge.Amount)
		if signer, err := blockchain.RecoverSigner(message, charge.Signature); err != nil || signer != w.sender {
			t.Errorf("charged on a signature of %s, %v", signer, err)
		}
	})
}

func FuzzClientTimeout(f *testing.F) {
	for _, text := range []string{"", "1S", "99999999H", "12x", "-5m"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if clientTimeout(text) < 0 {
			t.Errorf("%q is a negative time", text)
		}
	})
}

// Whatever a charge's description says, reading it never panics, and what is read is what was written.
func FuzzReadCharged(f *testing.F) {
	f.Add("00112233445566778899aabbccddeeff", "1", "0x042d31F61c598eADcAc729B845406514521db520", strings.Repeat("ab", 32), "1234", "5", "10", "3")
	f.Add("", "", "", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, id, chain, mpe, group, channel, nonce, amount, price string) {
		charged := &envoy.Charged{ID: id, ChainID: chain, MPE: mpe, Group: group, Channel: channel, Nonce: nonce, Amount: amount, Price: price}
		key, refund, err := readCharged(charged)
		if err != nil {
			return
		}
		trim := func(text string) string {
			if text = strings.TrimLeft(text, "0"); text == "" {
				return "0"
			}
			return text
		}
		if key.Channel.Dec() != trim(channel) || refund.Nonce.Dec() != trim(nonce) || refund.Amount.Dec() != trim(amount) || refund.Price.Dec() != trim(price) {
			t.Errorf("%+v is read as %+v %+v", charged, key, refund)
		}
	})
}
