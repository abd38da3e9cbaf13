package authz

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/mpegate/mpegate/envoy"
)

// Nothing of the tokens and signatures of prepaid and free calls is in any log line at debug level, in any answer or in
// what Envoy is told to remember.
func TestTokensAreNotTold(t *testing.T) {
	var logs bytes.Buffer
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(zapcore.AddSync(&logs)), zapcore.DebugLevel)
	o := newOffice(t, realLedger, withTokens, func(w *world) { w.dependencies.Logger = zap.New(core) })
	o.raise(2 * testPrice)
	prepaid, free := prepaidHeaders(goodToken(t)), o.free(o.user, "", o.token(o.user, ""))
	var told []string
	for range 4 { // accepted first, refused in the end
		for _, headers := range []map[string]string{prepaid, free} {
			got := o.check(headers)
			told = append(told, got.message)
			if got.charged != nil {
				told = append(told, got.charged.Struct().String())
				o.report(logged{requestID: headers[envoy.HeaderRequestID], charged: got.charged, status: "13", code: 200}.entry())
			}
		}
	}
	for _, broken := range []map[string]string{prepaid, free} {
		for _, name := range envoy.SpendableHeaders {
			if value, set := broken[name]; set {
				for _, other := range []string{value + "," + value, value[:len(value)-8], value + "AAAA", value + "!"} {
					changed := map[string]string{}
					for key, value := range broken {
						changed[key] = value
					}
					changed[name] = other
					told = append(told, o.check(changed).message)
				}
			}
		}
	}
	o.close()
	told = append(told, logs.String())
	if !strings.Contains(logs.String(), "payment decision") || !strings.Contains(logs.String(), "call settled") {
		t.Error("the log does not show that anything happened")
	}
	for _, headers := range []map[string]string{prepaid, free} {
		for _, name := range envoy.SpendableHeaders {
			value := strings.TrimRight(headers[name], "=")
			if value == "" {
				continue
			}
			raw, err := base64.RawStdEncoding.DecodeString(value)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range told {
				for _, secret := range []string{value, string(raw), value[:40], value[len(value)-40:]} {
					if strings.Contains(text, secret) {
						t.Errorf("%s is told: %.200s", name, text)
					}
				}
			}
		}
	}
}
