package translator

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/envoy"
)

func counterValue(t *testing.T, counter prometheus.Counter) float64 {
	t.Helper()
	var value dto.Metric
	if err := counter.Write(&value); err != nil {
		t.Fatal(err)
	}
	return value.GetCounter().GetValue()
}

// scripted is Envoy's side of a call, written down.
type scripted struct {
	grpc.ServerStream
	ctx  context.Context
	in   []*extprocv3.ProcessingRequest
	out  []*extprocv3.ProcessingResponse
	deaf bool // Envoy has gone away
}

func (s *scripted) Context() context.Context { return s.ctx }

func (s *scripted) Recv() (*extprocv3.ProcessingRequest, error) {
	return nil, errors.New("not used")
}

func (s *scripted) RecvMsg(target any) error {
	if len(s.in) == 0 {
		return io.EOF
	}
	proto.Reset(target.(proto.Message))
	proto.Merge(target.(proto.Message), s.in[0])
	s.in = s.in[1:]
	return nil
}

func (s *scripted) Send(answer *extprocv3.ProcessingResponse) error {
	if s.deaf {
		return errors.New("the stream is closed")
	}
	s.out = append(s.out, answer)
	return nil
}

// script is a client's unary call.
func script(t *testing.T, path string, body []byte) *scripted {
	t.Helper()
	headers := []*corev3.HeaderValue{plainHeader(":path", path), plainHeader("content-type", contentTypeGRPC)}
	return &scripted{ctx: t.Context(), in: []*extprocv3.ProcessingRequest{
		{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{Headers: headers}}}},
		{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: body, EndOfStream: true}}},
	}}
}

// code is the status that the client is told; it is told once.
func (s *scripted) code(t *testing.T) (envoy.Code, string) {
	t.Helper()
	if len(s.out) != 1 || s.out[0].GetImmediateResponse() == nil {
		t.Fatalf("Envoy is told %v", s.out)
	}
	immediate := s.out[0].GetImmediateResponse()
	message := ""
	for _, header := range immediate.GetHeaders().GetSetHeaders() {
		if header.GetHeader().GetKey() == "grpc-message" {
			message = string(header.GetHeader().GetRawValue())
		}
	}
	return immediate.GetGrpcStatus().GetStatus(), message
}

type panicking struct{}

func (panicking) request(*call, []byte, []byte) (outgoing, error) { panic("a secret: token-1234") }

func (panicking) answer(*call, *incoming, []byte) ([]byte, error) { return nil, nil }

func calcServer(t *testing.T) *Server {
	t.Helper()
	settings := quickSettings()
	settings.Type, settings.Definition = blockchain.ServiceTypeHTTP, "testdata/calc"
	s, err := NewServer(settings, Dependencies{Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNotLoaded(t *testing.T) {
	s := calcServer(t)
	stream := script(t, "/calc.v1.Calculator/Add", framed(0, nil))
	if err := s.Process(stream); err != nil {
		t.Fatal(err)
	}
	if code, message := stream.code(t); code != envoy.CodeUnavailable || !strings.Contains(message, "not loaded") {
		t.Errorf("the client gets %d %q", code, message)
	}
}

// A fault in one call ends that call alone, with a status that says nothing of it.
func TestPanic(t *testing.T) {
	s := calcServer(t)
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	good := s.upstream
	s.upstream = panicking{}
	stream := script(t, "/calc.v1.Calculator/Add", framed(0, nil))
	if err := s.Process(stream); err != nil {
		t.Fatal(err)
	}
	if code, message := stream.code(t); code != envoy.CodeInternal || strings.Contains(message, "secret") {
		t.Errorf("the client gets %d %q", code, message)
	}
	if count := counterValue(t, s.metrics.calls[panicked]); count != 1 || s.active.Load() != 0 {
		t.Errorf("%g panics are counted, %d calls are under way", count, s.active.Load())
	}
	s.upstream = good
	stream = script(t, "/calc.v1.Calculator/Add", framed(0, nil))
	if err := s.Process(stream); err != nil || len(stream.out) != 2 {
		t.Errorf("the next call: %v, %v", err, stream.out)
	}
}

// Envoy may go away at any point; nothing is then left.
func TestEnvoyGoesAway(t *testing.T) {
	s := calcServer(t)
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for pieces := range 3 {
		for _, deaf := range []bool{false, true} {
			stream := script(t, "/calc.v1.Calculator/Add", framed(0, nil))
			stream.in, stream.deaf = stream.in[:pieces], deaf
			if err := s.Process(stream); err != nil {
				t.Fatal(err)
			}
		}
	}
	if gone := counterValue(t, s.metrics.calls[clientGone]); gone != 6 || s.active.Load() != 0 {
		t.Errorf("%g clients have gone away, %d calls are under way", gone, s.active.Load())
	}
}

// Every cause has a word of its own, and only one is no failure.
func TestCauses(t *testing.T) {
	words := map[string]bool{}
	for i, c := range causes {
		if c.word == "" || words[c.word] {
			t.Errorf("cause %d has the word %q", i, c.word)
		}
		words[c.word] = true
		if (c.code == envoy.CodeOK) != (cause(i) == answered) {
			t.Errorf("%s has code %d", c.word, c.code)
		}
	}
	if failed := asFailure(errors.New("open /secret/file")); failed.code != envoy.CodeInternal || strings.Contains(failed.message, "secret") {
		t.Errorf("an error nobody named becomes %v", failed)
	}
}
