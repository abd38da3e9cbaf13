package envoy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/envoy"
	"github.com/mpegate/mpegate/envoy/bootstrap"
)

// hostile is what a client may send to be taken for somebody else, or to turn Envoy's knobs.
func hostile(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx,
		envoy.HeaderUserAddress, "0xEvil", envoy.HeaderUserAddress, "0xEvilToo", envoy.HeaderDaemonDebug, "x",
		envoy.HeaderChannelSignature, "signature", envoy.HeaderPrepaidToken, "token", envoy.HeaderFreeCallToken, "token",
		envoy.HeaderChannelID, "7", envoy.HeaderUserInfo, "somebody", "my-header", "mine", "my_header", "mine too",
		envoy.HeaderRequestID, "chosen-by-client", "cookie", "secret", "x-forwarded-for", "203.0.113.9",
		"x-envoy-max-retries", "9", "x-envoy-retry-on", "5xx", "x-envoy-upstream-rq-timeout-ms", "1",
		"x-envoy-internal", "true", "x-envoy-external-address", "203.0.113.9", "x-envoy-original-path", "/escrow.X/Y")
}

func TestHeadersOnTheWayToTheService(t *testing.T) {
	r := newRig(t, nil)
	connection := r.dial(t)
	cases := map[string]struct {
		set  []envoy.Header
		want []string // snet-user-address at the service
	}{
		"paid":    {[]envoy.Header{{Name: envoy.HeaderUserAddress, Value: "0xPayer"}}, []string{"0xPayer"}},
		"no name": {nil, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r.authz.will(func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
				return envoy.Allow(c.set, []string{"my-header"}, nil), nil
			})
			if _, err := call(hostile(t.Context()), connection, "/test.Service/OK"); err != nil {
				t.Fatal(err)
			}
			got := r.service.lastRequest(t).Header
			if values := got.Values(envoy.HeaderUserAddress); !slices.Equal(values, c.want) {
				t.Errorf("the service got %s %q, want %q", envoy.HeaderUserAddress, values, c.want)
			}
			for _, header := range slices.Concat(envoy.SpendableHeaders, []string{envoy.HeaderDaemonDebug, "my-header",
				"x-envoy-max-retries", "x-envoy-retry-on", "x-envoy-upstream-rq-timeout-ms", "x-envoy-internal"}) {
				if values := got.Values(header); len(values) > 0 {
					t.Errorf("the service got %s %q", header, values)
				}
			}
			for header, want := range map[string]string{envoy.HeaderChannelID: "7", envoy.HeaderUserInfo: "somebody", "my_header": "mine too"} {
				if values := got.Values(header); !slices.Equal(values, []string{want}) {
					t.Errorf("the service got %s %q, want %q", header, values, want)
				}
			}
		})
	}
}

// authz is asked with what it needs, and with nothing that a client made up about itself.
func TestHeadersOnTheWayToAuthz(t *testing.T) {
	r := newRig(t, nil)
	if _, err := call(hostile(t.Context()), r.dial(t), "/test.Service/OK"); err != nil {
		t.Fatal(err)
	}
	check := r.authz.lastCheck(t)
	headers := check.GetHeaders()
	if id := headers[envoy.HeaderRequestID]; id == "" || strings.Contains(id, "chosen-by-client") {
		t.Errorf("the client chose the request id %q", id)
	}
	if ip := envoy.ClientIP(r.authz.lastRequest()); ip != "127.0.0.1" {
		t.Errorf("authz was told the client's address is %s", ip)
	}
	for name := range headers {
		if !slices.Contains(envoy.CheckHeaders, name) {
			t.Errorf("authz was sent %s", name)
		}
	}
	signature, err := envoy.DecodeBinary(headers[envoy.HeaderChannelSignature])
	if err != nil || string(signature) != "signature" {
		t.Errorf("authz got the signature %q, %v", signature, err)
	}
	if check.GetBody() != "" || check.GetPath() != "/test.Service/OK" {
		t.Errorf("authz got %v", check)
	}
}

// The address of a client behind proxies is the one that the nearest trusted proxy saw.
func TestTrustedProxies(t *testing.T) {
	r := newRig(t, func(s *bootstrap.Settings) { s.Envoy.TrustedProxies = 1 })
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-for", "203.0.113.1, 203.0.113.2")
	if _, err := call(ctx, r.dial(t), "/test.Service/OK"); err != nil {
		t.Fatal(err)
	}
	if ip := envoy.ClientIP(r.authz.lastRequest()); ip != "203.0.113.2" {
		t.Errorf("authz was told the client's address is %s", ip)
	}
}

func TestRepeatedHeadersAreJoined(t *testing.T) {
	r := newRig(t, nil)
	ctx := metadata.AppendToOutgoingContext(t.Context(), envoy.HeaderChannelID, "1", envoy.HeaderChannelID, "2",
		envoy.HeaderChannelSignature, "one", envoy.HeaderChannelSignature, "two")
	if _, err := call(ctx, r.dial(t), "/test.Service/OK"); err != nil {
		t.Fatal(err)
	}
	headers := r.authz.lastCheck(t).GetHeaders()
	if headers[envoy.HeaderChannelID] != "1,2" {
		t.Errorf("authz got the channel id %q", headers[envoy.HeaderChannelID])
	}
	if _, err := envoy.DecodeBinary(headers[envoy.HeaderChannelSignature]); err != envoy.ErrTwoValues {
		t.Errorf("two signatures: %v", err)
	}
}

// Every kind of client sees the code and the message of a refusal, once.
func TestRefusalsReachClients(t *testing.T) {
	r := newRig(t, nil)
	connection := r.dial(t)
	for code, message := range map[envoy.Code]string{
		envoy.CodeUnauthenticated: "payment signature is not valid", envoy.CodeIncorrectNonce: "incorrect payment channel nonce, latest: 1, sent: 0",
		envoy.CodeInvalidArgument: "é 100%\n", envoy.CodeUnavailable: "",
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			r.authz.will(func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
				return envoy.Deny(code, message), nil
			})
			_, err := call(t.Context(), connection, "/test.Service/OK")
			if got := status.Convert(err); envoy.Code(got.Code()) != code || got.Message() != message {
				t.Errorf("gRPC: %v", err)
			}
			for _, kind := range []string{"application/grpc-web+proto", "application/grpc-web-text"} {
				response, body := r.web(t, "/test.Service/OK", kind)
				if got := response.Header.Values("grpc-status"); !slices.Equal(got, []string{fmt.Sprint(code)}) || len(body) != 0 {
					t.Errorf("%s: grpc-status %q, body %q", kind, got, body)
				}
				if got := response.Header.Values("grpc-message"); len(got) > 1 || response.Header.Get("grpc-message") != envoy.EncodeMessage(message) {
					t.Errorf("%s: grpc-message %q", kind, got)
				}
				if response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("content-type"), "application/grpc-web") {
					t.Errorf("%s: %s, %v", kind, response.Status, response.Header)
				}
			}
		})
	}
	if r.service.count() != 0 {
		t.Error("a refused call reached the service")
	}
}

// A reply that decides nothing must not go out: Envoy takes it for a yes.
func TestEnvoyTakesAnEmptyReplyForYes(t *testing.T) {
	r := newRig(t, nil)
	connection := r.dial(t)
	for _, guarded := range []bool{false, true} {
		r.authz.will(func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
			empty := &authv3.CheckResponse{}
			if guarded {
				return envoy.OrDeny(empty), nil
			}
			return empty, nil
		})
		_, err := call(t.Context(), connection, "/test.Service/OK")
		if want := map[bool]codes.Code{false: codes.OK, true: codes.Internal}[guarded]; status.Code(err) != want {
			t.Errorf("guarded %t: %v", guarded, err)
		}
	}
}

func TestUnpaidServices(t *testing.T) {
	r := newRig(t, nil)
	connection := r.dial(t)
	for _, path := range []string{
		"/escrow.PaymentChannelStateService/GetChannelState", "/escrow.TokenService/GetToken", "/grpc.health.v1.Health/Check",
		"/grpc.health.v1.Health/Watch", "/configuration_service.ConfigurationService/GetConfiguration",
	} {
		if messages, err := call(t.Context(), connection, path); err != nil || len(messages) != 1 || !strings.Contains(messages[0], "authz "+path) {
			t.Errorf("%s: %q, %v", path, messages, err)
		}
		if _, body := r.web(t, path, "application/grpc-web+proto"); !strings.Contains(string(body), "authz "+path) {
			t.Errorf("%s over gRPC-Web: %q", path, body)
		}
	}
	if r.authz.checkCount() != 0 || r.service.count() != 0 {
		t.Error("an unpaid call was checked, or reached the service")
	}
}

// What is no gRPC call is answered at the edge.
func TestEverythingElseIsNotFound(t *testing.T) {
	r := newRig(t, nil)
	for _, target := range []string{"/", "/heartbeat", "/test.Service/OK", "/escrow.TokenService/GetToken"} {
		response, err := http.Get("http://" + r.address + target)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusNotFound || string(body) != "404 page not found\n" {
			t.Errorf("GET %s: %s, %q, %v", target, response.Status, body, err)
		}
	}
	if r.authz.checkCount() != 0 || r.service.count() != 0 {
		t.Error("a page was checked, or reached the service")
	}
}

// A message that announces too large a size is refused before authz is asked; one that fits is not.
func TestAnnouncedMessageSize(t *testing.T) {
	const size = 30
	r := newRig(t, func(s *bootstrap.Settings) { s.MaxMessageSize = size })
	send := func(kind string, length int) *http.Response {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.address+"/test.Service/OK", strings.NewReader(strings.Repeat("A", length)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("content-type", kind)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response
	}
	for kind, fits := range map[string]int{"application/grpc-web": size + 5, "application/grpc-web+proto": size + 5, "application/grpc-web-text": 48} {
		checks := r.authz.checkCount()
		if response := send(kind, fits+1); response.Header.Get("grpc-status") != "8" || r.authz.checkCount() != checks {
			t.Errorf("%s too large: %v", kind, response.Header)
		}
		if send(kind, fits); r.authz.checkCount() != checks+1 {
			t.Errorf("%s that fits was not checked", kind)
		}
	}
}

func TestLimits(t *testing.T) {
	r := newRig(t, func(s *bootstrap.Settings) {
		s.Envoy.Limits.RequestHeaderBytes = 8 << 10
		s.Envoy.Limits.RequestHeaderCount = 30
		s.Envoy.Limits.RequestHeadersTimeout = 200 * time.Millisecond
		s.Envoy.Limits.Connections = 2
	})
	t.Run("header bytes", func(t *testing.T) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "large", strings.Repeat("x", 9<<10))
		if _, err := call(ctx, r.dial(t), "/test.Service/OK"); err == nil {
			t.Error("9 KiB of headers passed")
		}
	})
	t.Run("header count", func(t *testing.T) {
		ctx := t.Context()
		for i := range 40 {
			ctx = metadata.AppendToOutgoingContext(ctx, fmt.Sprintf("header-%d", i), "x")
		}
		if _, err := call(ctx, r.dial(t), "/test.Service/OK"); err == nil {
			t.Error("40 headers passed")
		}
	})
	t.Run("slow headers", func(t *testing.T) {
		connection := r.connect(t)
		defer func() { _ = connection.Close() }()
		if _, err := io.WriteString(connection, "POST /test.Service/OK HTTP/1.1\r\nhost: h\r\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(connection)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") {
			t.Errorf("a client that does not go on got %q, %v", answer, err)
		}
	})
	t.Run("connections", func(t *testing.T) {
		for range 2 {
			connection := r.connect(t)
			defer func() { _ = connection.Close() }()
		}
		// Envoy counts a connection when it accepts it, so the one too many is refused at the latest when both are accepted.
		extra := r.connect(t)
		defer func() { _ = extra.Close() }()
		if n, err := extra.Read(make([]byte, 1)); err == nil {
			t.Errorf("a third connection got %d bytes", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := r.envoy.Ready(ctx); err != nil {
			t.Errorf("readiness is not seen while connections are used up: %v", err)
		}
	})
	if r.service.count() != 0 {
		t.Error("a request over the limits reached the service")
	}
}
