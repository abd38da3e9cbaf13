package process

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// startAdmin serves the admin pages of some parts and gives their base URL.
func startAdmin(t *testing.T, parts *Parts, level zap.AtomicLevel, redactor *Redactor) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(&partCollector{parts})
	server := newAdminServer(listener, parts, registry, level, redactor)
	ended := make(chan error, 1)
	go func() { ended <- server.Run() }()
	t.Cleanup(func() {
		if err := server.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + listener.Addr().String()
}

func fetch(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
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

func TestReadinessNamesEveryPart(t *testing.T) {
	parts := &Parts{}
	url := startAdmin(t, parts, zap.NewAtomicLevel(), &Redactor{}) + "/readyz"
	check := func(step string, status int, want ...PartState) {
		t.Helper()
		got, text := fetch(t, http.MethodGet, url, "")
		var answer struct {
			Ready bool
			Parts []PartState
		}
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatal(err)
		}
		if got != status || answer.Ready != (status == http.StatusOK) || len(answer.Parts) != len(want) {
			t.Errorf("%s: status %d, %s", step, got, text)
			return
		}
		for i := range want {
			if answer.Parts[i] != want[i] {
				t.Errorf("%s: part %d is %+v, want %+v", step, i, answer.Parts[i], want[i])
			}
		}
	}
	check("no parts", http.StatusServiceUnavailable)
	parts.Add("chain", "authz")
	check("before the start", http.StatusServiceUnavailable, PartState{"chain", false, "starting"}, PartState{"authz", false, "starting"})
	parts.Say("chain", "cannot be reached")
	parts.Started("authz", func(context.Context) error { return nil })
	check("chain away", http.StatusServiceUnavailable, PartState{"chain", false, "cannot be reached"}, PartState{"authz", true, "ready"})
	parts.Started("chain", func(context.Context) error { return nil })
	check("all ready", http.StatusOK, PartState{"chain", true, "ready"}, PartState{"authz", true, "ready"})
	parts.Started("chain", func(context.Context) error { return errors.New("no answer for 6m") })
	check("chain stale", http.StatusServiceUnavailable, PartState{"chain", false, "no answer for 6m"}, PartState{"authz", true, "ready"})
	parts.Stop()
	check("stopping", http.StatusServiceUnavailable, PartState{"chain", false, "no answer for 6m"}, PartState{"authz", false, "stopping"})
}

// A check that hangs must not hang the prober.
func TestReadinessCheckIsBounded(t *testing.T) {
	parts := &Parts{}
	parts.Add("etcd")
	parts.Started("etcd", func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if states, ready := parts.States(context.Background()); ready || states[0].Ready {
		t.Errorf("%+v", states)
	}
}

func TestAdminPages(t *testing.T) {
	settings, hidden := withSecrets(t)
	parts := &Parts{}
	parts.Add("chain")
	parts.Say("chain", "asking "+settings.Blockchain.RPCURL+" with "+settings.Blockchain.APIKey)
	level := zap.NewAtomicLevel()
	url := startAdmin(t, parts, level, NewRedactor(settings))
	for _, test := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/", "", 200, "/readyz"},
		{"GET", "/healthz", "", 200, "ok"},
		{"GET", "/readyz", "", 503, "node.example:8545"},
		{"GET", "/metrics", "", 200, `mpegate_part_ready{part="chain"} 0`},
		{"GET", "/log/level", "", 200, `"level":"info"`},
		{"PUT", "/log/level", `{"level":"debug"}`, 200, `"level":"debug"`},
		{"PUT", "/log/level", `{"level":"loud"}`, 400, "error"},
		{"POST", "/log/level", `{"level":"error"}`, 405, ""},
		{"GET", "/nowhere", "", 404, ""},
		{"DELETE", "/readyz", "", 405, ""},
	} {
		status, text := fetch(t, test.method, url+test.path, test.body)
		if status != test.status || !strings.Contains(text, test.want) {
			t.Errorf("%s %s: %d %s", test.method, test.path, status, text)
		}
		checkHidden(t, test.path, text, hidden)
	}
	if level.Level() != zap.DebugLevel {
		t.Errorf("level is %s", level)
	}
}
