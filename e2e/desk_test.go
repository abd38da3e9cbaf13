package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/accounts/keystore"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/deploy/demo/child"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/e2e/harness"
)

// commandLimit ends a command that hangs.
const commandLimit = time.Minute

// desk runs the provider's commands as a person would.
type desk struct {
	t     *testing.T
	world *harness.World
}

// run runs a command to its end and gives what it printed, standard error last.
func (d *desk) run(arguments ...string) (string, error) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), commandLimit)
	defer cancel()
	command := exec.CommandContext(ctx, harness.Binary(d.t), arguments...)
	command.Env = append(os.Environ(), "MPEGATE_CONFIG="+d.world.SettingsFile())
	var messages bytes.Buffer
	command.Stderr = &messages
	output, err := command.Output()
	return string(output) + messages.String(), err
}

func (d *desk) must(arguments ...string) string {
	d.t.Helper()
	output, err := d.run(arguments...)
	if err != nil {
		d.t.Fatalf("mpegate %s: %v\n%s", strings.Join(arguments, " "), err, output)
	}
	return output
}

// keyFile writes the key of an account of the chain.
func (d *desk) keyFile(account *devchain.Account) string {
	d.t.Helper()
	name := filepath.Join(d.t.TempDir(), "key")
	if err := os.WriteFile(name, fmt.Appendf(nil, "0x%x\n", crypto.FromECDSA(account.Key)), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return name
}

// pay makes so many calls on a new channel, every third of which fails, and gives the price of the others.
func (d *desk) pay(calls uint64) (*payer.Payer, uint64) {
	d.t.Helper()
	p, spent := d.world.OpenChannel(100*harness.Price), uint64(0)
	for call := range calls {
		request, want := &samplev1.EchoRequest{}, codes.OK
		if call%3 == 1 {
			request, want = failing(codes.DataLoss), codes.DataLoss
		} else {
			spent += harness.Price
		}
		if _, err := d.world.Client().Echo(paying(d.t, p, (call+1)*harness.Price), request); status.Code(err) != want {
			d.t.Fatalf("call %d: %v", call, err)
		}
	}
	harness.Eventually(d.t, "failed calls are given back", func() (bool, string) {
		used := d.world.State(p).Used
		return used == spent, fmt.Sprintf("used %d, wanted %d", used, spent)
	})
	return p, spent
}

func (d *desk) expectEarned(want uint64) {
	d.t.Helper()
	if got := d.world.Earned(); got != want {
		d.t.Errorf("the provider has %d cogs, wanted %d", got, want)
	}
}

// The desk shows what was spent, claims exactly that, and then there is nothing left to claim.
func TestDeskClaimsWhatWasSpent(t *testing.T) {
	world := harness.New(t, harness.Options{})
	d := &desk{t, world}
	if output := d.must("claims", "send"); !strings.Contains(output, "nothing to claim") {
		t.Errorf("before the first call: %s", output)
	}
	// The folder is open in serve: a command that asks nobody cannot have it, and says what to do.
	output, err := d.run("channels", "list", "--admin", harness.FreeAddress(t))
	if err == nil || !strings.Contains(output, "in use by another process") || !strings.Contains(output, "--admin HOST:PORT") {
		t.Errorf("with another admin address: %v, %s", err, output)
	}
	var payers []*payer.Payer
	total := uint64(0)
	for calls := range uint64(4) {
		p, spent := d.pay(2*calls + 2) // the last call of some has failed: more is signed than spent
		payers, total = append(payers, p), total+spent
	}

	dry := d.must("claims", "send", "--batch", "3")
	if !strings.Contains(dry, fmt.Sprintf("4 channels, %d cogs, transactions: 2", total)) || !strings.Contains(dry, "dry run") {
		t.Errorf("the dry run says\n%s", dry)
	}
	var estimate struct{ Quote struct{ Gas int } }
	if err := json.Unmarshal([]byte(d.must("claims", "send", "--batch", "3", "--json")), &estimate); err != nil {
		t.Fatal(err)
	}
	var listed struct {
		Channels []struct {
			Channel, Nonce, Spent, Unclaimed, Value string
			State                                   string
		}
	}
	if err := json.Unmarshal([]byte(d.must("channels", "list", "--json")), &listed); err != nil || len(listed.Channels) != 4 {
		t.Fatalf("the list has %d channels, %v", len(listed.Channels), err)
	}
	for _, channel := range listed.Channels {
		if channel.State != "open" || channel.Nonce != "0" || channel.Spent != channel.Unclaimed {
			t.Errorf("after the dry run: %+v", channel)
		}
	}

	stranger := d.keyFile(world.Chain.Account("stranger"))
	output, _ = d.run("claims", "send", "--yes", "--key-file", stranger)
	if !strings.Contains(output, "the channel pays") {
		t.Errorf("with a stranger's key: %s", output)
	}
	d.expectEarned(0)

	file, password := keystoreOf(t, world.Chain.Account("provider"))
	var outcome struct {
		Claimed      string
		Transactions []struct{ Channels, Gas int }
	}
	sent := d.must("claims", "send", "--yes", "--keystore", file, "--password-file", password, "--batch", "3", "--json")
	if err := json.Unmarshal([]byte(sent[:strings.LastIndex(sent, "}")+1]), &outcome); err != nil || len(outcome.Transactions) != 2 {
		t.Fatalf("%v\n%s", err, sent)
	}
	used := 0
	for _, transaction := range outcome.Transactions {
		used += transaction.Gas
	}
	if used > estimate.Quote.Gas || used < estimate.Quote.Gas/2 {
		t.Errorf("the transactions used %d gas, the dry run said %d", used, estimate.Quote.Gas)
	}
	d.expectEarned(total)
	for i, p := range payers {
		if on := world.Channel(&p.Channel); on.Nonce.Uint64() != 1 {
			t.Errorf("channel %d is at nonce %s", i, on.Nonce.Dec())
		}
	}
	if output := d.must("claims", "send", "--yes", "--keystore", file, "--password-file", password); !strings.Contains(output, "nothing to claim") {
		t.Errorf("the second time: %s", output)
	}
	if output := d.must("claims", "watch"); !strings.Contains(output, "no claim is in progress") {
		t.Errorf("watch: %s", output)
	}
	if output := d.must("channels", "show", payers[0].Channel.Dec()); !strings.Contains(output, "on chain") {
		t.Errorf("show: %s", output)
	}
	d.expectEarned(total)

	t.Log("two at once")
	for range 3 {
		_, spent := d.pay(3)
		total += spent
	}
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if output, err := d.run("claims", "send", "--yes", "--keystore", file, "--password-file", password, "--batch", "2"); err != nil {
				t.Logf("one of the two says %s", output)
			}
		})
	}
	both.Wait()
	d.must("claims", "send", "--yes", "--keystore", file, "--password-file", password)
	d.expectEarned(total)
}

func keystoreOf(t *testing.T, account *devchain.Account) (file, password string) {
	t.Helper()
	key := &keystore.Key{Address: account.Address, PrivateKey: account.Key}
	content, err := keystore.EncryptKey(key, "a password", keystore.LightScryptN, keystore.LightScryptP)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	file, password = filepath.Join(folder, "key.json"), filepath.Join(folder, "password")
	for name, data := range map[string][]byte{file: content, password: []byte("a password\n")} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file, password
}

// A claim that is interrupted by a kill goes on where it was, whatever had happened until then.
func TestDeskClaimsOutliveAKill(t *testing.T) {
	world := harness.New(t, harness.Options{})
	d := &desk{t, world}
	key := d.keyFile(world.Chain.Account("provider"))
	first, earned := d.pay(4)

	t.Log("killed after the claim was started")
	if _, err := world.StartClaims(t.Context(), first.Channel); err != nil {
		t.Fatal(err)
	}
	second, spent := d.pay(3)
	if output := d.must("claims", "send", "--yes", "--key-file", key); !strings.Contains(output, "2 channels") {
		t.Errorf("the command says %s", output)
	}
	earned += spent
	d.expectEarned(earned)

	t.Log("killed before the transaction left")
	for _, p := range []*payer.Payer{first, second} {
		p.Nonce = *uint256.NewInt(1)
		if _, err := world.Client().Echo(paying(t, p, harness.Price), &samplev1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	d.killWhileSending(key, false)
	d.expectEarned(earned)
	if output := d.must("claims", "list"); strings.Count(output, "sent") != 2 {
		t.Errorf("after the kill: %s", output)
	}
	// More is spent meanwhile. No second claim starts before the first is through.
	first.Nonce = *uint256.NewInt(2)
	if _, err := world.Client().Echo(paying(t, first, harness.Price), &samplev1.EchoRequest{}); err != nil {
		t.Fatal(err)
	}
	world.Serve.Kill() // the commands open the folder themselves then
	d.must("claims", "send", "--yes", "--key-file", key)
	earned += 2 * harness.Price
	d.expectEarned(earned)
	world.Launch(harness.Binary(t))

	t.Log("killed after the transaction left")
	d.killWhileSending(key, true)
	earned += harness.Price
	harness.Eventually(t, "the transaction is in a block", func() (bool, string) {
		got := world.Earned()
		return got == earned, fmt.Sprintf("earned %d, wanted %d", got, earned)
	})
	if output := d.must("claims", "send", "--yes", "--key-file", key); !strings.Contains(output, "nothing to claim") {
		t.Errorf("after the kill: %s", output)
	}
	d.expectEarned(earned)
	if on := world.Channel(&first.Channel); on.Nonce.Uint64() != 3 || on.Value.Uint64() != 100*harness.Price-(earned-spent-harness.Price) {
		t.Errorf("the first channel has %s at nonce %s", on.Value.Dec(), on.Nonce.Dec())
	}
}

// killWhileSending kills the command at the moment it gives its transaction to the node, which gets it or does not.
func (d *desk) killWhileSending(key string, delivered bool) {
	d.t.Helper()
	reached, over := make(chan struct{}, 1), make(chan struct{})
	node := httptest.NewServer(http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return
		}
		sending := bytes.Contains(body, []byte("eth_sendRawTransaction"))
		if !sending || delivered {
			response, err := http.Post(d.world.Chain.HTTPURL, "application/json", bytes.NewReader(body))
			if err != nil {
				return
			}
			defer response.Body.Close()
			if !sending {
				writer.Header().Set("Content-Type", "application/json")
				_, _ = io.Copy(writer, response.Body)
				return
			}
		}
		reached <- struct{}{}
		<-over
	}))
	defer node.Close()
	defer close(over)
	settings, err := os.ReadFile(d.world.SettingsFile())
	if err != nil {
		d.t.Fatal(err)
	}
	file := filepath.Join(d.t.TempDir(), "mpegate.yaml")
	if err := os.WriteFile(file, bytes.ReplaceAll(settings, []byte(d.world.Chain.HTTPURL), []byte(node.URL)), 0o600); err != nil {
		d.t.Fatal(err)
	}
	command := exec.Command(harness.Binary(d.t), "claims", "send", "--yes", "--key-file", key, "--config", file)
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Start(); err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	select {
	case <-reached:
		_ = command.Process.Kill() // it waits for the node
		<-ended
	case err := <-ended:
		d.t.Fatalf("the command ended before it sent anything: %v\n%s", err, &output)
	}
}

// The loop leaves what is not worth the gas until it is, or until the channel is about to expire.
func TestClaimsAuto(t *testing.T) {
	world := harness.New(t, harness.Options{})
	d := &desk{t, world}
	key := d.keyFile(world.Chain.Account("provider"))
	p, spent := d.pay(1)
	expiring := world.OpenChannelWith(10*harness.Price, harness.Group, world.Chain.Account("provider").Address, harness.ExpirationThreshold+50)
	if _, err := world.Client().Echo(paying(t, expiring, harness.Price), &samplev1.EchoRequest{}); err != nil {
		t.Fatal(err)
	}

	if output, err := d.run("claims", "send", "--yes", "--key-file", key, "--max-gas-price", "0.000000001"); err == nil || !strings.Contains(output, "nothing was changed") {
		t.Errorf("with gas above the bound: %v, %s", err, output)
	}
	penniless, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	output, err := d.run("claims", "send", "--yes", "--key-file", d.keyFile(&devchain.Account{Key: penniless}))
	if err != nil || !strings.Contains(output, "the channel pays") {
		t.Errorf("with another key: %v, %s", err, output)
	}

	auto, err := child.Start(harness.Binary(t), "claims auto", t.TempDir(), "claims", "auto", "--config", world.SettingsFile(),
		"--key-file", key, "--every", "1s", "--least", fmt.Sprint(3*harness.Price), "--near", fmt.Sprint(harness.ExpirationThreshold+60))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := auto.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("claims auto says\n%s", auto.LastLines())
		}
	})
	expectSoon := func(want uint64) {
		t.Helper()
		harness.Eventually(t, "the loop claims", func() (bool, string) {
			got := world.Earned()
			return got >= want, fmt.Sprintf("earned %d, wanted %d", got, want)
		})
		d.expectEarned(want)
	}
	expectSoon(harness.Price) // the one that expires
	for call := uint64(2); call <= 3; call++ {
		if _, err := world.Client().Echo(paying(t, p, call*harness.Price), &samplev1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	expectSoon(harness.Price + spent + 2*harness.Price)
}
