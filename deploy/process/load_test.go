package process

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// load reads a file of testdata with nothing else around it.
func load(t *testing.T, name string, environment ...string) (*Settings, []error) {
	t.Helper()
	settings, err := Load(Source{File: name, Environment: environment}, RoleServe)
	return settings, Faults(err)
}

func mustLoad(t *testing.T, name string, environment ...string) *Settings {
	t.Helper()
	settings, faults := load(t, name, environment...)
	if len(faults) > 0 {
		t.Fatalf("%s: %v", name, faults)
	}
	return settings
}

func write(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadGoodFiles(t *testing.T) {
	yaml := mustLoad(t, "testdata/good.yaml")
	if yaml.Listen.Address != "127.0.0.1:7001" || yaml.Metadata.GroupName != "default_group" || yaml.Blockchain.ChainID != 11155111 {
		t.Errorf("good.yaml was read as %+v %+v %s", yaml.Listen, yaml.Metadata, yaml.Blockchain)
	}
	json := mustLoad(t, "testdata/good.json")
	if json.Blockchain.ChainID != 1<<64-1 || json.Service.Timeout != 100*time.Second || json.Service.MaxMessageSize != 4<<20 {
		t.Errorf("good.json was read as %s %+v", json.Blockchain, json.Service)
	}
	if want := []string{"http://10.0.0.1:2379", "http://10.0.0.2:2379"}; !slices.Equal(json.ChannelState.Etcd.Endpoints, want) {
		t.Errorf("endpoints are %v", json.ChannelState.Etcd.Endpoints)
	}
}

// Each file of testdata/faulty has one fault; its first line says what the error holds.
func TestFaultyFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/faulty/*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(text), "\n")
			want := strings.TrimPrefix(first, "# want: ")
			_, faults := load(t, file)
			if len(faults) != 1 {
				t.Fatalf("%d faults, want one: %v", len(faults), faults)
			}
			if !strings.Contains(faults[0].Error(), want) {
				t.Errorf("fault is\n  %v\nwant it to hold\n  %s", faults[0], want)
			}
			for _, secret := range []string{"password-of", "key-of", "1234567890123"} {
				if strings.Contains(faults[0].Error(), secret) {
					t.Errorf("the fault shows a secret: %v", faults[0])
				}
			}
		})
	}
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	file := write(t, "mpegate.yaml", `listen:
  address: nowhere
  colour: green
service:
  timeout: 5
blockchain:
  network: moon
log:
  level: loud
`, 0o600)
	_, faults := load(t, file, "MPEGATE_ENVOY_LOG_LEVEL=loud", "MPEGATE_LISTN_ADDRESS=x")
	var text strings.Builder
	for _, fault := range faults {
		text.WriteString(fault.Error() + "\n")
	}
	for _, want := range []string{
		file + ":3: listen.colour is not a setting", file + ":5: service.timeout \"5\" is not a duration",
		file + `:2: listen.address is "nowhere"`, file + `:7: blockchain.network is "moon"`, file + `:9: log.level is "loud"`,
		`MPEGATE_ENVOY_LOG_LEVEL: envoy.log_level is "loud"`,
		"environment: MPEGATE_LISTN_ADDRESS is not a setting; did you mean MPEGATE_LISTEN_ADDRESS?",
		"metadata.organization_id is missing", "metadata.service_id is missing",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("missing: %s", want)
		}
	}
	if len(faults) != 9 {
		t.Errorf("%d faults:\n%s", len(faults), &text)
	}
}

func TestPrecedence(t *testing.T) {
	flags := func(arguments ...string) *pflag.FlagSet {
		set := pflag.NewFlagSet("test", pflag.ContinueOnError)
		set.String("log-level", "warn", "") // a flag that was not given says nothing, whatever its default
		if err := set.SetAnnotation("log-level", FlagSetting, []string{"log.level"}); err != nil {
			t.Fatal(err)
		}
		set.String("other", "", "")
		if err := set.Parse(arguments); err != nil {
			t.Fatal(err)
		}
		return set
	}
	file := write(t, "mpegate.yaml", "log: {level: debug}\n", 0o600)
	variable := []string{"MPEGATE_LOG_LEVEL=error", "PATH=/bin", "MPEGATE_ENVOY=/opt/envoy", "MPEGATE_CACHE=/tmp", "MPEGATE_CONFIG=x"}
	for _, test := range []struct {
		name   string
		source Source
		want   string
	}{
		{"default", Source{}, "info"},
		{"file", Source{File: file, Flags: flags()}, "debug"},
		{"environment over file", Source{File: file, Environment: variable, Flags: flags("--other=x")}, "error"},
		{"flag over environment", Source{File: file, Environment: variable, Flags: flags("--log-level=warn")}, "warn"},
		{"empty variable is not set", Source{File: file, Environment: []string{"MPEGATE_LOG_LEVEL="}}, "debug"},
	} {
		t.Run(test.name, func(t *testing.T) {
			settings, err := Load(test.source, RoleServe)
			if settings.Log.Level != test.want {
				t.Errorf("log.level is %q, want %q", settings.Log.Level, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "is not a setting") {
				t.Error(err)
			}
		})
	}
	_, err := Load(Source{File: file, Flags: flags("--log-level=loud")}, RoleServe)
	if err == nil || !strings.Contains(err.Error(), `--log-level: log.level is "loud"`) {
		t.Errorf("a wrong flag is not named: %v", err)
	}
}

func TestEmptyAndMissingFiles(t *testing.T) {
	empty := write(t, "empty.yaml", "# nothing yet\nlisten:\nlog:\n  # level: debug\n", 0o600)
	if settings, faults := load(t, empty); settings.Log.Level != "info" || len(faults) != 2 {
		t.Errorf("level %q, faults %v", settings.Log.Level, faults)
	}
	_, faults := load(t, "testdata/no-such-file.yaml")
	if len(faults) == 0 || !strings.Contains(faults[0].Error(), "cannot read the settings") {
		t.Errorf("a missing file is no fault: %v", faults)
	}
	for name, text := range map[string]string{"a.json": `{"listen": {"address": "127.0.0.1:1"}`, "b.json": `{} {}`, "c.json": `[]`, "d.yaml": "- 1\n"} {
		if _, faults := load(t, write(t, name, text, 0o600)); len(faults) == 0 || !strings.Contains(faults[0].Error(), name) {
			t.Errorf("%s %s: %v", name, text, faults)
		}
	}
}

// sample gives a text for a setting that differs from its default, and the value it stands for.
func sample(setting Setting) (text string, want any) {
	switch setting.Type {
	case "true or false":
		other := setting.Default != "true"
		return fmt.Sprint(other), other
	case "duration":
		return "1h7m", time.Hour + 7*time.Minute
	case "size":
		return "3MiB", 3 << 20
	case "whole number":
		return "77", 77
	case "list":
		return "one, two", []string{"one", "two"}
	case "map":
		return "one=1, two = x", map[string]any{"one": "1", "two": "x"}
	}
	return "text of " + setting.Key, "text of " + setting.Key
}

// Every setting can be given by its environment variable.
func TestEnvironmentOfEverySetting(t *testing.T) {
	names := map[string]string{}
	for _, setting := range Reference() {
		if other := names[setting.Environment]; other != "" {
			t.Errorf("%s and %s share the variable %s", other, setting.Key, setting.Environment)
		}
		names[setting.Environment] = setting.Key
		if setting.secretFile != "" {
			continue // TestSecretFiles
		}
		text, want := sample(setting)
		settings, err := Load(Source{Environment: []string{setting.Environment + "=" + text}}, RoleServe)
		if err != nil && (strings.Contains(err.Error(), "is not a setting") || strings.Contains(err.Error(), setting.Environment+": "+setting.Key+" \"")) {
			t.Errorf("%s: %v", setting.Environment, err)
		}
		got := reflect.ValueOf(settings).Elem().FieldByIndex(setting.index)
		if fmt.Sprint(got.Interface()) != fmt.Sprint(want) {
			t.Errorf("%s=%s gives %s = %v", setting.Environment, text, setting.Key, got.Interface())
		}
	}
}

func TestSecretFiles(t *testing.T) {
	var secrets int
	for _, setting := range Reference() {
		if setting.secretFile == "" {
			continue
		}
		secrets++
		for text, want := range map[string]string{"hush\n": "hush", "hush\r\n": "hush", "hush": "hush", "two\nlines\n": "two\nlines"} {
			file := write(t, "secret", text, 0o600)
			settings, _ := Load(Source{Environment: []string{setting.Environment + "=" + file}}, RoleServe)
			secret := settingsByKey[setting.secretFile]
			if got := reflect.ValueOf(settings).Elem().FieldByIndex(secret.index).String(); got != want {
				t.Errorf("%s with %q gives %q, want %q", setting.Key, text, got, want)
			}
			if len(settings.Warnings()) != 0 {
				t.Errorf("a private file is warned about: %v", settings.Warnings())
			}
		}
	}
	if secrets < 4 {
		t.Errorf("only %d settings have a file form", secrets)
	}
}

func TestSecretFileFaults(t *testing.T) {
	key := "MPEGATE_BLOCKCHAIN_API_KEY"
	for _, test := range []struct{ name, file, want string }{
		{"empty", write(t, "empty", "\n", 0o600), "is empty: write the secret into it"},
		{"folder", t.TempDir(), "give the file that holds the secret alone"},
		{"too large", write(t, "large", strings.Repeat("x", maximumSecretSize+1), 0o600), "is not a file of at most 64KiB"},
	} {
		_, faults := load(t, "testdata/good.yaml", key+"_FILE="+test.file)
		if len(faults) != 1 || !strings.Contains(faults[0].Error(), test.want) {
			t.Errorf("%s: %v", test.name, faults)
		}
	}
	file := write(t, "secret", "hush-hush", 0o600)
	_, faults := load(t, "testdata/good.yaml", key+"=hush-hush", key+"_FILE="+file)
	if len(faults) != 1 || !strings.Contains(faults[0].Error(), "blockchain.api_key and blockchain.api_key_file are both set") {
		t.Errorf("both set: %v", faults)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	settings := mustLoad(t, "testdata/good.yaml", key+"_FILE="+file)
	if warnings := settings.Warnings(); len(warnings) != 1 || !strings.Contains(warnings[0], "chmod 600") {
		t.Errorf("warnings are %v", warnings)
	}
}

func TestWarnings(t *testing.T) {
	settings := mustLoad(t, "testdata/good.yaml", "MPEGATE_ADMIN_ADDRESS=0.0.0.0:7390", "MPEGATE_AUTHZ_ADDRESS=0.0.0.0:7391")
	text := strings.Join(settings.Warnings(), "\n")
	for _, want := range []string{"admin.address 0.0.0.0:7390", "authz.address 0.0.0.0:7391"} {
		if !strings.Contains(text, want) {
			t.Errorf("no warning about %s in %q", want, text)
		}
	}
}

func TestReferenceIsComplete(t *testing.T) {
	list := Reference()
	if len(list) < 70 {
		t.Fatalf("%d settings", len(list))
	}
	for _, setting := range list {
		if setting.Help == "" || setting.Type == "" || setting.Environment == "" {
			t.Errorf("%s lacks its help, type or variable: %+v", setting.Key, setting)
		}
	}
	for key := range settingHelp {
		if settingsByKey[key] == nil {
			t.Errorf("the help of %s is for no setting", key)
		}
	}
	for key := range secretKeys {
		if settingsByKey[key] == nil || settingsByKey[key+"_file"] == nil {
			t.Errorf("%s is no secret setting", key)
		}
	}
	var table strings.Builder
	if err := WriteMarkdownReference(&table); err != nil {
		t.Fatal(err)
	}
	if rows := strings.Count(table.String(), "\n") - 2; rows != len(list) {
		t.Errorf("%d rows for %d settings", rows, len(list))
	}
}

func TestNearest(t *testing.T) {
	candidates := settingKeys()
	for name, want := range map[string]string{
		"listen.adress": "listen.address", "LISTEN.ADDRESS": "listen.address", "blockchain.rpcurl": "blockchain.rpc_url",
		"chanel_state.store": "channel_state.store", "xyzzy": "",
	} {
		if got := nearest(name, candidates); got != want {
			t.Errorf("nearest to %s is %q, want %q", name, got, want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	for _, name := range []string{"testdata/good.yaml", "testdata/good.json"} {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, true)
		f.Add(text, false)
	}
	f.Fuzz(func(t *testing.T, text []byte, isJSON bool) {
		name := map[bool]string{true: "fuzz.json", false: "fuzz.yaml"}[isJSON]
		if len(text) == 0 {
			return
		}
		settings, err := Load(Source{File: name, Content: text}, RoleServe)
		if settings == nil {
			t.Fatal("no settings")
		}
		if err == nil && settings.Metadata.OrganizationID == "" && settings.Blockchain.Enabled {
			t.Error("settings without an organization are good")
		}
	})
}
