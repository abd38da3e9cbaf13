package harness

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
)

// importSettings turns a configuration file of the peer daemon into ours, as its operator would.
func (w *World) importSettings(ctx context.Context, binary string) {
	w.t.Helper()
	w.Address = FreeAddress(w.t)
	configuration, err := json.MarshalIndent(map[string]any{
		"blockchain_network_selected":     "sepolia",
		"ethereum_json_rpc_http_endpoint": w.Chain.HTTPURL,
		"registry_address_key":            w.Chain.Registry.Hex(),
		"ipfs_endpoint":                   w.IPFS.URL,
		"organization_id":                 OrganizationID,
		"service_id":                      ServiceID,
		"daemon_group_name":               "default_group",
		"daemon_endpoint":                 w.Address,
		"service_endpoint":                "http://" + w.ServiceAddress,
		"token_secret_key":                "a-secret-of-this-test-0123456789-abcdef",
		"payment_channel_storage_server": map[string]any{
			"enabled": true, "client_port": freePort(w.t), "peer_port": freePort(w.t), "data_dir": filepath.Join(w.Folder, "peer.etcd"),
		},
		"log": map[string]any{"level": "info", "output": map[string]any{"type": []string{"stdout"}}},
	}, "", "  ")
	if err != nil {
		w.t.Fatal(err)
	}
	peerFile := filepath.Join(w.Folder, "snetd.config.json")
	if err := os.WriteFile(peerFile, configuration, 0o600); err != nil {
		w.t.Fatal(err)
	}
	command := exec.CommandContext(ctx, binary, "config", "import", peerFile)
	command.Stderr = os.Stderr
	settings, err := command.Output()
	if err != nil {
		w.t.Fatalf("config import: %v", err)
	}
	if err := os.WriteFile(w.SettingsFile(), settings, 0o600); err != nil {
		w.t.Fatal(err)
	}
}
