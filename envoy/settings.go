package envoy

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Settings are what an operator may choose about Envoy itself. Addresses of the listener, the service and
// authz are not here: they belong to the parts that own them, and meet these in bootstrap.Settings.
type Settings struct {
	// Binary is the path of Envoy; empty means to look for it (see Find).
	Binary string `koanf:"binary"`
	// Concurrency is the number of worker threads; 0 means one for each core.
	Concurrency int `koanf:"concurrency"`
	// LogLevel is that of Envoy's own log: trace, debug, info, warning, error or critical.
	LogLevel string `koanf:"log_level"`
	// Admin is Envoy's admin interface: "host:port" on loopback, or "unix:/path". Whoever reaches it controls
	// Envoy. Empty means a free loopback port.
	Admin string `koanf:"admin"`
	// DrainTime is how long calls under way may go on after a stop was asked for.
	DrainTime time.Duration `koanf:"drain_time"`
	// TrustedProxies is the number of proxies in front of this Envoy whose X-Forwarded-For is believed.
	TrustedProxies int `koanf:"trusted_proxies"`
	// AccessLog is the file that gets one JSON line a call ("/dev/stdout" too); empty means none.
	AccessLog string `koanf:"access_log"`

	CORS   CORS   `koanf:"cors"`
	Limits Limits `koanf:"limits"`
}

// CORS says which pages may call the service from a browser.
type CORS struct {
	// AllowOrigins are exact origins such as "https://app.example.com"; "*" allows any. Never with credentials.
	AllowOrigins []string `koanf:"allow_origins"`
	// AllowHeaders and ExposeHeaders are added to those of gRPC-Web and of the payment protocol.
	AllowHeaders  []string `koanf:"allow_headers"`
	ExposeHeaders []string `koanf:"expose_headers"`
	// MaxAge is how long a browser may keep the answer to a preflight.
	MaxAge time.Duration `koanf:"max_age"`
}

// Limits bound what one client, or all of them, can take from Envoy.
type Limits struct {
	RequestHeaderBytes   int `koanf:"request_header_bytes"`   // all headers of a request together
	RequestHeaderCount   int `koanf:"request_header_count"`   // header lines of a request
	Connections          int `koanf:"connections"`            // client connections at once, all together
	StreamsPerConnection int `koanf:"streams_per_connection"` // calls at once on one HTTP/2 connection
	// ConnectionBuffer is how many bytes Envoy holds for one connection before it stops to read. Envoy does
	// not look at message sizes; this only bounds its memory.
	ConnectionBuffer int `koanf:"connection_buffer"`

	IdleTimeout time.Duration `koanf:"idle_timeout"` // a connection without a call
	// StreamIdleTimeout ends a call on which no byte moves in either direction; 0 means that only the service
	// timeout does.
	StreamIdleTimeout     time.Duration `koanf:"stream_idle_timeout"`
	RequestHeadersTimeout time.Duration `koanf:"request_headers_timeout"` // from the first byte of the headers to the last
	AuthzTimeout          time.Duration `koanf:"authz_timeout"`           // for one decision; past it the call is refused
	ConnectTimeout        time.Duration `koanf:"connect_timeout"`         // to the service and to authz

	ServiceConnections int `koanf:"service_connections"` // to the service
	ServiceRequests    int `koanf:"service_requests"`    // calls at once to the service, waiting ones included
}

// Defaults are the settings of an Envoy at the edge with clients that nobody knows.
func Defaults() Settings {
	return Settings{
		LogLevel:  "warning",
		DrainTime: 30 * time.Second,
		CORS:      CORS{AllowOrigins: []string{"*"}, MaxAge: 24 * time.Hour},
		Limits: Limits{
			RequestHeaderBytes:    60 << 10,
			RequestHeaderCount:    100,
			Connections:           10_000,
			StreamsPerConnection:  100,
			ConnectionBuffer:      64 << 10,
			IdleTimeout:           15 * time.Minute,
			RequestHeadersTimeout: 10 * time.Second,
			AuthzTimeout:          10 * time.Second,
			ConnectTimeout:        5 * time.Second,
			ServiceConnections:    1024,
			ServiceRequests:       1024,
		},
	}
}

// LogLevels are the values of Settings.LogLevel.
var LogLevels = []string{"trace", "debug", "info", "warning", "error", "critical"}

// Validate reports every fault at once, each with its key, the value and what to write instead.
func (s *Settings) Validate() error {
	var faults faults
	faults.check(slices.Contains(LogLevels, s.LogLevel), "log_level is %q: use one of %s", s.LogLevel, strings.Join(LogLevels, ", "))
	faults.inRange("concurrency", s.Concurrency, 0, 1024)
	faults.inRange("trusted_proxies", s.TrustedProxies, 0, 32)
	faults.duration("drain_time", s.DrainTime, 0, time.Hour)
	if s.Admin != "" {
		if address, err := ParseAddress(s.Admin); err != nil {
			faults.add("admin: %w", err)
		} else if !address.Local() {
			faults.add("admin is %q: whoever reaches it controls Envoy; use 127.0.0.1:PORT or unix:/path", s.Admin)
		}
	}
	s.CORS.validate(&faults)
	s.Limits.validate(&faults)
	return errors.Join(faults...)
}

func (c *CORS) validate(faults *faults) {
	faults.duration("cors.max_age", c.MaxAge, 0, 24*time.Hour)
	for _, origin := range c.AllowOrigins {
		if origin == "*" {
			continue
		}
		parsed, err := url.Parse(origin)
		faults.check(err == nil && parsed.Scheme != "" && parsed.Host != "" && parsed.Scheme+"://"+parsed.Host == origin,
			"cors.allow_origins has %q: write an origin such as https://app.example.com, or *", origin)
	}
	for _, header := range slices.Concat(c.AllowHeaders, c.ExposeHeaders) {
		faults.check(header != "" && strings.Trim(strings.ToLower(header), "abcdefghijklmnopqrstuvwxyz0123456789-_.") == "",
			"cors.allow_headers or cors.expose_headers has %q: write one header name an entry", header)
	}
}

func (l *Limits) validate(faults *faults) {
	faults.inRange("limits.request_header_bytes", l.RequestHeaderBytes, 8<<10, 8<<20)
	faults.inRange("limits.request_header_count", l.RequestHeaderCount, 30, 1000)
	faults.inRange("limits.connections", l.Connections, 1, 10_000_000)
	faults.inRange("limits.streams_per_connection", l.StreamsPerConnection, 1, 100_000)
	faults.inRange("limits.connection_buffer", l.ConnectionBuffer, 16<<10, 1<<30)
	faults.inRange("limits.service_connections", l.ServiceConnections, 1, 1_000_000)
	faults.inRange("limits.service_requests", l.ServiceRequests, 1, 1_000_000)
	faults.duration("limits.idle_timeout", l.IdleTimeout, time.Second, 24*time.Hour)
	faults.duration("limits.stream_idle_timeout", l.StreamIdleTimeout, 0, 24*time.Hour)
	faults.duration("limits.request_headers_timeout", l.RequestHeadersTimeout, 100*time.Millisecond, time.Hour)
	faults.duration("limits.authz_timeout", l.AuthzTimeout, 10*time.Millisecond, time.Hour)
	faults.duration("limits.connect_timeout", l.ConnectTimeout, 10*time.Millisecond, time.Hour)
}

// faults collects what is wrong, so that a person can mend all of it at once.
type faults []error

func (f *faults) add(format string, values ...any) {
	*f = append(*f, fmt.Errorf("envoy."+format, values...))
}

func (f *faults) check(good bool, format string, values ...any) {
	if !good {
		f.add(format, values...)
	}
}

func (f *faults) inRange(key string, value, low, high int) {
	f.check(value >= low && value <= high, "%s is %d: use a number from %d to %d", key, value, low, high)
}

func (f *faults) duration(key string, value, low, high time.Duration) {
	f.check(value >= low && value <= high, "%s is %s: use a time from %s to %s, such as 30s", key, value, low, high)
}
