package demo

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mpegate/mpegate/deploy/demo/child"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
)

// What the demo sells and to whom.
const (
	price               = 1_000_000 // cogs a call
	expirationThreshold = 40_320    // blocks
	organizationID      = "demo-org"
	serviceID           = "demo-service"
)

// group is the id of the demo's payment group.
var group = [32]byte{'m', 'p', 'e', 'g', 'a', 't', 'e'}

// stage is everything that runs.
type stage struct {
	folder  string
	chain   *devchain.Chain
	sample  *child.Process
	serve   *child.Process
	service string // where the sample service listens
	address string // of the public listener

	connection *grpc.ClientConn
	client     samplev1.SampleClient
}

// start brings the parts up in order. The stage it returns can be stopped whatever the error.
func start(ctx context.Context, teller *teller, executable string) (*stage, error) {
	s := &stage{}
	if executable == "" {
		var err error
		if executable, err = os.Executable(); err != nil {
			return s, fmt.Errorf("finding the mpegate binary: %w", err)
		}
	}
	var err error
	if s.folder, err = os.MkdirTemp("", "mpegate-demo-"); err != nil {
		return s, err
	}
	teller.chapter("Starting the parts")
	if err := teller.step("chain with the published contracts", func() (string, error) {
		s.chain, err = devchain.Start(ctx, devchain.Options{Progress: progress{teller.output}})
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("MultiPartyEscrow at %s", s.chain.MPE), nil
	}); err != nil {
		return s, err
	}
	if err := teller.step("sample gRPC service in its own process", func() (string, error) {
		s.sample, err = child.Start(executable, "sample", s.folder, "demo-service", "--listen", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		s.service, err = s.sample.WaitFor(ctx, ServiceReadyPrefix)
		return s.service, err
	}); err != nil {
		return s, err
	}
	return s, teller.step("mpegate serve: authz, etcd and Envoy", func() (string, error) {
		settings, err := s.writeSettings()
		if err != nil {
			return "", err
		}
		if s.serve, err = child.Start(executable, "serve", s.folder, "serve", "--config", settings); err != nil {
			return "", err
		}
		s.serve.ShowTo(progress{teller.output})
		if s.address, err = s.serve.WaitFor(ctx, "mpegate is ready on "); err != nil {
			return "", err
		}
		s.serve.ShowTo(io.Discard)
		s.connection, err = grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return "", err
		}
		s.client = samplev1.NewSampleClient(s.connection)
		return "ready on " + s.address, nil
	})
}

// writeSettings writes the service's metadata and the settings of serve, as an owner would.
func (s *stage) writeSettings() (string, error) {
	groupID := base64.StdEncoding.EncodeToString(group[:])
	files := map[string]string{
		"organization.json": fmt.Sprintf(`{"org_name": "Demo", "org_id": %q, "groups": [{"group_name": "default_group", "group_id": %q,
  "payment": {"payment_address": %q, "payment_expiration_threshold": %d, "payment_channel_storage_type": "etcd",
    "payment_channel_storage_client": {"connection_timeout": "5s", "request_timeout": "5s", "endpoints": ["http://127.0.0.1:2379"]}}}]}
`, organizationID, groupID, s.chain.Account("provider").Address, expirationThreshold),
		"service.json": fmt.Sprintf(`{"version": 1, "display_name": "Demo", "encoding": "proto", "service_type": "grpc", "mpe_address": %q,
  "groups": [{"group_name": "default_group", "group_id": %q, "endpoints": ["http://127.0.0.1:7001"],
    "pricing": [{"default": true, "price_model": "fixed_price", "price_in_cogs": %d}]}]}
`, s.chain.MPE, groupID, price),
	}
	listen, err := freeAddress()
	if err != nil {
		return "", err
	}
	files["mpegate.yaml"] = fmt.Sprintf(`listen:
  address: %s
service:
  endpoint: http://%s
blockchain:
  network: custom
  chain_id: %d
  rpc_url: %s
  websocket_url: %s
  registry_address: %q
metadata:
  organization_id: %s
  service_id: %s
  organization_file: %s
  service_file: %s
channel_state:
  store: embedded
  embedded:
    data_dir: %s
admin:
  address: 127.0.0.1:0
`, listen, s.service, s.chain.ChainID, s.chain.HTTPURL, s.chain.WebSocketURL, s.chain.Registry, organizationID, serviceID,
		filepath.Join(s.folder, "organization.json"), filepath.Join(s.folder, "service.json"), filepath.Join(s.folder, "state"))
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(s.folder, name), []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	return filepath.Join(s.folder, "mpegate.yaml"), nil
}

// freeAddress picks a port that is free now. Another program could take it before Envoy does; then serve says so.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// broken is closed when a part has ended.
func (s *stage) broken() <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-s.sample.Ended():
		case <-s.serve.Ended():
		}
	}()
	return ended
}

// stop ends the parts in the opposite order and removes the folder.
func (s *stage) stop() error {
	var faults []error
	if s.connection != nil {
		faults = append(faults, s.connection.Close())
	}
	for _, part := range []*child.Process{s.serve, s.sample} {
		if part != nil {
			faults = append(faults, part.Stop())
		}
	}
	if s.chain != nil {
		s.chain.Close()
	}
	if s.folder != "" {
		faults = append(faults, os.RemoveAll(s.folder))
	}
	return errors.Join(faults...)
}

// showLogs prints the last lines of each part, for a demo that failed.
func (s *stage) showLogs(output io.Writer) {
	for _, part := range []*child.Process{s.sample, s.serve} {
		if part != nil {
			fmt.Fprintf(output, "\nLast lines of %s:\n%s", part.Name, part.LastLines())
		}
	}
}
