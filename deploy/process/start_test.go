package process_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/mpegate/mpegate/deploy/process"
)

// A start that cannot succeed says which part and setting is at fault, in time, and leaves nothing behind.
func TestStartFaults(t *testing.T) {
	w := newWorld(t)
	taken := open(t)
	defer taken.Close()
	free := open(t)
	nobody := free.Addr().String()
	free.Close()
	for _, test := range []struct {
		name    string
		changes map[string]string
		want    []string
	}{
		{"admin taken", map[string]string{"ADMIN_ADDRESS": taken.Addr().String()}, []string{"admin.address " + taken.Addr().String() + " is in use"}},
		{"authz taken", map[string]string{"AUTHZ_ADDRESS": taken.Addr().String()}, []string{"authz.address " + taken.Addr().String() + " is in use"}},
		{"listen taken", map[string]string{"LISTEN_ADDRESS": taken.Addr().String()}, []string{"listen.address " + taken.Addr().String() + " is in use"}},
		{"listen elsewhere", map[string]string{"LISTEN_ADDRESS": "192.0.2.1:7000"}, []string{"listen.address 192.0.2.1:7000 cannot be listened on"}},
		{"no node", map[string]string{"BLOCKCHAIN_RPC_URL": "http://" + nobody + "/" + secretPath, "START_TIMEOUT": "1s"},
			[]string{"chain:", nobody, "blockchain.rpc_url"}},
		{"wrong chain", map[string]string{"BLOCKCHAIN_CHAIN_ID": "5"}, []string{"chain:", "serves chain id 1337"}},
		{"not registered", map[string]string{"METADATA_ORGANIZATION_FILE": "", "METADATA_SERVICE_FILE": "",
			"BLOCKCHAIN_REGISTRY_ADDRESS": w.chain.Registry.Hex()}, []string{"metadata:", "test-org"}},
		{"no etcd folder", map[string]string{"CHANNEL_STATE_STORE": "embedded", "CHANNEL_STATE_EMBEDDED_DATA_DIR": "/proc/none"},
			[]string{"channel state:", "channel_state.embedded.data_dir"}},
		{"no Envoy", map[string]string{"ENVOY_BINARY": "/does/not/exist"}, []string{"envoy: envoy.binary is no program", "/does/not/exist"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := &world{chain: w.chain, settings: maps.Clone(w.settings)}
			for name, value := range test.changes {
				if value == "" {
					delete(changed.settings, name)
				} else {
					changed.settings[name] = value
				}
			}
			r := changed.run(t, process.RoleServe, nil)
			err := r.wait()
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error is %q, want %q in it", err, want)
				}
			}
			if all := err.Error() + r.stdout.String() + r.stderr.String(); strings.Contains(all, secretPath) {
				t.Errorf("the node's URL is shown: %s", all)
			}
			if strings.Contains(r.stdout.String(), readyPrefix) {
				t.Error("it said ready")
			}
		})
	}
}
