package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holiman/uint256"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/envoy"
)

const (
	callTimeout = 10 * time.Second
	// A refund follows the failed call by way of Envoy's access log; this is far more than that takes.
	refundTimeout = 10 * time.Second
)

// story makes the calls and keeps the books: what was signed and what must have been spent.
type story struct {
	stage  *stage
	teller *teller
	payer  payer.Payer

	signed uint64 // highest cumulative amount signed so far, in cogs
	spent  uint64 // price of the calls answered OK, in cogs
}

func (s *story) tell(ctx context.Context) error {
	type step struct {
		title string
		act   func(context.Context) (string, error)
	}
	chapters := []struct {
		title string
		steps []step
	}{
		{"A client pays", []step{
			{"channel opened on chain", s.openChannel},
			{"unpaid call refused", s.unpaidCall},
			{"paid gRPC call answered", s.paidCall},
			{"the same through gRPC-Web", s.webCall},
			{"eight paid calls at once on the channel", s.callsAtOnce},
			{"failing call, and its refund", s.failingCall},
		}},
		{"A client that does not", []step{
			{"signature of a stranger refused", s.strangersCall},
			{"amount already spent refused", s.spentAmount},
			{"wrong nonce refused", s.wrongNonce},
			{"nearly expired channel refused", s.nearlyExpired},
		}},
		{"The provider collects", []step{
			{"state read by the signed query", s.readState},
			{"claim on chain for what was spent", s.claim},
			{"paid call at the next nonce", s.nextNonce},
		}},
	}
	for _, chapter := range chapters {
		s.teller.chapter(chapter.title)
		for _, step := range chapter.steps {
			if err := s.teller.step(step.title, func() (string, error) { return step.act(ctx) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *story) openChannel(ctx context.Context) (string, error) {
	chain := s.stage.chain
	client := chain.Account("client")
	block, err := chain.Client.BlockNumber(ctx)
	if err != nil {
		return "", err
	}
	value := uint256.NewInt(1000 * price)
	id, err := chain.OpenChannel(ctx, client, client.Address, chain.Account("provider").Address, group, value,
		block+expirationThreshold+10_000)
	if err != nil {
		return "", err
	}
	s.payer = payer.Payer{Key: client.Key, MPE: chain.MPE, Channel: id}
	return fmt.Sprintf("channel %s holds %s cogs", id.Dec(), value.Dec()), nil
}

// echo makes one call paid with a cumulative amount.
func (s *story) echo(ctx context.Context, payer *payer.Payer, amount uint64, request *samplev1.EchoRequest) (*samplev1.EchoReply, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	paying, err := payer.Paying(ctx, amount)
	if err != nil {
		return nil, err
	}
	return s.stage.client.Echo(paying, request)
}

func (s *story) unpaidCall(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.stage.client.Echo(ctx, &samplev1.EchoRequest{Text: "for free?"})
	return refused(err, codes.InvalidArgument)
}

func (s *story) paidCall(ctx context.Context) (string, error) {
	reply, err := s.echo(ctx, &s.payer, s.signed+price, &samplev1.EchoRequest{Text: "hello"})
	if err != nil {
		return "", err
	}
	s.paid()
	for _, header := range reply.GetHeaders() {
		if header.GetName() == envoy.HeaderChannelSignature {
			return "", errors.New("the service was given the client's signature")
		}
	}
	return fmt.Sprintf("%q for %d cogs", reply.GetText(), uint64(price)), nil
}

// paid enters a call that was answered OK and paid with the next amount.
func (s *story) paid() { s.signed, s.spent = s.signed+price, s.spent+price }

func (s *story) webCall(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	headers, err := s.payer.Payment(uint256.NewInt(s.signed + price))
	if err != nil {
		return "", err
	}
	var reply samplev1.EchoReply
	err = payer.CallWeb(ctx, "http://"+s.stage.address, samplev1.Sample_Echo_FullMethodName, headers, &samplev1.EchoRequest{Text: "hello, web"}, &reply)
	if err != nil {
		return "", err
	}
	s.paid()
	return fmt.Sprintf("%q", reply.GetText()), nil
}

func (s *story) callsAtOnce(ctx context.Context) (string, error) {
	const calls = 8
	var group sync.WaitGroup
	failures := make([]error, calls)
	for i := range calls {
		amount := s.signed + uint64(i+1)*price
		group.Go(func() {
			_, failures[i] = s.echo(ctx, &s.payer, amount, &samplev1.EchoRequest{Text: "one of eight"})
		})
	}
	group.Wait()
	if err := errors.Join(failures...); err != nil {
		return "", err
	}
	for range calls {
		s.paid()
	}
	return "all eight served", nil
}

// failingCall makes the service fail and waits until the client's state is what it was before.
func (s *story) failingCall(ctx context.Context) (string, error) {
	_, err := s.echo(ctx, &s.payer, s.signed+price, &samplev1.EchoRequest{
		Behaviour: &samplev1.Behaviour{Code: uint32(codes.DataLoss), Message: "the model is out of memory"},
	})
	if status.Code(err) != codes.DataLoss {
		return "", fmt.Errorf("the service should have failed with DataLoss: %w", orNothing(err))
	}
	tooLate := time.After(refundTimeout)
	for {
		state, err := s.state(ctx)
		if err != nil {
			return "", err
		}
		if state.Signed.Eq(uint256.NewInt(s.signed)) && state.Used == s.spent {
			return fmt.Sprintf("the service failed, the %d cogs came back", uint64(price)), nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tooLate:
			return "", fmt.Errorf("no refund: signed %s and spent %d, not %d and %d", state.Signed.Dec(), state.Used, s.signed, s.spent)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (s *story) state(ctx context.Context) (payer.State, error) {
	block, err := s.stage.chain.Client.BlockNumber(ctx)
	if err != nil {
		return payer.State{}, err
	}
	return s.payer.State(ctx, s.stage.connection, block)
}

func (s *story) strangersCall(ctx context.Context) (string, error) {
	stranger := s.payer
	stranger.Key = s.stage.chain.Account("stranger").Key
	_, err := s.echo(ctx, &stranger, s.signed+price, &samplev1.EchoRequest{Text: "put it on their bill"})
	return refused(err, codes.Unauthenticated)
}

func (s *story) spentAmount(ctx context.Context) (string, error) {
	_, err := s.echo(ctx, &s.payer, s.signed, &samplev1.EchoRequest{Text: "once more"})
	return refused(err, codes.Unauthenticated)
}

func (s *story) wrongNonce(ctx context.Context) (string, error) {
	wrong := s.payer
	wrong.Nonce.SetUint64(7)
	_, err := s.echo(ctx, &wrong, s.signed+price, &samplev1.EchoRequest{Text: "from the future"})
	return refused(err, codes.Code(envoy.CodeIncorrectNonce))
}

func (s *story) nearlyExpired(ctx context.Context) (string, error) {
	chain := s.stage.chain
	client := chain.Account("client")
	block, err := chain.Client.BlockNumber(ctx)
	if err != nil {
		return "", err
	}
	id, err := chain.OpenChannel(ctx, client, client.Address, chain.Account("provider").Address, group,
		uint256.NewInt(10*price), block+expirationThreshold/2)
	if err != nil {
		return "", err
	}
	expiring := payer.Payer{Key: client.Key, MPE: chain.MPE, Channel: id}
	_, err = s.echo(ctx, &expiring, price, &samplev1.EchoRequest{Text: "quick, before it ends"})
	return refused(err, codes.Unauthenticated)
}

// refused checks that a call was refused with the code that clients match on.
func refused(err error, want codes.Code) (string, error) {
	if status.Code(err) != want {
		return "", fmt.Errorf("refused with code %d was expected, but: %w", want, orNothing(err))
	}
	return fmt.Sprintf("code %d: %s", want, status.Convert(err).Message()), nil
}

func orNothing(err error) error {
	if err == nil {
		return errors.New("the call was answered OK")
	}
	return err
}
