// Package bootstrap renders Envoy's configuration from settings: one commented template, one file, nothing
// dynamic. What the text looks like for each meaningful setting is in testdata.
package bootstrap

import (
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/mpegate/mpegate/envoy"
)

// Settings are all that the configuration depends on.
type Settings struct {
	NodeID string // in Envoy's own logs and metrics; empty means "mpegate"

	Public  envoy.Address // where clients connect: an IP address and port; port 0 means any free one
	Service Service
	Authz   envoy.Address
	Admin   envoy.Address // loopback or a Unix socket; port 0 means any free one

	// ServiceTimeout bounds a whole call, streaming ones too; a client's earlier deadline counts, a later one does not.
	ServiceTimeout time.Duration
	// MaxMessageSize in bytes. Envoy refuses requests that announce more by content-length, as browsers do;
	// otherwise the service itself has to refuse a message that is too large.
	MaxMessageSize int64

	Envoy envoy.Settings
}

// Service is the paid service.
type Service struct {
	Host string
	Port uint16
	TLS  bool
	// CAFile holds the certificates that the service's one must come from, as PEM; empty means the system's.
	CAFile string
}

// ListenerName is the name of the public listener in the configuration.
const ListenerName = "public"

// Validate reports every fault at once.
func (s *Settings) Validate() error {
	var faults []error
	check := func(good bool, format string, values ...any) {
		if !good {
			faults = append(faults, fmt.Errorf(format, values...))
		}
	}
	check(s.Public.Path == "" && (s.Public.Host == "localhost" || !s.Public.IsName()),
		"the public listener is %q: Envoy listens on an IP address, such as 0.0.0.0:8080 for all or 127.0.0.1:8080", s.Public)
	check(s.Service.Host != "" && s.Service.Port != 0, "the service has no host or no port: write host:port")
	check(s.Authz.Path != "" || s.Authz.Host != "" && s.Authz.Port != 0, "authz has no address: write host:port or unix:/path")
	check(s.Admin.Local(), "Envoy's admin interface is %q: whoever reaches it controls Envoy; use 127.0.0.1:PORT or unix:/path", s.Admin)
	check(s.ServiceTimeout >= time.Millisecond && s.ServiceTimeout <= 24*time.Hour,
		"the service timeout is %s: use a time from 1ms to 24h", s.ServiceTimeout)
	check(s.MaxMessageSize >= 1 && s.MaxMessageSize <= math.MaxInt32,
		"the maximum message size is %d: use a number of bytes from 1 to %d", s.MaxMessageSize, math.MaxInt32)
	if s.Service.TLS && s.Service.CAFile == "" {
		check(systemCAFile() != "", "no file of trusted certificates was found on this machine: name one for the TLS service")
	}
	return errors.Join(errors.Join(faults...), s.Envoy.Validate())
}

// systemCAFile is where this system keeps the certificates that it trusts; empty when it is nowhere known.
func systemCAFile() string {
	for _, file := range []string{
		os.Getenv("SSL_CERT_FILE"),                          // what other programs are told by
		"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Alpine
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
		"/etc/ssl/ca-bundle.pem",                            // openSUSE
		"/etc/ssl/cert.pem",                                 // macOS, BSD
	} {
		if info, err := os.Stat(file); file != "" && err == nil && info.Mode().IsRegular() {
			return file
		}
	}
	return ""
}
