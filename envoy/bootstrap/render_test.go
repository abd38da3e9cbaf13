package bootstrap_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mpegate/mpegate/envoy"
	"github.com/mpegate/mpegate/envoy/bootstrap"
)

var update = flag.Bool("update", false, "write the golden files again")

// plain is one machine: everything on loopback, a gRPC service without TLS.
func plain() bootstrap.Settings {
	return bootstrap.Settings{
		Public:         envoy.Address{Host: "127.0.0.1", Port: 8080},
		Service:        bootstrap.Service{Host: "127.0.0.1", Port: 5000},
		Authz:          envoy.Address{Host: "127.0.0.1", Port: 7000},
		Admin:          envoy.Address{Host: "127.0.0.1", Port: 9901},
		ServiceTimeout: 100 * time.Second,
		MaxMessageSize: 4 << 20,
		Envoy:          envoy.Defaults(),
	}
}

// ca is a certificate that Envoy can read, relative to this folder, where the tests run.
const ca = "testdata/ca.pem"

var golden = map[string]func(*bootstrap.Settings){
	"plain": func(*bootstrap.Settings) {},
	"unix-sockets": func(s *bootstrap.Settings) {
		s.Authz, s.Admin = envoy.Address{Path: "/run/mpegate/authz.sock"}, envoy.Address{Path: "/run/mpegate/envoy-admin.sock"}
	},
	"containers": func(s *bootstrap.Settings) {
		s.NodeID = "replica-1"
		s.Public.Host = "0.0.0.0"
		s.Service.Host, s.Authz.Host = "service", "authz"
		s.Envoy.AccessLog = "/dev/stdout"
		s.Envoy.TrustedProxies = 1
	},
	"tls-service": func(s *bootstrap.Settings) {
		s.Service = bootstrap.Service{Host: "service.example.com", Port: 443, TLS: true, CAFile: ca}
	},
	"ipv6": func(s *bootstrap.Settings) {
		s.Public.Host, s.Service.Host, s.Authz.Host, s.Admin.Host = "::", "::1", "::1", "::1"
	},
	"strict": func(s *bootstrap.Settings) {
		s.ServiceTimeout, s.MaxMessageSize = 5*time.Second, 1<<20
		s.Envoy.DrainTime = 5 * time.Second
		s.Envoy.CORS = envoy.CORS{
			AllowOrigins: []string{"https://app.example.com", "https://other.example.com:8443"},
			AllowHeaders: []string{"my-header"}, ExposeHeaders: []string{"my-answer"}, MaxAge: time.Hour,
		}
		s.Envoy.Limits = envoy.Limits{
			RequestHeaderBytes: 8 << 10, RequestHeaderCount: 40, Connections: 100, StreamsPerConnection: 10,
			ConnectionBuffer: 32 << 10, IdleTimeout: time.Minute, StreamIdleTimeout: 2500 * time.Millisecond,
			RequestHeadersTimeout: time.Second, AuthzTimeout: 500 * time.Millisecond, ConnectTimeout: 250 * time.Millisecond,
			ServiceConnections: 2, ServiceRequests: 20,
		}
	},
	"no-browsers": func(s *bootstrap.Settings) { s.Envoy.CORS.AllowOrigins = nil },
}

func TestGolden(t *testing.T) {
	for name, change := range golden {
		t.Run(name, func(t *testing.T) {
			settings := plain()
			change(&settings)
			got := render(t, settings)
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("%s is stale; look at what changes with: go test ./envoy/bootstrap -update", file)
			}
			validate(t, got)
		})
	}
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) != len(golden) {
		t.Errorf("%d files for %d cases, %v", len(files), len(golden), err)
	}
}

// Every combination of what changes the shape of the configuration is accepted by Envoy.
func TestCombinations(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Envoy many times")
	}
	services := []bootstrap.Service{
		{Host: "127.0.0.1", Port: 5000}, {Host: "localhost", Port: 5000}, {Host: "::1", Port: 5000},
		{Host: "service", Port: 443, TLS: true, CAFile: ca}, {Host: "127.0.0.1", Port: 443, TLS: true, CAFile: ca},
	}
	authz := []string{"127.0.0.1:7000", "authz:7000", "unix:/tmp/authz.sock"}
	admins := []string{"127.0.0.1:0", "unix:/tmp/admin.sock"}
	for i, service := range services {
		for j, authz := range authz {
			for k, admin := range admins {
				t.Run(fmt.Sprint(i, j, k), func(t *testing.T) {
					settings := plain()
					settings.Service = service
					settings.Authz, settings.Admin = parse(t, authz), parse(t, admin)
					// The rest is spread over these, so that each meets each of its neighbours somewhere.
					if (i+j+k)%2 == 0 {
						settings.Envoy.AccessLog = "/dev/null"
					}
					settings.Envoy.CORS.AllowOrigins = [][]string{{"*"}, nil, {"https://a.example", "*"}}[(i+k)%3]
					settings.Public.Host = []string{"0.0.0.0", "::", "localhost"}[(i+j)%3]
					settings.Envoy.TrustedProxies = (j + k) % 3
					validate(t, render(t, settings))
				})
			}
		}
	}
}

// What a setting says must not become a part of the configuration's structure.
func TestTextIsQuoted(t *testing.T) {
	const nasty = "x\"}, evil: [\n- {{ .AccessLog }} é # % \\ '"
	settings := plain()
	settings.NodeID = nasty
	var parsed struct {
		Node struct {
			ID string `yaml:"id"`
		} `yaml:"node"`
	}
	if err := yaml.Unmarshal(render(t, settings), &parsed); err != nil || parsed.Node.ID != nasty {
		t.Errorf("the node id became %q, %v", parsed.Node.ID, err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for want, change := range map[string]func(*bootstrap.Settings){
		"the public listener is":          func(s *bootstrap.Settings) { s.Public.Host = "example.com" },
		"the service has no host":         func(s *bootstrap.Settings) { s.Service = bootstrap.Service{} },
		"authz has no address":            func(s *bootstrap.Settings) { s.Authz = envoy.Address{} },
		"Envoy's admin interface is":      func(s *bootstrap.Settings) { s.Admin.Host = "0.0.0.0" },
		"the service timeout is":          func(s *bootstrap.Settings) { s.ServiceTimeout = 0 },
		"the maximum message size is":     func(s *bootstrap.Settings) { s.MaxMessageSize = 0 },
		"envoy.limits.connections is 0":   func(s *bootstrap.Settings) { s.Envoy.Limits.Connections = 0 },
		"envoy.limits.authz_timeout is":   func(s *bootstrap.Settings) { s.Envoy.Limits.AuthzTimeout = 0 },
		"envoy.cors.allow_origins has":    func(s *bootstrap.Settings) { s.Envoy.CORS.AllowOrigins = []string{"app.example.com"} },
		"envoy.cors.allow_headers or":     func(s *bootstrap.Settings) { s.Envoy.CORS.AllowHeaders = []string{"a, b"} },
		"envoy.log_level is \"loud\"":     func(s *bootstrap.Settings) { s.Envoy.LogLevel = "loud" },
		"envoy.admin is \"0.0.0.0:9901\"": func(s *bootstrap.Settings) { s.Envoy.Admin = "0.0.0.0:9901" },
	} {
		settings := plain()
		change(&settings)
		if _, err := bootstrap.Render(settings); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	several := plain()
	several.MaxMessageSize, several.Envoy.LogLevel = 0, ""
	if err := several.Validate(); err == nil || !strings.Contains(err.Error(), "message size") || !strings.Contains(err.Error(), "log_level") {
		t.Errorf("not all faults at once: %v", err)
	}
}

func render(t *testing.T, settings bootstrap.Settings) []byte {
	t.Helper()
	config, err := bootstrap.Render(settings)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func parse(t *testing.T, text string) envoy.Address {
	t.Helper()
	address, err := envoy.ParseAddress(text)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

var binary = sync.OnceValues(func() (string, error) { return envoy.Find(context.Background(), os.Stderr) })

// validate asks the real Envoy.
func validate(t *testing.T, config []byte) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	if err := envoy.Validate(t.Context(), path, config); err != nil {
		t.Error(err)
	}
}
