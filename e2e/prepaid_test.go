package e2e_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/holiman/uint256"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/e2e/harness"
	"github.com/mpegate/mpegate/envoy"
)

// buy asks for a token over a cumulative amount and checks what the answer says of the channel.
func buy(t *testing.T, world *harness.World, p *payer.Payer, amount, planned, used uint64) string {
	t.Helper()
	reply, err := p.Token(t.Context(), world.Connection(), amount, world.Block())
	if err != nil {
		t.Fatalf("token over %d: %v", amount, err)
	}
	if reply.GetPlannedAmount() != planned || reply.GetUsedAmount() != used {
		t.Errorf("token over %d: planned %d used %d, wanted %d and %d", amount, reply.GetPlannedAmount(), reply.GetUsedAmount(), planned, used)
	}
	return reply.GetToken()
}

// prepaid returns a context for one call that pays with a token.
func prepaid(t *testing.T, p *payer.Payer, token string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	t.Cleanup(cancel)
	return metadata.NewOutgoingContext(ctx, p.Prepaid(token))
}

func expectRefusal(t *testing.T, err error, code codes.Code, phrase string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), phrase) {
		t.Errorf("the call ended with %v, wanted code %d and %q", err, code, phrase)
	}
}

// The way of the Node and Python SDKs: a token for what is signed already, and where all of it is used one over more.
func TestPrepaidCalls(t *testing.T) {
	world := harness.New(t, harness.Options{})
	client := world.Client()

	t.Run("call by call", func(t *testing.T) {
		p := world.OpenChannel(10 * harness.Price)
		token := buy(t, world, p, harness.Price, harness.Price, 0)
		reply, err := client.Echo(prepaid(t, p, token), &samplev1.EchoRequest{Text: "prepaid"})
		if err != nil {
			t.Fatal(err)
		}
		for _, header := range reply.GetHeaders() {
			if header.GetName() == envoy.HeaderPrepaidToken {
				t.Error("the service got the token")
			}
			if header.GetName() == envoy.HeaderUserAddress && header.GetValue() != world.Chain.Account("client").Address.Hex() {
				t.Errorf("the service was told that %s pays", header.GetValue())
			}
		}
		expectBooks(t, world, p, harness.Price, harness.Price)
		_, err = client.Echo(prepaid(t, p, token), &samplev1.EchoRequest{})
		expectRefusal(t, err, codes.ResourceExhausted, "Usage Exceeded on channel Id "+p.Channel.Dec())
		buy(t, world, p, harness.Price, harness.Price, harness.Price)
		buy(t, world, p, 2*harness.Price, 2*harness.Price, harness.Price)
		if _, err := client.Echo(prepaid(t, p, token), &samplev1.EchoRequest{}); err != nil {
			t.Errorf("the first token after more was signed: %v", err)
		}
		expectBooks(t, world, p, 2*harness.Price, 2*harness.Price)
	})

	t.Run("gRPC-Web", func(t *testing.T) {
		p := world.OpenChannel(10 * harness.Price)
		token := buy(t, world, p, harness.Price, harness.Price, 0)
		var reply samplev1.EchoReply
		err := payer.CallWeb(t.Context(), "http://"+world.Address, samplev1.Sample_Echo_FullMethodName, p.Prepaid(token), &samplev1.EchoRequest{Text: "web"}, &reply)
		if err != nil || reply.GetText() != "web" {
			t.Errorf("answer %q, error %v", reply.GetText(), err)
		}
		expectBooks(t, world, p, harness.Price, harness.Price)
	})

	t.Run("after escrow calls", func(t *testing.T) {
		p := world.OpenChannel(10 * harness.Price)
		if _, err := client.Echo(paying(t, p, harness.Price), &samplev1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
		buy(t, world, p, harness.Price, harness.Price, harness.Price)
		token := buy(t, world, p, 2*harness.Price, 2*harness.Price, harness.Price)
		if _, err := client.Echo(prepaid(t, p, token), &samplev1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Echo(paying(t, p, 3*harness.Price), &samplev1.EchoRequest{}); err != nil {
			t.Fatalf("an escrow call after it: %v", err)
		}
		expectBooks(t, world, p, 3*harness.Price, 3*harness.Price)
	})

	t.Run("a failed call is given back", func(t *testing.T) {
		p := world.OpenChannel(10 * harness.Price)
		token := buy(t, world, p, harness.Price, harness.Price, 0)
		for range 3 {
			_, err := client.Echo(prepaid(t, p, token), failing(codes.Internal))
			expectCode(t, err, codes.Internal)
			expectBooks(t, world, p, harness.Price, 0)
		}
		if _, err := client.Echo(prepaid(t, p, token), &samplev1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
		expectBooks(t, world, p, harness.Price, harness.Price)
	})

	t.Run("a token of another channel", func(t *testing.T) {
		p, other := world.OpenChannel(10*harness.Price), world.OpenChannel(10*harness.Price)
		buy(t, world, p, harness.Price, harness.Price, 0)
		_, err := client.Echo(prepaid(t, p, buy(t, world, other, harness.Price, harness.Price, 0)), &samplev1.EchoRequest{})
		expectRefusal(t, err, codes.Unauthenticated, "token is not valid")
		expectBooks(t, world, p, harness.Price, 0)
	})

	t.Run("funds added after the channel was read", func(t *testing.T) {
		p := world.OpenChannel(harness.Price)
		buy(t, world, p, harness.Price, harness.Price, 0)
		_, err := p.Token(t.Context(), world.Connection(), 2*harness.Price, world.Block())
		expectRefusal(t, err, codes.Unauthenticated, "not enough tokens on payment channel")
		world.AddFunds(p, harness.Price)
		buy(t, world, p, 2*harness.Price, 2*harness.Price, 0)
	})
}

func TestParallelPrepaidCalls(t *testing.T) {
	const calls = 10
	world := harness.New(t, harness.Options{})
	p := world.OpenChannel(100 * harness.Price)
	// All clients ask for their token at once, some for less than others.
	tokens := make(chan string, calls)
	for i := range uint64(calls) {
		go func() {
			reply, err := p.Token(t.Context(), world.Connection(), (i+1)*harness.Price, world.Block())
			if err != nil {
				t.Errorf("token: %v", err)
			}
			tokens <- reply.GetToken()
		}()
	}
	var token string
	for range calls {
		token = <-tokens
	}
	buy(t, world, p, calls*harness.Price, calls*harness.Price, 0)
	outcomes := make(chan error, 2*calls)
	for range 2 * calls {
		go func() {
			_, err := world.Client().Echo(prepaid(t, p, token), &samplev1.EchoRequest{Text: "at once"})
			outcomes <- err
		}()
	}
	served := 0
	for range 2 * calls {
		if err := <-outcomes; err == nil {
			served++
		} else {
			expectRefusal(t, err, codes.ResourceExhausted, "Usage Exceeded")
		}
	}
	if served != calls {
		t.Errorf("%d calls were served for the price of %d", served, calls)
	}
	expectBooks(t, world, p, calls*harness.Price, calls*harness.Price)
}

// A token dies with its channel, and lives again with it.
func TestPrepaidOnExpiredChannels(t *testing.T) {
	world := harness.New(t, harness.Options{})
	client, provider := world.Client(), world.Chain.Account("provider").Address
	p := world.OpenChannelWith(10*harness.Price, harness.Group, provider, harness.ExpirationThreshold+50)
	token := buy(t, world, p, 5*harness.Price, 5*harness.Price, 0)
	if _, err := client.Echo(prepaid(t, p, token), &samplev1.EchoRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := world.Chain.MineTo(world.Block() + 60); err != nil {
		t.Fatal(err)
	}
	// Asking for a token costs nothing, so it may be asked for until the height is known.
	refused := func(phrase string) {
		t.Helper()
		harness.Eventually(t, "the channel's end is noticed", func() (bool, string) {
			_, err := p.Token(t.Context(), world.Connection(), 5*harness.Price, world.Block())
			return status.Code(err) == codes.Unauthenticated && strings.Contains(err.Error(), phrase), status.Convert(err).Message()
		})
		_, err := client.Echo(prepaid(t, p, token), &samplev1.EchoRequest{})
		expectRefusal(t, err, codes.Unauthenticated, phrase)
	}
	refused("payment channel is near to be expired")

	world.Extend(p, uint256.NewInt(world.Block()+1_000))
	harness.Eventually(t, "the extension is noticed", func() (bool, string) {
		_, err := p.Token(t.Context(), world.Connection(), 5*harness.Price, world.Block())
		return err == nil, status.Convert(err).Message()
	})
	if _, err := client.Echo(prepaid(t, p, token), &samplev1.EchoRequest{}); err != nil {
		t.Errorf("the first token after the channel was extended: %v", err)
	}
	expectBooks(t, world, p, 5*harness.Price, 2*harness.Price)

	if err := world.Chain.MineTo(world.Block() + 1_001); err != nil {
		t.Fatal(err)
	}
	world.ClaimTimeout(p)
	p.Nonce.SetUint64(1)
	refused("payment channel is near to be expired, expiration time: 0")
}

// What was bought before a restart, and the token for it, are good after it. So they are after the key was changed.
func TestPrepaidAcrossRestartAndRotation(t *testing.T) {
	world := harness.New(t, harness.Options{})
	p := world.OpenChannel(10 * harness.Price)
	token := buy(t, world, p, 10*harness.Price, 10*harness.Price, 0)
	call := func(token string) error {
		_, err := world.Client().Echo(prepaid(t, p, token), &samplev1.EchoRequest{})
		return err
	}
	if err := call(token); err != nil {
		t.Fatal(err)
	}
	world.Serve.Kill()
	world.Launch(harness.Binary(t))
	harness.Eventually(t, "the token is good after a restart", func() (bool, string) {
		err := call(token)
		return err == nil, status.Convert(err).Message()
	})

	rotate(t, world)
	if err := call(token); err != nil {
		t.Errorf("a token of the old key: %v", err)
	}
	rotate(t, world, "--revoke")
	expectRefusal(t, call(token), codes.Unauthenticated, "token is not valid: its signature is not ours")
	reply, err := p.Token(t.Context(), world.Connection(), 10*harness.Price, world.Block())
	if err != nil {
		t.Fatal(err)
	}
	if err := call(reply.GetToken()); err != nil {
		t.Errorf("a token of the new key: %v", err)
	}
	expectBooks(t, world, p, 10*harness.Price, 4*harness.Price)
}

func rotate(t *testing.T, world *harness.World, flags ...string) {
	t.Helper()
	arguments := append([]string{"tokens", "rotate", "--admin", strings.TrimPrefix(world.Admin, "http://")}, flags...)
	output, err := exec.CommandContext(t.Context(), harness.Binary(t), arguments...).CombinedOutput()
	if err != nil || !strings.Contains(string(output), "prepaid tokens are signed with a new key") {
		t.Fatalf("%s\n%v", output, err)
	}
}
