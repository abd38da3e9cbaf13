package translator_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/translator"
)

// What clients can do wrong. None of it reaches the service.
func TestRefusals(t *testing.T) {
	good := frame(0, []byte("\x08\x01"))
	cases := []struct {
		name, path string
		body       []byte
		headers    map[string]string
		code       codes.Code
		phrase     string
	}{
		{"no message", pathAdd, nil, nil, codes.Unimplemented, "no message"},
		{"half a frame", pathAdd, good[:6], nil, codes.Internal, "ends within"},
		{"two messages", pathAdd, append(good, good...), nil, codes.Unimplemented, "more than one"},
		{"a wrong flag", pathAdd, frame(7, nil), nil, codes.Internal, "first byte is 7"},
		{"too large by its own account", pathAdd, []byte{0, 0xff, 0xff, 0xff, 0xff}, nil, codes.ResourceExhausted, "larger"},
		{"too large", pathAdd, frame(0, make([]byte, 1<<20+1)), nil, codes.ResourceExhausted, "larger than the 1048576 bytes"},
		{"compressed, not said how", pathAdd, frame(1, []byte("x")), nil, codes.Internal, "grpc-encoding"},
		{"compressed in an unknown way", pathAdd, frame(1, []byte("x")), map[string]string{"grpc-encoding": "snappy"}, codes.Unimplemented, "gzip"},
		{"no gzip", pathAdd, frame(1, []byte("x")), map[string]string{"grpc-encoding": "gzip"}, codes.Internal, "gzip"},
		{"no protobuf", pathAdd, frame(0, []byte("\xff\xff")), nil, codes.InvalidArgument, "no calc.v1.AddRequest"},
		{"text that is not UTF-8", pathAdd, frame(0, []byte("\x1a\x01\xff")), nil, codes.InvalidArgument, "no calc.v1.AddRequest"},
		{"an unknown type in Any", pathEcho, frame(0, []byte("\x3a\x05\x0a\x03a/b")), nil, codes.InvalidArgument, "no calc.v1.Everything"},
		{"an unknown method", "/calc.v1.Calculator/Subtract", good, nil, codes.Unimplemented, "unknown method /calc.v1.Calculator/Subtract"},
		{"an unknown service", "/calc.v2.Calculator/Add", good, nil, codes.Unimplemented, "unknown method"},
		{"a bare name", "/Add", good, nil, codes.Unimplemented, "/package.Service/Method"},
		{"an option for a name", "/calc.v1.Calculator/--help", good, nil, codes.Unimplemented, "/package.Service/Method"},
		{"a path that leads out", "/calc.v1.Calculator/%2e%2e", good, nil, codes.Unimplemented, "/package.Service/Method"},
		{"a query", pathAdd + "?a=b", good, nil, codes.Unimplemented, "/package.Service/Method"},
		{"a long path", "/" + strings.Repeat("x", 5000) + "/Add", good, nil, codes.Unimplemented, "unknown method"},
		{"server streaming", pathWatch, good, nil, codes.Unimplemented, "server streaming"},
		{"client streaming", pathSum, good, nil, codes.Unimplemented, "client streaming"},
		{"both", pathChat, good, nil, codes.Unimplemented, "bidirectional"},
	}
	r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{})
	r.service.willSay(200, "application/json", "{}")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			answer := r.raw(t, c.path, c.body, c.headers)
			if answer.http != 200 || answer.code != c.code || !strings.Contains(answer.message, c.phrase) {
				t.Errorf("the client got %d %s %q, want %s with %q", answer.http, answer.code, answer.message, c.code, c.phrase)
			}
			if c.phrase == "gzip" && c.code == codes.Unimplemented && answer.headers.Get("grpc-accept-encoding") != "identity,gzip" {
				t.Errorf("the client is not told what it may use: %v", answer.headers)
			}
		})
	}
	t.Run("request trailers", func(t *testing.T) {
		answer, err := r.rawIn(t.Context(), pathAdd, io.MultiReader(bytes.NewReader(good)), nil, http.Header{"X-Late": {"1"}})
		if err != nil || answer.code != codes.Internal {
			t.Errorf("%v %+v", err, answer)
		}
	})
	t.Run("web", func(t *testing.T) {
		r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{})
		r.service.willSay(500, "text/html", "<html>")
		for path, code := range map[string]string{"/calc.v1.Calculator/Subtract": "12", pathWatch: "12", pathAdd: "14"} {
			request, err := http.NewRequest(http.MethodPost, "http://"+r.address+path, bytes.NewReader(good))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("content-type", "application/grpc-web+proto")
			request.Header.Set("origin", "https://app.example")
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != 200 || response.Header.Get("grpc-status") != code ||
				response.Header.Get("access-control-allow-origin") != "https://app.example" ||
				response.Header.Get("content-type") != "application/grpc-web+proto" {
				t.Errorf("a browser gets %s %v", response.Status, response.Header)
			}
		}
	})
	if r.service.count() > 0 {
		t.Errorf("the service was asked %+v", r.service.last(t))
	}
	t.Run("gzip is taken", func(t *testing.T) {
		answer := r.raw(t, pathAdd, frame(1, zipped([]byte("\x08\x01"))), map[string]string{"grpc-encoding": "gzip"})
		if answer.code != codes.OK || answer.body[0] != 0 || r.service.last(t).body != `{"first_number":"1"}` {
			t.Errorf("%+v %+v", answer, r.service.last(t))
		}
	})
	t.Run("before any charge", func(t *testing.T) {
		for path, want := range map[string]codes.Code{
			pathAdd: codes.OK, pathWatch: codes.Unimplemented, pathSum: codes.Unimplemented, pathChat: codes.Unimplemented,
			"/calc.v1.Calculator/Subtract": codes.Unimplemented, "/Add": codes.Unimplemented, "": codes.Unimplemented,
		} {
			if err := r.translator.Unsupported(path); status.Code(err) != want {
				t.Errorf("%q: %v, want %s", path, err, want)
			}
		}
	})
}

// Calls beyond the limit are refused, and a client that goes away frees its place.
func TestCallLimitAndCancel(t *testing.T) {
	r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{settings: func(s *translator.Settings) { s.MaxCalls = 1 }})
	arrived, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	r.service.will(func(w http.ResponseWriter, request *http.Request) {
		arrived <- struct{}{}
		<-request.Context().Done()
		gone <- struct{}{}
	})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := r.rawIn(ctx, pathAdd, bytes.NewReader(frame(0, nil)), nil, nil)
		first <- err
	}()
	<-arrived
	if answer := r.raw(t, pathAdd, frame(0, nil), nil); answer.code != codes.ResourceExhausted || !strings.Contains(answer.message, "too many calls") {
		t.Errorf("%+v", answer)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-gone // Envoy has given up the request to the service
	r.service.willSay(200, "", "{}")
	eventually(t, "the place is free again", func() bool { return r.raw(t, pathAdd, frame(0, nil), nil).code == codes.OK })
	eventually(t, "the outcome is counted", func() bool { return r.metric(t, "mpegate_translator_calls_total", "client_gone") == 1 })
}

func TestClose(t *testing.T) {
	r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{})
	release := make(chan struct{})
	arrived := make(chan struct{}, 1)
	r.service.will(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "{}")
	})
	type result struct {
		answer rawAnswer
		err    error
	}
	first := make(chan result, 1)
	go func() {
		answer, err := r.rawIn(t.Context(), pathAdd, bytes.NewReader(frame(0, nil)), nil, nil)
		first <- result{answer, err}
	}()
	<-arrived
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.translator.Close(ended); err == nil {
		t.Error("Close does not say that a call was cut")
	}
	if answer := r.raw(t, pathAdd, frame(0, nil), nil); answer.code != codes.Unavailable || !strings.Contains(answer.message, "shutting down") {
		t.Errorf("%+v", answer)
	}
	close(release)
	if got := <-first; got.err != nil || got.answer.code != codes.OK {
		t.Errorf("the call under way ended with %+v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.translator.Close(ctx); err != nil {
		t.Error(err)
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %s: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// metric gives a counter of the translator by its outcome, or a gauge where outcome is empty.
func (r *rig) metric(t testing.TB, name, outcome string) float64 {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if outcome == "" || label.GetName() == "outcome" && label.GetValue() == outcome {
					return metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
				}
			}
		}
	}
	t.Fatalf("no metric %s with outcome %q", name, outcome)
	return 0
}
