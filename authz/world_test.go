package authz

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"errors"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

// The throw-away keys of payment-protocol.md section 5.
const (
	userKeyHex     = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	providerKeyHex = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
	daemonKeyHex   = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

const (
	testMethod  = "/example.Service/Call"
	testChannel = 1234
	testNonce   = 5
	testValue   = 1000
	testPrice   = 10
	testBlock   = 100
	testChain   = 11155111
)

var testMPE = common.HexToAddress("0x042d31F61c598eADcAc729B845406514521db520")

func testKey(t testing.TB, text string) *ecdsa.PrivateKey {
	t.Helper()
	key, err := crypto.HexToECDSA(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// world is a server with channels and a ledger that a test looks into.
type world struct {
	t        testing.TB
	settings Settings
	user     *ecdsa.PrivateKey
	sender   common.Address
	channels *fakeChannels
	head     *fakeHead
	ledger   *fakeLedger
	real     *channelstate.Ledger // with realLedger
	metadata *blockchain.Metadata
	server   *Server

	dependencies Dependencies
}

// newWorld makes a world of one open channel; adjust changes it before the server starts.
func newWorld(t testing.TB, adjust ...func(*world)) *world {
	t.Helper()
	user := testKey(t, userKeyHex)
	w := &world{t: t, settings: DefaultSettings(), user: user, sender: crypto.PubkeyToAddress(user.PublicKey)}
	w.metadata = testMetadata(blockchain.Pricing{Fixed: uint256.NewInt(testPrice)})
	w.channels = &fakeChannels{known: map[uint256.Int]blockchain.Channel{}}
	w.channels.set(w.openChannel(testChannel))
	w.head = &fakeHead{block: testBlock}
	w.ledger = &fakeLedger{}
	w.dependencies = Dependencies{
		Channels: w.channels, Head: w.head, Ledger: w.ledger, ChainID: testChain, Logger: zap.NewNop(),
		Metadata: func() *blockchain.Metadata { return w.metadata },
	}
	for _, change := range adjust {
		change(w)
	}
	server, err := NewServer(w.settings, w.dependencies)
	if err != nil {
		t.Fatal(err)
	}
	w.server = server
	t.Cleanup(w.close)
	return w
}

// close waits until all refunds are done.
func (w *world) close() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := w.server.Close(ctx); err != nil {
		w.t.Error(err)
	}
}

func testMetadata(pricing blockchain.Pricing) *blockchain.Metadata {
	group := &blockchain.OrganizationGroup{Name: "default_group", ExpirationThreshold: 50}
	for i := range group.ID {
		group.ID[i] = byte(i)
	}
	group.PaymentAddress = common.HexToAddress("0x6A9296CEb89D12e1F53b2Dd5Df45d3ADB3A814c2")
	return &blockchain.Metadata{
		OrganizationID: "example-org", ServiceID: "example-service", Group: group,
		Service: &blockchain.Service{MPE: testMPE}, ServiceGroup: &blockchain.ServiceGroup{Pricing: pricing},
	}
}

func (w *world) openChannel(id uint64) blockchain.Channel {
	return blockchain.Channel{
		ID: *uint256.NewInt(id), Nonce: *uint256.NewInt(testNonce), Value: *uint256.NewInt(testValue),
		Expiration: *uint256.NewInt(10_000), Sender: w.sender, Signer: common.HexToAddress("0x01"),
		Recipient: w.metadata.Group.PaymentAddress, GroupID: w.metadata.Group.ID,
	}
}

// headers are those of a correct payment.
func (w *world) headers(amount uint64) map[string]string {
	return w.headersOf(w.user, testChannel, testNonce, amount)
}

func (w *world) headersOf(key *ecdsa.PrivateKey, channel, nonce, amount uint64) map[string]string {
	w.t.Helper()
	message := blockchain.ClaimMessage(testMPE, uint256.NewInt(channel), uint256.NewInt(nonce), uint256.NewInt(amount))
	signature, err := blockchain.Sign(message, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return map[string]string{
		envoy.HeaderRequestID:        "9f2b6c1e-0000-4000-8000-" + strconv.FormatUint(channel<<32|amount, 10),
		envoy.HeaderContentType:      "application/grpc",
		envoy.HeaderPaymentType:      "escrow",
		envoy.HeaderChannelID:        strconv.FormatUint(channel, 10),
		envoy.HeaderChannelNonce:     strconv.FormatUint(nonce, 10),
		envoy.HeaderChannelAmount:    strconv.FormatUint(amount, 10),
		envoy.HeaderChannelSignature: base64.StdEncoding.EncodeToString(signature),
	}
}

func request(path string, headers map[string]string) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
			SocketAddress: &corev3.SocketAddress{Address: "192.0.2.7"},
		}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "POST", Path: path, Headers: headers,
		}},
	}}
}

// answer is what a gRPC client would see of a reply.
type answer struct {
	code    envoy.Code
	message string
	user    string // what the service is told
	removed map[string]bool
	charged *envoy.Charged
}

func (w *world) check(headers map[string]string) answer {
	w.t.Helper()
	return w.checkPath(testMethod, headers)
}

func (w *world) checkPath(path string, headers map[string]string) answer {
	w.t.Helper()
	response, err := w.server.Check(context.Background(), request(path, headers))
	if err != nil {
		w.t.Fatalf("Check failed: %v", err)
	}
	return readAnswer(w.t, response)
}

func readAnswer(t testing.TB, response *authv3.CheckResponse) answer {
	t.Helper()
	if denied := response.GetDeniedResponse(); denied != nil {
		if response.GetStatus().GetCode() == 0 {
			t.Fatal("Envoy would take this refusal for a yes")
		}
		if response.GetDynamicMetadata() != nil {
			t.Fatal("a refused call must not look charged")
		}
		headers := map[string]string{}
		for _, option := range denied.GetHeaders() {
			headers[option.GetHeader().GetKey()] = option.GetHeader().GetValue() + string(option.GetHeader().GetRawValue())
		}
		code, err := strconv.ParseUint(headers["grpc-status"], 10, 32)
		if err != nil || code == 0 {
			t.Fatalf("grpc-status is %q", headers["grpc-status"])
		}
		message, err := url.PathUnescape(headers["grpc-message"])
		if err != nil {
			t.Fatal(err)
		}
		return answer{code: envoy.Code(code), message: message}
	}
	allowed := response.GetOkResponse()
	if allowed == nil || response.GetStatus() == nil || response.GetStatus().GetCode() != 0 {
		t.Fatalf("neither a yes nor a no: %v", response)
	}
	result := answer{removed: map[string]bool{}}
	for _, option := range allowed.GetHeaders() {
		if option.GetHeader().GetKey() == envoy.HeaderUserAddress {
			result.user = option.GetHeader().GetValue() + string(option.GetHeader().GetRawValue())
		}
	}
	for _, name := range allowed.GetHeadersToRemove() {
		result.removed[name] = true
	}
	if charged, found := envoy.ChargedFrom(response.GetDynamicMetadata()); found {
		result.charged = &charged
	}
	return result
}

// fakeChannels is the chain as a test wants it.
type fakeChannels struct {
	mutex     sync.Mutex
	known     map[uint256.Int]blockchain.Channel
	onChain   map[uint256.Int]blockchain.Channel // what Reread finds, when it differs
	err       error
	gets      int
	refreshes int
	client    string
}

func (f *fakeChannels) set(channel blockchain.Channel) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.known[channel.ID] = channel
}

func (f *fakeChannels) Get(ctx context.Context, id *uint256.Int, client string) (blockchain.Channel, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.gets++
	f.client = client
	channel, known := f.known[*id]
	switch {
	case f.err != nil:
		return blockchain.Channel{}, f.err
	case !known:
		return blockchain.Channel{}, blockchain.ErrChannelNotFound
	}
	return channel, nil
}

func (f *fakeChannels) Reread(ctx context.Context, id *uint256.Int) (blockchain.Channel, bool, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.refreshes++
	if f.err != nil {
		return blockchain.Channel{}, false, f.err
	}
	if channel, changed := f.onChain[*id]; changed {
		f.known[*id] = channel
	}
	return f.known[*id], false, nil
}

type fakeHead struct {
	block uint64
	err   error
}

func (f *fakeHead) Block() (uint64, error) { return f.block, f.err }

// fakeLedger keeps charges in the order they came and says no as a test wants.
type fakeLedger struct {
	mutex   sync.Mutex
	charges []channelstate.Charge
	refunds []channelstate.Refund
	keys    []channelstate.Key
	charge  func(ctx context.Context, channel *blockchain.Channel, charge *channelstate.Charge) error
	refund  func(ctx context.Context, refund *channelstate.Refund) (channelstate.RefundOutcome, error)
}

func (f *fakeLedger) Charge(ctx context.Context, key channelstate.Key, channel *blockchain.Channel, charge channelstate.Charge) error {
	if f.charge != nil {
		if err := f.charge(ctx, channel, &charge); err != nil {
			return err
		}
	}
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.charges = append(f.charges, charge)
	f.keys = append(f.keys, key)
	return nil
}

func (f *fakeLedger) Refund(ctx context.Context, key channelstate.Key, refund channelstate.Refund) (channelstate.RefundOutcome, error) {
	if f.refund != nil {
		if outcome, err := f.refund(ctx, &refund); err != nil {
			return outcome, err
		}
	}
	f.mutex.Lock()
	defer f.mutex.Unlock()
	for i := range f.refunds {
		if f.refunds[i].ID == refund.ID {
			return channelstate.AlreadyRefunded, nil
		}
	}
	f.refunds = append(f.refunds, refund)
	return channelstate.Refunded, nil
}

func (f *fakeLedger) counts() (charges, refunds int) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return len(f.charges), len(f.refunds)
}

var errTest = errors.New("made up by a test")
