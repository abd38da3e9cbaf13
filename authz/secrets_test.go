package authz

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

// Nothing of a signature or a token is in any log line at debug level or in any answer, whichever way a call goes.
func TestSecretsAreNotTold(t *testing.T) {
	const token = "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0.c2VjcmV0LXNpZ25hdHVyZQ"
	var logs bytes.Buffer
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&logs), zapcore.DebugLevel)
	w := newWorld(t, realLedger, func(w *world) { w.dependencies.Logger = zap.New(core) })
	failing := newWorld(t, func(w *world) { w.dependencies.Logger = zap.New(core) })
	failing.ledger.charge = func(_ context.Context, _ *blockchain.Channel, charge *channelstate.Charge) error {
		panic(string(charge.Signature))
	}
	failing.ledger.refund = func(context.Context, *channelstate.Refund) (channelstate.RefundOutcome, error) {
		panic(token)
	}

	headers := w.headers(testPrice)
	signatureText := strings.TrimRight(headers[envoy.HeaderChannelSignature], "=")
	raw, err := base64.RawStdEncoding.DecodeString(signatureText)
	if err != nil {
		t.Fatal(err)
	}
	with := func(name, value string) map[string]string {
		changed := w.headers(testPrice)
		changed[envoy.HeaderPrepaidToken], changed[envoy.HeaderFreeCallToken] = token, token
		changed[name] = value
		return changed
	}
	var answers []string
	told := func(got answer) answer {
		answers = append(answers, got.message)
		return got
	}
	paid := told(w.check(headers))
	told(w.check(headers)) // replay
	told(w.check(with(envoy.HeaderChannelSignature, signatureText+","+signatureText)))
	told(w.check(with(envoy.HeaderChannelSignature, signatureText[:40])))
	told(w.check(with(envoy.HeaderChannelSignature, signatureText+signatureText)))
	told(w.check(with(envoy.HeaderChannelSignature, signatureText+"!")))
	told(w.check(with(envoy.HeaderChannelNonce, "77")))
	told(w.check(with(envoy.HeaderPaymentType, "prepaid-call")))
	told(w.checkPath("/a.B/C?token="+token, headers))
	told(failing.check(with(envoy.HeaderRequestID, "failing")))
	w.report(logged{requestID: "x", charged: paid.charged, status: "13", code: 200}.entry())
	w.close()

	if logs.Len() == 0 || len(answers) != 10 {
		t.Fatal("nothing was logged")
	}
	secrets := map[string]string{
		"the signature in base64": signatureText, "a part of the signature in base64": signatureText[:20],
		"the signature's bytes": string(raw), "the signature in hex": hex.EncodeToString(raw), "r in hex": hex.EncodeToString(raw[:32]),
		"a token": token, "the end of a token": token[len(token)-20:],
	}
	for what, secret := range secrets {
		if strings.Contains(strings.ToLower(logs.String()), strings.ToLower(secret)) {
			t.Errorf("%s is in the log:\n%s", what, logs.String())
		}
		for _, message := range answers {
			if strings.Contains(message, secret) {
				t.Errorf("%s is in the answer %q", what, message)
			}
		}
	}
}
