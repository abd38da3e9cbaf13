package translator

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/envoy"
)

// Settings say what kind of service is behind the translator and how its calls are made. DefaultSettings gives values
// that work without a change.
type Settings struct {
	Type     string `koanf:"type" help:"Kind of service: grpc, http, jsonrpc or process; empty takes it from the service's metadata."`
	Encoding string `koanf:"encoding" help:"What clients put into messages: proto or json; empty takes it from the service's metadata."`
	// Endpoint, MaxMessageSize and Timeout are those of the service; whoever has them from elsewhere sets them here.
	Endpoint       string        `koanf:"-"`
	MaxMessageSize int64         `koanf:"-"` // bytes of one message of the client, and of one answer
	Timeout        time.Duration `koanf:"-"` // of a whole call

	Definition      string        `koanf:"definition" help:"Folder, tar, tar.gz or compiled descriptor set with the service's .proto files; empty takes the archive that its metadata names."`
	Reflection      bool          `koanf:"reflection" help:"Offer gRPC server reflection of the service's methods, unpaid, so that tools such as grpcurl need no files."`
	RefreshInterval time.Duration `koanf:"refresh_interval" help:"How often a local definition is looked at for changes, and a failed fetch is tried again."`
	MaxCalls        int           `koanf:"max_calls" help:"Calls under way at the same time; more are refused with RESOURCE_EXHAUSTED."`
	MaxBodySize     int64         `koanf:"max_body_size" help:"Largest body of the service's answer before it is translated; JSON takes more room than the message made of it. 0 means four times service.max_message_size."`

	HTTP    HTTPSettings    `koanf:"http"`
	JSONRPC JSONRPCSettings `koanf:"jsonrpc"`
	Process ProcessSettings `koanf:"process"`
}

// HTTPSettings are for services of type http.
type HTTPSettings struct {
	Credentials []Credential `koanf:"credentials" help:"What the service wants to know us by: a list of key, value (or value_file) and location (query, header or body)."`
}

// JSONRPCSettings are for services of type jsonrpc.
type JSONRPCSettings struct {
	ErrorCodes map[string]string `koanf:"error_codes" help:"gRPC codes for error codes of the service, such as \"-32001\": NOT_FOUND; they come before the built-in table."`
}

// ProcessSettings are for services of type process.
type ProcessSettings struct {
	Executable       string        `koanf:"executable" help:"Program that is started for each call."`
	Arguments        []string      `koanf:"arguments" help:"Arguments before the last one, which is always the method's name."`
	WorkingDirectory string        `koanf:"working_directory" help:"Where it runs; empty means the folder of the executable."`
	Environment      []string      `koanf:"environment" help:"All of its environment, as NAME=value; without a PATH here it gets a common one."`
	EnvironmentFiles []string      `koanf:"environment_files" help:"More of its environment, as NAME=/path of a file that holds the value; for secrets."`
	Input            string        `koanf:"input" help:"What it reads and writes: raw (messages as the client sends them) or json."`
	Stream           string        `koanf:"stream" help:"How it separates the answers of a server-streaming method: lines, or length_prefixed (four bytes, big-endian, before each)."`
	Concurrency      int           `koanf:"concurrency" help:"Processes at the same time."`
	QueueLength      int           `koanf:"queue_length" help:"Calls that may wait for a process; more are refused with RESOURCE_EXHAUSTED."`
	Timeout          time.Duration `koanf:"timeout" help:"Longest life of a process; 0 means service.timeout."`
	MaxOutputSize    int64         `koanf:"max_output_size" help:"Most bytes that all answers of a server-streaming call may have together."`
}

// Words of ProcessSettings.
const (
	InputRaw             = "raw"
	InputJSON            = "json"
	StreamLines          = "lines"
	StreamLengthPrefixed = "length_prefixed"
)

// DefaultSettings are the settings of a translator that was given none.
func DefaultSettings() Settings {
	return Settings{
		MaxMessageSize:  4 << 20,
		Timeout:         100 * time.Second,
		RefreshInterval: 15 * time.Second,
		MaxCalls:        1024,
		Process: ProcessSettings{
			Input: InputRaw, Stream: StreamLines, Concurrency: 16, QueueLength: 64, MaxOutputSize: 64 << 20,
		},
	}
}

// Bounds that keep a mistyped number from becoming an outage.
const (
	maxMessageSize = 2 << 30
	maxCallsBound  = 100_000
	maxProcesses   = 1024
	jsonOverhead   = 4
)

// bodyLimit is how many bytes an answer of the service may have before it is translated.
func (s *Settings) bodyLimit() int64 {
	if s.MaxBodySize > 0 {
		return s.MaxBodySize
	}
	return jsonOverhead * s.MaxMessageSize
}

// processTimeout bounds the life of one process.
func (s *Settings) processTimeout() time.Duration {
	if s.Process.Timeout > 0 {
		return s.Process.Timeout
	}
	return s.Timeout
}

// serviceTypes are the values of Settings.Type.
var serviceTypes = []string{
	blockchain.ServiceTypeGRPC, blockchain.ServiceTypeHTTP, blockchain.ServiceTypeJSONRPC, blockchain.ServiceTypeProcess,
}

// faults collects what is wrong, so that a person can mend all of it at once.
type faults []error

func (f *faults) check(good bool, format string, values ...any) {
	if !good {
		*f = append(*f, fmt.Errorf(format, values...))
	}
}

func (f *faults) add(err error) {
	if err != nil {
		*f = append(*f, err)
	}
}

// Validate names every setting that cannot be used, its value and what to write instead. serviceType is the kind of
// service that is in force, from Settings.Type or the metadata.
func (s *Settings) Validate(serviceType string) error {
	var f faults
	f.check(slices.Contains(serviceTypes, serviceType), "the service's type is %q: set type to one of %s", serviceType, strings.Join(serviceTypes, ", "))
	f.check(s.Encoding == "" || s.Encoding == blockchain.EncodingProto || s.Encoding == blockchain.EncodingJSON,
		"encoding is %q: write proto or json, or leave it empty", s.Encoding)
	f.check(s.MaxMessageSize > 0 && s.MaxMessageSize <= maxMessageSize, "service.max_message_size is %d: write a size from 1 to 2GiB", s.MaxMessageSize)
	f.check(s.MaxBodySize == 0 || s.MaxBodySize >= 1<<10, "max_body_size is %d: write a size from 1KiB, or 0", s.MaxBodySize)
	f.check(s.Timeout > 0, "service.timeout is %s: write a duration above 0", s.Timeout)
	f.check(s.RefreshInterval >= 100*time.Millisecond && s.RefreshInterval <= 24*time.Hour,
		"refresh_interval is %s: write a duration from 100ms to 24h", s.RefreshInterval)
	f.check(s.MaxCalls >= 1 && s.MaxCalls <= maxCallsBound, "max_calls is %d: write a number from 1 to %d", s.MaxCalls, maxCallsBound)
	switch serviceType {
	case blockchain.ServiceTypeHTTP:
		f.add(s.validateEndpoint())
		_, err := compileCredentials(s.HTTP.Credentials)
		f.add(err)
	case blockchain.ServiceTypeJSONRPC:
		f.add(s.validateEndpoint())
		_, err := compileErrorCodes(s.JSONRPC.ErrorCodes)
		f.add(err)
	case blockchain.ServiceTypeProcess:
		s.Process.validate(&f)
	}
	return errors.Join(f...)
}

func (s *Settings) validateEndpoint() error {
	_, err := ParseEndpoint(s.Endpoint)
	return err
}

func (p *ProcessSettings) validate(f *faults) {
	if p.Executable == "" {
		f.check(false, "process.executable is missing: set it to the program that answers the calls")
	} else {
		info, err := os.Stat(p.Executable)
		f.check(err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0,
			"process.executable is %q: it is no file that may be executed", p.Executable)
	}
	if p.WorkingDirectory != "" {
		info, err := os.Stat(p.WorkingDirectory)
		f.check(err == nil && info.IsDir(), "process.working_directory is %q: it is no folder", p.WorkingDirectory)
	}
	f.check(p.Input == InputRaw || p.Input == InputJSON, "process.input is %q: write raw or json", p.Input)
	f.check(p.Stream == StreamLines || p.Stream == StreamLengthPrefixed, "process.stream is %q: write lines or length_prefixed", p.Stream)
	f.check(p.Concurrency >= 1 && p.Concurrency <= maxProcesses, "process.concurrency is %d: write a number from 1 to %d", p.Concurrency, maxProcesses)
	f.check(p.QueueLength >= 0 && p.QueueLength <= maxCallsBound, "process.queue_length is %d: write a number from 0 to %d", p.QueueLength, maxCallsBound)
	f.check(p.Timeout >= 0, "process.timeout is %s: write a duration, or 0", p.Timeout)
	f.check(p.MaxOutputSize >= 1<<10, "process.max_output_size is %d: write a size from 1KiB", p.MaxOutputSize)
	_, err := p.environment()
	f.add(err)
}

// commonPath is the PATH of a program that is given none.
const commonPath = "PATH=/usr/local/bin:/usr/bin:/bin"

// environment puts the program's environment together. Nothing of this process's own gets into it.
func (p *ProcessSettings) environment() ([]string, error) {
	var f faults
	var variables []string
	seen := map[string]bool{}
	add := func(key string, index int, entry string) (name, value string, ok bool) {
		name, value, ok = strings.Cut(entry, "=")
		switch {
		case !ok || name == "" || strings.ContainsRune(entry, 0):
			f.check(false, "process.%s[%d] is not NAME=... (not shown): write one variable an entry", key, index)
		case seen[name]:
			f.check(false, "process.%s[%d] sets %s again: name each variable once", key, index, name)
		default:
			seen[name] = true
			return name, value, true
		}
		return "", "", false
	}
	for i, entry := range p.Environment {
		if _, _, ok := add("environment", i, entry); ok {
			variables = append(variables, entry)
		}
	}
	for i, entry := range p.EnvironmentFiles {
		name, file, ok := add("environment_files", i, entry)
		if !ok {
			continue
		}
		value, err := readSecret(file)
		if err != nil {
			f.add(fmt.Errorf("process.environment_files[%d], %s: %w", i, name, err))
			continue
		}
		variables = append(variables, name+"="+value)
	}
	if !seen["PATH"] {
		variables = append(variables, commonPath)
	}
	return variables, errors.Join(f...)
}

func (p *ProcessSettings) folder() string {
	if p.WorkingDirectory != "" {
		return p.WorkingDirectory
	}
	return filepath.Dir(p.Executable)
}

const maxSecretSize = 64 << 10

// readSecret gives a secret's file without the line break at its end.
func readSecret(name string) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", fmt.Errorf("cannot read the secret: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSecretSize {
		return "", fmt.Errorf("%s is no file of at most %d bytes: give the file that holds the secret alone", name, maxSecretSize)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("cannot read the secret: %w", err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if text == "" || strings.ContainsRune(text, 0) {
		return "", fmt.Errorf("%s holds no secret: write it into the file as text", name)
	}
	return text, nil
}

// codeNames are gRPC's own names of its codes, such as NOT_FOUND.
var codeNames = func() map[string]envoy.Code {
	names := map[string]envoy.Code{}
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		var upper strings.Builder
		for i, letter := range code.String() {
			if i > 0 && letter >= 'A' && letter <= 'Z' && code != codes.OK {
				upper.WriteByte('_')
			}
			upper.WriteRune(letter)
		}
		names[strings.ToUpper(upper.String())] = envoy.Code(code)
	}
	names["CANCELLED"] = envoy.CodeCancelled
	return names
}()

// parseGRPCCode reads NOT_FOUND or 5. OK is no code of an error.
func parseGRPCCode(text string) (envoy.Code, bool) {
	if code, known := codeNames[strings.ToUpper(strings.TrimSpace(text))]; known {
		return code, code != envoy.CodeOK
	}
	number, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
	return envoy.Code(number), err == nil && number != 0
}

const shortestQuerySecret = 8

// Secrets are the values that must not be seen anywhere: credentials, the query of the endpoint, and the environment
// of processes.
func (s *Settings) Secrets() ([]string, error) {
	compiled, err := compileCredentials(s.HTTP.Credentials)
	if err != nil {
		return nil, err
	}
	secrets := compiled.secrets
	if endpoint, err := ParseEndpoint(s.Endpoint); err == nil && endpoint.Query != "" {
		secrets = append(secrets, endpoint.Query)
		if values, err := url.ParseQuery(endpoint.Query); err == nil {
			for _, value := range slices.Concat(slices.Collect(maps.Values(values))...) {
				if len(value) >= shortestQuerySecret { // "json" and "v2" are none
					secrets = append(secrets, value, url.QueryEscape(value), url.PathEscape(value))
				}
			}
		}
	}
	for _, entry := range s.Process.EnvironmentFiles {
		if _, file, ok := strings.Cut(entry, "="); ok {
			if value, err := readSecret(file); err == nil {
				secrets = append(secrets, value)
			}
		}
	}
	return slices.DeleteFunc(secrets, func(secret string) bool { return secret == "" }), nil
}
