package translator_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/translator"
)

// soakTime is how long each soak lasts; TEST_SOAK=1m makes it a minute.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("TEST_SOAK")
	if text == "" {
		return time.Second
	}
	duration, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return duration
}

// soak lets 32 clients call at random, good and bad, patient and not, and looks at what is left.
func (r *rig) soak(t *testing.T, kinds map[string]codes.Code) {
	t.Helper()
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	call := func(ctx context.Context, name string) {
		answer, err := r.rawIn(ctx, pathAdd, bytes.NewReader(frame(0, []byte(name))), nil, nil)
		switch {
		case err != nil && ctx.Err() == nil:
			t.Errorf("%q: %v", name, err)
		case err == nil && answer.code != kinds[name] && answer.code != codes.DeadlineExceeded:
			t.Errorf("%q is answered %s %q, want %s", name, answer.code, answer.message, kinds[name])
		}
	}
	for _, name := range names { // opens what stays open
		call(t.Context(), name)
	}
	rawClient.CloseIdleConnections()
	before, deadline := runtime.NumGoroutine(), time.Now().Add(soakTime(t))
	var clients sync.WaitGroup
	for range 32 {
		clients.Go(func() {
			for time.Now().Before(deadline) {
				ctx, cancel := context.WithCancel(t.Context())
				if rand.N(4) == 0 { // a client that has no patience
					time.AfterFunc(rand.N(20*time.Millisecond), cancel)
				}
				call(ctx, names[rand.N(len(names))])
				cancel()
			}
		})
	}
	clients.Wait()
	rawClient.CloseIdleConnections()
	eventually(t, "no call is under way", func() bool { return r.metric(t, "mpegate_translator_calls_active", "") == 0 })
	eventually(t, "no process is left", func() bool { return r.metric(t, "mpegate_translator_processes", "") == 0 })
	const idle = 64 // Envoy's and the HTTP server's connections
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() < before+idle })
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	if memory.HeapAlloc > 256<<20 {
		t.Errorf("%d MiB are held", memory.HeapAlloc>>20)
	}
}

func TestSoakJSONRPC(t *testing.T) {
	r := newRig(t, blockchain.ServiceTypeJSONRPC, rigOptions{})
	good := rpc(200, `{"jsonrpc":"2.0","id":ID,"result":{}}`)
	html := say(500, "text/html", "<html>")
	r.service.forget = true
	r.service.will(func(w http.ResponseWriter, request *http.Request) {
		switch rand.N(20) {
		case 0:
			w.Header().Set("x-slow", "1")
			select {
			case <-request.Context().Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
		if request.ContentLength > 1000 {
			html(w, request)
			return
		}
		good(w, request)
	})
	large := make([]byte, 10_000)
	r.soak(t, map[string]codes.Code{
		"": codes.OK, "\x08\x01": codes.OK, "\xff": codes.InvalidArgument,
		string(append(binary.AppendUvarint([]byte{0x22}, uint64(len(large))), large...)): codes.Unavailable,
	})
}

func TestSoakProcess(t *testing.T) {
	r := processRig(t, "0.3s", func(s *translator.Settings) { s.Process.Concurrency, s.Process.QueueLength = 8, 64 })
	r.soak(t, map[string]codes.Code{
		"one two": codes.OK, "exit 1\n": codes.Internal, fmt.Sprintf("sleep %s/pid\n", t.TempDir()): codes.DeadlineExceeded,
	})
}
