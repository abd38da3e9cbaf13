package service

import (
	"context"
	"runtime/debug"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Recovered are the server options by which a panic in a handler ends the call
// with code 13 instead of the process. panicked, if not nil, is told the
// method, for a counter. Every gRPC server of this process should have them.
func Recovered(logger *zap.Logger, panicked func(method string)) []grpc.ServerOption {
	answer := func(method string, reason any) error {
		logger.Error("a call ended with a panic", zap.String("method", method),
			zap.Any("reason", reason), zap.ByteString("stack", debug.Stack()))
		if panicked != nil {
			panicked(method)
		}
		return status.Error(codes.Internal, "internal error: the call could not be handled")
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(
			ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
		) (reply any, err error) {
			defer func() {
				if reason := recover(); reason != nil {
					reply, err = nil, answer(info.FullMethod, reason)
				}
			}()
			return handle(ctx, request)
		}),
		grpc.ChainStreamInterceptor(func(
			server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler,
		) (err error) {
			defer func() {
				if reason := recover(); reason != nil {
					err = answer(info.FullMethod, reason)
				}
			}()
			return handle(server, stream)
		}),
	}
}
