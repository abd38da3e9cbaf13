package envoy_test

import (
	"context"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/mpegate/mpegate/envoy"
	"github.com/mpegate/mpegate/envoy/bootstrap"
)

// patience is how long a test waits for something that must happen.
const patience = 30 * time.Second

// envoyBinary returns the real Envoy.
func envoyBinary(t testing.TB) string {
	t.Helper()
	find.Do(func() { found, findErr = envoy.Find(context.Background(), os.Stderr) })
	if findErr != nil {
		t.Fatal(findErr)
	}
	return found
}

var (
	find    sync.Once
	found   string
	findErr error
)

// rig is a real Envoy with a service behind it and an authz that a test scripts.
type rig struct {
	address string // of the public listener
	envoy   *envoy.Process
	authz   *fakeAuthz
	service *fakeService
	log     *observer.ObservedLogs
}

// newRig starts all of it; change may alter the settings before Envoy is started.
func newRig(t *testing.T, change func(*bootstrap.Settings)) *rig {
	t.Helper()
	r := &rig{service: newFakeService(t), authz: newFakeAuthz(t)}
	settings := rigSettings(r.service.address, r.authz.address)
	if change != nil {
		change(&settings)
	}
	r.envoy, r.log = startEnvoy(t, settings)
	address, err := r.envoy.ListenerAddress(t.Context(), bootstrap.ListenerName)
	if err != nil {
		t.Fatal(err)
	}
	r.address = address.String()
	return r
}

func rigSettings(service, authz envoy.Address) bootstrap.Settings {
	chosen := envoy.Defaults()
	chosen.Limits.ConnectTimeout = time.Second
	return bootstrap.Settings{
		Public:         envoy.Address{Host: "127.0.0.1"},
		Service:        bootstrap.Service{Host: service.Host, Port: service.Port},
		Authz:          authz,
		Admin:          envoy.Address{Host: "127.0.0.1"},
		ServiceTimeout: patience, MaxMessageSize: 1 << 20,
		Envoy: chosen,
	}
}

// startEnvoy runs Envoy until the test ends; its log is shown when the test failed.
func startEnvoy(t *testing.T, settings bootstrap.Settings) (*envoy.Process, *observer.ObservedLogs) {
	t.Helper()
	config, err := bootstrap.Render(settings)
	if err != nil {
		t.Fatal(err)
	}
	core, lines := observer.New(zap.DebugLevel)
	process, err := envoy.Start(t.Context(), envoy.RunOptions{
		Binary: envoyBinary(t), Config: config, Logger: zap.New(core), Concurrency: 1, LogLevel: os.Getenv("TEST_ENVOY_LOG"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := process.Stop(ctx); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			shown := lines.All()
			for _, line := range shown[max(0, len(shown)-50):] {
				t.Log("envoy:", line.Message)
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := process.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return process, lines
}

// fakeAuthz answers as a test says and keeps what Envoy tells it.
type fakeAuthz struct {
	authv3.UnimplementedAuthorizationServer
	accesslogv3.UnimplementedAccessLogServiceServer
	address envoy.Address
	server  *grpc.Server

	mutex  sync.Mutex
	decide func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error)
	checks []*authv3.CheckRequest

	entries chan *dataaccesslogv3.HTTPAccessLogEntry
}

func newFakeAuthz(t *testing.T) *fakeAuthz {
	t.Helper()
	a := &fakeAuthz{entries: make(chan *dataaccesslogv3.HTTPAccessLogEntry, 1000), decide: charge}
	server := grpc.NewServer(grpc.UnknownServiceHandler(ownService))
	authv3.RegisterAuthorizationServer(server, a)
	accesslogv3.RegisterAccessLogServiceServer(server, a)
	a.server, a.address = server, serve(t, server.Serve)
	t.Cleanup(server.Stop)
	return a
}

// ownService stands for the services that authz offers itself.
func ownService(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	return stream.SendMsg(wrapperspb.String("authz " + method))
}

// charge allows every call and describes a charge, with the request id for its id.
func charge(_ context.Context, request *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	id := request.GetAttributes().GetRequest().GetHttp().GetHeaders()[envoy.HeaderRequestID]
	return envoy.Allow(nil, nil, &envoy.Charged{ID: "charge-" + id, Channel: "7", Amount: "10"}), nil
}

func (a *fakeAuthz) will(decide func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error)) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.decide = decide
}

func (a *fakeAuthz) Check(ctx context.Context, request *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a.mutex.Lock()
	a.checks = append(a.checks, request)
	decide := a.decide
	a.mutex.Unlock()
	return decide(ctx, request)
}

// lastRequest is the latest question of Envoy, nil if there was none.
func (a *fakeAuthz) lastRequest() *authv3.CheckRequest {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if len(a.checks) == 0 {
		return nil
	}
	return a.checks[len(a.checks)-1]
}

// lastCheck is what that question says of the client's request.
func (a *fakeAuthz) lastCheck(t *testing.T) *authv3.AttributeContext_HttpRequest {
	t.Helper()
	request := a.lastRequest()
	if request == nil {
		t.Fatal("authz was not asked")
	}
	return request.GetAttributes().GetRequest().GetHttp()
}

func (a *fakeAuthz) checkCount() int {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return len(a.checks)
}

func (a *fakeAuthz) StreamAccessLogs(stream accesslogv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, entry := range message.GetHttpLogs().GetLogEntry() {
			a.entries <- entry
		}
	}
}

// entry waits for the next line of the access log.
func (a *fakeAuthz) entry(t *testing.T) *dataaccesslogv3.HTTPAccessLogEntry {
	t.Helper()
	select {
	case entry := <-a.entries:
		return entry
	case <-time.After(patience):
		t.Fatal("Envoy reported no call")
		return nil
	}
}

// serve listens on a free port of the loopback interface until the test ends.
func serve(t *testing.T, run func(net.Listener) error) envoy.Address {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = run(listener) }()
	t.Cleanup(func() { _ = listener.Close() })
	address, err := envoy.ParseAddress(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// unusedAddress is one where nobody listens.
func unusedAddress(t *testing.T) envoy.Address {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	address, err := envoy.ParseAddress(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return address
}
