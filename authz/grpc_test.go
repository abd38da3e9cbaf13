package authz

import (
	"context"
	"net"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// connect serves the world over a real connection, as Envoy asks it.
func (w *world) connect() (*grpc.Server, *grpc.ClientConn) {
	w.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	server := grpc.NewServer()
	w.server.Register(server)
	go server.Serve(listener)
	w.t.Cleanup(server.Stop)
	connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { connection.Close() })
	return server, connection
}

func TestOverGRPC(t *testing.T) {
	w := newWorld(t, realLedger)
	_, connection := w.connect()
	headers := w.headers(testPrice)
	response, err := authv3.NewAuthorizationClient(connection).Check(t.Context(), request(testMethod, headers))
	if err != nil {
		t.Fatal(err)
	}
	paid := readAnswer(t, response)
	if paid.code != 0 || paid.charged == nil {
		t.Fatalf("%+v", paid)
	}
	w.expectBooks(testPrice, testPrice)

	logs, err := accesslogv3.NewAccessLogServiceClient(connection).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := logs.Send(logMessage(logged{charged: paid.charged, status: "13", code: 200}.entry())); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := logs.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	w.close()
	w.expectBooks(0, 0)
}

// Envoy gives up while the charge is being written: the charge goes back, though nobody hears our answer.
func TestEnvoyGivesUp(t *testing.T) {
	w := newWorld(t)
	server, connection := w.connect()
	ctx, cancel := context.WithCancel(t.Context())
	w.ledger.charge = func(ctx context.Context, _ *blockchain.Channel, _ *channelstate.Charge) error {
		cancel()
		<-ctx.Done() // the write is done all the same
		return nil
	}
	_, err := authv3.NewAuthorizationClient(connection).Check(ctx, request(testMethod, w.headers(testPrice)))
	if status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	server.GracefulStop() // waits for the decision
	w.close()
	if charges, refunds := w.ledger.counts(); charges != 1 || refunds != 1 {
		t.Errorf("%d charges, %d refunds", charges, refunds)
	}
}

// A broken log stream is Envoy's to open again; what came before it broke is settled.
func TestBrokenLogStream(t *testing.T) {
	refunded := make(chan struct{})
	w := newWorld(t, func(w *world) { w.dependencies.Ledger = &toldLedger{w.ledger, refunded} })
	_, connection := w.connect()
	paid := w.check(w.headers(testPrice))
	ctx, cancel := context.WithCancel(t.Context())
	logs, err := accesslogv3.NewAccessLogServiceClient(connection).StreamAccessLogs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := logs.Send(logMessage(logged{requestID: "x", charged: paid.charged, status: "14", code: 200}.entry())); err != nil {
		t.Fatal(err)
	}
	<-refunded
	cancel()
	w.close()
	if _, refunds := w.ledger.counts(); refunds != 1 {
		t.Errorf("%d refunds", refunds)
	}
}
