package envoy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/envoy"
	"github.com/mpegate/mpegate/envoy/bootstrap"
)

// A service with TLS is called when its certificate is for its name and from a trusted authority, else not.
func TestServiceWithTLS(t *testing.T) {
	own, ownFile := selfSigned(t, "localhost")
	_, otherFile := selfSigned(t, "localhost")
	elsewhere, elsewhereFile := selfSigned(t, "elsewhere.example")
	for name, c := range map[string]struct {
		certificate tls.Certificate
		host, ca    string
		want        codes.Code
	}{
		"good":            {own, "localhost", ownFile, codes.OK},
		"good by address": {own, "127.0.0.1", ownFile, codes.OK},
		"not trusted":     {own, "localhost", otherFile, codes.Unavailable},
		"for another":     {elsewhere, "localhost", elsewhereFile, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			service := &fakeService{arrived: make(chan string, 10)}
			server := &http.Server{
				Handler: service, TLSConfig: &tls.Config{Certificates: []tls.Certificate{c.certificate}},
				ErrorLog: log.New(io.Discard, "", 0), // refused handshakes are two of the cases
			}
			address := serve(t, func(l net.Listener) error { return server.ServeTLS(l, "", "") })
			t.Cleanup(func() { _ = server.Close() })
			r := newRig(t, func(s *bootstrap.Settings) {
				s.Service = bootstrap.Service{Host: c.host, Port: address.Port, TLS: true, CAFile: c.ca}
			})
			_, err := call(t.Context(), r.dial(t), "/test.Service/OK")
			if status.Code(err) != c.want {
				t.Errorf("got %v", err)
			}
			if want := (envoy.Address{Host: c.host, Port: address.Port}).String(); c.want == codes.OK && service.lastRequest(t).Host != want {
				t.Errorf("the service was asked as %q, want %q", service.lastRequest(t).Host, want)
			}
		})
	}
}

// selfSigned makes a certificate for a name and the loopback address, and a file with it.
func selfSigned(t *testing.T, name string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{certificate}, PrivateKey: key}, file
}
