package e2e_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/e2e/harness"
)

// TestSettlement walks the table of DESIGN.md section 2: what becomes of the charge of a call that ends badly.
func TestSettlement(t *testing.T) {
	world := harness.New(t, harness.Options{})
	client := world.Client()
	cases := []struct {
		name     string
		call     func(t *testing.T, p *payer.Payer)
		refunded bool
	}{
		{"the service answers non-OK", func(t *testing.T, p *payer.Payer) {
			_, err := client.Echo(paying(t, p, harness.Price), failing(codes.Internal))
			expectCode(t, err, codes.Internal)
		}, true},
		{"a custom code of the service", func(t *testing.T, p *payer.Payer) {
			_, err := client.Echo(paying(t, p, harness.Price), failing(4242))
			expectCode(t, err, 4242)
		}, true},
		{"the service answers non-OK after messages", func(t *testing.T, p *payer.Payer) {
			drain(t, client, paying(t, p, harness.Price), &samplev1.CountRequest{Count: 3, Behaviour: behaviour(codes.Internal)}, codes.Internal)
		}, true},
		{"CANCELLED by the service after messages", func(t *testing.T, p *payer.Payer) {
			drain(t, client, paying(t, p, harness.Price), &samplev1.CountRequest{Count: 3, Behaviour: behaviour(codes.Canceled)}, codes.Canceled)
		}, false},
		{"a method the service does not have", func(t *testing.T, p *payer.Payer) {
			err := world.Connection().Invoke(paying(t, p, harness.Price), "/sample.v1.Sample/None", &samplev1.EchoRequest{}, &samplev1.EchoReply{})
			expectCode(t, err, codes.Unimplemented)
		}, true},
		{"the service resets the connection", func(t *testing.T, p *payer.Payer) {
			_, err := client.Echo(paying(t, p, harness.Price), &samplev1.EchoRequest{Behaviour: &samplev1.Behaviour{Abort: true}})
			expectCode(t, err, codes.Unavailable)
		}, true},
		{"the client goes away before an answer", func(t *testing.T, p *payer.Payer) {
			ctx, cancel := context.WithCancel(paying(t, p, harness.Price))
			ended := make(chan error, 1)
			before := world.Service.CallsOf(samplev1.Sample_Echo_FullMethodName).GetReceived()
			go func() {
				_, err := client.Echo(ctx, &samplev1.EchoRequest{Behaviour: &samplev1.Behaviour{Delay: durationpb.New(time.Minute)}})
				ended <- err
			}()
			harness.Eventually(t, "the call reaches the service", func() (bool, string) {
				return world.Service.CallsOf(samplev1.Sample_Echo_FullMethodName).GetReceived() > before, "not yet"
			})
			cancel()
			expectCode(t, <-ended, codes.Canceled)
		}, true},
		{"the client's deadline passes before an answer", func(t *testing.T, p *payer.Payer) {
			ctx, cancel := context.WithTimeout(paying(t, p, harness.Price), 500*time.Millisecond)
			defer cancel()
			_, err := client.Echo(ctx, &samplev1.EchoRequest{Behaviour: &samplev1.Behaviour{Delay: durationpb.New(time.Minute)}})
			expectCode(t, err, codes.DeadlineExceeded)
		}, true},
		{"the client reads a stream and cancels", func(t *testing.T, p *payer.Payer) {
			ctx, cancel := context.WithCancel(paying(t, p, harness.Price))
			stream, err := client.Count(ctx, &samplev1.CountRequest{Count: 2, Behaviour: &samplev1.Behaviour{Delay: durationpb.New(time.Minute)}})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := stream.Recv(); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			_, err = stream.Recv()
			expectCode(t, err, codes.Canceled)
		}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := world.OpenChannel(10 * harness.Price)
			c.call(t, p)
			if c.refunded {
				expectBooks(t, world, p, 0, 0)
				// The same signature is good again, and one refund gave back one price.
				if _, err := client.Echo(paying(t, p, harness.Price), &samplev1.EchoRequest{}); err != nil {
					t.Fatalf("the same payment after the refund: %v", err)
				}
				expectBooks(t, world, p, harness.Price, harness.Price)
				return
			}
			// A further call gives a wrong refund the time of a whole call and a state to show up in.
			if _, err := client.Echo(paying(t, p, 2*harness.Price), &samplev1.EchoRequest{}); err != nil {
				t.Fatal(err)
			}
			expectBooks(t, world, p, 2*harness.Price, 2*harness.Price)
		})
	}
}

func behaviour(code codes.Code) *samplev1.Behaviour {
	return &samplev1.Behaviour{Code: uint32(code), Message: "as asked"}
}

func failing(code codes.Code) *samplev1.EchoRequest {
	return &samplev1.EchoRequest{Behaviour: behaviour(code)}
}

// drain reads a stream to its end, which must be a status.
func drain(t *testing.T, client samplev1.SampleClient, ctx context.Context, request *samplev1.CountRequest, want codes.Code) {
	t.Helper()
	stream, err := client.Count(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	for range request.GetCount() {
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	_, err = stream.Recv()
	if err == io.EOF {
		t.Fatal("the stream ended with OK")
	}
	expectCode(t, err, want)
}

// TestRandomCancelsLeaveExactBooks lets clients give up at any moment, also while authz decides.
func TestRandomCancelsLeaveExactBooks(t *testing.T) {
	const calls = 200
	world := harness.New(t, harness.Options{})
	client := world.Client()
	p := world.OpenChannel(2 * calls * harness.Price)
	outcomes := make(chan error, calls)
	limit := make(chan struct{}, 8)
	for n := range calls {
		limit <- struct{}{}
		go func() {
			defer func() { <-limit }()
			// From nothing to about twice what a call takes here, so that each moment is met.
			patience := time.Duration(n*n%97) * 100 * time.Microsecond
			ctx, cancel := context.WithTimeout(paying(t, p, uint64(n+1)*harness.Price), patience)
			defer cancel()
			_, err := client.Echo(ctx, &samplev1.EchoRequest{Text: "now or never"})
			outcomes <- err
		}()
	}
	served := uint64(0)
	for range calls {
		if err := <-outcomes; err == nil {
			served++
		}
	}
	// Envoy may have sent a whole answer that the client no longer took: such a call was delivered and is paid.
	answered := uint64(0)
	harness.Eventually(t, "spent lies between calls taken by clients and calls answered", func() (bool, string) {
		spent := world.State(p).Used / harness.Price
		// Read after that: the service may still be ending calls whose clients have gone.
		answered = world.Service.CallsOf(samplev1.Sample_Echo_FullMethodName).GetAnswered()
		return spent >= served && spent <= answered, fmt.Sprintf("%d spent, %d served, %d answered, in prices", spent, served, answered)
	})
	t.Logf("%d of %d calls served, the service answered %d", served, calls, answered)
}
