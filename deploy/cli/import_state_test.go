package cli_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate/storetest"
	"github.com/mpegate/mpegate/deploy/cli"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
)

// PaymentChannelData is what the old daemon stores, as far as it matters here.
type PaymentChannelData struct {
	ChannelID, Nonce *big.Int
	Sender, Signer   [20]byte
	GroupID          [32]byte
	AuthorizedAmount *big.Int
	Signature        []byte
}

func command(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var output, messages bytes.Buffer
	if status := cli.Run(context.Background(), args, &output, &messages); status != want {
		t.Fatalf("%v: status %d, want %d\n%s%s", args, status, want, &output, &messages)
	}
	return output.String(), messages.String()
}

func TestConfigImportState(t *testing.T) {
	chain, err := devchain.Start(context.Background(), devchain.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chain.Close)
	group := [32]byte{1, 2, 3}
	groupText := base64.StdEncoding.EncodeToString(group[:])
	folder := t.TempDir()
	write := func(name, format string, parameters ...any) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, fmt.Appendf(nil, format, parameters...), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	organization := write("organization.json", `{"org_name": "Test", "org_id": "test-org", "groups": [{"group_name": "default_group", "group_id": %q,
		"payment": {"payment_address": %q, "payment_expiration_threshold": 100}}]}`, groupText, chain.Account("provider").Address)
	service := write("service.json", `{"version": 1, "display_name": "Test", "encoding": "proto", "service_type": "grpc", "mpe_address": %q,
		"groups": [{"group_name": "default_group", "group_id": %q, "endpoints": ["http://127.0.0.1:7001"],
		"pricing": [{"default": true, "price_model": "fixed_price", "price_in_cogs": 1}]}]}`, chain.MPE, groupText)
	settings := write("mpegate.yaml", `blockchain: {network: custom, chain_id: %d, rpc_url: %q}
metadata: {organization_id: test-org, service_id: test-service, organization_file: %q, service_file: %q}
channel_state: {store: embedded, embedded: {data_dir: %q}}
`, chain.ChainID, chain.HTTPURL, organization, service, filepath.Join(folder, "state"))

	client, _ := storetest.EtcdClient(t)
	from := []string{"config", "import-state", "--config", settings, "--from", client.Endpoints()[0], "--from-network", "local"}
	if _, stderr := command(t, 1, from...); !strings.Contains(stderr, `no key that begins with "local/test-org/`+groupText) {
		t.Errorf("an empty etcd: %s", stderr)
	}
	key := fmt.Sprintf("local/test-org/%s/%s//payment-channel/storage/{ID: 7}", groupText, chain.MPE.Hex())
	if _, err := client.Put(t.Context(), key, string(channelValue(t, chain.MPE, group))); err != nil {
		t.Fatal(err)
	}

	stdout, _ := command(t, 0, from...)
	for _, want := range []string{"dry run", "signed 500 = spent 500 + prepaid and not used 0 cogs", "TO TAKE"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the dry run lacks %q:\n%s", want, stdout)
		}
	}
	if _, err := os.Stat(filepath.Join(folder, "state")); !os.IsNotExist(err) {
		t.Errorf("the dry run made our store: %v", err)
	}
	for _, taken := range []int{1, 0} { // the second run finds all of it
		stdout, _ := command(t, 0, append(from, "--yes", "--json")...)
		var report struct {
			Written bool
			Signed  string
			Total   struct{ Read, Taken, Skipped int }
		}
		if err := json.Unmarshal([]byte(stdout), &report); err != nil || !report.Written || report.Total.Read != 1 ||
			report.Total.Taken != taken || report.Total.Skipped != 1-taken || report.Signed != fmt.Sprint(500*taken) {
			t.Errorf("%v\n%s", err, stdout)
		}
	}
	t.Setenv("MPEGATE_CHANNEL_STATE_STORE", "memory")
	if _, stderr := command(t, 1, from...); !strings.Contains(stderr, "channel_state.store is memory") {
		t.Errorf("into memory: %s", stderr)
	}
	if _, stderr := command(t, 2, append(from, "--from-cert", "cert.pem")...); !strings.Contains(stderr, "--from-key") {
		t.Errorf("half a certificate: %s", stderr)
	}
}

func channelValue(t *testing.T, mpe common.Address, group [32]byte) []byte {
	t.Helper()
	key, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := blockchain.Sign(blockchain.ClaimMessage(mpe, uint256.NewInt(7), uint256.NewInt(0), uint256.NewInt(500)), key)
	if err != nil {
		t.Fatal(err)
	}
	var value bytes.Buffer
	sender := crypto.PubkeyToAddress(key.PublicKey)
	if err := gob.NewEncoder(&value).Encode(PaymentChannelData{
		ChannelID: big.NewInt(7), Nonce: new(big.Int), Sender: sender, Signer: sender, GroupID: group, AuthorizedAmount: big.NewInt(500), Signature: signature,
	}); err != nil {
		t.Fatal(err)
	}
	return value.Bytes()
}
