package service_test

import (
	"context"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/channelstate/service"
)

type panicking struct {
	escrow.UnimplementedPaymentChannelStateServiceServer
}

func (panicking) GetChannelState(context.Context, *escrow.ChannelStateRequest) (*escrow.ChannelStateReply, error) {
	panic("in a unary call")
}

func TestAPanicEndsTheCallOnly(t *testing.T) {
	core, logged := observer.New(zapcore.ErrorLevel)
	var methods []string
	streams := []grpc.StreamDesc{{
		StreamName: "Stream", ServerStreams: true, ClientStreams: true,
		Handler: func(any, grpc.ServerStream) error { panic("in a stream") },
	}}
	connection := dial(t, func(server *grpc.Server) {
		escrow.RegisterPaymentChannelStateServiceServer(server, panicking{})
		server.RegisterService(&grpc.ServiceDesc{ServiceName: "test.Test", HandlerType: (*any)(nil), Streams: streams}, struct{}{})
	}, service.Recovered(zap.New(core), func(method string) { methods = append(methods, method) })...)

	_, err := escrow.NewPaymentChannelStateServiceClient(connection).GetChannelState(t.Context(), &escrow.ChannelStateRequest{})
	expectStatus(t, "unary", err, codes.Internal, "internal error")
	stream, err := connection.NewStream(t.Context(), &streams[0], "/test.Test/Stream")
	if err != nil {
		t.Fatal(err)
	}
	expectStatus(t, "stream", stream.RecvMsg(&escrow.ChannelStateReply{}), codes.Internal, "internal error")

	if got := strings.Join(methods, " "); got != "/escrow.PaymentChannelStateService/GetChannelState /test.Test/Stream" {
		t.Errorf("told of %s", got)
	}
	for _, entry := range logged.All() {
		if stack, _ := entry.ContextMap()["stack"].(string); !strings.Contains(stack, "recover_test.go") {
			t.Errorf("the log does not show where: %v", entry)
		}
	}
	if logged.Len() != 2 {
		t.Errorf("%d panics are in the log, want 2", logged.Len())
	}
}
