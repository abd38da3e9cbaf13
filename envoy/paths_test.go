package envoy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sync/errgroup"

	"github.com/mpegate/mpegate/envoy"
)

// trickyPaths try to be one path for the choice of the route and another one for the service.
var trickyPaths = []string{
	"/pkg.Svc/Method",
	"//pkg.Svc/Method", "///pkg.Svc//Method", "/pkg.Svc//Method", "/./pkg.Svc/Method", "/pkg.Svc/./Method",
	"/pkg.Svc/../pkg.Svc/Method", "/../pkg.Svc/Method", "/../../pkg.Svc/Method", "/pkg.Svc/Method/..", "/pkg.Svc/Method/.",
	"/escrow./../pkg.Svc/Method", "/escrow.X/../pkg.Svc/Method", "/escrow.X/../..", "/escrow.X/Y/../../pkg.Svc/Method",
	"/escrow.X/./../pkg.Svc/Method", "/escrow.X//../pkg.Svc/Method", "/escrow.X/..;/pkg.Svc/Method", "/escrow.X;/../pkg.Svc/Method",
	"/escrow.X/%2e%2e/pkg.Svc/Method", "/escrow.X/%2E%2E/pkg.Svc/Method", "/escrow.X/.%2e/pkg.Svc/Method", "/escrow.X/%2e./pkg.Svc/Method",
	"/escrow.X/%252e%252e/pkg.Svc/Method", "/escrow.X%2f..%2fpkg.Svc/Method", "/escrow.X%2F..%2Fpkg.Svc/Method",
	"/escrow.X/..%2fpkg.Svc/Method", "/escrow.X/..%5cpkg.Svc/Method", "/escrow.X/..\\pkg.Svc\\Method", "/escrow.X\\..\\pkg.Svc/Method",
	"/escrow.X/%c0%ae%c0%ae/pkg.Svc/Method", "/escrow.X/%u002e%u002e/pkg.Svc/Method", "/escrow.X/..%00/pkg.Svc/Method",
	"/escrow%2e/../pkg.Svc/Method", "/%65scrow.X/../pkg.Svc/Method", "/ESCROW.X/Method", "/Escrow.X/../pkg.Svc/Method",
	"/grpc.health.v1.Health/../pkg.Svc/Method", "/grpc.health.v1.Health/%2e%2e/pkg.Svc/Method", "/grpc.health.v1.Health./Check",
	"/GRPC.health.v1.Health/Check", "/grpc.health.v1.Health", "/grpc.health.v1.Healthx/Check",
	"/configuration_service.ConfigurationService/../pkg.Svc/Method",
	"/pkg.Svc/Method;escrow.X", "/pkg.Svc;/escrow.X/Method", "/pkg.Svc/Method.", "/pkg.Svc./Method", "/pkg.Svc/Method...",
	"/pkg.Svc/Method?/escrow.X/", "/pkg.Svc/Method?x=/../escrow.X", "/?/escrow.X/Y", "/pkg.Svc/Method#/escrow.X", "/#/escrow.X",
	"/PKG.SVC/METHOD", "/pkg.Svc/Meth%6fd", "/pkg%2eSvc/Method", "/pkg.Svc%2fMethod", "/pkg.Svc%5cMethod", "/pkg.Svc\\Method",
	"/", "*", "pkg.Svc/Method", "escrow.X/../pkg.Svc/Method", "/pkg.Svc/Method\tescrow", "/pkg.Svc/\xc3\xa9", "/%",
}

// absoluteForms are request targets that only HTTP/1.1 has.
var absoluteForms = []string{
	"http://escrow.X/pkg.Svc/Method", "http://h/escrow.X/../pkg.Svc/Method", "http://h//pkg.Svc/Method", "HTTP://h/pkg.Svc/Method",
	"http://h", "http://h?/escrow.X/Y", "https://h/escrow.X/%2e%2e/pkg.Svc/Method", "http:///escrow.X/../pkg.Svc/Method",
}

// trickyTypes are content types that a service may take for gRPC.
var trickyTypes = []string{
	"application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8", "application/grpc-web", "application/grpc-web+proto",
	"application/grpc-web-text", "application/grpc-web-text+proto", "Application/gRPC", "APPLICATION/GRPC", "application/grpc ",
	"application/grpc\t;x", "application/grpcx", "application/grpc/", "application/json", "application/grpc, application/grpc", "",
}

// No request reaches the service when authz denies all, whatever its path, content type or protocol.
func TestNothingReachesTheServiceUnpaid(t *testing.T) {
	r := newRig(t, nil)
	r.authz.will(func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		return envoy.Deny(envoy.CodeUnauthenticated, "no"), nil
	})
	var requests errgroup.Group
	requests.SetLimit(32) // Envoy takes a second to close after a request that it cannot parse
	send := func(one func(*testing.T, string, string, string), method, target, kind string) {
		requests.Go(func() error { one(t, method, target, kind); return nil })
	}
	for _, kind := range trickyTypes {
		for _, target := range slices.Concat(trickyPaths, absoluteForms) {
			send(r.http1, http.MethodPost, target, kind)
		}
		for _, path := range trickyPaths {
			send(r.http2, http.MethodPost, path, kind)
		}
	}
	for _, method := range []string{"GET", "PUT", "CONNECT", "OPTIONS", "HEAD", "PRI", "post"} {
		for _, target := range []string{"/pkg.Svc/Method", "/escrow.X/../pkg.Svc/Method", "http://h/pkg.Svc/Method", "*"} {
			send(r.http1, method, target, "application/grpc")
			send(r.http2, method, target, "application/grpc")
		}
	}
	_ = requests.Wait()
	if r.authz.checkCount() == 0 {
		t.Error("authz was never asked: the requests did not get as far as the test means them to")
	}
	if r.service.count() != 0 {
		t.Errorf("%d requests reached the service unpaid, the last as %q", r.service.count(), r.service.lastRequest(t).RequestURI)
	}
}

// The path that authz is asked about, and prices, is the one that the service gets.
func TestServiceGetsTheCheckedPath(t *testing.T) {
	r := newRig(t, nil)
	seen := 0
	same := func(t *testing.T, path string) {
		t.Helper()
		if r.service.count() == seen {
			return // refused by Envoy, or by the service's own parser
		}
		seen = r.service.count()
		request, check := r.service.lastRequest(t), r.authz.lastCheck(t)
		if request.RequestURI != check.GetPath() || request.Header.Get(envoy.HeaderRequestID) != check.GetHeaders()[envoy.HeaderRequestID] {
			t.Errorf("%q: authz was asked about %q, the service got %q", path, check.GetPath(), request.RequestURI)
		}
	}
	for _, path := range trickyPaths {
		r.http2(t, http.MethodPost, path, "application/grpc")
		same(t, path)
		r.http1(t, http.MethodPost, path, "application/grpc")
		same(t, path)
	}
	for _, target := range absoluteForms {
		r.http1(t, http.MethodPost, target, "application/grpc-web+proto")
		same(t, target)
	}
	if r.service.count() < 10 {
		t.Errorf("only %d requests reached the service", r.service.count())
	}
}

// http1 sends one request as it is written, and returns once it is answered or the connection is closed.
func (r *rig) http1(t *testing.T, method, target, contentType string) {
	t.Helper()
	connection := r.connect(t)
	defer func() { _ = connection.Close() }()
	_, err := fmt.Fprintf(connection, "%s %s HTTP/1.1\r\nhost: h\r\ncontent-type: %s\r\nx-grpc-web: 1\r\ncontent-length: 5\r\n\r\n\x00\x00\x00\x00\x00",
		method, target, contentType)
	if err != nil {
		return // Envoy closed it while we wrote
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
}

// http2 does the same in HTTP/2, frame by frame, since no library would send such paths.
func (r *rig) http2(t *testing.T, method, path, contentType string) {
	t.Helper()
	connection := r.connect(t)
	defer func() { _ = connection.Close() }()
	_, _ = io.WriteString(connection, http2.ClientPreface)
	framer := http2.NewFramer(connection, connection)
	_ = framer.WriteSettings()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", method}, {":scheme", "http"}, {":authority", "h"}, {":path", path},
		{"content-type", contentType}, {"te", "trailers"},
	} {
		_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	_ = framer.WriteData(1, true, []byte{0, 0, 0, 0, 0})
	for {
		received, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch received := received.(type) {
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return
		case *http2.HeadersFrame:
			if received.StreamEnded() {
				return
			}
		case *http2.DataFrame:
			if received.StreamEnded() {
				return
			}
		}
	}
}

func (r *rig) connect(t *testing.T) net.Conn {
	t.Helper()
	connection, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Error(err)
		return &net.TCPConn{}
	}
	_ = connection.SetDeadline(time.Now().Add(patience))
	return connection
}
