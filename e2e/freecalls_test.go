package e2e_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/holiman/uint256"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/e2e/harness"
	"github.com/mpegate/mpegate/envoy"
)

const freeQuota = 3

// freeWorld offers free calls. The key is a throw-away one of payment-protocol.md section 5.
func freeWorld(t *testing.T, settings string) *harness.World {
	t.Helper()
	return harness.New(t, harness.Options{
		Group: fmt.Sprintf(`"free_calls": %d, "free_call_signer_address": "0x87C018EF78005f118C53fa9cadf0a4Fd367a77A9"`, freeQuota),
		Settings: `free_calls:
  private_key: "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
` + settings,
	})
}

func freeCaller(world *harness.World, name string) *payer.FreeCaller {
	return &payer.FreeCaller{
		Key: world.Chain.Account(name).Key, OrganizationID: harness.OrganizationID, ServiceID: harness.ServiceID,
		GroupID: base64.StdEncoding.EncodeToString(harness.Group[:]),
	}
}

func freeToken(t *testing.T, world *harness.World, c *payer.FreeCaller) []byte {
	t.Helper()
	block := world.Block()
	token, err := c.Token(t.Context(), world.Connection(), block)
	if err != nil {
		t.Fatalf("a token for free calls: %v", err)
	}
	if token.GetTokenExpirationBlock() < block+172800-5 {
		t.Errorf("the token is good until %d", token.GetTokenExpirationBlock())
	}
	return token.GetToken()
}

func freeLeft(t *testing.T, world *harness.World, c *payer.FreeCaller) uint64 {
	t.Helper()
	left, err := c.Available(t.Context(), world.Connection(), freeToken(t, world, c), world.Block())
	if err != nil {
		t.Fatalf("free calls available: %v", err)
	}
	return left
}

// free returns a context for one free call.
func free(t *testing.T, world *harness.World, c *payer.FreeCaller) context.Context {
	t.Helper()
	headers, err := c.Headers(freeToken(t, world, c), world.Block())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	t.Cleanup(cancel)
	return metadata.NewOutgoingContext(ctx, headers)
}

func expectLeft(t *testing.T, world *harness.World, c *payer.FreeCaller, want uint64) {
	t.Helper()
	harness.Eventually(t, "the free calls that are left", func() (bool, string) {
		left := freeLeft(t, world, c)
		return left == want, fmt.Sprintf("%d left, wanted %d", left, want)
	})
}

func TestFreeCalls(t *testing.T) {
	world := freeWorld(t, "  min_balance: 0\n")
	client := world.Client()

	t.Run("n and one more", func(t *testing.T) {
		c := freeCaller(world, "one")
		for call := range uint64(freeQuota) {
			expectLeft(t, world, c, freeQuota-call)
			reply, err := client.Echo(free(t, world, c), &samplev1.EchoRequest{Text: "free"})
			if err != nil {
				t.Fatal(err)
			}
			for _, header := range reply.GetHeaders() {
				if header.GetName() == envoy.HeaderUserAddress && header.GetValue() != c.Address() {
					t.Errorf("the service was told that %s calls", header.GetValue())
				}
				if header.GetName() == envoy.HeaderFreeCallToken || header.GetName() == envoy.HeaderChannelSignature {
					t.Errorf("the service got %s", header.GetName())
				}
			}
		}
		expectLeft(t, world, c, 0) // and a token all the same
		_, err := client.Echo(free(t, world, c), &samplev1.EchoRequest{})
		expectRefusal(t, err, codes.ResourceExhausted, "free call limit has been exceeded, calls made = 3, total free calls eligible = 3")
	})

	t.Run("replay at once", func(t *testing.T) {
		c := freeCaller(world, "two")
		ctx := free(t, world, c)
		outcomes := make(chan error, 4*freeQuota)
		for range cap(outcomes) {
			go func() {
				_, err := world.Client().Echo(ctx, &samplev1.EchoRequest{})
				outcomes <- err
			}()
		}
		served := 0
		for range cap(outcomes) {
			if err := <-outcomes; err == nil {
				served++
			} else {
				expectRefusal(t, err, codes.ResourceExhausted, "free call limit has been exceeded")
			}
		}
		if served != freeQuota {
			t.Errorf("%d calls of %d were served", served, freeQuota)
		}
	})

	t.Run("a failed call is given back", func(t *testing.T) {
		c := freeCaller(world, "three")
		for range 2 * freeQuota {
			_, err := client.Echo(free(t, world, c), failing(codes.Internal))
			expectCode(t, err, codes.Internal)
			expectLeft(t, world, c, freeQuota)
		}
	})

	t.Run("gRPC-Web", func(t *testing.T) {
		c := freeCaller(world, "four")
		headers, err := c.Headers(freeToken(t, world, c), world.Block())
		if err != nil {
			t.Fatal(err)
		}
		var reply samplev1.EchoReply
		if err := payer.CallWeb(t.Context(), "http://"+world.Address, samplev1.Sample_Echo_FullMethodName, headers, &samplev1.EchoRequest{Text: "web"}, &reply); err != nil || reply.GetText() != "web" {
			t.Errorf("answer %q, %v", reply.GetText(), err)
		}
		expectLeft(t, world, c, freeQuota-1)
	})

	t.Run("after a restart", func(t *testing.T) {
		c := freeCaller(world, "one")
		world.Serve.Kill()
		world.Launch(harness.Binary(t))
		expectLeft(t, world, c, 0)
	})

	t.Run("the shape of clients before version 6", func(t *testing.T) {
		var wire []byte
		wire = protowire.AppendString(protowire.AppendTag(wire, 1, protowire.BytesType), "alice@example.com")
		wire = protowire.AppendBytes(protowire.AppendTag(wire, 2, protowire.BytesType), bytes.Repeat([]byte{0xfe}, 65))
		wire = protowire.AppendVarint(protowire.AppendTag(wire, 3, protowire.VarintType), 7654400)
		var request emptypb.Empty
		if err := proto.Unmarshal(wire, &request); err != nil {
			t.Fatal(err)
		}
		err := world.Connection().Invoke(t.Context(), escrow.FreeCallStateService_GetFreeCallsAvailable_FullMethodName, &request, &escrow.FreeCallStateReply{})
		expectRefusal(t, err, codes.InvalidArgument, "the request has the shape of clients before version 6")
	})
}

// Whole tokens that a caller must hold; users of a trusted signer need none.
func TestFreeCallsByBalanceAndTrust(t *testing.T) {
	world := freeWorld(t, "")
	rich, poor := freeCaller(world, "rich"), freeCaller(world, "poor")
	var decimals []any
	if err := world.Chain.TokenContract.Call(&bind.CallOpts{Context: t.Context()}, &decimals, "decimals"); err != nil {
		t.Fatal(err)
	}
	ten := new(uint256.Int).Exp(uint256.NewInt(10), uint256.NewInt(uint64(decimals[0].(uint8))+1))
	if err := world.Chain.Mint(t.Context(), world.Chain.Account("rich").Address, ten); err != nil {
		t.Fatal(err)
	}
	expectLeft(t, world, rich, freeQuota)
	if _, err := world.Client().Echo(free(t, world, rich), &samplev1.EchoRequest{}); err != nil {
		t.Error(err)
	}
	expectLeft(t, world, poor, 0)
	_, err := world.Client().Echo(free(t, world, poor), &samplev1.EchoRequest{})
	expectRefusal(t, err, codes.PermissionDenied, "you must have at least 10 FET (ASI) in your balance")

	poor.UserID = "ann"
	_, err = poor.Token(t.Context(), world.Connection(), world.Block())
	expectRefusal(t, err, codes.PermissionDenied, "user_id is not allowed")
}

// The way of the Python SDK with default settings, against a service without free calls and one where they are used up:
// a free-call token, the free calls that are left, the channel's state, and then prepaid.
func TestDefaultFlowOfThePythonSDK(t *testing.T) {
	call := func(t *testing.T, world *harness.World, p *payer.Payer) string {
		t.Helper()
		c := freeCaller(world, "client")
		if freeLeft(t, world, c) > 0 {
			if _, err := world.Client().Echo(free(t, world, c), &samplev1.EchoRequest{Text: "free"}); err != nil {
				t.Fatal(err)
			}
			return "free"
		}
		state := world.State(p)
		amount := state.Signed.Uint64()
		var token string
		if amount != 0 {
			reply, err := p.Token(t.Context(), world.Connection(), amount, world.Block())
			if err != nil {
				t.Fatal(err)
			}
			if reply.GetPlannedAmount() > reply.GetUsedAmount() {
				token = reply.GetToken()
			}
		}
		if token == "" {
			reply, err := p.Token(t.Context(), world.Connection(), amount+harness.Price, world.Block())
			if err != nil {
				t.Fatal(err)
			}
			token = reply.GetToken()
		}
		if _, err := world.Client().Echo(prepaid(t, p, token), &samplev1.EchoRequest{Text: "prepaid"}); err != nil {
			t.Fatal(err)
		}
		return "prepaid"
	}
	for name, start := range map[string]func(*testing.T) *harness.World{
		"free calls are off": func(t *testing.T) *harness.World { return harness.New(t, harness.Options{}) },
		"free calls first":   func(t *testing.T) *harness.World { return freeWorld(t, "  min_balance: 0\n") },
	} {
		t.Run(name, func(t *testing.T) {
			world := start(t)
			p := world.OpenChannel(100 * harness.Price)
			var calls []string
			for range freeQuota + 2 {
				calls = append(calls, call(t, world, p))
			}
			paid := uint64(strings.Count(strings.Join(calls, " "), "prepaid"))
			want := uint64(freeQuota + 2)
			if name == "free calls first" {
				want = 2
			}
			if paid != want {
				t.Errorf("calls were %v", calls)
			}
			expectBooks(t, world, p, paid*harness.Price, paid*harness.Price)
			// An escrow call between, and one that fails.
			if _, err := world.Client().Echo(paying(t, p, (paid+1)*harness.Price), &samplev1.EchoRequest{}); err != nil {
				t.Fatal(err)
			}
			call(t, world, p)
			expectBooks(t, world, p, (paid+2)*harness.Price, (paid+2)*harness.Price)
			reply, err := p.Token(t.Context(), world.Connection(), (paid+3)*harness.Price, world.Block())
			if err != nil {
				t.Fatal(err)
			}
			_, err = world.Client().Echo(prepaid(t, p, reply.GetToken()), failing(codes.Aborted))
			if status.Code(err) != codes.Aborted {
				t.Fatal(err)
			}
			expectBooks(t, world, p, (paid+3)*harness.Price, (paid+2)*harness.Price)
			call(t, world, p) // with the credit that was given back
			expectBooks(t, world, p, (paid+3)*harness.Price, (paid+3)*harness.Price)
		})
	}
}
