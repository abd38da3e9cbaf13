package authz

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/envoy"
)

func TestHeaderFaults(t *testing.T) {
	const (
		largest  = "115792089237316195423570985008687907853269984665640564039457584007913129639935"
		overflow = "115792089237316195423570985008687907853269984665640564039457584007913129639936"
	)
	absent := "\x00absent"
	cases := []struct {
		name, header, value string
		code                envoy.Code
		message             string
	}{
		{"unknown payment type", envoy.HeaderPaymentType, "barter", 3, `unexpected "snet-payment-type", value: "barter"`},
		{"payment type not sold yet", envoy.HeaderPaymentType, "train-call", 3, `unexpected "snet-payment-type", value: "train-call"`},
		{"empty payment type", envoy.HeaderPaymentType, "", 3, `unexpected "snet-payment-type", value: ""`},
		{"other case of payment type", envoy.HeaderPaymentType, "Escrow", 3, `unexpected "snet-payment-type", value: "Escrow"`},
		{"payment type twice", envoy.HeaderPaymentType, "escrow,escrow", 3, `too many values for key "snet-payment-type": [escrow escrow]`},
		{"payment type of control bytes", envoy.HeaderPaymentType, "a\x01\n\"ü", 3, `unexpected "snet-payment-type", value: "a\x01\n\"\u00fc"`},

		{"no channel", envoy.HeaderChannelID, absent, 3, `missing "snet-payment-channel-id"`},
		{"channel twice", envoy.HeaderChannelID, "1,2", 3, `too many values for key "snet-payment-channel-id": [1 2]`},
		{"channel twice with a space", envoy.HeaderChannelID, "1234, 1234", 3, `too many values for key "snet-payment-channel-id": [1234  1234]`},
		{"channel empty", envoy.HeaderChannelID, "", 3, `incorrect format "snet-payment-channel-id": ""`},
		{"channel in words", envoy.HeaderChannelID, "one", 3, `incorrect format "snet-payment-channel-id": "one"`},

		{"no nonce", envoy.HeaderChannelNonce, absent, 3, `missing "snet-payment-channel-nonce"`},
		{"nonce twice", envoy.HeaderChannelNonce, ",", 3, `too many values for key "snet-payment-channel-nonce": [ ]`},
		{"negative nonce", envoy.HeaderChannelNonce, "-5", 3, `incorrect format "snet-payment-channel-nonce": "-5"`},
		{"nonce with a plus", envoy.HeaderChannelNonce, "+5", 3, `incorrect format "snet-payment-channel-nonce": "+5"`},
		{"hexadecimal nonce", envoy.HeaderChannelNonce, "0x5", 3, `incorrect format "snet-payment-channel-nonce": "0x5"`},

		{"no amount", envoy.HeaderChannelAmount, absent, 3, `missing "snet-payment-channel-amount"`},
		{"amount with an exponent", envoy.HeaderChannelAmount, "1e3", 3, `incorrect format "snet-payment-channel-amount": "1e3"`},
		{"amount with an underscore", envoy.HeaderChannelAmount, "1_000", 3, `incorrect format "snet-payment-channel-amount": "1_000"`},
		{"amount with a space", envoy.HeaderChannelAmount, " 10", 3, `incorrect format "snet-payment-channel-amount": " 10"`},
		{"amount of digits that are not ASCII", envoy.HeaderChannelAmount, "१०", 3, `incorrect format "snet-payment-channel-amount": "\u0967\u0966"`},
		{"amount of 2^256", envoy.HeaderChannelAmount, overflow, 3, `incorrect format "snet-payment-channel-amount": "` + overflow + `"`},
		{"amount of 79 digits", envoy.HeaderChannelAmount, strings.Repeat("0", 79), 3, `incorrect format "snet-payment-channel-amount": "` + strings.Repeat("0", 79) + `"`},
		{"endless amount", envoy.HeaderChannelAmount, strings.Repeat("7", 5000), 3, `incorrect format "snet-payment-channel-amount": "` + strings.Repeat("7", 80) + `..."`},
		{"largest amount is a number", envoy.HeaderChannelAmount, largest, 16, "payment is not signed by channel signer/sender"},

		{"no signature", envoy.HeaderChannelSignature, absent, 3, `missing "snet-payment-channel-signature-bin"`},
		{"signature twice", envoy.HeaderChannelSignature, "QUFB,QUFB", 3, `too many values for key "snet-payment-channel-signature-bin": [not shown]`},
		{"signature that is not base64", envoy.HeaderChannelSignature, "!!secret!!", 3, `incorrect format "snet-payment-channel-signature-bin": it is not base64`},
		{"empty signature", envoy.HeaderChannelSignature, "", 16, "payment signature is not valid"},
		{"short signature", envoy.HeaderChannelSignature, "QUFBQQ==", 16, "payment signature is not valid"},
		{"long signature", envoy.HeaderChannelSignature, strings.Repeat("QUFB", 1000), 16, "payment signature is not valid"},
		{"signature of zeros", envoy.HeaderChannelSignature, strings.Repeat("A", 87), 16, "payment signature is not valid"},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			headers := w.headers(testPrice)
			headers[test.header] = test.value
			if test.value == absent {
				delete(headers, test.header)
			}
			got := w.check(headers)
			if got.code != test.code || got.message != test.message {
				t.Errorf("got %d %q, want %d %q", got.code, got.message, test.code, test.message)
			}
			if charges, _ := w.ledger.counts(); charges != 0 {
				t.Error("a refused call was charged")
			}
			if test.code == 3 && (w.channels.gets != 0 || w.channels.refreshes != 0) {
				t.Error("a malformed call cost a look at the chain")
			}
		})
	}
}

// The first fault in this order is the one that is named, whatever else is wrong.
func TestHeaderOrder(t *testing.T) {
	w := newWorld(t)
	order := []string{
		envoy.HeaderPaymentType, envoy.HeaderChannelID, envoy.HeaderChannelNonce, envoy.HeaderChannelAmount,
		envoy.HeaderChannelSignature,
	}
	for i, header := range order {
		headers := w.headers(testPrice)
		for _, later := range order[i:] {
			headers[later] = "?,?"
		}
		if got := w.check(headers); !strings.Contains(got.message, `"`+header+`"`) {
			t.Errorf("all from %s on are wrong, and the answer names another: %s", header, got.message)
		}
	}
}

func TestSignatureForms(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(string) string{
		"padded":   func(text string) string { return text },
		"unpadded": func(text string) string { return strings.TrimRight(text, "=") },
	} {
		headers := w.headers(testPrice)
		headers[envoy.HeaderChannelSignature] = change(headers[envoy.HeaderChannelSignature])
		if got := w.check(headers); got.code != 0 {
			t.Errorf("%s: %d %s", name, got.code, got.message)
		}
	}
}

func TestPaths(t *testing.T) {
	w := newWorld(t)
	good := []string{"/a/b", "/pkg.v1.Service/Method", "/Service/method_2", "/my-pkg.S/M"}
	bad := []string{
		"", "/", "//", "///", "a.B/C", "/a.B", "/a.B/", "/a.B/C/", "//a.B/C", "/a.B//C", "/./a.B/C", "/../a.B/C", "/a.B/../C",
		"/a.B/..", "/a.B/.", "/a..B/C", "/.a/C", "/a./C", "/a.B/C?x=1", "/a.B/C#x", "/a.B/%43", "/a%2eB/C", "/a.B%2fC", `/a.B\C/D`,
		"/a.B/C;v=1", "/a.B/C ", "/a.B/Ü", "/a.B/C\x00", "*", "http://h/a.B/C", "/" + strings.Repeat("a", 2000) + "/b",
	}
	for _, path := range good {
		if got := w.checkPath(path, w.headers(testPrice)); got.code != 0 {
			t.Errorf("%q: %d %s", path, got.code, got.message)
		}
	}
	before, _ := w.ledger.counts()
	for _, path := range bad {
		got := w.checkPath(path, w.headers(testPrice))
		if got.code != 12 || !strings.Contains(got.message, "not a gRPC method") {
			t.Errorf("%q: %d %s", path, got.code, got.message)
		}
	}
	if after, _ := w.ledger.counts(); after != before {
		t.Error("a path that is no method was charged")
	}
}

func TestOnlyGRPC(t *testing.T) {
	w := newWorld(t)
	for _, contentType := range []string{"application/json", "text/html", "", "application/grp"} {
		headers := w.headers(testPrice)
		headers[envoy.HeaderContentType] = contentType
		if got := w.check(headers); got.code != 12 || !strings.Contains(got.message, "application/grpc") {
			t.Errorf("%q: %d %s", contentType, got.code, got.message)
		}
	}
	for _, contentType := range []string{"application/grpc", "application/grpc+proto", "Application/GRPC; x=y"} {
		headers := w.headers(testPrice)
		headers[envoy.HeaderContentType] = contentType
		if got := w.check(headers); got.code != 0 {
			t.Errorf("%q: %d %s", contentType, got.code, got.message)
		}
	}
	get := request(testMethod, w.headers(testPrice))
	get.Attributes.Request.Http.Method = "GET"
	response, err := w.server.Check(t.Context(), get)
	if err != nil {
		t.Fatal(err)
	}
	if got := readAnswer(t, response); got.code != 12 {
		t.Errorf("GET: %d %s", got.code, got.message)
	}
}

func TestParseDecimal(t *testing.T) {
	for text, want := range map[string]string{"0": "0", "007": "7", "010": "10", strings.Repeat("0", 77) + "9": "9"} {
		var number uint256.Int
		if !parseDecimal(text, &number) || number.Dec() != want {
			t.Errorf("%s is read as %s", text, number.Dec())
		}
		var again uint256.Int
		canonical, denied := readNumber(map[string]string{"n": text}, "n", &again)
		if denied != nil || canonical != want {
			t.Errorf("the text of %s is %s", text, canonical)
		}
	}
}

func TestClientTimeout(t *testing.T) {
	cases := map[string]time.Duration{
		"": 0, "S": 0, "10": 0, "10X": 0, "-1S": 0, "1 S": 0, "123456789S": 0, "0S": 0,
		"1H": time.Hour, "2M": 2 * time.Minute, "10S": 10 * time.Second, "99m": 99 * time.Millisecond,
		"5u": 5 * time.Microsecond, "7n": 7, "99999999H": math.MaxInt64, "99999999M": 99999999 * time.Minute,
	}
	for text, want := range cases {
		if got := clientTimeout(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestCheckDeadline(t *testing.T) {
	const limit = 3 * time.Second
	for text, want := range map[string]time.Duration{"": limit, "1H": limit, "99999999H": limit, "3S": 2 * time.Second, "300m": 200 * time.Millisecond} {
		c := &call{started: time.Now(), headers: map[string]string{envoy.HeaderGRPCTimeout: text}}
		ctx, cancel := c.limit(t.Context(), limit)
		deadline, _ := ctx.Deadline()
		if got := deadline.Sub(c.started); got != want {
			t.Errorf("a client that waits %q gives us %s, want %s", text, got, want)
		}
		if c.clientDeadline != (want < limit) {
			t.Errorf("%q: whose deadline is it?", text)
		}
		cancel()
	}
}

func TestShown(t *testing.T) {
	for text, want := range map[string]string{"plain": "plain", "a\"b": `a\"b`, "\x00\xff": `\x00\xff`, strings.Repeat("x", 81): strings.Repeat("x", 80) + "..."} {
		if got := shown(text); got != want {
			t.Errorf("%q is shown as %s", text, got)
		}
	}
}
