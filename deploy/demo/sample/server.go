// Package sample is a gRPC service to sell: it echoes, counts, collects and
// chats, and on request it is slow, big, wrong or gone. The demo runs it in a
// process of its own; the tests ask it what reached it.
package sample

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
)

const (
	maxMessageSize  = 64<<20 + 1<<20 // the largest padding and room for the rest
	gracefulTimeout = 5 * time.Second
)

// Server is one sample service with its own counters.
type Server struct {
	samplev1.UnimplementedSampleServer
	counters    counters
	connections connections
}

// NewServer returns a service that has had no calls.
func NewServer() *Server {
	return &Server{}
}

// Serve runs a new sample service on the listener until ctx ends.
func Serve(ctx context.Context, listener net.Listener) error {
	return NewServer().Serve(ctx, listener)
}

// Serve answers calls on the listener until ctx ends; calls under way then
// have five seconds to end. It closes the listener.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessageSize),
		grpc.MaxSendMsgSize(maxMessageSize),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(s.countUnary),
		grpc.ChainStreamInterceptor(s.countStream),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			path, _ := grpc.MethodFromServerStream(stream)
			return status.Errorf(codes.Unimplemented, "the sample service has no method %s", path)
		}),
	)
	samplev1.RegisterSampleServer(server, s)
	healthy := health.NewServer()
	healthy.SetServingStatus(samplev1.Sample_ServiceDesc.ServiceName, grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(server, healthy)
	reflection.Register(server)

	served := make(chan error, 1)
	go func() { served <- server.Serve(rememberingListener{listener, &s.connections}) }()
	select {
	case err := <-served:
		return fmt.Errorf("the sample service stopped serving: %w", err)
	case <-ctx.Done():
	}
	healthy.Shutdown()
	forced := time.AfterFunc(gracefulTimeout, server.Stop)
	defer forced.Stop()
	server.GracefulStop()
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}
