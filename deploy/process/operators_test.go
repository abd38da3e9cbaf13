package process_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate/proto/configuration"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
	"github.com/mpegate/mpegate/deploy/process"
)

// operator asks ConfigurationService with a signature over the current block.
type operator struct {
	t       *testing.T
	chain   *devchain.Chain
	account *devchain.Account
	client  configuration.ConfigurationServiceClient
}

func (o *operator) request(operation string) *configuration.EmptyRequest {
	o.t.Helper()
	block := o.chain.Block()
	signature, err := blockchain.Sign(blockchain.ConfigurationMessage(operation, block), o.account.Key)
	if err != nil {
		o.t.Fatal(err)
	}
	return &configuration.EmptyRequest{Auth: &configuration.CallerAuthentication{Signature: signature, CurrentBlock: block}}
}

// The settings that operators are told hold nothing secret, wherever a secret stands.
func TestConfigurationWithoutSecrets(t *testing.T) {
	w := newWorld(t)
	account := w.chain.Account("operator")
	r := w.run(t, process.RoleAuthz, map[string]string{
		"AUTHZ_ADDRESS": "127.0.0.1:0", "OPERATORS_ADDRESSES": account.Address.Hex(),
		"BLOCKCHAIN_API_KEY": "hidden-api-key", "METADATA_IPFS_ENDPOINT": "https://user:hidden-password@ipfs.example:5001",
		"BLOCKCHAIN_RPC_URL": w.chain.HTTPURL + "/?hidden-key-in-the-query",
	})
	connection := dial(t, r.ready())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	by := &operator{t, w.chain, account, configuration.NewConfigurationServiceClient(connection)}
	reply, err := by.client.GetConfiguration(ctx, by.request(blockchain.ConfigurationGet), grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	settings := reply.GetCurrentConfiguration()
	for key, want := range map[string]string{
		"metadata.service_id": "test-service", "blockchain.poll_interval": "200ms", "operators.addresses": account.Address.Hex(),
	} {
		if settings[key] != want {
			t.Errorf("%s is %q, want %q", key, settings[key], want)
		}
	}
	if text := reply.String(); strings.Contains(text, "hidden") {
		t.Errorf("a secret is told: %s", text)
	}
	if settings["blockchain.rpc_url"] != "" || len(settings) < 30 || len(reply.GetSchema().GetDetails()) != len(settings) {
		t.Errorf("%d settings, %d described: %v", len(settings), len(reply.GetSchema().GetDetails()), settings)
	}
	for _, parameter := range reply.GetSchema().GetDetails() {
		if parameter.GetDescription() == "" || parameter.GetSection() == "" || parameter.GetEditable() {
			t.Errorf("described as %v", parameter)
		}
	}
	if _, err := by.client.StopProcessingRequests(ctx, &configuration.EmptyRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a request without a signature: %v", err)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}
