package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// withSecrets sets every secret setting; the texts returned must never be seen.
func withSecrets(t *testing.T) (settings *Settings, hidden []string) {
	t.Helper()
	settings = mustLoad(t, "testdata/good.yaml")
	value := reflect.ValueOf(settings).Elem()
	for i, setting := range Reference() {
		if !setting.Secret {
			continue
		}
		text := fmt.Sprintf("hidden-%02d-%s", i, strings.Repeat("a", 20))
		switch {
		case strings.HasSuffix(setting.Key, "_url"):
			value.FieldByIndex(setting.index).SetString("https://user:p" + text + "@node.example:8545/v3/" + text + "?key=" + text)
		default:
			value.FieldByIndex(setting.index).SetString(text)
		}
		hidden = append(hidden, text)
	}
	if len(hidden) < 4 {
		t.Fatalf("only %d secrets", len(hidden))
	}
	return settings, hidden
}

func checkHidden(t *testing.T, where, text string, hidden []string) {
	t.Helper()
	for _, secret := range hidden {
		if strings.Contains(text, secret) || strings.Contains(text, url.QueryEscape(secret)) {
			t.Errorf("%s shows a secret: %s", where, text)
		}
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	settings, hidden := withSecrets(t)
	settings.ChannelState.Etcd.Username = "someone"
	settings.Blockchain.Network = "nowhere"
	redactor := NewRedactor(settings)
	checkHidden(t, "Summary", strings.Join(settings.Summary(RoleServe), "\n"), hidden)
	checkHidden(t, "Validate", fmt.Sprint(settings.Validate(RoleServe)), hidden)
	checkHidden(t, "the blockchain section", fmt.Sprintf("%v %+v %#v", settings.Blockchain, settings.Blockchain, settings.Blockchain), hidden)
	if !strings.Contains(strings.Join(settings.Summary(RoleServe), "\n"), "blockchain.api_key (set)") {
		t.Error("the summary does not say which secrets are set")
	}

	fault := fmt.Errorf("Post %q: %w", settings.Blockchain.RPCURL, fs.ErrNotExist)
	checkHidden(t, "an error", redactor.Error(fault).Error(), hidden)
	if !errors.Is(redactor.Error(fault), fs.ErrNotExist) || !strings.Contains(redactor.Error(fault).Error(), "node.example:8545") {
		t.Errorf("the error lost its cause or its host: %v", redactor.Error(fault))
	}
	joined := redactor.Error(errors.Join(fault, errors.New("harmless")))
	checkHidden(t, "joined errors", joined.Error(), hidden)
	if len(Faults(joined)) != 2 {
		t.Errorf("%d faults", len(Faults(joined)))
	}

	for _, format := range []string{"console", "json"} {
		var output bytes.Buffer
		settings.Log.Format, settings.Log.Level = format, "debug"
		logger, err := NewLogger(settings.Log, redactor, &output, &output)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range hidden {
			logger.Debug("message "+secret, zap.String("field", secret), zap.Error(errors.New(secret)), zap.Any("any", map[string]string{"a": secret}),
				zap.ByteString("bytes", []byte(secret)), zap.String("query", url.QueryEscape(secret+" &")))
			logger.With(zap.String("with", secret)).Named(secret).Error("named")
		}
		logger.Info("connecting to " + settings.Blockchain.RPCURL + " and " + settings.Blockchain.WebSocketURL)
		logger.Info("somebody else's https://name:word@host.example/path stays without name and word")
		checkHidden(t, format+" log", output.String(), hidden)
		if strings.Contains(output.String(), "name:word") || !strings.Contains(output.String(), "host.example/path") {
			t.Errorf("credentials of a URL: %s", &output)
		}
	}
}

func TestRedactedSecretsInOtherForms(t *testing.T) {
	settings := mustLoad(t, "testdata/good.yaml")
	settings.Blockchain.APIKey = `quote"back\slash and blank`
	redactor := NewRedactor(settings)
	for _, text := range []string{
		settings.Blockchain.APIKey, fmt.Sprintf("%q", settings.Blockchain.APIKey), url.QueryEscape(settings.Blockchain.APIKey),
		url.PathEscape(settings.Blockchain.APIKey), "a line\nwith " + settings.Blockchain.APIKey + " within",
	} {
		if got := redactor.Text(text); !strings.Contains(got, redacted) || strings.Contains(got, "slash") {
			t.Errorf("%s became %s", text, got)
		}
	}
}

// What is no key must stay readable, also where a node's URL holds the same word.
func TestEverydayWordsStay(t *testing.T) {
	settings := mustLoad(t, "testdata/good.yaml")
	settings.Blockchain.RPCURL = "http://127.0.0.1:8545/mainnet"
	redactor := NewRedactor(settings)
	if got := redactor.Text("network mainnet at 127.0.0.1:8545"); got != "network mainnet at 127.0.0.1:8545" {
		t.Error(got)
	}
	if got := redactor.Text("asking http://127.0.0.1:8545/mainnet"); got != "asking http://127.0.0.1:8545/(redacted)" {
		t.Error(got)
	}
}
