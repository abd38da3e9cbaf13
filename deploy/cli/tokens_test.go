package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mpegate/mpegate/deploy/process"
)

func TestTokensRotate(t *testing.T) {
	answer := func(writer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil || request.Method != http.MethodPost || request.URL.Path != process.RotatePath || request.Header.Get("Content-Type") != "application/json" {
			t.Errorf("asked %s %s %q, %v", request.Method, request.URL, body, err)
		}
		var rotate process.Rotate
		if err := json.Unmarshal(body, &rotate); err != nil {
			t.Error(err)
		}
		if rotate.Revoke {
			fmt.Fprint(writer, `{"signs_from":"2026-01-02T03:04:05Z"}`)
			return
		}
		fmt.Fprint(writer, `{"signs_from":"2026-01-02T03:04:05Z","old_tokens_good_until":"2026-01-03T03:04:05Z"}`)
	}
	running := httptest.NewServer(http.HandlerFunc(answer))
	defer running.Close()
	refusing := httptest.NewServer(http.HandlerFunc(func(writer http.ResponseWriter, _ *http.Request) {
		http.Error(writer, "payment.token_secret is set", http.StatusConflict)
	}))
	defer refusing.Close()
	stranger := httptest.NewServer(http.HandlerFunc(func(writer http.ResponseWriter, _ *http.Request) { fmt.Fprint(writer, "hello") }))
	defer stranger.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	address := func(server *httptest.Server) string { return strings.TrimPrefix(server.URL, "http://") }
	_, port, _ := strings.Cut(address(running), ":")
	settings := write(t, "mpegate.yaml", strings.Replace(goodSettings, "0.0.0.0:7390", "0.0.0.0:"+port, 1))
	for _, test := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--admin", address(running)}, statusDone, "from 2026-01-02T03:04:05Z on; those of the old one are good until 2026-01-03T03:04:05Z"},
		{[]string{"--config", settings}, statusDone, "are good until"},
		{[]string{"--admin", address(running), "--revoke"}, statusDone, "those of the old one are refused"},
		{[]string{"--admin", address(running), "--json"}, statusDone, `{"signs_from":"2026-01-02T03:04:05Z","old_tokens_good_until":"2026-01-03T03:04:05Z"}`},
		{[]string{"--admin", address(refusing)}, statusFailed, "has not changed the key: payment.token_secret is set"},
		{[]string{"--admin", address(stranger)}, statusFailed, "is no mpegate"},
		{[]string{"--admin", address(gone)}, statusFailed, "no mpegate answers at admin.address " + address(gone) + ": start it"},
		{[]string{"--admin", "127.0.0.1:0"}, statusUsage, "give the address of the running mpegate by --admin HOST:PORT"},
		{[]string{"now"}, statusUsage, "takes no arguments, got now"},
	} {
		status, stdout, stderr := run(t, append([]string{"tokens", "rotate"}, test.args...)...)
		if status != test.status || !strings.Contains(stdout+stderr, test.want) {
			t.Errorf("%v: status %d, %q %q, want %d %q", test.args, status, stdout, stderr, test.status, test.want)
		}
	}
}
