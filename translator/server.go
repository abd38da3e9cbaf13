package translator

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
)

// Fetcher takes published files by their URI; blockchain.Fetcher is one.
type Fetcher interface {
	Fetch(ctx context.Context, uri string) ([]byte, error)
}

// Dependencies are what a Server needs of others.
type Dependencies struct {
	// Metadata is the service's metadata in force; nil where there is none, and the settings then say all.
	Metadata   func() *blockchain.Metadata
	Fetcher    Fetcher
	Logger     *zap.Logger
	Registerer prometheus.Registerer // nil for no metrics
}

// Server translates the calls of one service. It answers Envoy's ext_proc filter.
type Server struct {
	extprocv3.UnimplementedExternalProcessorServer

	settings    Settings
	serviceType string
	follower    *follower
	logger      *zap.Logger
	metrics     *metrics
	secrets     *strings.Replacer // nil for none

	runtime  atomic.Pointer[runtime]
	upstream upstreamAdapter // one of these two is set, for the types that are translated
	local    localAdapter

	active   atomic.Int64
	mutex    sync.Mutex
	stopped  bool // guarded by mutex
	calls    sync.WaitGroup
	killed   context.Context // ends when calls are no longer waited for
	killRest context.CancelFunc
}

// runtime is what can change while calls are served. It is swapped whole.
type runtime struct {
	definition *definition // nil where none is published
	json       bool        // clients may send JSON text in place of messages
}

// upstreamAdapter turns a message into a request that Envoy makes, and the answer into a message. Both append to what
// they are given, which has room for the common case.
type upstreamAdapter interface {
	request(c *call, message, body []byte) (outgoing, error)
	answer(c *call, got *incoming, frame []byte) ([]byte, error)
}

// localAdapter answers a call itself.
type localAdapter interface {
	serve(c *call, message []byte) error
}

// NewServer makes a translator for the type of service that the settings or the metadata name. Call Load before the
// first call.
func NewServer(settings Settings, dependencies Dependencies) (*Server, error) {
	if dependencies.Logger == nil {
		dependencies.Logger = zap.NewNop()
	}
	serviceType := settings.Type
	if serviceType == "" && dependencies.Metadata != nil && dependencies.Metadata() != nil {
		serviceType = dependencies.Metadata().Service.Type
	}
	if err := settings.Validate(serviceType); err != nil {
		return nil, err
	}
	s := &Server{settings: settings, serviceType: serviceType}
	// A service that fails fails often; the first lines of a second tell as much as all of them.
	s.logger = dependencies.Logger.Named("translator").WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, 10, 0)
	}))
	if err := s.setSecrets(); err != nil {
		return nil, err
	}
	s.killed, s.killRest = context.WithCancel(context.Background())
	s.follower = newFollower(s, dependencies)
	waiting := func() float64 { return 0 }
	if err := s.setAdapter(); err != nil {
		return nil, err
	}
	if processes, ok := s.local.(*processes); ok {
		waiting = func() float64 { return float64(processes.waiting.Load()) }
	}
	s.metrics = newMetrics(serviceType, func() float64 { return float64(s.active.Load()) }, waiting)
	return s, s.metrics.register(dependencies.Registerer)
}

func (s *Server) setAdapter() (err error) {
	switch s.serviceType {
	case blockchain.ServiceTypeHTTP:
		s.upstream, err = newHTTPJSON(s)
	case blockchain.ServiceTypeJSONRPC:
		s.upstream, err = newJSONRPC(s)
	case blockchain.ServiceTypeProcess:
		s.local, err = newProcesses(s)
	}
	return err
}

// Type is the type of service that calls are translated for.
func (s *Server) Type() string { return s.serviceType }

// setSecrets prepares what is taken out of every text that goes to a log or a client.
func (s *Server) setSecrets() error {
	secrets, err := s.settings.Secrets()
	if err != nil {
		return err
	}
	// The longest first, so that no part of one stays beside a shorter one.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, secret := range secrets {
		const shortest = 4 // anything shorter would cut up everyday words
		if len(secret) >= shortest {
			pairs = append(pairs, secret, "***")
		}
	}
	if len(pairs) > 0 {
		s.secrets = strings.NewReplacer(pairs...)
	}
	return nil
}

func (s *Server) redact(text string) string {
	if s.secrets == nil {
		return text
	}
	return s.secrets.Replace(text)
}

// ServerOptions are for the gRPC server that Envoy asks: windows that do not slow large messages down.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.InitialWindowSize(1 << 20), grpc.InitialConnWindowSize(8 << 20),
		grpc.MaxRecvMsgSize(16 << 20), // one piece of a body, which Envoy's own buffers bound
		grpc.ReadBufferSize(64 << 10), grpc.WriteBufferSize(64 << 10),
	}
}

// Register makes a gRPC server answer Envoy's ext_proc filter and, where the settings ask for it, server reflection.
func (s *Server) Register(server *grpc.Server) {
	extprocv3.RegisterExternalProcessorServer(server, s)
	if s.settings.Reflection {
		s.registerReflection(server)
	}
}

// Process follows one call of a client.
func (s *Server) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	started := time.Now()
	c := &call{server: s, stream: stream, ctx: stream.Context()}
	failed := c.ended(s.admit(c))
	if failed != nil {
		s.record(c, failed)
	}
	s.metrics.ended(failed, time.Since(started))
	return nil
}

// admit serves a call if there is room for it.
func (s *Server) admit(c *call) error {
	if err := s.enter(); err != nil {
		// Envoy takes no answer before it has asked.
		var first extprocv3.ProcessingRequest
		if gone := c.stream.RecvMsg(&first); gone != nil {
			return fail(clientGone, gone, "the client has gone away")
		}
		return err
	}
	defer s.leave()
	return s.guarded(c)
}

func (s *Server) enter() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.stopped {
		return isStopping()
	}
	if s.active.Load() >= int64(s.settings.MaxCalls) {
		return tooManyCalls()
	}
	s.active.Add(1)
	s.calls.Add(1)
	return nil
}

func (s *Server) leave() {
	s.active.Add(-1)
	s.calls.Done()
}

// guarded keeps a fault in one call from ending all.
func (s *Server) guarded(c *call) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			s.logger.Error("a call panicked", zap.String("method", shown(c.path)), zap.String("fault", s.redact(fmt.Sprint(fault))),
				zap.ByteString("stack", debug.Stack()))
			err = fail(panicked, nil, "internal error: the call could not be translated")
		}
	}()
	return c.run()
}

// Close refuses new calls and waits for those under way, at most as long as ctx lasts; processes that still run then
// are killed.
func (s *Server) Close(ctx context.Context) error {
	s.mutex.Lock()
	s.stopped = true
	s.mutex.Unlock()
	defer s.killRest()
	done := make(chan struct{})
	go func() {
		s.calls.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%d translated calls were cut: %w", s.active.Load(), ctx.Err())
	}
}

// find looks a method up and refuses one that this type of service cannot offer.
func (s *Server) find(r *runtime, path string) (*method, error) {
	if r.definition == nil {
		return nil, nil
	}
	m, known := r.definition.methods[path]
	switch {
	case !known:
		return nil, noSuchMethod(path)
	case s.upstream == nil && s.local == nil: // a service that speaks gRPC itself
		return m, nil
	case m.clientStreams, m.serverStreams && s.local == nil:
		return nil, cannotStream(path, m.kind(), s.serviceType)
	}
	return m, nil
}

// Unsupported says, before anybody is charged, whether a call of this path can only fail: as a gRPC status of code
// UNIMPLEMENTED, or nil. It knows nothing to refuse as long as no definition is loaded, and for services that speak
// gRPC themselves.
func (s *Server) Unsupported(path string) error {
	r := s.runtime.Load()
	if r == nil || s.upstream == nil && s.local == nil {
		return nil
	}
	_, err := methodName(path)
	if err == nil {
		_, err = s.find(r, path)
	}
	var refused *failure
	if errors.As(err, &refused) {
		return status.Error(codes.Code(refused.code), refused.message)
	}
	return err
}

// Ready says why calls cannot be translated yet; nil when they can.
func (s *Server) Ready(context.Context) error {
	if s.runtime.Load() == nil {
		return errors.New("the definition of the service is not loaded")
	}
	return nil
}

// record logs a call that went wrong. What clients do wrong is of interest to nobody but them.
func (s *Server) record(c *call, failed *failure) {
	level := zapcore.DebugLevel
	if failed.cause.blamesService() {
		level = zapcore.WarnLevel
	}
	entry := s.logger.Check(level, "a call was not answered: "+failed.cause.String())
	if entry == nil {
		return
	}
	fields := []zap.Field{
		zap.String("method", shown(c.path)), zap.Uint32("code", failed.code), zap.String("message", s.redact(failed.message)),
	}
	if failed.reason != nil {
		const most = 300
		reason := s.redact(failed.reason.Error())
		fields = append(fields, zap.String("reason", reason[:min(len(reason), most)]))
	}
	entry.Write(fields...)
}
