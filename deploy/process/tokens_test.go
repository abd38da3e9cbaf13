package process_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mpegate/mpegate/deploy/process"
)

func post(t *testing.T, url, contentType, body string) (int, string) {
	t.Helper()
	response, err := http.Post(url, contentType, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestRotateTokens(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	channel := w.openChannel(t, ctx)
	r := w.run(t, process.RoleAuthz, map[string]string{"AUTHZ_ADDRESS": "127.0.0.1:0"})
	connection, url := dial(t, r.ready()), r.admin()+process.RotatePath
	block, err := w.chain.Client.BlockNumber(ctx)
	if err != nil {
		t.Fatal(err)
	}
	token := func() string {
		reply, err := channel.Token(ctx, connection, price, block)
		if err != nil {
			t.Fatal(err)
		}
		return reply.GetToken()
	}
	token()
	for name, test := range map[string]struct {
		contentType, body string
		code              int
	}{
		"as a web page could": {"text/plain", `{"revoke": true}`, http.StatusUnsupportedMediaType},
		"no JSON":             {"application/json", `revoke`, http.StatusBadRequest},
		"mistyped":            {"application/json", `{"revoked": true}`, http.StatusBadRequest},
	} {
		if code, text := post(t, url, test.contentType, test.body); code != test.code {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	code, text := post(t, url, "application/json", `{"revoke": false}`)
	var done process.Rotated
	if err := json.Unmarshal([]byte(text), &done); code != http.StatusOK || err != nil || done.AcceptedUntil == nil || !done.AcceptedUntil.After(done.SignsFrom) {
		t.Errorf("rotation: %d %s, %v", code, text, err)
	}
	code, text = post(t, url, "application/json; charset=utf-8", `{"revoke": true}`)
	if code != http.StatusOK || strings.Contains(text, "old_tokens_good_until") {
		t.Errorf("revocation: %d %s", code, text)
	}
	token()
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestConfiguredTokenSecretIsNotRotated(t *testing.T) {
	const secret = "a-secret-of-this-test-that-is-long-enough"
	w := newWorld(t)
	r := w.run(t, process.RoleAuthz, map[string]string{"AUTHZ_ADDRESS": "127.0.0.1:0", "PAYMENT_TOKEN_SECRET": secret})
	r.ready()
	code, text := post(t, r.admin()+process.RotatePath, "application/json", `{}`)
	if code != http.StatusConflict || !strings.Contains(text, "payment.token_secret is set") || strings.Contains(text, secret) {
		t.Errorf("%d %s", code, text)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if logs := r.stderr.String() + r.stdout.String(); strings.Contains(logs, secret) {
		t.Error("the secret is in the log")
	}
}
