package translator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/envoy"
	"github.com/mpegate/mpegate/translator"
)

// patience is how long a test waits for something that must happen.
const patience = 30 * time.Second

// rig is a translator behind a real Envoy, with a service behind both.
type rig struct {
	t          testing.TB
	translator *translator.Server
	service    *fakeService
	address    string // of the public listener
	connection *grpc.ClientConn
	log        *observer.ObservedLogs // the translator's
	access     *accessLog
	registry   *prometheus.Registry
	envoy      *envoy.Process
	stop       func() // ends the translator's gRPC server
}

// rigOptions are what a test may choose.
type rigOptions struct {
	settings    func(*translator.Settings)
	timeout     string // of a call in Envoy; empty means patience
	connections int    // that Envoy makes to the service at most; 0 means many
	noService   bool   // at the service's address
	concurrency int    // Envoy's threads; 0 means one for each core
}

var (
	find        sync.Once
	envoyBinary string
	findErr     error
)

func newRig(t testing.TB, serviceType string, options rigOptions) *rig {
	t.Helper()
	r := &rig{t: t, service: newFakeService(t), access: newAccessLog(), registry: prometheus.NewRegistry()}
	settings := translator.DefaultSettings()
	settings.Type, settings.Definition = serviceType, "testdata/calc"
	settings.Endpoint = "http://" + r.service.address + "/base/path?fixed=1"
	settings.MaxMessageSize = 1 << 20
	settings.Timeout = patience
	if options.settings != nil {
		options.settings(&settings)
	}
	var core zap.Option
	core, r.log = observed()
	server, err := translator.NewServer(settings, translator.Dependencies{Logger: zap.NewNop().WithOptions(core), Registerer: r.registry})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.translator = server
	if options.noService {
		r.service.close()
	}
	r.serve(options)
	return r
}

func observed() (zap.Option, *observer.ObservedLogs) {
	core, lines := observer.New(zap.DebugLevel)
	return wrapCore(core), lines
}

// serve starts the translator's server and Envoy.
func (r *rig) serve(options rigOptions) {
	r.t.Helper()
	listener := listen(r.t)
	server := grpc.NewServer(translator.ServerOptions()...)
	r.translator.Register(server)
	go func() { _ = server.Serve(listener) }()
	r.stop = server.Stop
	r.t.Cleanup(server.Stop)
	inner := "translation"
	if r.translator.Type() == blockchain.ServiceTypeProcess {
		inner = "processes"
	}
	if options.timeout == "" {
		options.timeout = fmt.Sprintf("%gs", patience.Seconds())
	}
	if options.connections == 0 {
		options.connections = 1024
	}
	config := fillIn(r.t, map[string]string{
		"INNER": inner, "TIMEOUT": options.timeout, "CONNECTIONS": fmt.Sprint(options.connections),
		"SERVICE_PORT": port(r.service.address), "TRANSLATOR_PORT": port(listener.Addr().String()),
	})
	r.startEnvoy(config, options.concurrency)
	connection, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)), grpc.WithInitialWindowSize(1<<20))
	if err != nil {
		r.t.Fatal(err)
	}
	r.connection = connection
	r.t.Cleanup(func() { _ = connection.Close() })
}

func fillIn(t testing.TB, values map[string]string) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return []byte(os.Expand(string(raw), func(name string) string {
		value, known := values[name]
		if !known && name != "NAME" {
			t.Fatalf("testdata/envoy.yaml asks for ${%s}", name)
		}
		return value
	}))
}

func (r *rig) startEnvoy(config []byte, concurrency int) {
	r.t.Helper()
	find.Do(func() { envoyBinary, findErr = envoy.Find(context.Background(), os.Stderr) })
	if findErr != nil {
		r.t.Fatal(findErr)
	}
	core, lines := observer.New(zap.DebugLevel)
	process, err := envoy.Start(r.t.Context(), envoy.RunOptions{
		Binary: envoyBinary, Config: config, Logger: zap.New(core), Concurrency: concurrency, Stdout: r.access, LogLevel: os.Getenv("TEST_ENVOY_LOG"),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.envoy = process
	r.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := process.Stop(ctx); err != nil {
			r.t.Error(err)
		}
		if r.t.Failed() {
			shown := lines.All()
			for _, line := range shown[max(0, len(shown)-40):] {
				r.t.Log("envoy:", line.Message)
			}
			for _, line := range r.log.All() {
				r.t.Log("translator:", line.Message, line.ContextMap())
			}
		}
	})
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if err := process.Ready(ctx); err != nil {
		r.t.Fatal(err)
	}
	address, err := process.ListenerAddress(ctx, "public")
	if err != nil {
		r.t.Fatal(err)
	}
	r.address = address.String()
}

var lastID atomic.Int64

// call makes a unary call with a message given and got as JSON: by gRPC, or by gRPC-Web as a browser would.
func (r *rig) call(ctx context.Context, web bool, path, request string) (reply string, id string, err error) {
	r.t.Helper()
	method := methodOf(r.t, path)
	in, out := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	if err := (protojson.UnmarshalOptions{Resolver: calcTypes(r.t)}).Unmarshal([]byte(request), in); err != nil {
		r.t.Fatal(err)
	}
	id = fmt.Sprint("call-", lastID.Add(1))
	headers := metadata.Pairs("x-test-id", id)
	if web {
		err = payer.CallWeb(ctx, "http://"+r.address, path, headers, in, out)
	} else {
		err = r.connection.Invoke(metadata.NewOutgoingContext(ctx, headers), path, in, out)
	}
	if err != nil {
		return "", id, err
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true, Resolver: calcTypes(r.t)}.Marshal(out)
	if err != nil {
		r.t.Fatal(err)
	}
	var compact bytes.Buffer // protojson adds spaces at random
	if err := json.Compact(&compact, text); err != nil {
		r.t.Fatal(err)
	}
	return compact.String(), id, nil
}

// fakeService is an HTTP server that does what a test says.
type fakeService struct {
	address string
	close   func()

	mutex    sync.Mutex
	answer   http.HandlerFunc
	requests []recorded
	forget   bool // requests are not kept
}

// recorded is a request as the service got it.
type recorded struct {
	method, url, host string
	headers           http.Header
	length            int64
	body              string
}

func newFakeService(t testing.TB) *fakeService {
	t.Helper()
	listener := listen(t)
	s := &fakeService{address: listener.Addr().String()}
	server := &http.Server{Handler: s, ErrorLog: nil}
	server.ErrorLog = discardLog
	go func() { _ = server.Serve(listener) }()
	s.close = func() { _ = server.Close() }
	t.Cleanup(s.close)
	return s
}

func (s *fakeService) will(answer http.HandlerFunc) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.answer = answer
}

// willSay answers every request with this status and body.
func (s *fakeService) willSay(status int, contentType, body string) {
	s.will(func(w http.ResponseWriter, _ *http.Request) {
		if contentType != "" {
			w.Header().Set("content-type", contentType)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

func (s *fakeService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mutex.Lock()
	if s.forget {
		s.requests = nil
	}
	s.requests = append(s.requests, recorded{r.Method, r.URL.String(), r.Host, r.Header, r.ContentLength, string(body)})
	answer := s.answer
	s.mutex.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer(w, r)
}

func (s *fakeService) last(t *testing.T) recorded {
	t.Helper()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.requests) == 0 {
		t.Fatal("nothing reached the service")
	}
	return s.requests[len(s.requests)-1]
}

func (s *fakeService) count() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.requests)
}

// accessLog takes Envoy's access log, which says what settlement would be told.
type accessLog struct {
	mutex   sync.Mutex
	partial []byte
	entries map[string]accessEntry
	more    chan struct{}
}

type accessEntry struct {
	ID         string `json:"id"`
	Path       string `json:"path"`
	GRPCStatus *int   `json:"grpc_status"`
	Flags      string `json:"flags"`
	Details    string `json:"details"`
	Bytes      int    `json:"bytes"`
}

func newAccessLog() *accessLog {
	return &accessLog{entries: map[string]accessEntry{}, more: make(chan struct{}, 1)}
}

func (l *accessLog) Write(data []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.partial = append(l.partial, data...)
	for {
		line, rest, found := bytes.Cut(l.partial, []byte("\n"))
		if !found {
			break
		}
		l.partial = rest
		var entry accessEntry
		if json.Unmarshal(line, &entry) == nil {
			l.entries[entry.ID] = entry
		}
	}
	select {
	case l.more <- struct{}{}:
	default:
	}
	return len(data), nil
}

// entry waits for the line about a call. Envoy writes its log every ten seconds, or when it is told to.
func (r *rig) entry(id string) accessEntry {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		r.access.mutex.Lock()
		entry, found := r.access.entries[id]
		r.access.mutex.Unlock()
		if found {
			return entry
		}
		r.reopenLogs()
		select {
		case <-r.access.more:
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			r.t.Fatalf("Envoy logged no call %s", id)
		}
	}
}

// reopenLogs makes Envoy write what it has.
func (r *rig) reopenLogs() {
	admin, err := r.envoy.Admin()
	if err != nil {
		r.t.Fatal(err)
	}
	response, err := http.Post("http://"+admin.String()+"/reopen_logs", "", nil)
	if err == nil {
		_ = response.Body.Close()
	}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }
