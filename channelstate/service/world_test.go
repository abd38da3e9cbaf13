package service_test

import (
	"context"
	"crypto/ecdsa"
	"net"
	"sync/atomic"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/channelstate/service"
)

const (
	block   = 7654321
	price   = 10
	chainID = 11155111
)

var (
	mpe       = common.HexToAddress("0x042d31F61c598eADcAc729B845406514521db520")
	channelID = uint256.NewInt(1234)
	user      = newAccount("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
	provider  = newAccount("fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210")
	signer    = newAccount("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff")
	stranger  = newAccount("1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
)

type account struct {
	key     *ecdsa.PrivateKey
	address common.Address
}

func newAccount(text string) account {
	key, err := crypto.HexToECDSA(text)
	if err != nil {
		panic(err)
	}
	return account{key, crypto.PubkeyToAddress(key.PublicKey)}
}

func (a account) sign(t *testing.T, message []byte) []byte {
	t.Helper()
	signature, err := blockchain.Sign(message, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// chain is what the node says and what is known of it.
type chain struct {
	known, actual      blockchain.Channel
	knownBlock, latest uint64
	channelErr         error // of the cache
	knownErr, nodeErr  error // of the head
	client             string
	asked              atomic.Int64 // any of the four, i.e. what a bad request must not reach
	refreshed          atomic.Int64 // Refresh of either
}

func (c *chain) Get(_ context.Context, _ *uint256.Int, client string) (blockchain.Channel, error) {
	c.asked.Add(1)
	c.client = client
	return c.known, c.channelErr
}

func (c *chain) UpTo(*uint256.Int, uint64) bool { return true }

func (c *chain) Refresh(context.Context, *uint256.Int) (blockchain.Channel, error) {
	c.asked.Add(1)
	c.refreshed.Add(1)
	return c.actual, c.channelErr
}

// head is the chain as service.Head.
type head struct{ *chain }

func (h head) Block() (uint64, error) {
	h.asked.Add(1)
	return h.knownBlock, h.knownErr
}

func (h head) Refresh(context.Context) (uint64, error) {
	h.asked.Add(1)
	h.refreshed.Add(1)
	return h.latest, h.nodeErr
}

// world is one service with its chain and its real ledger, asked over gRPC.
type world struct {
	t        *testing.T
	chain    *chain
	ledger   *channelstate.Ledger
	metadata *blockchain.Metadata
	client   escrow.PaymentChannelStateServiceClient
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, channelstate.NewMemoryStore(channelstate.DefaultSettings()))
}

func newWorldOn(t *testing.T, store channelstate.Store) *world {
	t.Helper()
	channel := blockchain.Channel{
		ID: *channelID, Nonce: *uint256.NewInt(5), Value: *uint256.NewInt(1000), Expiration: *uint256.NewInt(block + 1000000),
		Sender: user.address, Signer: signer.address, Recipient: provider.address, GroupID: [32]byte{7},
	}
	settings := channelstate.DefaultSettings()
	w := &world{
		t:      t,
		chain:  &chain{known: channel, actual: channel, knownBlock: block, latest: block},
		ledger: channelstate.NewLedger(func(channelstate.Key) channelstate.Store { return store }, settings, zap.NewNop()),
		metadata: &blockchain.Metadata{
			Service: &blockchain.Service{MPE: mpe},
			Group:   &blockchain.OrganizationGroup{ID: [32]byte{7}, PaymentAddress: provider.address},
		},
	}
	t.Cleanup(func() {
		if err := w.ledger.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	w.client = w.serve(w.ledger)
	return w
}

func (w *world) serve(records service.Records) escrow.PaymentChannelStateServiceClient {
	return escrow.NewPaymentChannelStateServiceClient(dial(w.t, func(server *grpc.Server) {
		escrow.RegisterPaymentChannelStateServiceServer(server, service.NewChannelStateService(
			records, w.chain, head{w.chain}, func() *blockchain.Metadata { return w.metadata }, chainID))
	}))
}

// dial serves what register adds and connects to it.
func dial(t *testing.T, register func(*grpc.Server), options ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := connection.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return connection
}

// pay charges one call; amount is what the client has signed then.
func (w *world) pay(nonce, amount uint64) []byte {
	w.t.Helper()
	signature := user.sign(w.t, blockchain.ClaimMessage(mpe, channelID, uint256.NewInt(nonce), uint256.NewInt(amount)))
	err := w.ledger.Charge(w.t.Context(), w.key(), &w.chain.actual, channelstate.Charge{
		ID: channelstate.NewChargeID(), Nonce: *uint256.NewInt(nonce), Amount: *uint256.NewInt(amount), Price: *uint256.NewInt(price),
		Signature: signature, Block: block, Threshold: 100,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return signature
}

func (w *world) startClaim() {
	w.t.Helper()
	if _, err := w.ledger.StartClaim(w.t.Context(), w.key(), &w.chain.actual); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) key() channelstate.Key {
	return channelstate.Key{ChainID: chainID, MPE: mpe, GroupID: w.metadata.Group.ID, Channel: *channelID}
}

func query(t *testing.T, by account) *escrow.ChannelStateRequest {
	t.Helper()
	return &escrow.ChannelStateRequest{
		ChannelId: channelID.Bytes(), CurrentBlock: block, Signature: by.sign(t, blockchain.ChannelStateMessage(mpe, channelID, block)),
	}
}
