package e2e_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate/proto/configuration"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/e2e/harness"
	"github.com/mpegate/mpegate/envoy"
)

func number(word []byte) uint64 { return new(uint256.Int).SetBytes(word).Uint64() }

// follower is a client with several calls in flight that goes on at the next nonce when its channel is being claimed.
type follower struct {
	t     *testing.T
	world *harness.World

	mu     sync.Mutex
	payer  payer.Payer // at the current nonce
	signed uint64      // in prices, at that nonce

	paid atomic.Uint64 // calls answered OK
}

// call makes one call and pays for it, at the next nonce if it has to.
func (f *follower) call(ctx context.Context, client samplev1.SampleClient, request *samplev1.EchoRequest, want codes.Code) {
	for range 3 {
		f.mu.Lock()
		f.signed++
		own, amount := f.payer, f.signed*harness.Price
		f.mu.Unlock()
		_, err := client.Echo(paying(f.t, &own, amount), request)
		switch got := status.Code(err); {
		case got == codes.Code(envoy.CodeIncorrectNonce):
			f.mu.Lock()
			if f.payer.Nonce == own.Nonce {
				f.payer.Nonce.AddUint64(&own.Nonce, 1)
				f.signed = 0
			}
			f.mu.Unlock()
			continue
		case got != want:
			f.t.Errorf("a call ended with %v, wanted code %d", err, want)
		case got == codes.OK:
			f.paid.Add(1)
		}
		return
	}
	f.t.Error("no nonce is the right one")
}

// Claims are started while calls go on, some of which fail; the provider gets the price of those that were served.
func TestClaimWhileCallsGoOn(t *testing.T) {
	world := harness.New(t, harness.Options{})
	const value = 100_000 * harness.Price
	client := &follower{t: t, world: world, payer: *world.OpenChannel(value)}
	channel := client.payer.Channel
	earned := uint64(0)
	for nonce := uint64(0); nonce < 3; nonce++ {
		var calling sync.WaitGroup
		half := make(chan struct{})
		var reached atomic.Uint64
		for range 8 {
			connection := world.Dial()
			calling.Go(func() {
				for call := range 12 {
					request, want := &samplev1.EchoRequest{}, codes.OK
					if call%4 == 3 {
						request, want = failing(codes.DataLoss), codes.DataLoss
					}
					client.call(t.Context(), samplev1.NewSampleClient(connection), request, want)
					if reached.Add(1) == 48 {
						close(half)
					}
				}
			})
		}
		<-half
		started, err := world.StartClaim(t.Context(), &channel, nonce)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := world.StartClaim(t.Context(), &channel, nonce); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("a second claim: %v", err)
		}
		calling.Wait()

		var pending *escrow.PaymentReply
		harness.Eventually(t, "the books add up", func() (bool, string) {
			listed, err := world.InProgress(t.Context())
			if err != nil || len(listed) != 1 {
				return false, fmt.Sprintf("%d claims in progress, %v", len(listed), err)
			}
			pending = listed[0]
			claimed, spent := number(pending.GetSpentAmount()), world.State(&client.payer).Used
			return earned+claimed+spent == client.paid.Load()*harness.Price,
				fmt.Sprintf("earned %d, being claimed %d, spent %d, calls served %d", earned, claimed, spent, client.paid.Load())
		})
		if number(pending.GetSignedAmount()) != number(started.GetSignedAmount()) || string(pending.GetSignature()) != string(started.GetSignature()) {
			t.Errorf("started %v, in progress %v", started, pending)
		}
		world.SendClaims(pending)
		earned += number(pending.GetSpentAmount())
		if got := world.Earned(); got != earned {
			t.Fatalf("the provider has %d, wanted %d", got, earned)
		}
		if on := world.Channel(&channel); on.Value.Uint64() != value-earned || on.Nonce.Uint64() != nonce+1 {
			t.Fatalf("the channel has %s at nonce %s, wanted %d", on.Value.Dec(), on.Nonce.Dec(), value-earned)
		}
		expectInProgress(t, world, 0)
	}
	// What is left at the last nonce, one call at least.
	client.call(t.Context(), world.Client(), &samplev1.EchoRequest{}, codes.OK)
	if unclaimed, err := world.Unclaimed(t.Context()); err != nil || len(unclaimed) != 1 || number(unclaimed[0].GetChannelNonce()) != 3 {
		t.Fatalf("unclaimed %v, %v", unclaimed, err)
	}
	last, err := world.StartClaim(t.Context(), &channel, 3)
	if err != nil {
		t.Fatal(err)
	}
	world.SendClaims(last)
	if got := world.Earned(); got != client.paid.Load()*harness.Price {
		t.Errorf("the provider has %d for %d calls served", got, client.paid.Load())
	}
}

func expectInProgress(t *testing.T, world *harness.World, want int) []*escrow.PaymentReply {
	t.Helper()
	var listed []*escrow.PaymentReply
	harness.Eventually(t, "the list of claims in progress", func() (bool, string) {
		var err error
		listed, err = world.InProgress(t.Context())
		return err == nil && len(listed) == want, fmt.Sprintf("%d listed, %v", len(listed), err)
	})
	return listed
}

// A claim outlives a kill between any two steps, and the claims of several channels start together.
func TestClaimsOutliveAKill(t *testing.T) {
	world := harness.New(t, harness.Options{})
	var ids []uint256.Int
	for range 3 {
		p := world.OpenChannel(10 * harness.Price)
		if _, err := world.Client().Echo(paying(t, p, harness.Price), &samplev1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, p.Channel)
	}
	kill := func() {
		t.Helper()
		world.Serve.Kill()
		world.Launch(harness.Binary(t))
	}
	kill() // before
	unpaid := world.OpenChannel(10 * harness.Price)
	_, err := world.StartClaims(t.Context(), append(ids, unpaid.Channel)...)
	expectCode(t, err, codes.FailedPrecondition)
	expectInProgress(t, world, 0)
	started, err := world.StartClaims(t.Context(), ids...)
	if err != nil {
		t.Fatal(err)
	}
	kill() // after the start, before the contract has it
	listed := expectInProgress(t, world, len(ids))
	for i, payment := range started.GetPayments() {
		if string(listed[i].GetSignature()) != string(payment.GetSignature()) || number(listed[i].GetSpentAmount()) != harness.Price {
			t.Errorf("started %v, after the kill %v", payment, listed[i])
		}
	}
	world.SendClaims(listed...)
	kill() // after the contract has it, before anybody has looked
	expectInProgress(t, world, 0)
	if got := world.Earned(); got != uint64(len(ids))*harness.Price {
		t.Errorf("the provider has %d", got)
	}
}

// An operator stops calls; a restart keeps that; nobody else can.
func TestOperatorStopsCalls(t *testing.T) {
	operator, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	world := harness.New(t, harness.Options{
		Settings: fmt.Sprintf("operators:\n  addresses: [%q]\n", crypto.PubkeyToAddress(operator.PublicKey)),
	})
	p := world.OpenChannel(10 * harness.Price)
	call := func(amount uint64) error {
		_, err := world.Client().Echo(paying(t, p, amount), &samplev1.EchoRequest{})
		return err
	}
	expectStatus := func(operation string, want configuration.StatusResponse_Status) {
		t.Helper()
		if got, err := world.Operate(t.Context(), operator, operation); err != nil || got != want {
			t.Fatalf("%s: %s, %v", operation, got, err)
		}
	}
	const stopped, runs = configuration.StatusResponse_HAS_STOPPED_PROCESSING_REQUESTS, configuration.StatusResponse_REQUEST_IN_PROGRESS
	_, err = world.Operate(t.Context(), world.Chain.Account("provider").Key, blockchain.ConfigurationStopRequests)
	expectCode(t, err, codes.Unauthenticated)
	expectCode(t, call(harness.Price), codes.OK)
	expectStatus(blockchain.ConfigurationAreRequestsRun, runs)

	expectStatus(blockchain.ConfigurationStopRequests, stopped)
	expectCode(t, call(2*harness.Price), codes.Unavailable)
	expectBooks(t, world, p, harness.Price, harness.Price)
	world.Serve.Kill()
	world.Launch(harness.Binary(t))
	expectCode(t, call(2*harness.Price), codes.Unavailable)
	expectStatus(blockchain.ConfigurationAreRequestsRun, stopped)

	expectStatus(blockchain.ConfigurationStartRequests, runs)
	expectCode(t, call(2*harness.Price), codes.OK)
	expectBooks(t, world, p, 2*harness.Price, 2*harness.Price)
}
