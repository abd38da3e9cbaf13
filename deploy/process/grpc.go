package process

import (
	"context"
	"math"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/mpegate/mpegate/channelstate/service"
)

// What the authz listener takes. Envoy opens a connection for each of its worker threads and runs all decisions over
// them, so streams are not the thing to bound here; Envoy's limits are.
const (
	largestMessage   = 1 << 20 // bytes; requests are headers (60KiB by default) and log entries
	grpcWindow       = 1 << 20 // bytes of flow control; the default of 64KiB throttles many small messages on one connection
	healthCheckEvery = time.Second
	// Calls spend most of their time waiting for etcd. A call that finds no idle worker gets a goroutine of its own, which
	// grows its stack anew.
	streamWorkers = 256
)

// startAuthz serves the payment decision, its access log, the channel state and health on the listener.
func (p *process) startAuthz(listener net.Listener, parts *payments) error {
	decision, err := p.decider(parts)
	if err != nil {
		return err
	}
	p.onStop("refunds", decision.Close)
	server, err := p.newGRPCServer()
	if err != nil {
		return err
	}
	decision.Register(server)
	if err := p.registerServices(server, parts); err != nil {
		return err
	}
	states := health.NewServer()
	healthpb.RegisterHealthServer(server, states)
	p.updateHealth = p.healthUpdate(states)
	p.background("health", func(ctx context.Context) error { return p.followHealth(ctx, p.updateHealth) })
	p.goRun(partAuthz, func() error { return server.Serve(listener) })
	p.onStop("authz server", func(ctx context.Context) error {
		states.Shutdown()
		// Envoy keeps its access log stream open for ever, so the rest of the time is kept for refunds and stores.
		ctx, cancel := context.WithTimeout(ctx, p.settings.Stop.Timeout/3)
		defer cancel()
		if err := inTime(ctx, func() error { server.GracefulStop(); return nil }); err != nil {
			server.Stop()
		}
		return nil
	})
	p.parts.Started(partAuthz, func(context.Context) error { return nil })
	p.logger.Info("authz listens", zap.Stringer("address", listener.Addr()))
	return nil
}

func (p *process) newGRPCServer() (*grpc.Server, error) {
	panics := prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricPrefix + "panics_total", Help: "Calls that ended with a fault of ours (code 13)."}, []string{"method"})
	if err := p.metrics.Register(panics); err != nil {
		return nil, err
	}
	options := append(service.Recovered(p.logger.Logger, func(method string) { panics.WithLabelValues(method).Inc() }),
		grpc.MaxConcurrentStreams(math.MaxInt32),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.MaxRecvMsgSize(largestMessage),
		grpc.InitialWindowSize(grpcWindow), grpc.InitialConnWindowSize(grpcWindow),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
	)
	return grpc.NewServer(options...), nil
}

// followHealth makes grpc.health.v1 say what /readyz says, for the whole server and for the service's id.
func (p *process) followHealth(ctx context.Context, update func(context.Context)) error {
	ticker := time.NewTicker(healthCheckEvery)
	defer ticker.Stop()
	for {
		update(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (p *process) healthUpdate(states *health.Server) func(context.Context) {
	names := []string{""}
	if p.settings.Blockchain.Enabled {
		names = append(names, p.settings.Metadata.ServiceID)
	}
	return func(ctx context.Context) {
		answer := healthpb.HealthCheckResponse_NOT_SERVING
		if _, ready := p.parts.States(ctx); ready {
			answer = healthpb.HealthCheckResponse_SERVING
		}
		for _, name := range names {
			states.SetServingStatus(name, answer)
		}
	}
}
