// Package harness puts a whole world around the built binary for tests: a chain with the published contracts, an IPFS
// node's RPC for metadata, a sample service that counts its calls, and `mpegate serve` with embedded etcd and real Envoy.
package harness

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mpegate/mpegate/deploy/demo"
	"github.com/mpegate/mpegate/deploy/demo/child"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/deploy/demo/sample"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
)

// What the world sells, and the bounds of waiting in it.
const (
	Price               = 1000 // cogs a call
	ExpirationThreshold = 100  // blocks
	OrganizationID      = "test-org"
	ServiceID           = "test-service"

	sepoliaID = 11155111

	startTimeout = 3 * time.Minute // the first start may download Envoy
	stepTimeout  = 30 * time.Second
)

// Group is the world's payment group.
var Group = [32]byte{0: 1, 31: 0xff}

// Options of New. The zero value is a world that works.
type Options struct {
	Pricing  string // JSON of the pricing list; default one fixed price
	Group    string // JSON members added to the group in the service's metadata, such as `"free_calls": 3`
	Settings string // YAML added to the settings, whole sections
	// PollInterval is how often the node is asked for blocks; default so often that tests need not wait.
	PollInterval time.Duration
	// FromPeer starts from a configuration file of the peer daemon, by `mpegate config import`, on a chain with
	// Sepolia's id.
	FromPeer bool
	// OwnServiceProcess runs the sample service outside the test's process; World.Service is nil then.
	OwnServiceProcess bool
}

// World is everything a test needs. It is gone when the test ends.
type World struct {
	Chain   *devchain.Chain
	Service *sample.Server
	IPFS    *IPFS
	Address string         // of Envoy's public listener
	Serve   *child.Process // mpegate serve; Restart replaces it
	Folder  string

	ServiceAddress string
	Admin          string // base URL of the admin listener

	t          testing.TB
	group      string // of Options
	connection *grpc.ClientConn
}

// New starts a world.
func New(t testing.TB, options Options) *World {
	t.Helper()
	binary := Binary(t)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	w := &World{t: t, group: options.Group, Folder: t.TempDir()}
	w.startChain(ctx, options)
	if options.OwnServiceProcess {
		w.startServiceProcess(ctx, binary)
	} else {
		w.startService()
	}
	w.IPFS = NewIPFS(t)
	w.publish(ctx, options.Pricing)
	if options.FromPeer {
		w.importSettings(ctx, binary)
	} else {
		w.writeSettings(options)
	}
	w.start(binary)
	return w
}

func (w *World) startChain(ctx context.Context, options Options) {
	w.t.Helper()
	chainOptions := devchain.Options{}
	if options.FromPeer {
		chainOptions.ChainID = sepoliaID
	}
	chain, err := devchain.Start(ctx, chainOptions)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Chain = chain
	w.t.Cleanup(chain.Close)
}

func (w *World) startService() {
	w.t.Helper()
	w.Service = sample.NewServer()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.ServiceAddress = listener.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- w.Service.Serve(ctx, listener) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			w.t.Error(err)
		}
	})
}

func (w *World) startServiceProcess(ctx context.Context, binary string) {
	w.t.Helper()
	service, err := child.Start(binary, "sample service", w.Folder, "demo-service", "--listen", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := service.Stop(); err != nil {
			w.t.Error(err)
		}
	})
	if w.ServiceAddress, err = service.WaitFor(ctx, demo.ServiceReadyPrefix); err != nil {
		w.t.Fatal(err)
	}
}

// publish puts the metadata into IPFS and its URIs into the Registry.
func (w *World) publish(ctx context.Context, pricing string) {
	w.t.Helper()
	if pricing == "" {
		pricing = fmt.Sprintf(`[{"default": true, "price_model": "fixed_price", "price_in_cogs": %d}]`, Price)
	}
	group := base64.StdEncoding.EncodeToString(Group[:])
	organization := w.IPFS.Add(fmt.Sprintf(`{"org_name": "Test", "org_id": %q, "groups": [{"group_name": "default_group", "group_id": %q,
		"payment": {"payment_address": %q, "payment_expiration_threshold": %d, "payment_channel_storage_type": "etcd",
		"payment_channel_storage_client": {"connection_timeout": "5s", "request_timeout": "5s", "endpoints": ["http://127.0.0.1:2379"]}}}]}`,
		OrganizationID, group, w.Chain.Account("provider").Address, ExpirationThreshold))
	more := ""
	if w.group != "" {
		more = ", " + w.group
	}
	service := w.IPFS.Add(fmt.Sprintf(`{"version": 1, "display_name": "Test", "encoding": "proto", "service_type": "grpc", "mpe_address": %q,
		"groups": [{"group_name": "default_group", "group_id": %q, "endpoints": ["http://127.0.0.1:7001"], "pricing": %s%s}]}`,
		w.Chain.MPE, group, pricing, more))
	if err := w.Chain.RegisterService(ctx, OrganizationID, "ipfs://"+organization, ServiceID, "ipfs://"+service); err != nil {
		w.t.Fatal(err)
	}
}

// Reprice publishes the service again with other prices, as an owner would.
func (w *World) Reprice(pricing string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	w.publish(ctx, pricing)
}

func (w *World) writeSettings(options Options) {
	w.t.Helper()
	if options.PollInterval == 0 {
		options.PollInterval = 200 * time.Millisecond
	}
	w.Address = FreeAddress(w.t)
	admin := FreeAddress(w.t)
	w.Admin = "http://" + admin
	settings := fmt.Sprintf(`listen:
  address: %s
service:
  endpoint: http://%s
blockchain:
  network: custom
  chain_id: %d
  rpc_url: %s
  registry_address: %q
  poll_interval: %s
metadata:
  organization_id: %s
  service_id: %s
  ipfs_endpoint: %s
  refresh_interval: 1s
channel_state:
  store: embedded
  embedded:
    data_dir: %s
admin:
  address: %s
`, w.Address, w.ServiceAddress, w.Chain.ChainID, w.Chain.HTTPURL, w.Chain.Registry, options.PollInterval, OrganizationID, ServiceID, w.IPFS.URL,
		filepath.Join(w.Folder, "state"), admin)
	if err := os.WriteFile(w.SettingsFile(), []byte(settings+options.Settings), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// SettingsFile is the settings that serve runs with.
func (w *World) SettingsFile() string { return filepath.Join(w.Folder, "mpegate.yaml") }

func (w *World) start(binary string) {
	w.t.Helper()
	w.Launch(binary)
	var err error
	if w.connection, err = grpc.NewClient(w.Address, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = w.connection.Close()
		if err := w.Serve.Stop(); err != nil {
			w.t.Error(err)
		}
		if w.t.Failed() {
			w.t.Logf("last lines of serve:\n%s", w.Serve.LastLines())
		}
	})
}

// Launch starts `mpegate serve` and waits until it is ready.
func (w *World) Launch(binary string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	serve, err := child.Start(binary, "serve", w.Folder, "serve", "--config", w.SettingsFile())
	if err != nil {
		w.t.Fatal(err)
	}
	w.Serve = serve
	ready, err := serve.WaitFor(ctx, "mpegate is ready on ")
	if err != nil {
		_ = serve.Stop()
		w.t.Fatalf("serve: %v\n%s", err, serve.LastLines())
	}
	if strings.TrimSpace(ready) != w.Address {
		w.t.Fatalf("serve is ready on %q, its settings say %s", ready, w.Address)
	}
}

// Connection is a client's connection to Envoy, shared by the test.
func (w *World) Connection() *grpc.ClientConn { return w.connection }

// Dial opens a connection of its own.
func (w *World) Dial() *grpc.ClientConn {
	w.t.Helper()
	connection, err := grpc.NewClient(w.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = connection.Close() })
	return connection
}

// Client calls the sample service through Envoy.
func (w *World) Client() samplev1.SampleClient { return samplev1.NewSampleClient(w.connection) }

// OpenChannel opens a channel of the account "client" with so many cogs, valid for a long time.
func (w *World) OpenChannel(value uint64) *payer.Payer {
	w.t.Helper()
	return w.OpenChannelWith(value, Group, w.Chain.Account("provider").Address, 1_000_000)
}

// OpenChannelWith opens a channel with every choice left to the test. It expires the given blocks from now.
func (w *World) OpenChannelWith(value uint64, group [32]byte, recipient common.Address, blocks uint64) *payer.Payer {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	client := w.Chain.Account("client")
	id, err := w.Chain.OpenChannel(ctx, client, client.Address, recipient, group, uint256.NewInt(value), w.Block()+blocks)
	if err != nil {
		w.t.Fatal(err)
	}
	return &payer.Payer{Key: client.Key, MPE: w.Chain.MPE, Channel: id}
}

// Block is the chain's height.
func (w *World) Block() uint64 {
	w.t.Helper()
	block, err := w.Chain.Client.BlockNumber(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return block
}

// State reads a channel's state through Envoy with the payer's signature.
func (w *World) State(p *payer.Payer) payer.State {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	state, err := p.State(ctx, w.connection, w.Block())
	if err != nil {
		w.t.Fatalf("reading the state of channel %s: %v", p.Channel.Dec(), err)
	}
	return state
}

// Eventually waits until a condition holds, and fails with what it last said.
func Eventually(t testing.TB, what string, holds func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(stepTimeout)
	for {
		ok, last := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s; last seen: %s", what, stepTimeout, last)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	_, text, err := net.SplitHostPort(FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// FreeAddress is a loopback address with a port that is free now.
func FreeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
