package envoy_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/envoy"
	"github.com/mpegate/mpegate/envoy/bootstrap"
)

// ending is what of a LogEntry decides about a refund.
type ending struct {
	charged     bool
	status      envoy.Code
	statusKnown bool
	messages    bool // bytes of messages were delivered
	clientGone  bool
	authzFailed bool
}

func endingOf(entry envoy.LogEntry) ending {
	return ending{entry.Charged != nil, entry.Status, entry.StatusKnown, entry.MessageBytes > 0, entry.ClientGone, entry.AuthzFailed}
}

// expectEnding waits for the report of a call and compares it.
func (r *rig) expectEnding(t *testing.T, path string, want ending) {
	t.Helper()
	entry := envoy.ReadLogEntry(r.authz.entry(t))
	if entry.Path != path {
		t.Fatalf("Envoy reported %s, want %s", entry.Path, path)
	}
	if got := endingOf(entry); got != want {
		t.Errorf("%s ended as %+v, want %+v (%s, flags %v)", path, got, want, entry.Details, entry.Flags)
	}
	if sent := r.authz.lastCheck(t).GetHeaders()[envoy.HeaderRequestID]; entry.RequestID == "" || entry.RequestID != sent {
		t.Errorf("%s: request id %q in the log, %q in the check", path, entry.RequestID, sent)
	}
	if entry.Charged != nil && entry.Charged.ID != "charge-"+entry.RequestID {
		t.Errorf("%s: charge %q of another call, request id %q", path, entry.Charged.ID, entry.RequestID)
	}
}

// expectNoReport makes a call that is reported, and finds nothing reported before it. Envoy runs with one
// worker thread here, so reports come in order.
func (r *rig) expectNoReport(t *testing.T, connection *grpc.ClientConn) {
	t.Helper()
	r.authz.will(charge)
	const sentinel = "/test.Sentinel/Fail"
	_, _ = call(t.Context(), connection, sentinel)
	if entry := envoy.ReadLogEntry(r.authz.entry(t)); entry.Path != sentinel {
		t.Fatalf("Envoy reported %+v, which it should not", entry)
	}
}

// What the service does, as gRPC, and as gRPC-Web where the log has to know the same.
func TestReportsOfServiceAnswers(t *testing.T) {
	r := newRig(t, nil)
	connection := r.dial(t)
	cases := map[string]*ending{
		"OK":             nil,
		"Fail":           {charged: true, status: 9, statusKnown: true},
		"FailAfter":      {charged: true, status: 9, statusKnown: true, messages: true},
		"Custom":         {charged: true, status: 1000, statusKnown: true},
		"Cancelled":      {charged: true, status: 1, statusKnown: true},
		"CancelledAfter": {charged: true, status: 1, statusKnown: true, messages: true},
		"NoStatus":       {charged: true, status: 2, statusKnown: true, messages: true},
		"BadStatus":      {charged: true, status: 2, statusKnown: true, messages: true},
		"Page":           {charged: true, status: 2, statusKnown: true},
		"Reset":          {charged: true, status: 14, statusKnown: true},
		"ResetAfter":     {charged: true, status: 2, statusKnown: false, messages: true},
	}
	kinds := map[string]func(path string){
		"grpc":     func(path string) { _, _ = call(t.Context(), connection, path) },
		"grpc-web": func(path string) { r.web(t, path, "application/grpc-web+proto") },
		"text":     func(path string) { r.web(t, path, "application/grpc-web-text") },
	}
	for kind, make := range kinds {
		for method, want := range cases {
			t.Run(kind+"/"+method, func(t *testing.T) {
				path := "/test.Service/" + method
				make(path)
				if want == nil {
					r.expectNoReport(t, connection)
				} else {
					r.expectEnding(t, path, *want)
				}
			})
		}
	}
}

// The client goes away: before an answer, after its headers, after messages.
func TestReportsOfClientsThatGo(t *testing.T) {
	r := newRig(t, nil)
	connection := r.dial(t)
	cases := map[string]struct {
		await    func(grpc.ClientStream) error // what the client has when it goes
		messages bool
	}{
		"Silent":         {func(grpc.ClientStream) error { return nil }, false},
		"SilentHeaders":  {func(s grpc.ClientStream) error { _, err := s.Header(); return err }, false},
		"SilentMessages": {func(s grpc.ClientStream) error { return s.RecvMsg(&reply{}) }, true},
	}
	for method, c := range cases {
		t.Run(method, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			path := "/test.Service/" + method
			stream, err := open(ctx, connection, path)
			if err != nil {
				t.Fatal(err)
			}
			for <-r.service.arrived != method {
			}
			if err := c.await(stream); err != nil {
				t.Fatal(err)
			}
			cancel()
			r.expectEnding(t, path, ending{charged: true, status: 2, messages: c.messages, clientGone: true})
		})
	}
}

// A browser's page is closed: the HTTP/1.1 connection breaks.
func TestReportOfClosedConnection(t *testing.T) {
	r := newRig(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const path = "/test.Service/SilentMessages"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("content-type", "application/grpc-web+proto")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := response.Body.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = response.Body.Close()
	r.expectEnding(t, path, ending{charged: true, status: 2, messages: true, clientGone: true})
}

// The time that a call may take is over.
func TestReportsOfTimeouts(t *testing.T) {
	r := newRig(t, func(s *bootstrap.Settings) { s.ServiceTimeout = 300 * time.Millisecond })
	connection := r.dial(t)
	for method, want := range map[string]ending{
		"Silent":         {charged: true, status: 4, statusKnown: true},
		"SilentHeaders":  {charged: true, status: 2},
		"SilentMessages": {charged: true, status: 2, messages: true},
	} {
		t.Run(method, func(t *testing.T) {
			path := "/test.Service/" + method
			if _, err := call(t.Context(), connection, path); err == nil {
				t.Error("the call went on for ever and ended well")
			}
			r.expectEnding(t, path, want)
		})
	}
	t.Run("gRPC-Web", func(t *testing.T) {
		response, _ := r.web(t, "/test.Service/Silent", "application/grpc-web+proto")
		if response.StatusCode != http.StatusOK || response.Header.Get("grpc-status") != "4" {
			t.Errorf("%s, %v", response.Status, response.Header)
		}
		r.expectEnding(t, "/test.Service/Silent", ending{charged: true, status: 4, statusKnown: true})
	})
	t.Run("during Check", func(t *testing.T) {
		r.authz.will(func(ctx context.Context, _ *authv3.CheckRequest) (*authv3.CheckResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		_, err := call(t.Context(), connection, "/test.Service/OK")
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("the client got %v", err)
		}
		r.expectEnding(t, "/test.Service/OK", ending{status: 4, statusKnown: true})
	})
}

func TestReportOfUnreachableService(t *testing.T) {
	r := newRig(t, func(s *bootstrap.Settings) {
		address := unusedAddress(t)
		s.Service = bootstrap.Service{Host: address.Host, Port: address.Port}
	})
	_, err := call(t.Context(), r.dial(t), "/test.Service/OK")
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the client got %v", err)
	}
	r.expectEnding(t, "/test.Service/OK", ending{charged: true, status: 14, statusKnown: true})
}

// More calls than the service may get at once: refused by Envoy, after the payment.
func TestReportOfOverflow(t *testing.T) {
	r := newRig(t, func(s *bootstrap.Settings) { s.Envoy.Limits.ServiceRequests = 1 })
	connection := r.dial(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := open(ctx, connection, "/test.Service/Silent"); err != nil {
		t.Fatal(err)
	}
	for <-r.service.arrived != "Silent" {
	}
	_, err := call(t.Context(), connection, "/test.Service/OK")
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the client got %v", err)
	}
	r.expectEnding(t, "/test.Service/OK", ending{charged: true, status: 14, statusKnown: true})
}

// authz has charged, but Envoy no longer listens: the report has no charge, only the request id.
func TestReportsOfLostAnswers(t *testing.T) {
	r := newRig(t, func(s *bootstrap.Settings) { s.Envoy.Limits.AuthzTimeout = 300 * time.Millisecond })
	connection := r.dial(t)
	asked, release := make(chan struct{}, 1), make(chan struct{})
	late := func(ctx context.Context, request *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		asked <- struct{}{}
		<-release // the charge is made, and nobody is there to hear of it
		return charge(ctx, request)
	}
	t.Run("client gone during Check", func(t *testing.T) {
		r.authz.will(late)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if _, err := open(ctx, connection, "/test.Service/OK"); err != nil {
			t.Fatal(err)
		}
		<-asked
		cancel()
		r.expectEnding(t, "/test.Service/OK", ending{status: 2, clientGone: true})
		release <- struct{}{}
	})
	t.Run("authz too slow", func(t *testing.T) {
		r.authz.will(late)
		_, err := call(t.Context(), connection, "/test.Service/OK")
		if status.Code(err) != codes.Unavailable {
			t.Errorf("the client got %v", err)
		}
		<-asked
		r.expectEnding(t, "/test.Service/OK", ending{status: 14, statusKnown: true, authzFailed: true})
		release <- struct{}{}
	})
	t.Run("authz fails", func(t *testing.T) {
		r.authz.will(func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
			return nil, status.Error(codes.Internal, "broken")
		})
		_, err := call(t.Context(), connection, "/test.Service/OK")
		if status.Code(err) != codes.Unavailable {
			t.Errorf("the client got %v", err)
		}
		r.expectEnding(t, "/test.Service/OK", ending{status: 14, statusKnown: true, authzFailed: true})
	})
	if r.service.count() != 0 {
		t.Error("an undecided call reached the service")
	}
}

// Calls that took nothing are not reported: refusals, unpaid services, pages, preflights.
func TestNoReportWithoutCharge(t *testing.T) {
	r := newRig(t, nil)
	connection := r.dial(t)
	refuse := func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		return envoy.Deny(envoy.CodeUnauthenticated, "no"), nil
	}
	r.authz.will(refuse)
	_, err := call(t.Context(), connection, "/test.Service/OK")
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("refused call: %v", err)
	}
	r.expectNoReport(t, connection)

	r.authz.will(refuse)
	r.web(t, "/test.Service/OK", "application/grpc-web+proto")
	r.expectNoReport(t, connection)

	if messages, err := call(t.Context(), connection, "/escrow.PaymentChannelStateService/GetChannelState"); err != nil || len(messages) != 1 {
		t.Errorf("unpaid service: %v, %v", messages, err)
	}
	r.expectNoReport(t, connection)

	r.web(t, "/test.Service/OK", "text/plain")
	r.expectNoReport(t, connection)

	// An allowed call without a charge (nothing to pay) that fails has nothing to give back.
	r.authz.will(func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		return envoy.Allow(nil, nil, nil), nil
	})
	_, _ = call(t.Context(), connection, "/test.Service/Fail")
	r.expectNoReport(t, connection)
}
