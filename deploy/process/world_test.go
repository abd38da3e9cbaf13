package process_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holiman/uint256"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mpegate/mpegate/deploy/demo/devchain"
	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/deploy/demo/sample"
	"github.com/mpegate/mpegate/deploy/process"
)

const (
	price        = 1000
	patience     = 2 * time.Minute // the first run may download Envoy
	secretPath   = "secret-path-of-the-node-url"
	organization = `{"org_name": "Test", "org_id": "test-org", "groups": [{"group_name": "default_group", "group_id": %q,
		"payment": {"payment_address": %q, "payment_expiration_threshold": 100,
		"payment_channel_storage_client": {"endpoints": ["http://127.0.0.1:2379"]}}}]}`
	service = `{"version": 1, "display_name": "Test", "encoding": "proto", "service_type": "grpc", "mpe_address": %q,
		"groups": [{"group_name": "default_group", "group_id": %q, "endpoints": ["http://127.0.0.1:7001"],
		"pricing": [{"default": true, "price_model": "fixed_price", "price_in_cogs": %d}]}]}`
)

var group = [32]byte{1, 2, 3}

// world is a chain, a service and the settings that sell it.
type world struct {
	chain    *devchain.Chain
	service  *sample.Server
	settings map[string]string // environment of the process
	payer    *payer.Payer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	chain, err := devchain.Start(ctx, devchain.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chain.Close)
	w := &world{chain: chain, service: sample.NewServer()}
	listener := open(t)
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- w.service.Serve(serving, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	folder, id := t.TempDir(), base64.StdEncoding.EncodeToString(group[:])
	write := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	w.settings = map[string]string{
		"LISTEN_ADDRESS": "127.0.0.1:0", "ADMIN_ADDRESS": "127.0.0.1:0", "SERVICE_ENDPOINT": "http://" + listener.Addr().String(),
		"BLOCKCHAIN_NETWORK": "custom", "BLOCKCHAIN_CHAIN_ID": fmt.Sprint(chain.ChainID), "BLOCKCHAIN_RPC_URL": chain.HTTPURL,
		"BLOCKCHAIN_POLL_INTERVAL": "200ms", "METADATA_ORGANIZATION_ID": "test-org", "METADATA_SERVICE_ID": "test-service",
		"METADATA_ORGANIZATION_FILE": write("organization.json", fmt.Sprintf(organization, id, chain.Account("provider").Address)),
		"METADATA_SERVICE_FILE":      write("service.json", fmt.Sprintf(service, chain.MPE, id, price)),
		"CHANNEL_STATE_STORE":        "memory", "ENVOY_DRAIN_TIME": "5s", "ENVOY_CONCURRENCY": "1", "LOG_FORMAT": "json", "LOG_LEVEL": "debug",
	}
	return w
}

func open(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// running is a process under test.
type running struct {
	t      *testing.T
	stop   context.CancelFunc
	ended  chan error
	stdout *output
	stderr *output
}

// output keeps what a process wrote.
type output struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

func (o *output) Write(data []byte) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.buffer.Write(data)
}

func (o *output) String() string {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.buffer.String()
}

// run starts a process with the settings of the world and changes to them.
func (w *world) run(t *testing.T, role process.Role, changes map[string]string) *running {
	t.Helper()
	var environment []string
	for _, set := range []map[string]string{w.settings, changes} {
		for name, value := range set {
			environment = append(environment, "MPEGATE_"+name+"="+value)
		}
	}
	return runWith(t, role, environment)
}

func runWith(t *testing.T, role process.Role, environment []string) *running {
	t.Helper()
	return runFrom(t, role, process.Source{Environment: environment})
}

func runFrom(t *testing.T, role process.Role, source process.Source) *running {
	t.Helper()
	settings, err := process.Load(source, role)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{t: t, stop: stop, ended: make(chan error, 1), stdout: &output{}, stderr: &output{}}
	go func() {
		r.ended <- process.Run(ctx, process.Options{Settings: settings, Role: role, Stdout: r.stdout, Stderr: r.stderr})
	}()
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("stdout:\n%s\nstderr:\n%s", r.stdout, r.stderr)
		}
	})
	return r
}

// eventually waits until a condition gives a text.
func (r *running) eventually(what string, condition func() string) string {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if found := condition(); found != "" {
			return found
		}
		select {
		case err := <-r.ended:
			r.ended <- err
			if found := condition(); found != "" {
				return found
			}
			r.t.Fatalf("%s: the process ended: %v", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	r.t.Fatalf("%s: not in time", what)
	return ""
}

const readyPrefix = "mpegate is ready on "

func (r *running) ready() string {
	r.t.Helper()
	return r.eventually("ready line", func() string {
		for line := range strings.Lines(r.stdout.String()) {
			if address, found := strings.CutPrefix(line, readyPrefix); found && strings.HasSuffix(address, "\n") {
				return strings.TrimSpace(address)
			}
		}
		return ""
	})
}

// logged gives a field of the first log entry with that message.
func (r *running) logged(message, field string) string {
	r.t.Helper()
	return r.eventually("log entry "+message, func() string {
		for line := range strings.Lines(r.stderr.String()) {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
				return fmt.Sprint(entry[field])
			}
		}
		return ""
	})
}

func (r *running) admin() string { return "http://" + r.logged("admin listens", "address") }

// end stops the process and gives its error.
func (r *running) end() error {
	r.t.Helper()
	r.stop()
	return r.wait()
}

func (r *running) wait() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		r.ended <- err
		return err
	case <-time.After(patience):
		r.t.Fatal("the process does not end")
		return nil
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func dial(t *testing.T, target string) *grpc.ClientConn {
	t.Helper()
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

func (w *world) openChannel(t *testing.T, ctx context.Context) *payer.Payer {
	t.Helper()
	client := w.chain.Account("client")
	block, err := w.chain.Client.BlockNumber(ctx)
	if err != nil {
		t.Fatal(err)
	}
	id, err := w.chain.OpenChannel(ctx, client, client.Address, w.chain.Account("provider").Address, group, uint256.NewInt(100*price), block+1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	return &payer.Payer{Key: client.Key, MPE: w.chain.MPE, Channel: id}
}
