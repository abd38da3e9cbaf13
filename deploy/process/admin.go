package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// DefaultAdminAddress is where operators look when the settings do not say.
const DefaultAdminAddress = "127.0.0.1:7390"

// AdminSettings say where operators and their tools look.
type AdminSettings struct {
	Address string `koanf:"address" help:"Address of /readyz, /healthz, /metrics and /log/level. It has no authentication: keep it on loopback or a private network."`
}

// adminServer answers operators and their tools over HTTP.
type adminServer struct {
	listener net.Listener
	server   *http.Server
	mux      *http.ServeMux
}

func newAdminServer(listener net.Listener, parts *Parts, gatherer prometheus.Gatherer, level zap.AtomicLevel, redactor *Redactor) *adminServer {
	mux := http.NewServeMux()
	mux.Handle("GET /readyz", redactStates(parts, redactor))
	mux.HandleFunc("GET /healthz", func(writer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(writer, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.Handle("GET /log/level", level)
	mux.Handle("PUT /log/level", level)
	mux.HandleFunc("GET /{$}", func(writer http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(writer, "mpegate admin\n\nGET /readyz     parts and their state; 503 when one is not ready\nGET /healthz    the process lives\n"+
			"GET /metrics    Prometheus metrics\nGET /log/level  level of the log; PUT {\"level\":\"debug\"} changes it\n"+
			"POST /tokens/rotate  a new key for prepaid tokens; see mpegate tokens rotate\n"+
			"POST /desk/…   books for mpegate channels and mpegate claims\n")
	})
	return &adminServer{listener: listener, mux: mux, server: &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}}
}

// redactStates takes secrets out of what failing parts say about themselves.
func redactStates(parts *Parts, redactor *Redactor) http.Handler {
	return http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		parts.ServeHTTP(&redactingResponse{writer, redactor}, request)
	})
}

type redactingResponse struct {
	http.ResponseWriter
	redactor *Redactor
}

func (r *redactingResponse) Write(data []byte) (int, error) {
	return r.redactor.Writer(r.ResponseWriter).Write(data)
}

// Run answers until Close.
func (a *adminServer) Run() error {
	if err := a.server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends the server; requests under way have as long as the context.
func (a *adminServer) Close(ctx context.Context) error {
	if err := a.server.Shutdown(ctx); err != nil {
		return a.server.Close()
	}
	return nil
}
