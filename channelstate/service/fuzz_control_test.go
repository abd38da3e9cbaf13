package service_test

import (
	"context"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/configuration"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/channelstate/service"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

// answerable are the codes a request of anybody may be answered with.
var answerable = map[codes.Code]bool{
	codes.OK: true, codes.InvalidArgument: true, codes.NotFound: true, codes.ResourceExhausted: true, codes.FailedPrecondition: true,
	codes.Unimplemented: true, codes.Unavailable: true, codes.Unauthenticated: true,
}

// Whatever bytes arrive as a request, it is answered; nothing is claimed or
// stopped without a signature of the provider or an operator.
func FuzzControlRequests(f *testing.F) {
	metadata := &blockchain.Metadata{
		Service: &blockchain.Service{MPE: mpe}, Group: &blockchain.OrganizationGroup{ID: [32]byte{7}, PaymentAddress: provider.address},
	}
	store := storetest.Memory(f)
	ledger := channelstate.NewLedger(func(channelstate.Key) channelstate.Store { return store }, channelstate.DefaultSettings(), nil)
	chain := &chain{knownBlock: block, latest: block}
	control := service.NewControlService(service.Control{
		Claims: ledger, Lists: store, Head: head{chain}, ChainID: chainID, Metadata: func() *blockchain.Metadata { return metadata },
		Channels: &channels{actual: map[uint256.Int]blockchain.Channel{}, known: map[uint256.Int]blockchain.Channel{}},
	})
	shared := store.(channelstate.SharedStore)
	turn, err := channelstate.OpenSwitch(f.Context(), shared, channelstate.Group{}, channelstate.DefaultSettings(), nil)
	if err != nil {
		f.Fatal(err)
	}
	settings := service.NewConfigurationService(service.Configuration{
		Operators: []common.Address{provider.address}, Switch: turn, Head: head{chain},
		Settings: func() *configuration.ConfigurationResponse { return &configuration.ConfigurationResponse{} },
	})
	seed := func(message proto.Message) {
		data, err := proto.Marshal(message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	signature := make([]byte, 65)
	signature[31], signature[63], signature[64] = 1, 1, 27
	f.Add([]byte{})
	seed(&escrow.GetPaymentsListRequest{MpeAddress: mpe.Hex(), CurrentBlock: block, Signature: signature})
	seed(&escrow.StartClaimRequest{MpeAddress: mpe.Hex(), ChannelId: []byte{1}, Signature: signature})
	seed(&escrow.StartMultipleClaimRequest{MpeAddress: mpe.Hex(), ChannelIds: []uint64{3, 1, 1 << 63}, CurrentBlock: block, Signature: signature})
	seed(&configuration.UpdateRequest{Auth: &configuration.CallerAuthentication{Signature: signature, CurrentBlock: block}, UpdatedConfiguration: map[string]string{"a": "b"}})

	f.Fuzz(func(t *testing.T, data []byte) {
		ctx := context.Background()
		try(t, data, &escrow.GetPaymentsListRequest{}, func(r *escrow.GetPaymentsListRequest) error {
			_, err := control.GetListUnclaimed(ctx, r)
			return err
		})
		try(t, data, &escrow.GetPaymentsListRequest{}, func(r *escrow.GetPaymentsListRequest) error {
			_, err := control.GetListInProgress(ctx, r)
			return err
		})
		try(t, data, &escrow.StartClaimRequest{}, func(r *escrow.StartClaimRequest) error {
			_, err := control.StartClaim(ctx, r)
			return err
		})
		try(t, data, &escrow.StartMultipleClaimRequest{}, func(r *escrow.StartMultipleClaimRequest) error {
			_, err := control.StartClaimForMultipleChannels(ctx, r)
			return err
		})
		try(t, data, &configuration.UpdateRequest{}, func(r *configuration.UpdateRequest) error {
			_, err := settings.UpdateConfiguration(ctx, r)
			return err
		})
		for _, ask := range []func(*configuration.EmptyRequest) error{
			func(r *configuration.EmptyRequest) error { _, err := settings.GetConfiguration(ctx, r); return err },
			func(r *configuration.EmptyRequest) error {
				_, err := settings.StopProcessingRequests(ctx, r)
				return err
			},
			func(r *configuration.EmptyRequest) error {
				_, err := settings.StartProcessingRequests(ctx, r)
				return err
			},
			func(r *configuration.EmptyRequest) error {
				_, err := settings.IsDaemonProcessingRequests(ctx, r)
				return err
			},
		} {
			try(t, data, &configuration.EmptyRequest{}, ask)
		}
		if turn.Stopped() {
			t.Fatal("somebody has stopped calls")
		}
	})
}

// try asks with the bytes as a request, or with an empty one if they are none.
func try[M proto.Message](t *testing.T, data []byte, request M, ask func(M) error) {
	t.Helper()
	if err := proto.Unmarshal(data, request); err != nil {
		proto.Reset(request)
	}
	err := ask(request)
	if code := status.Code(err); err == nil || !answerable[code] {
		t.Fatalf("%T is answered with %v", request, err)
	}
}
