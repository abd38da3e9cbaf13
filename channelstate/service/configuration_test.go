package service_test

import (
	"context"
	"errors"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/configuration"
	"github.com/mpegate/mpegate/channelstate/service"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

// operation is one method of the service, asked with a signature for it.
type operation struct {
	text string
	ask  func(context.Context, *configuration.CallerAuthentication) (configuration.StatusResponse_Status, error)
}

func operations(client configuration.ConfigurationServiceClient) map[string]operation {
	type auth = *configuration.CallerAuthentication
	type answer = configuration.StatusResponse_Status
	return map[string]operation{
		"get": {blockchain.ConfigurationGet, func(ctx context.Context, by auth) (answer, error) {
			_, err := client.GetConfiguration(ctx, &configuration.EmptyRequest{Auth: by})
			return 0, err
		}},
		"update": {blockchain.ConfigurationUpdate, func(ctx context.Context, by auth) (answer, error) {
			_, err := client.UpdateConfiguration(ctx, &configuration.UpdateRequest{Auth: by, UpdatedConfiguration: map[string]string{"a": "b"}})
			return 0, err
		}},
		"stop": {blockchain.ConfigurationStopRequests, func(ctx context.Context, by auth) (answer, error) {
			reply, err := client.StopProcessingRequests(ctx, &configuration.EmptyRequest{Auth: by})
			return reply.GetCurrentProcessingStatus(), err
		}},
		"start": {blockchain.ConfigurationStartRequests, func(ctx context.Context, by auth) (answer, error) {
			reply, err := client.StartProcessingRequests(ctx, &configuration.EmptyRequest{Auth: by})
			return reply.GetCurrentProcessingStatus(), err
		}},
		"status": {blockchain.ConfigurationAreRequestsRun, func(ctx context.Context, by auth) (answer, error) {
			reply, err := client.IsDaemonProcessingRequests(ctx, &configuration.EmptyRequest{Auth: by})
			return reply.GetCurrentProcessingStatus(), err
		}},
	}
}

// desk is a ConfigurationService over gRPC with a real switch.
type desk struct {
	chain    *chain
	turn     *channelstate.Switch
	methods  map[string]operation
	client   configuration.ConfigurationServiceClient
	settings *configuration.ConfigurationResponse
}

func newDesk(t *testing.T, store channelstate.SharedStore) *desk {
	t.Helper()
	d := &desk{
		chain:    &chain{knownBlock: block, latest: block},
		settings: &configuration.ConfigurationResponse{CurrentConfiguration: map[string]string{"metadata.service_id": "example"}},
	}
	var err error
	group := channelstate.Group{ChainID: chainID, MPE: mpe}
	if d.turn, err = channelstate.OpenSwitch(t.Context(), store, group, channelstate.DefaultSettings(), nil); err != nil {
		t.Fatal(err)
	}
	d.client = configuration.NewConfigurationServiceClient(dial(t, func(server *grpc.Server) {
		configuration.RegisterConfigurationServiceServer(server, service.NewConfigurationService(service.Configuration{
			Operators: []common.Address{signer.address, provider.address}, Switch: d.turn, Head: head{d.chain},
			Settings: func() *configuration.ConfigurationResponse { return d.settings },
		}))
	}))
	d.methods = operations(d.client)
	return d
}

func signedBy(t *testing.T, by account, operation string) *configuration.CallerAuthentication {
	t.Helper()
	return &configuration.CallerAuthentication{CurrentBlock: block, Signature: by.sign(t, blockchain.ConfigurationMessage(operation, block))}
}

func TestStopAndStartOfCalls(t *testing.T) {
	for name, open := range storetest.Stores() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := open(t).(channelstate.SharedStore)
			here := newDesk(t, store)
			for _, step := range []struct {
				method  string
				stopped bool
			}{{"status", false}, {"stop", true}, {"stop", true}, {"status", true}, {"start", false}, {"status", false}, {"stop", true}} {
				method := here.methods[step.method]
				want := configuration.StatusResponse_REQUEST_IN_PROGRESS
				if step.stopped {
					want = configuration.StatusResponse_HAS_STOPPED_PROCESSING_REQUESTS
				}
				if got, err := method.ask(t.Context(), signedBy(t, provider, method.text)); err != nil || got != want {
					t.Errorf("%s: %s, %v, want %s", step.method, got, err, want)
				}
				if here.turn.Stopped() != step.stopped {
					t.Errorf("%s: stopped is %v", step.method, here.turn.Stopped())
				}
			}
			if !newDesk(t, store).turn.Stopped() {
				t.Error("a restart has started calls again")
			}
		})
	}
}

func TestWhoMayConfigure(t *testing.T) {
	d := newDesk(t, storetest.Memory(t).(channelstate.SharedStore))
	for name, method := range d.methods {
		good := signedBy(t, signer, method.text)
		for what, test := range map[string]struct {
			auth   *configuration.CallerAuthentication
			code   codes.Code
			phrase string
		}{
			"nothing":        {nil, codes.InvalidArgument, "auth is missing"},
			"empty":          {&configuration.CallerAuthentication{}, codes.InvalidArgument, "incorrect signature"},
			"short":          {&configuration.CallerAuthentication{CurrentBlock: block, Signature: good.Signature[:64]}, codes.InvalidArgument, "incorrect signature"},
			"no point":       {&configuration.CallerAuthentication{CurrentBlock: block, Signature: make([]byte, 65)}, codes.Unauthenticated, "incorrect signature"},
			"huge block":     {&configuration.CallerAuthentication{CurrentBlock: 1 << 63, Signature: good.Signature}, codes.InvalidArgument, "current_block"},
			"stranger":       {signedBy(t, stranger, method.text), codes.Unauthenticated, "unauthorized access, " + stranger.address.Hex()},
			"other method":   {signedBy(t, signer, method.text+"x"), codes.Unauthenticated, "unauthorized access"},
			"for other time": {&configuration.CallerAuthentication{CurrentBlock: block - 1, Signature: good.Signature}, codes.Unauthenticated, "unauthorized access"},
		} {
			_, err := method.ask(t.Context(), test.auth)
			expectStatus(t, name+" by "+what, err, test.code, test.phrase)
		}
		if asked := d.chain.asked.Swap(0); asked != 0 {
			t.Errorf("%s: the chain was asked %d times", name, asked)
		}
		d.chain.knownBlock, d.chain.latest = block+6, block+6
		_, err := method.ask(t.Context(), good)
		expectStatus(t, name+" too late", err, codes.Unauthenticated, "expired")
		d.chain.knownErr, d.chain.nodeErr = blockchain.ErrHeadStale, errors.New("node away")
		_, err = method.ask(t.Context(), good)
		expectStatus(t, name+" without a block", err, codes.Unavailable, "cannot determine current block")
		d.chain.knownBlock, d.chain.latest, d.chain.knownErr, d.chain.nodeErr = block, block, nil, nil
		d.chain.asked.Store(0)
	}
	if d.turn.Stopped() {
		t.Error("calls are stopped")
	}
	update := d.methods["update"]
	_, err := update.ask(t.Context(), signedBy(t, provider, update.text))
	expectStatus(t, "update", err, codes.Unimplemented, "change the settings file")
}

// The vectors of payment-protocol.md section 5, V9: the requests as clients send them.
func TestRequestsOfVectorsV9(t *testing.T) {
	d := newDesk(t, storetest.Memory(t).(channelstate.SharedStore))
	auth := &configuration.CallerAuthentication{CurrentBlock: block, Signature: vectorSignature(t, "V9 _GetConfiguration")}
	reply, err := d.client.GetConfiguration(t.Context(), &configuration.EmptyRequest{Auth: auth})
	if err != nil || reply.GetCurrentConfiguration()["metadata.service_id"] != "example" {
		t.Errorf("got %v, %v", reply, err)
	}
	auth.Signature = vectorSignature(t, "V9 _StopProcessingRequests")
	if _, err := d.client.StopProcessingRequests(t.Context(), &configuration.EmptyRequest{Auth: auth}); err != nil || !d.turn.Stopped() {
		t.Errorf("stopped is %v, %v", d.turn.Stopped(), err)
	}
}

// awayStore cannot be asked any more.
type awayStore struct {
	channelstate.SharedStore
	away bool
}

func (a *awayStore) LoadShared(ctx context.Context, group channelstate.Group, name string) (channelstate.Shared, error) {
	if a.away {
		return channelstate.Shared{}, errors.New("away")
	}
	return a.SharedStore.LoadShared(ctx, group, name)
}

func TestStopWhileTheStoreIsAway(t *testing.T) {
	store := &awayStore{SharedStore: storetest.Memory(t).(channelstate.SharedStore)}
	d := newDesk(t, store)
	store.away = true
	stop := d.methods["stop"]
	_, err := stop.ask(t.Context(), signedBy(t, provider, stop.text))
	expectStatus(t, "stop", err, codes.Unavailable, "channel state is not available")
}

func TestConfigurationWithoutBlockchainIsRefused(t *testing.T) {
	client := configuration.NewConfigurationServiceClient(dial(t, func(server *grpc.Server) {
		configuration.RegisterConfigurationServiceServer(server, service.ConfigurationWithoutBlockchain{})
	}))
	for name, method := range operations(client) {
		_, err := method.ask(t.Context(), nil)
		expectStatus(t, name, err, codes.FailedPrecondition, "blockchain.enabled is false")
	}
}
