package e2e_test

import (
	"context"
	"testing"
	"time"

	"github.com/holiman/uint256"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/e2e/harness"
	"github.com/mpegate/mpegate/envoy"
)

const callTimeout = 20 * time.Second

// paying returns a context for one call that pays up to a cumulative amount, with headers on top.
func paying(t *testing.T, p *payer.Payer, amount uint64, more ...string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	t.Cleanup(cancel)
	return metadata.NewOutgoingContext(ctx, metadata.Join(payment(t, p, amount), metadata.Pairs(more...)))
}

func payment(t *testing.T, p *payer.Payer, amount uint64) metadata.MD {
	t.Helper()
	headers, err := p.Payment(uint256.NewInt(amount))
	if err != nil {
		t.Fatal(err)
	}
	return headers
}

// expectBooks waits until a channel's state is as the test's own books say, both in cogs.
func expectBooks(t *testing.T, world *harness.World, p *payer.Payer, signed, spent uint64) {
	t.Helper()
	harness.Eventually(t, "the channel's books", func() (bool, string) {
		state := world.State(p)
		return state.Signed.Eq(uint256.NewInt(signed)) && state.Used == spent,
			"signed " + state.Signed.Dec() + ", spent " + uint256.NewInt(state.Used).Dec() +
				", wanted " + uint256.NewInt(signed).Dec() + " and " + uint256.NewInt(spent).Dec()
	})
}

func expectCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Fatalf("the call ended with code %d (%v), wanted %d", status.Code(err), err, want)
	}
}

func TestPaidCallsOfEveryKind(t *testing.T) {
	world := harness.New(t, harness.Options{})
	client := world.Client()

	t.Run("unary", func(t *testing.T) {
		p := world.OpenChannel(10 * harness.Price)
		reply, err := client.Echo(paying(t, p, harness.Price, "snet-user-address", "0xforged", "snet-client-type", "test",
			"snet-daemon-debug", "forged", "my-header", "kept"), &samplev1.EchoRequest{Text: "hello"})
		if err != nil {
			t.Fatal(err)
		}
		if reply.GetText() != "hello" {
			t.Errorf("the answer is %q", reply.GetText())
		}
		expectHeadersAtService(t, world, reply.GetHeaders())
		expectBooks(t, world, p, harness.Price, harness.Price)
	})

	t.Run("gRPC-Web", func(t *testing.T) {
		p := world.OpenChannel(10 * harness.Price)
		var reply samplev1.EchoReply
		err := payer.CallWeb(t.Context(), "http://"+world.Address, samplev1.Sample_Echo_FullMethodName,
			payment(t, p, harness.Price), &samplev1.EchoRequest{Text: "web"}, &reply)
		if err != nil || reply.GetText() != "web" {
			t.Fatalf("answer %q, error %v", reply.GetText(), err)
		}
		err = payer.CallWeb(t.Context(), "http://"+world.Address, samplev1.Sample_Echo_FullMethodName,
			payment(t, p, harness.Price), &samplev1.EchoRequest{Text: "again"}, &reply)
		expectCode(t, err, codes.Unauthenticated)
		expectBooks(t, world, p, harness.Price, harness.Price)
	})

	t.Run("streams", func(t *testing.T) {
		p := world.OpenChannel(10 * harness.Price)
		counting, err := client.Count(paying(t, p, harness.Price), &samplev1.CountRequest{Count: 5})
		if err != nil {
			t.Fatal(err)
		}
		for want := uint32(1); want <= 5; want++ {
			if message, err := counting.Recv(); err != nil || message.GetNumber() != want {
				t.Fatalf("message %d: %v, %v", want, message, err)
			}
		}
		collecting, err := client.Collect(paying(t, p, 2*harness.Price))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"a", "b", "c"} {
			if err := collecting.Send(&samplev1.EchoRequest{Text: text}); err != nil {
				t.Fatal(err)
			}
		}
		collected, err := collecting.CloseAndRecv()
		if err != nil || collected.GetMessages() != 3 {
			t.Fatalf("collected %v, %v", collected, err)
		}
		chatting, err := client.Chat(paying(t, p, 3*harness.Price))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"x", "y"} {
			if err := chatting.Send(&samplev1.EchoRequest{Text: text}); err != nil {
				t.Fatal(err)
			}
			if message, err := chatting.Recv(); err != nil || message.GetText() != text {
				t.Fatalf("chat answered %v, %v", message, err)
			}
		}
		if err := chatting.CloseSend(); err != nil {
			t.Fatal(err)
		}
		expectBooks(t, world, p, 3*harness.Price, 3*harness.Price)
	})

	t.Run("more signed than the price", func(t *testing.T) {
		p := world.OpenChannel(10 * harness.Price)
		if _, err := client.Echo(paying(t, p, 5*harness.Price), &samplev1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Echo(paying(t, p, 2*harness.Price), &samplev1.EchoRequest{}); err != nil {
			t.Fatalf("a lower amount that what was signed covers: %v", err)
		}
		expectBooks(t, world, p, 5*harness.Price, 2*harness.Price)
	})
}

// expectHeadersAtService checks what the service may know of a payment.
func expectHeadersAtService(t *testing.T, world *harness.World, headers []*samplev1.Header) {
	t.Helper()
	got := map[string][]string{}
	for _, header := range headers {
		got[header.GetName()] = append(got[header.GetName()], header.GetValue())
	}
	for _, name := range append([]string{envoy.HeaderDaemonDebug}, envoy.SpendableHeaders...) {
		if values, found := got[name]; found {
			t.Errorf("the service got %s: %q", name, values)
		}
	}
	want := map[string]string{
		envoy.HeaderUserAddress: world.Chain.Account("client").Address.Hex(),
		envoy.HeaderClientType:  "test", "my-header": "kept",
	}
	for name, value := range want {
		if values := got[name]; len(values) != 1 || values[0] != value {
			t.Errorf("the service got %s: %q, wanted once %q", name, values, value)
		}
	}
}

func TestManyCallsAtOnceOnOneChannel(t *testing.T) {
	const clients, callsEach = 8, 25
	world := harness.New(t, harness.Options{})
	p := world.OpenChannel(clients * callsEach * harness.Price)
	failures := make(chan error, clients*callsEach)
	for i := range clients {
		connection := world.Dial()
		go func() {
			client := samplev1.NewSampleClient(connection)
			for n := range callsEach {
				amount := uint64(n*clients+i+1) * harness.Price
				_, err := client.Echo(paying(t, p, amount), &samplev1.EchoRequest{Text: "at once"})
				failures <- err
			}
		}()
	}
	for range clients * callsEach {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
	total := uint64(clients * callsEach * harness.Price)
	expectBooks(t, world, p, total, total)
	_, err := world.Client().Echo(paying(t, p, total+harness.Price), &samplev1.EchoRequest{})
	expectCode(t, err, codes.Unauthenticated) // the channel is empty
}

func TestOneSignatureBuysOneCall(t *testing.T) {
	const clients = 16
	world := harness.New(t, harness.Options{})
	p := world.OpenChannel(100 * harness.Price)
	outcomes := make(chan error, clients)
	for range clients {
		go func() {
			_, err := world.Client().Echo(paying(t, p, harness.Price), &samplev1.EchoRequest{})
			outcomes <- err
		}()
	}
	served := 0
	for range clients {
		if err := <-outcomes; err == nil {
			served++
		} else if status.Code(err) != codes.Unauthenticated {
			t.Errorf("a replay ended with %v", err)
		}
	}
	if served != 1 {
		t.Errorf("one signature bought %d calls", served)
	}
	expectBooks(t, world, p, harness.Price, harness.Price)
}
