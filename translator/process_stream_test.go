package translator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/translator"
)

// watch makes a server-streaming call.
func (r *rig) watch(ctx context.Context, t *testing.T, input string) (answers []string, err error) {
	t.Helper()
	stream, err := r.connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, pathWatch, grpc.ForceCodec(bytesCodec{}))
	if err != nil {
		t.Fatal(err)
	}
	message := []byte(input)
	if err := stream.SendMsg(&message); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for {
		var answer []byte
		if err := stream.RecvMsg(&answer); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return answers, err
		}
		answers = append(answers, string(answer))
		if string(answer) == "one" && strings.HasPrefix(input, "hang") {
			return answers, nil
		}
	}
}

// bytesCodec passes messages as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (bytesCodec) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = bytes.Clone(data)
	return nil
}

func TestProcessStreams(t *testing.T) {
	t.Run("lines", func(t *testing.T) {
		r := processRig(t, "", func(s *translator.Settings) {
			s.MaxMessageSize, s.Process.MaxOutputSize = 64<<10, 1<<20
		})
		for input, want := range map[string][]string{"lines 3\n": {"line 1", "line 2", "line 3"}, "lines 0\n": nil} {
			if answers, err := r.watch(t.Context(), t, input); err != nil || fmt.Sprint(answers) != fmt.Sprint(want) {
				t.Errorf("%q: %q, %v", input, answers, err)
			}
		}
		answers, err := r.watch(t.Context(), t, "linesfail\n")
		if len(answers) != 2 || status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "exit status 3") {
			t.Errorf("a failure after two answers: %q, %v", answers, err)
		}
		if _, err := r.watch(t.Context(), t, "flood\n"); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("without an end: %v", err)
		}
		// Each answer comes at once, and a client that has enough ends the process.
		ctx, cancel := context.WithCancel(t.Context())
		if answers, err := r.watch(ctx, t, "hang\n"); len(answers) != 1 || err != nil {
			t.Errorf("%q, %v", answers, err)
		}
		cancel()
		eventually(t, "the process is gone", func() bool { return r.metric(t, "mpegate_translator_processes", "") == 0 })
	})
	t.Run("length_prefixed", func(t *testing.T) {
		r := processRig(t, "", func(s *translator.Settings) { s.Process.Stream = translator.StreamLengthPrefixed })
		if answers, err := r.watch(t.Context(), t, "prefixed\n"); err != nil || fmt.Sprintf("%q", answers) != `["one" "" "two"]` {
			t.Errorf("%q, %v", answers, err)
		}
		if answers, err := r.watch(t.Context(), t, "cut\n"); len(answers) != 1 || status.Code(err) != codes.Internal {
			t.Errorf("%q, %v", answers, err)
		}
		if _, err := r.watch(t.Context(), t, "huge\n"); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%v", err)
		}
	})
	t.Run("json", func(t *testing.T) {
		r := processRig(t, "", func(s *translator.Settings) { s.Process.Input = translator.InputJSON })
		if answers, err := r.watch(t.Context(), t, "\x1a\x01x"); err != nil || fmt.Sprintf("%q", answers) != `["\x12\x01x"]` {
			t.Errorf("%q, %v", answers, err)
		}
	})
}
