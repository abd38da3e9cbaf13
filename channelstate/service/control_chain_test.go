package service_test

import (
	"context"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/holiman/uint256"
	"google.golang.org/grpc"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/channelstate/service"
	"github.com/mpegate/mpegate/channelstate/storetest"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
)

// market is a chain with the published contracts, and a provider on it.
type market struct {
	t        *testing.T
	chain    *devchain.Chain
	contract *blockchain.Escrow
	cache    *blockchain.ChannelCache
	head     *blockchain.Head
	store    channelstate.Store
	ledger   *channelstate.Ledger
	client   escrow.ProviderControlServiceClient
	group    channelstate.Group
}

func newMarket(t *testing.T) *market {
	t.Helper()
	chain, err := devchain.Start(t.Context(), devchain.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chain.Close)
	settings := blockchain.DefaultSettings()
	settings.Network, settings.ChainID = blockchain.NetworkCustom, chain.ChainID
	settings.RPCURL, settings.RegistryAddress, settings.PollInterval = chain.HTTPURL, chain.Registry.Hex(), 50*time.Millisecond
	if err := settings.Validate(); err != nil {
		t.Fatal(err)
	}
	node, err := blockchain.Dial(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	m := &market{
		t: t, chain: chain, head: blockchain.NewHead(node, settings, nil), store: storetest.Embedded(t),
		group: channelstate.Group{ChainID: chain.ChainID, MPE: chain.MPE, GroupID: [32]byte{7}},
	}
	if m.contract, err = blockchain.NewEscrow(chain.MPE, node); err != nil {
		t.Fatal(err)
	}
	m.cache = blockchain.NewChannelCache(m.contract, m.head, settings, nil)
	m.ledger = channelstate.NewLedger(func(channelstate.Key) channelstate.Store { return m.store }, channelstate.DefaultSettings(), nil)
	t.Cleanup(func() {
		if err := m.ledger.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	m.follow()
	metadata := &blockchain.Metadata{
		Service: &blockchain.Service{MPE: chain.MPE},
		Group:   &blockchain.OrganizationGroup{ID: m.group.GroupID, PaymentAddress: chain.Account("provider").Address},
	}
	m.client = escrow.NewProviderControlServiceClient(dial(t, func(server *grpc.Server) {
		escrow.RegisterProviderControlServiceServer(server, service.NewControlService(service.Control{
			Claims: m.ledger, Lists: m.store, Channels: m.cache, Head: m.head,
			Metadata: func() *blockchain.Metadata { return metadata }, ChainID: chain.ChainID,
		}))
	}))
	return m
}

// follow runs the head until the test ends.
func (m *market) follow() {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.head.Run(ctx) }()
	m.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			m.t.Error(err)
		}
	})
}

func (m *market) openChannel(value uint64) uint256.Int {
	m.t.Helper()
	client := m.chain.Account("client")
	id, err := m.chain.OpenChannel(m.t.Context(), client, client.Address, m.chain.Account("provider").Address,
		m.group.GroupID, uint256.NewInt(value), m.chain.Block()+1_000_000)
	if err != nil {
		m.t.Fatal(err)
	}
	return id
}

// pay charges a call of 10 cogs as authz does.
func (m *market) pay(id uint256.Int, nonce, amount uint64) channelstate.Refund {
	m.t.Helper()
	channel, err := m.cache.Get(m.t.Context(), &id, "")
	if err == nil && channel.Nonce.Uint64() < nonce {
		channel, err = m.cache.Refresh(m.t.Context(), &id)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	signature, err := blockchain.Sign(blockchain.ClaimMessage(m.chain.MPE, &id, uint256.NewInt(nonce), uint256.NewInt(amount)), m.chain.Account("client").Key)
	if err != nil {
		m.t.Fatal(err)
	}
	charge := channelstate.Charge{
		ID: channelstate.NewChargeID(), Nonce: *uint256.NewInt(nonce), Amount: *uint256.NewInt(amount), Price: *uint256.NewInt(price),
		Signature: signature, Block: m.chain.Block(), Threshold: 100,
	}
	if err := m.ledger.Charge(m.t.Context(), m.group.Key(&id), &channel, charge); err != nil {
		m.t.Fatal(err)
	}
	return channelstate.Refund{ID: charge.ID, Nonce: charge.Nonce, Amount: charge.Amount, Price: charge.Price, Sender: channel.Sender}
}

func (m *market) sign(message []byte) []byte {
	m.t.Helper()
	signature, err := blockchain.Sign(message, m.chain.Account("provider").Key)
	if err != nil {
		m.t.Fatal(err)
	}
	return signature
}

func (m *market) list(unclaimed bool) []*escrow.PaymentReply {
	m.t.Helper()
	block := m.chain.Block()
	request := &escrow.GetPaymentsListRequest{MpeAddress: m.chain.MPE.Hex(), CurrentBlock: block}
	ask := m.client.GetListInProgress
	request.Signature = m.sign(blockchain.ListInProgressMessage(m.chain.MPE, block))
	if unclaimed {
		ask, request.Signature = m.client.GetListUnclaimed, m.sign(blockchain.ListUnclaimedMessage(m.chain.MPE, block))
	}
	reply, err := ask(m.t.Context(), request)
	if err != nil {
		m.t.Fatal(err)
	}
	return reply.GetPayments()
}

func (m *market) start(id uint256.Int, nonce uint64) *escrow.PaymentReply {
	m.t.Helper()
	reply, err := m.client.StartClaim(m.t.Context(), &escrow.StartClaimRequest{
		MpeAddress: m.chain.MPE.Hex(), ChannelId: id.Bytes(), Signature: m.sign(blockchain.StartClaimMessage(m.chain.MPE, &id, uint256.NewInt(nonce))),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return reply
}

// claim sends payments to the contract, all in one transaction.
func (m *market) claim(payments ...*escrow.PaymentReply) {
	m.t.Helper()
	orders := make([]blockchain.ClaimOrder, len(payments))
	for i, payment := range payments {
		orders[i].Channel.SetBytes(payment.GetChannelId())
		orders[i].Actual.SetBytes(payment.GetSpentAmount())
		orders[i].Planned.SetBytes(payment.GetSignedAmount())
		orders[i].Signature = payment.GetSignature()
	}
	_, err := m.chain.Transact(m.t.Context(), m.chain.Account("provider"), func(options *bind.TransactOpts) (*types.Transaction, error) {
		return m.contract.MultiClaim(options, orders)
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *market) expectListed(what string, unclaimed bool, want ...uint256.Int) []*escrow.PaymentReply {
	m.t.Helper()
	listed := m.list(unclaimed)
	if len(listed) != len(want) {
		m.t.Fatalf("%s: %d are listed, want %d: %v", what, len(listed), len(want), listed)
	}
	for i := range want {
		if *new(uint256.Int).SetBytes(listed[i].GetChannelId()) != want[i] || listed[i].GetChannelExpiry() == nil {
			m.t.Fatalf("%s: %v, want channel %s", what, listed[i], want[i].Dec())
		}
	}
	return listed
}

func (m *market) expectBalance(want uint64) {
	m.t.Helper()
	balance, err := m.chain.EscrowBalance(m.t.Context(), m.chain.Account("provider").Address)
	if err != nil || balance.Uint64() != want {
		m.t.Fatalf("the provider has %s cogs, %v, want %d", balance.Dec(), err, want)
	}
}

func (m *market) kept() int {
	m.t.Helper()
	claims, _, err := m.store.Claims(m.t.Context(), m.group, "", 100)
	if err != nil {
		m.t.Fatal(err)
	}
	return len(claims)
}

// From the call to the money: the contract takes what StartClaim answers, and
// the provider gets what was spent and not what was signed.
func TestClaimsOnTheChain(t *testing.T) {
	m := newMarket(t)
	first, second, third := m.openChannel(1000), m.openChannel(1000), m.openChannel(1000)
	m.pay(first, 0, 10)
	failed := m.pay(first, 0, 20)
	m.pay(second, 0, 10)
	m.pay(third, 0, 35)
	m.expectListed("unclaimed", true, first, second, third)

	m.start(first, 0)
	if outcome, err := m.ledger.Refund(t.Context(), m.group.Key(&first), failed); err != nil || outcome != channelstate.ClaimCorrected {
		t.Fatalf("%s, %v", outcome, err)
	}
	m.claim(m.expectListed("in progress", false, first)...) // signed 20, spent 10
	m.expectBalance(10)
	m.expectListed("mined", false)

	block := m.chain.Block()
	reply, err := m.client.StartClaimForMultipleChannels(t.Context(), &escrow.StartMultipleClaimRequest{
		MpeAddress: m.chain.MPE.Hex(), ChannelIds: []uint64{third.Uint64(), second.Uint64()}, CurrentBlock: block,
		Signature: m.sign(blockchain.StartClaimForMultipleChannelsMessage(m.chain.MPE, []uint256.Int{second, third}, block)),
	})
	if err != nil || len(reply.GetPayments()) != 2 {
		t.Fatalf("%v, %v", reply, err)
	}
	m.claim(reply.GetPayments()...) // signed 10 and 35, spent 10 and 10
	m.expectBalance(30)
	m.expectListed("mined", false)
	m.expectListed("unclaimed", true)

	// The next nonce, with nothing reserved any more: all that is left can be spent.
	m.pay(first, 1, 990)
	m.claim(m.start(first, 1))
	m.expectBalance(40)

	if m.kept() != 4 {
		t.Errorf("%d claims are kept at hand", m.kept())
	}
	if err := m.chain.MineTo(m.chain.Block() + 70); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { // the head follows
		m.expectListed("settled", false)
		return m.kept() == 0
	})
	for _, of := range []struct {
		id    uint256.Int
		nonce uint64
	}{{first, 0}, {first, 1}, {second, 0}, {third, 0}} {
		claim, found, err := m.ledger.Claim(t.Context(), m.group.Key(&of.id), uint256.NewInt(of.nonce))
		if err != nil || !found || !claim.Passed {
			t.Errorf("claim of channel %s, nonce %d: %+v, %v, %v", of.id.Dec(), of.nonce, claim, found, err)
		}
	}
}

// A claim that a reorganisation takes off the chain is in progress again, and can be claimed again.
func TestAClaimThatAReorganisationTakesBack(t *testing.T) {
	m := newMarket(t)
	id := m.openChannel(1000)
	m.pay(id, 0, 10)
	m.start(id, 0)
	fork := m.chain.Block()
	m.claim(m.expectListed("in progress", false, id)...)
	m.expectListed("mined", false)
	m.pay(id, 1, 10)

	if err := m.chain.Fork(fork); err != nil {
		t.Fatal(err)
	}
	if err := m.chain.MineTo(fork + 5); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return len(m.list(false)) == 1 })
	m.expectBalance(0)
	m.claim(m.expectListed("in progress again", false, id)...)
	m.expectBalance(10)
	waitFor(t, func() bool { return len(m.list(false)) == 0 }) // channels are not read again more often than once a second
	m.claim(m.start(id, 1))
	m.expectBalance(20)
}

// waitFor polls until the condition holds; go test's own limit ends it.
func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	for !condition() {
		time.Sleep(5 * time.Millisecond)
	}
}
