package sample_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/mpegate/mpegate/deploy/demo/sample"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
)

func start(t *testing.T) (*sample.Server, *grpc.ClientConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := sample.NewServer()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(100<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := connection.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return server, connection
}

func TestEchoShowsTheHeadersItGot(t *testing.T) {
	_, connection := start(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "snet-user-address", "0xabc", "x-raw-bin", "\x00\xff")
	reply, err := samplev1.NewSampleClient(connection).Echo(ctx, &samplev1.EchoRequest{Text: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	if reply.GetText() != "hello" {
		t.Errorf("text is %q", reply.GetText())
	}
	got := map[string]string{}
	for _, header := range reply.GetHeaders() {
		got[header.GetName()] = header.GetValue()
	}
	if got["snet-user-address"] != "0xabc" || got["x-raw-bin"] != "AP8=" {
		t.Errorf("headers are %v", got)
	}
}

func TestEchoBehavesAsAsked(t *testing.T) {
	_, connection := start(t)
	client := samplev1.NewSampleClient(connection)
	tests := []struct {
		name      string
		behaviour *samplev1.Behaviour
		code      codes.Code
		message   string
		padding   int
	}{
		{"custom code", &samplev1.Behaviour{Code: 1000, Message: "no luck"}, 1000, "no luck", 0},
		{"own message", &samplev1.Behaviour{Code: 5}, codes.NotFound, "code 5", 0},
		{"big reply", &samplev1.Behaviour{Size: 5 << 20}, codes.OK, "", 5 << 20},
		{"too big", &samplev1.Behaviour{Size: 65 << 20}, codes.InvalidArgument, "size", 0},
		{"negative delay", &samplev1.Behaviour{Delay: durationpb.New(-time.Second)}, codes.InvalidArgument, "wait", 0},
		{"delay without end", &samplev1.Behaviour{Delay: durationpb.New(time.Hour)}, codes.InvalidArgument, "wait", 0},
		{"reset", &samplev1.Behaviour{Abort: true}, codes.Unavailable, "", 0},
		{"short delay", &samplev1.Behaviour{Delay: durationpb.New(time.Millisecond)}, codes.OK, "", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			reply, err := client.Echo(t.Context(), &samplev1.EchoRequest{Behaviour: test.behaviour}, grpc.WaitForReady(true))
			if status.Code(err) != test.code || !strings.Contains(status.Convert(err).Message(), test.message) {
				t.Fatalf("got %v, want code %d and %q", err, test.code, test.message)
			}
			if len(reply.GetPadding()) != test.padding {
				t.Errorf("padding has %d bytes, want %d", len(reply.GetPadding()), test.padding)
			}
		})
	}
}

func TestADelayEndsWithTheCall(t *testing.T) {
	server, connection := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	chat, err := samplev1.NewSampleClient(connection).Chat(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send(t, chat, &samplev1.EchoRequest{Text: "here"})
	if _, err := chat.Recv(); err != nil {
		t.Fatal(err)
	}
	send(t, chat, &samplev1.EchoRequest{Behaviour: &samplev1.Behaviour{Delay: durationpb.New(time.Minute)}})
	cancel()
	waitFor(t, func() bool { return server.CallsOf("/sample.v1.Sample/Chat").GetFailed() == 1 })
}

func TestCountFailsAfterItsMessages(t *testing.T) {
	_, connection := start(t)
	stream, err := samplev1.NewSampleClient(connection).Count(t.Context(), &samplev1.CountRequest{
		Count: 3, Interval: durationpb.New(time.Millisecond), Behaviour: &samplev1.Behaviour{Code: 13, Size: 10},
	})
	if err != nil {
		t.Fatal(err)
	}
	for number := uint32(1); number <= 3; number++ {
		reply, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if reply.GetNumber() != number || len(reply.GetPadding()) != 10 || (len(reply.GetHeaders()) > 0) != (number == 1) {
			t.Errorf("message %d is %v", number, reply)
		}
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("the stream ended with %v, want code 13", err)
	}
}

func TestCollectJoinsAndFails(t *testing.T) {
	_, connection := start(t)
	client := samplev1.NewSampleClient(connection)
	stream, err := client.Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send(t, stream, &samplev1.EchoRequest{Text: "a"})
	send(t, stream, &samplev1.EchoRequest{Text: "b"})
	reply, err := stream.CloseAndRecv()
	if err != nil || reply.GetText() != "ab" || reply.GetMessages() != 2 {
		t.Errorf("got %v, %v", reply, err)
	}
	stream, err = client.Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send(t, stream, &samplev1.EchoRequest{Behaviour: &samplev1.Behaviour{Code: 3}})
	if _, err := stream.CloseAndRecv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v, want code 3", err)
	}
}

func TestChatDeliversBeforeTheCut(t *testing.T) {
	_, connection := start(t)
	chat, err := samplev1.NewSampleClient(connection).Chat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send(t, chat, &samplev1.EchoRequest{Text: "one"})
	if reply, err := chat.Recv(); err != nil || reply.GetText() != "one" {
		t.Fatalf("got %v, %v", reply, err)
	}
	send(t, chat, &samplev1.EchoRequest{Behaviour: &samplev1.Behaviour{Abort: true}})
	if _, err := chat.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("after the cut: %v, want code 14", err)
	}
}

func TestCallsAreCountedByPath(t *testing.T) {
	server, connection := start(t)
	client := samplev1.NewSampleClient(connection)
	for _, code := range []uint32{0, 0, 13} {
		_, err := client.Echo(t.Context(), &samplev1.EchoRequest{Behaviour: &samplev1.Behaviour{Code: code}})
		if uint32(status.Code(err)) != code {
			t.Fatal(err)
		}
	}
	err := connection.Invoke(t.Context(), "/Sample.V1/../Echo", &emptypb.Empty{}, &emptypb.Empty{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("an unknown path: %v, want code 12", err)
	}
	reply, err := client.Calls(t.Context(), &samplev1.CallsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, calls := range reply.GetPaths() {
		paths = append(paths, calls.GetPath())
	}
	if got := strings.Join(paths, " "); got != "/Sample.V1/../Echo /sample.v1.Sample/Calls /sample.v1.Sample/Echo" {
		t.Errorf("paths are %s", got)
	}
	echo := server.CallsOf("/sample.v1.Sample/Echo")
	if echo.GetReceived() != 3 || echo.GetAnswered() != 2 || echo.GetFailed() != 1 {
		t.Errorf("Echo was counted as %v", echo)
	}
	if never := server.CallsOf("/sample.v1.Sample/Chat"); never.GetReceived() != 0 {
		t.Errorf("Chat was counted as %v", never)
	}
}

func TestHealthAndReflection(t *testing.T) {
	_, connection := start(t)
	for _, service := range []string{"", "sample.v1.Sample"} {
		reply, err := grpc_health_v1.NewHealthClient(connection).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || reply.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, reply, err)
		}
	}
	stream, err := reflectionv1.NewServerReflectionClient(connection).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send(t, stream, &reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "sample.v1.Sample.Echo"},
	})
	reply, err := stream.Recv()
	if err != nil || len(reply.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("reflection: %v, %v", reply, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("reflection ended with %v", err)
	}
}

func send[Request any](t *testing.T, stream interface{ Send(*Request) error }, request *Request) {
	t.Helper()
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatal("the condition did not become true within 30 seconds")
		}
	}
}
