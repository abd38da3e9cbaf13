package bench

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"

	"github.com/mpegate/mpegate/envoy"
	"github.com/mpegate/mpegate/envoy/bootstrap"
)

// startEnvoy runs an Envoy of ours in front of the service and returns its address; with authz empty, it runs without
// ext_authz and access log.
func startEnvoy(b *testing.B, service, authz string) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	binary, err := envoy.Find(ctx, os.Stderr)
	if err != nil {
		b.Fatal(err)
	}
	asked := authz
	if asked == "" {
		asked = "127.0.0.1:1"
	}
	config := render(b, service, asked)
	if authz == "" {
		config = withoutAuthz(b, config)
	}
	process, err := envoy.Start(ctx, envoy.RunOptions{Binary: binary, Config: config, Logger: zap.NewNop()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := process.Stop(ctx); err != nil {
			b.Error(err)
		}
	})
	if err := process.Ready(ctx); err != nil {
		b.Fatal(err)
	}
	address, err := process.ListenerAddress(ctx, bootstrap.ListenerName)
	if err != nil {
		b.Fatal(err)
	}
	return address.String()
}

// withoutAuthz takes the filter and what belongs to it out of a configuration.
func withoutAuthz(b *testing.B, config []byte) []byte {
	b.Helper()
	var tree map[string]any
	if err := yaml.Unmarshal(config, &tree); err != nil {
		b.Fatal(err)
	}
	prune(tree)
	pruned, err := json.Marshal(tree) // JSON is YAML too
	if err != nil {
		b.Fatal(err)
	}
	return pruned
}

func prune(node any) {
	switch node := node.(type) {
	case map[string]any:
		if perFilter, ok := node["typed_per_filter_config"].(map[string]any); ok {
			delete(perFilter, envoy.MetadataNamespace)
		}
		if filters, ok := node["http_filters"].([]any); ok {
			kept := filters[:0]
			for _, filter := range filters {
				if filter.(map[string]any)["name"] != envoy.MetadataNamespace {
					kept = append(kept, filter)
				}
			}
			node["http_filters"] = kept
		}
		delete(node, "access_log")
		for _, child := range node {
			prune(child)
		}
	case []any:
		for _, child := range node {
			prune(child)
		}
	}
}

// allowAll says yes to every call.
type allowAll struct {
	authv3.UnimplementedAuthorizationServer
}

func (allowAll) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return envoy.Allow(nil, nil, nil), nil
}

// serveAllowAll is the process behind the comparison, until it is killed.
func serveAllowAll(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, allowAll{})
	return server.Serve(listener)
}

func render(b *testing.B, service, authz string) []byte {
	b.Helper()
	settings := bootstrap.Settings{
		Public: envoy.Address{Host: "127.0.0.1"}, Admin: envoy.Address{Host: "127.0.0.1"},
		ServiceTimeout: 100 * time.Second, MaxMessageSize: 4 << 20, Envoy: envoy.Defaults(),
	}
	at, err := envoy.ParseAddress(service)
	if err != nil {
		b.Fatal(err)
	}
	settings.Service = bootstrap.Service{Host: at.Host, Port: at.Port}
	if settings.Authz, err = envoy.ParseAddress(authz); err != nil {
		b.Fatal(err)
	}
	config, err := bootstrap.Render(settings)
	if err != nil {
		b.Fatal(err)
	}
	return config
}
