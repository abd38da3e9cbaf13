package sample

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
)

const (
	maxDelay     = 10 * time.Minute
	maxPadding   = 64 << 20
	maxCount     = 1_000_000
	maxCollected = 1 << 20 // bytes of text
)

// Echo answers with the text and the headers of the request.
func (s *Server) Echo(ctx context.Context, request *samplev1.EchoRequest) (*samplev1.EchoReply, error) {
	padding, err := s.behave(ctx, request.GetBehaviour())
	if err != nil {
		return nil, err
	}
	return &samplev1.EchoReply{Text: request.GetText(), Headers: headers(ctx), Padding: padding}, nil
}

// Count answers with messages numbered from 1 and then does as it was asked.
func (s *Server) Count(request *samplev1.CountRequest, stream grpc.ServerStreamingServer[samplev1.CountReply]) error {
	ctx := stream.Context()
	if request.GetCount() > maxCount {
		return status.Errorf(codes.InvalidArgument, "count is %d, the most is %d", request.GetCount(), maxCount)
	}
	padding, err := pad(request.GetBehaviour().GetSize())
	if err != nil {
		return err
	}
	for number := uint32(1); number <= request.GetCount(); number++ {
		if err := wait(ctx, request.GetInterval()); err != nil {
			return err
		}
		reply := &samplev1.CountReply{Number: number, Padding: padding}
		if number == 1 {
			reply.Headers = headers(ctx)
		}
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
	_, err = s.behave(ctx, request.GetBehaviour())
	return err
}

// Collect answers with all texts once the client has sent them, or with the
// first failure that a message asks for.
func (s *Server) Collect(stream grpc.ClientStreamingServer[samplev1.EchoRequest, samplev1.CollectReply]) error {
	ctx := stream.Context()
	var text strings.Builder
	reply := &samplev1.CollectReply{Headers: headers(ctx)}
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			reply.Text = text.String()
			return stream.SendAndClose(reply)
		}
		if err != nil {
			return err
		}
		if text.Len()+len(request.GetText()) > maxCollected {
			return status.Errorf(codes.ResourceExhausted, "the texts are longer than %d bytes", maxCollected)
		}
		text.WriteString(request.GetText())
		reply.Messages++
		if reply.Padding, err = s.behave(ctx, request.GetBehaviour()); err != nil {
			return err
		}
	}
}

// Chat answers each message until the client has sent its last.
func (s *Server) Chat(stream grpc.BidiStreamingServer[samplev1.EchoRequest, samplev1.EchoReply]) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		reply, err := s.Echo(stream.Context(), request)
		if err != nil {
			return err
		}
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
}

// Calls answers with the counters.
func (s *Server) Calls(context.Context, *samplev1.CallsRequest) (*samplev1.CallsReply, error) {
	return &samplev1.CallsReply{Paths: s.counters.snapshot()}, nil
}

// behave waits and fails as asked, and returns the padding of a good reply.
func (s *Server) behave(ctx context.Context, behaviour *samplev1.Behaviour) ([]byte, error) {
	if err := wait(ctx, behaviour.GetDelay()); err != nil {
		return nil, err
	}
	if behaviour.GetAbort() {
		caller, ok := peer.FromContext(ctx)
		if !ok || !s.connections.reset(caller.Addr) {
			return nil, status.Error(codes.Internal, "the connection to cut is not known")
		}
		<-ctx.Done() // the handler must not answer before the cut is seen
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if code := behaviour.GetCode(); code != 0 {
		message := behaviour.GetMessage()
		if message == "" {
			message = fmt.Sprintf("failing with code %d, as asked", code)
		}
		return nil, status.Error(codes.Code(code), message)
	}
	return pad(behaviour.GetSize())
}

func wait(ctx context.Context, delay *durationpb.Duration) error {
	if delay == nil {
		return nil
	}
	if err := delay.CheckValid(); err != nil || delay.AsDuration() < 0 || delay.AsDuration() > maxDelay {
		return status.Errorf(codes.InvalidArgument, "a wait must be from 0 to %s", maxDelay)
	}
	timer := time.NewTimer(delay.AsDuration())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

func pad(size uint32) ([]byte, error) {
	if size > maxPadding {
		return nil, status.Errorf(codes.InvalidArgument, "size is %d, the most is %d bytes", size, maxPadding)
	}
	if size == 0 {
		return nil, nil
	}
	return make([]byte, size), nil
}

// headers lists what came with the call, sorted, so that a test or a reader of
// the demo sees what the gate lets through.
func headers(ctx context.Context) []*samplev1.Header {
	incoming, _ := metadata.FromIncomingContext(ctx)
	var list []*samplev1.Header
	for name, values := range incoming {
		for _, value := range values {
			if strings.HasSuffix(name, "-bin") {
				value = base64.StdEncoding.EncodeToString([]byte(value))
			}
			list = append(list, &samplev1.Header{Name: name, Value: strings.ToValidUTF8(value, "\uFFFD")})
		}
	}
	slices.SortStableFunc(list, func(a, b *samplev1.Header) int { return strings.Compare(a.GetName(), b.GetName()) })
	return list
}
