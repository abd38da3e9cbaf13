package translator

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/envoy"
)

func TestSettingsFaults(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hidden-value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	credential := func(c Credential) func(*Settings) {
		return func(s *Settings) { s.HTTP.Credentials = []Credential{c} }
	}
	for _, c := range []struct {
		name, serviceType string
		change            func(*Settings)
		fault             string // "" for settings that are good
	}{
		{"http", "http", func(*Settings) {}, ""},
		{"jsonrpc", "jsonrpc", func(*Settings) {}, ""},
		{"grpc without an endpoint", "grpc", func(s *Settings) { s.Endpoint = "" }, ""},
		{"process", "process", func(s *Settings) { s.Process.Executable = "/bin/sh"; s.Endpoint = "" }, ""},
		{"a type that is none", "executable", func(*Settings) {}, `type is "executable"`},
		{"no type", "", func(*Settings) {}, "set type to one of"},
		{"encoding", "http", func(s *Settings) { s.Encoding = "xml" }, `encoding is "xml"`},
		{"no message size", "http", func(s *Settings) { s.MaxMessageSize = 0 }, "max_message_size is 0"},
		{"too large a message size", "http", func(s *Settings) { s.MaxMessageSize = 3 << 30 }, "max_message_size is"},
		{"body size", "http", func(s *Settings) { s.MaxBodySize = 1 }, "max_body_size is 1"},
		{"timeout", "http", func(s *Settings) { s.Timeout = 0 }, "timeout is 0s"},
		{"refresh", "http", func(s *Settings) { s.RefreshInterval = 0 }, "refresh_interval is 0s"},
		{"calls", "http", func(s *Settings) { s.MaxCalls = 0 }, "max_calls is 0"},
		{"no endpoint", "http", func(s *Settings) { s.Endpoint = "" }, "endpoint is missing"},
		{"endpoint with a password", "http", func(s *Settings) { s.Endpoint = "http://a:hidden-value@b/" }, "holds a user"},
		{"endpoint of another scheme", "jsonrpc", func(s *Settings) { s.Endpoint = "ftp://b/?k=hidden-value" }, "whose scheme is ftp"},
		{"endpoint without a host", "http", func(s *Settings) { s.Endpoint = "http:///a" }, "names no host"},
		{"endpoint with a port that is none", "http", func(s *Settings) { s.Endpoint = "http://b:0/" }, "port"},
		{"endpoint with a fragment", "http", func(s *Settings) { s.Endpoint = "http://b/#hidden" }, "fragment"},
		{"endpoint that is no URL", "http", func(s *Settings) { s.Endpoint = "http://b/%zz?hidden-value" }, "no URL"},
		{"endpoint with a space in the query", "http", func(s *Settings) { s.Endpoint = "http://b/?hidden-value é" }, "percent-encoded"},
		{"error code", "jsonrpc", func(s *Settings) { s.JSONRPC.ErrorCodes = map[string]string{"x": "NOT_FOUND"} }, `the key "x"`},
		{"error code name", "jsonrpc", func(s *Settings) { s.JSONRPC.ErrorCodes = map[string]string{"1": "OK"} }, `is "OK"`},
		{"credential", "http", credential(Credential{Key: "a", Value: "hidden-value", Location: "query"}), ""},
		{"credential in a file", "http", credential(Credential{Key: "a", ValueFile: secret, Location: "header"}), ""},
		{"credential of any value", "http", credential(Credential{Key: "a", Value: []any{1, "hidden-value"}, Location: "body"}), ""},
		{"credential without a key", "http", credential(Credential{Value: "hidden-value", Location: "query"}), "http.credentials[0].key is missing"},
		{"credential without a value", "http", credential(Credential{Key: "a", Location: "query"}), ".value is missing"},
		{"credential with both", "http", credential(Credential{Key: "a", Value: "hidden-value", ValueFile: secret, Location: "query"}), "set one of them"},
		{"credential elsewhere", "http", credential(Credential{Key: "a", Value: "hidden-value", Location: "cookie"}), `location is "cookie"`},
		{"credential that is a number", "http", credential(Credential{Key: "a", Value: 7, Location: "header"}), "is not text"},
		{"credential in a header of ours", "http", credential(Credential{Key: "Content-Length", Value: "hidden-value", Location: "header"}), "cannot be chosen"},
		{"credential in a header of Envoy's", "http", credential(Credential{Key: "x-envoy-a", Value: "hidden-value", Location: "header"}), "cannot be chosen"},
		{"credential in no header", "http", credential(Credential{Key: "a b", Value: "hidden-value", Location: "header"}), "no name of a header"},
		{"credential with a line break", "http", credential(Credential{Key: "a", Value: "hidden-value\r\nx: y", Location: "header"}), "cannot have"},
		{"credential in no file", "http", credential(Credential{Key: "a", ValueFile: empty, Location: "header"}), "holds no secret"},
		{"no executable", "process", func(*Settings) {}, "process.executable is missing"},
		{"executable that is none", "process", func(s *Settings) { s.Process.Executable = secret }, "no file that may be executed"},
		{"folder", "process", func(s *Settings) { s.Process.WorkingDirectory = secret }, "no folder"},
		{"input", "process", func(s *Settings) { s.Process.Input = "xml" }, "process.input"},
		{"stream", "process", func(s *Settings) { s.Process.Stream = "xml" }, "process.stream"},
		{"concurrency", "process", func(s *Settings) { s.Process.Concurrency = 0 }, "process.concurrency"},
		{"queue", "process", func(s *Settings) { s.Process.QueueLength = -1 }, "process.queue_length"},
		{"process timeout", "process", func(s *Settings) { s.Process.Timeout = -1 }, "process.timeout"},
		{"output", "process", func(s *Settings) { s.Process.MaxOutputSize = 0 }, "process.max_output_size"},
		{"environment", "process", func(s *Settings) { s.Process.Environment = []string{"hidden-value"} }, "process.environment[0]"},
		{"environment twice", "process", func(s *Settings) { s.Process.Environment = []string{"A=hidden-value", "A=2"} }, "sets A again"},
		{"environment file", "process", func(s *Settings) { s.Process.EnvironmentFiles = []string{"A=" + empty} }, "process.environment_files[0], A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			settings := quickSettings()
			c.change(&settings)
			err := settings.Validate(c.serviceType)
			if c.fault == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.fault) || strings.Contains(err.Error(), "hidden-value") {
				t.Errorf("the error is %v, want %q", err, c.fault)
			}
		})
	}
}

func TestEndpoints(t *testing.T) {
	for text, want := range map[string]struct {
		endpoint  Endpoint
		authority string
	}{
		"host":                          {Endpoint{Host: "host", Port: 80, Path: "/"}, "host"},
		"host:5000/a/":                  {Endpoint{Host: "host", Port: 5000, Path: "/a/"}, "host:5000"},
		"https://host/a%20b?c=d&e":      {Endpoint{TLS: true, Host: "host", Port: 443, Path: "/a%20b", Query: "c=d&e"}, "host"},
		"https://[::1]:8443":            {Endpoint{TLS: true, Host: "::1", Port: 8443, Path: "/"}, "[::1]:8443"},
		"http://host:443/Upper/%2Fpath": {Endpoint{Host: "host", Port: 443, Path: "/Upper/%2Fpath"}, "host:443"},
	} {
		got, err := ParseEndpoint(text)
		if err != nil || got != want.endpoint || got.Authority() != want.authority {
			t.Errorf("%s: %+v, %s, %v", text, got, got.Authority(), err)
		}
	}
}

func TestCredentialNeverPrints(t *testing.T) {
	list := []Credential{{Key: "k", Value: "hidden-value", Location: "query"}}
	encoded, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(list), fmt.Sprintf("%+v", list), fmt.Sprintf("%#v", list), string(encoded)} {
		if strings.Contains(text, "hidden-value") || !strings.Contains(text, "k in the query") {
			t.Error(text)
		}
	}
}

func TestSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("of the process\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := quickSettings()
	settings.Type = blockchain.ServiceTypeGRPC
	settings.Endpoint = "http://host/?key=query-secret%21&format=json"
	settings.HTTP.Credentials = []Credential{{Key: "k", Value: map[string]any{"deep": []any{"in \"the\" body"}}, Location: "body"}}
	settings.Process.EnvironmentFiles = []string{"A=" + file}
	s, err := NewServer(settings, Dependencies{})
	if err != nil {
		t.Fatal(err)
	}
	text := s.redact(`query-secret! query-secret%21 in "the" body in \"the\" body of the process, json`)
	if text != "*** *** *** *** ***, json" {
		t.Error(text)
	}
}

func TestGRPCCodes(t *testing.T) {
	for text, want := range map[string]envoy.Code{
		"NOT_FOUND": 5, "not_found": 5, " 5 ": 5, "CANCELLED": 1, "CANCELED": 1, "DEADLINE_EXCEEDED": 4, "UNAUTHENTICATED": 16, "1000": 1000,
	} {
		if code, ok := parseGRPCCode(text); !ok || code != want {
			t.Errorf("%q: %d, %t", text, code, ok)
		}
	}
	for _, text := range []string{"", "OK", "0", "-1", "NOPE", "4294967296"} {
		if code, ok := parseGRPCCode(text); ok {
			t.Errorf("%q: %d", text, code)
		}
	}
}
