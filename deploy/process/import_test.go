package process_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/mpegate/mpegate/deploy/demo/devchain"
	"github.com/mpegate/mpegate/deploy/demo/sample"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/deploy/process"
	"github.com/mpegate/mpegate/deploy/process/snetd"
	"github.com/mpegate/mpegate/e2e/harness"
)

// A file of snetd, imported, serves the service that it names: Registry, metadata in IPFS, embedded store and all.
func TestImportedFileServes(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	chain, err := devchain.Start(ctx, devchain.Options{ChainID: 11155111})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chain.Close)
	ipfs, id := harness.NewIPFS(t), base64.StdEncoding.EncodeToString(group[:])
	organizationURI := "ipfs://" + ipfs.Add(fmt.Sprintf(organization, id, chain.Account("provider").Address))
	serviceURI := "ipfs://" + ipfs.Add(fmt.Sprintf(service, chain.MPE, id, price))
	if err := chain.RegisterService(ctx, "test-org", organizationURI, "test-service", serviceURI); err != nil {
		t.Fatal(err)
	}
	backend := open(t)
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- sample.Serve(serving, backend) }()
	defer func() { stop(); <-served }()

	folder, store := t.TempDir(), open(t)
	_, storePort, _ := net.SplitHostPort(store.Addr().String())
	store.Close() // the embedded etcd opens it
	settings, err := snetd.Import("snetd.config.json", fmt.Appendf(nil, `{
		"blockchain_network_selected": "sepolia", "ethereum_json_rpc_http_endpoint": %q, "registry_address_key": %q,
		"organization_id": "test-org", "service_id": "test-service", "daemon_group_name": "default_group",
		"daemon_endpoint": "127.0.0.1:0", "service_endpoint": "http://%s", "ipfs_endpoint": %q,
		"payment_channel_storage_type": "etcd",
		"payment_channel_storage_server": {"enabled": true, "host": "127.0.0.1", "client_port": %s, "data_dir": %q},
		"log": {"level": "info", "formatter": {"type": "json"}, "output": {"type": ["stderr"]}}}`,
		chain.HTTPURL, chain.Registry.Hex(), backend.Addr(), ipfs.URL, storePort, filepath.Join(folder, "etcd")))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "mpegate.yaml")
	if err := os.WriteFile(file, settings, 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{chain: chain}
	// Twice, because what the first one took must be known to the second.
	for round := range uint64(2) {
		r := runFrom(t, process.RoleServe, process.Source{File: file, Environment: []string{"MPEGATE_ADMIN_ADDRESS=127.0.0.1:0"}})
		client := samplev1.NewSampleClient(dial(t, r.ready()))
		if round == 0 {
			w.payer = w.openChannel(t, ctx)
		}
		paid, err := w.payer.Paying(ctx, (round+1)*price)
		if err != nil {
			t.Fatal(err)
		}
		if reply, err := client.Echo(paid, &samplev1.EchoRequest{Text: "paid"}); err != nil || reply.GetText() != "paid" {
			t.Errorf("round %d: a paid call is answered %v, %v", round, reply, err)
		}
		if _, err := client.Echo(paid, &samplev1.EchoRequest{Text: "again"}); err == nil {
			t.Errorf("round %d: the same amount was accepted twice", round)
		}
		if err := r.end(); err != nil {
			t.Error(err)
		}
	}
}
