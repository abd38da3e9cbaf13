package snetd_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mpegate/mpegate/deploy/process"
	"github.com/mpegate/mpegate/deploy/process/snetd"
)

var update = flag.Bool("update", false, "write the golden files")

// runs says which of the imported files serve would run as they are; the others need what the peer's file lacks.
var runs = map[string]bool{"minimal.json": true, "full.json": true, "aliases.yaml": true, "replicas.json": true, "free.json": true}

func TestImport(t *testing.T) {
	files, err := filepath.Glob("testdata/*")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, file := range files {
		if strings.HasSuffix(file, ".golden.yaml") {
			continue
		}
		tried++
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := snetd.Import(name, data)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, file+".golden.yaml", got)
			if strings.Contains(string(got), "hidden") {
				t.Error("a secret without a setting of its own is copied")
			}
			settings, err := process.Load(process.Source{File: name + ".golden.yaml", Content: got}, process.RoleServe)
			if (err == nil) != runs[name] {
				t.Errorf("the result is checked with: %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "is not a setting") {
				t.Errorf("the result has keys of nobody: %v", err)
			}
			checkFields(t, name, settings)
		})
	}
	if tried < 7 {
		t.Errorf("only %d files", tried)
	}
}

func compare(t *testing.T, golden string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("the result differs from %s (go test -update writes it):\n%s", golden, got)
	}
}

// checkFields looks at what must hold whatever the golden files say.
func checkFields(t *testing.T, name string, settings *process.Settings) {
	t.Helper()
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %q, want %q", what, got, want)
		}
	}
	switch name {
	case "minimal.json":
		expect("listen.address", settings.Listen.Address, "0.0.0.0:7001")
		expect("service.endpoint", settings.Service.Endpoint, "http://127.0.0.1:5005")
		expect("channel_state.store", settings.ChannelState.Store, "embedded")
		expect("data_dir", settings.ChannelState.Embedded.DataDir, "/var/lib/etcd-snet.mpegate")
		expect("network", settings.Blockchain.Network, "sepolia")
	case "full.json":
		expect("listen.address", settings.Listen.Address, "0.0.0.0:8088")
		expect("service.endpoint", settings.Service.Endpoint, "https://captioner.internal:443")
		expect("network", settings.Blockchain.Network, "mainnet")
		expect("api key", settings.Blockchain.APIKey, "api-key-of-the-provider")
		expect("store", settings.ChannelState.Store, "etcd")
		expect("endpoints", strings.Join(settings.ChannelState.Etcd.Endpoints, " "), "https://etcd-1.example:2379 https://etcd-2.example:2379 https://etcd-3.example:2379")
		expect("ca_file", settings.ChannelState.Etcd.CAFile, "/etc/snet/etcd-ca.crt")
		expect("level", settings.Log.Level, "warn")
		expect("timeout", settings.Service.Timeout.String(), "2m30s")
	case "empty.json":
		expect("listen.address", settings.Listen.Address, "127.0.0.1:8080")
		expect("service.endpoint", settings.Service.Endpoint, "http://localhost:5000")
		expect("network", settings.Blockchain.Network, "sepolia")
		expect("store", settings.ChannelState.Store, "etcd")
	case "aliases.yaml":
		expect("listen.address", settings.Listen.Address, "127.0.0.1:7000")
		expect("service.endpoint", settings.Service.Endpoint, "http://localhost:5010")
		expect("ipfs", settings.Metadata.IPFSEndpoint, "http://127.0.0.1:5001")
		expect("websocket", settings.Blockchain.WebSocketURL, "")
		expect("store", settings.ChannelState.Store, "memory")
		expect("timeout", settings.Service.Timeout.String(), "1m40s")
	case "free.json":
		if settings.Blockchain.Enabled {
			t.Error("payments are on")
		}
	}
}

// Every key of the full file is known, so nothing is called nobody's.
func TestEveryKeyIsKnown(t *testing.T) {
	golden, err := os.ReadFile("testdata/full.json.golden.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(golden), "not a setting of snetd") {
		t.Error("a key of the full file is taken for nobody's")
	}
	for _, key := range []string{"daemon_endpoint", "ssl_cert", "payment_channel_storage_server", "daemon_end_point", "hdwallet_index"} {
		if !snetd.Known(key) {
			t.Errorf("%s is not known", key)
		}
	}
	for _, key := range []string{"listen", "log", "log.level", "blockchain"} {
		if snetd.Known(key) {
			t.Errorf("%s is taken for a key of the peer", key)
		}
	}
}

func TestImportFaults(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"a.json": {`{"a": `, "is not a JSON object"},
		"b.json": {`{} 1`, "there is more text"},
		"c.json": {`[1]`, "is not a JSON object"},
		"d.yaml": {"a: [", "is not YAML"},
		"e.toml": {"a = 1", "turn it into JSON or YAML first"},
	} {
		if _, err := snetd.Import(name, []byte(test.text)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
}

// Whatever the peer's file holds, the result is a file of ours with known keys only.
func FuzzImport(f *testing.F) {
	for _, name := range []string{"minimal.json", "full.json", "replicas.json"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := snetd.Import("fuzz.json", data)
		if err != nil {
			return
		}
		_, err = process.Load(process.Source{File: "fuzz.yaml", Content: got}, process.RoleServe)
		for _, fault := range process.Faults(err) {
			if strings.Contains(fault.Error(), "is not a setting") || strings.Contains(fault.Error(), "line ") {
				t.Errorf("%v in\n%s", fault, got)
			}
		}
	})
}
