package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// run runs a command line and gives its exit status and what it wrote.
func run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var output, messages bytes.Buffer
	status = Run(context.Background(), args, &output, &messages)
	return status, output.String(), messages.String()
}

const goodSettings = `listen:
  address: 127.0.0.1:7001
service:
  endpoint: http://127.0.0.1:5005
blockchain:
  rpc_url: https://node.example/v3/hidden-key-in-the-path
  api_key: hidden-api-key
metadata:
  organization_id: acme-vision
  service_id: captioner
admin:
  address: 0.0.0.0:7390
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEveryCommandHasHelpAndAnExample(t *testing.T) {
	var visit func(*cobra.Command)
	visit = func(command *cobra.Command) {
		if command.Short == "" || command.Example == "" {
			t.Errorf("%s lacks its help or its example", command.CommandPath())
		}
		path := strings.Fields(command.CommandPath())[1:]
		status, stdout, stderr := run(t, append(path, "--help")...)
		if status != statusDone || !strings.Contains(stdout, "Examples:") || stderr != "" {
			t.Errorf("%s --help: status %d, %q, %q", command.CommandPath(), status, stdout, stderr)
		}
		for _, inner := range command.Commands() {
			visit(inner)
		}
	}
	visit(newRoot(nil))
}

func TestExitStatuses(t *testing.T) {
	t.Setenv("MPEGATE_CONFIG", "")
	good, bad := write(t, "good.yaml", goodSettings), write(t, "bad.yaml", "listen: {address: nowhere, colour: green}\n")
	peer := write(t, "snetd.json", `{"organization_id": "a", "service_id": "b"}`)
	existing := write(t, "there.yaml", "kept")
	for _, test := range []struct {
		args   []string
		status int
		want   []string // in what was written
	}{
		{nil, statusDone, []string{"mpegate serve"}},
		{[]string{"--version"}, statusDone, []string{"mpegate ", "go1."}},
		{[]string{"srve"}, statusUsage, []string{`there is no command "srve"; did you mean mpegate serve?`, "See mpegate --help"}},
		{[]string{"config", "chekc"}, statusUsage, []string{"did you mean mpegate config check?"}},
		{[]string{"serve", "--colour"}, statusUsage, []string{"unknown flag: --colour", "See mpegate serve --help"}},
		{[]string{"serve", "mpegate.yaml"}, statusUsage, []string{"takes no arguments, got mpegate.yaml"}},
		{[]string{"serve"}, statusFailed, []string{"metadata.organization_id is missing", "No settings file was given: use --config FILE or set MPEGATE_CONFIG."}},
		{[]string{"serve", "--config", bad}, statusFailed, []string{"4 settings are wrong:", bad + ":1: listen.colour is not a setting"}},
		{[]string{"config"}, statusDone, []string{"mpegate config check"}},
		{[]string{"config", "check", good}, statusDone, []string{"settings are good", "clients call 127.0.0.1:7001", "blockchain.api_key (set)", "warning: admin.address"}},
		{[]string{"config", "check", "--config", good, "--role", "authz"}, statusDone, []string{"settings are good"}},
		{[]string{"config", "check", good, "--listen", "127.0.0.1:7390"}, statusFailed, []string{"one setting is wrong:", "both would listen on one port"}},
		{[]string{"config", "check", good, "--role", "desk"}, statusUsage, []string{`--role is "desk"`}},
		{[]string{"config", "check", good, bad}, statusUsage, []string{"takes at most one settings file"}},
		{[]string{"config", "check", good, "--config", bad}, statusUsage, []string{"two settings files are given"}},
		{[]string{"config", "check", peer}, statusFailed, []string{"is a setting of snetd", "mpegate config import"}},
		{[]string{"config", "check", "no-such-file.yaml"}, statusFailed, []string{"cannot read the settings"}},
		{[]string{"config", "envoy", good}, statusDone, []string{"static_resources", "7391"}},
		{[]string{"config", "envoy", bad}, statusFailed, []string{"listen.address"}},
		{[]string{"config", "reference"}, statusDone, []string{"listen.address", "MPEGATE_A_B_C"}},
		{[]string{"config", "reference", "--markdown"}, statusDone, []string{"| `listen.address` | text |", "`MPEGATE_LISTEN_ADDRESS`"}},
		{[]string{"config", "import"}, statusUsage, []string{"takes one argument, the settings file of snetd; got 0"}},
		{[]string{"config", "import", "no-such-file.json"}, statusFailed, []string{"cannot read the file of snetd"}},
		{[]string{"config", "import", peer}, statusDone, []string{"organization_id: a"}},
		{[]string{"config", "import", peer, "--output", existing}, statusFailed, []string{"exists: give another name or move it away"}},
		{[]string{"config", "import", peer, "--output", "x.json"}, statusUsage, []string{"ends in .yaml"}},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			status, stdout, stderr := run(t, test.args...)
			if status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
			for _, want := range test.want {
				if !strings.Contains(stdout+stderr, want) {
					t.Errorf("missing %q in\n%s%s", want, stdout, stderr)
				}
			}
			if status != statusDone && (stdout != "" || stderr == "") {
				t.Errorf("a failure writes %q to standard output", stdout)
			}
			if strings.Contains(stdout+stderr, "hidden") {
				t.Errorf("a secret is shown:\n%s%s", stdout, stderr)
			}
		})
	}
	if text, err := os.ReadFile(existing); err != nil || string(text) != "kept" {
		t.Errorf("an existing file became %q, %v", text, err)
	}
}

func TestSettingsFileFromTheEnvironment(t *testing.T) {
	t.Setenv("MPEGATE_CONFIG", write(t, "good.yaml", goodSettings))
	t.Setenv("MPEGATE_LISTEN_ADDRESS", "127.0.0.1:7005")
	status, stdout, stderr := run(t, "config", "check", "--log-level", "debug")
	if status != statusDone || !strings.Contains(stdout, "clients call 127.0.0.1:7005") {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
}

// The imported file is private, and good as it is.
func TestImportWritesAFileThatServeTakes(t *testing.T) {
	t.Setenv("MPEGATE_CONFIG", "")
	peer := write(t, "snetd.config.json", `{"blockchain_network_selected":"sepolia","organization_id":"acme-vision","service_id":"captioner",
		"daemon_endpoint":"0.0.0.0:7001","service_endpoint":"http://127.0.0.1:5005","blockchain_provider_api_key":"hidden-api-key",
		"payment_channel_storage_server":{"enabled":true,"data_dir":"/var/lib/etcd-snet"}}`)
	output := filepath.Join(t.TempDir(), "mpegate.yaml")
	status, stdout, stderr := run(t, "config", "import", peer, "--output", output)
	if status != statusDone || stdout != "" || !strings.Contains(stderr, "mpegate serve --config "+output) {
		t.Errorf("status %d, %q, %q", status, stdout, stderr)
	}
	info, err := os.Stat(output)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v", info.Mode())
	}
	status, stdout, stderr = run(t, "config", "check", output)
	if status != statusDone || !strings.Contains(stdout, "clients call 0.0.0.0:7001, calls go to http://127.0.0.1:5005") || strings.Contains(stdout+stderr, "hidden") {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
}

func TestImportSaysWhatIsMissing(t *testing.T) {
	status, stdout, stderr := run(t, "config", "import", write(t, "empty.json", "{}"))
	if status != statusDone || !strings.Contains(stdout, "listen:") || !strings.Contains(stderr, "metadata.organization_id is missing") {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
}
