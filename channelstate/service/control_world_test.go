package service_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"sync"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"google.golang.org/grpc"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/channelstate/service"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

// channels are the channels of a chain and what is known of them.
type channels struct {
	mu      sync.Mutex
	actual  map[uint256.Int]blockchain.Channel
	known   map[uint256.Int]blockchain.Channel
	earlier map[uint256.Int]blockchain.Channel // long ago
	err     error                              // of the node
	reads   int
}

func (c *channels) Known(id *uint256.Int) (blockchain.Channel, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	channel, found := c.known[*id]
	return channel, found
}

func (c *channels) Get(ctx context.Context, id *uint256.Int, _ string) (blockchain.Channel, error) {
	if channel, found := c.Known(id); found {
		return channel, nil
	}
	return c.Refresh(ctx, id)
}

// UpTo is false: nothing of the chain is followed here.
func (c *channels) UpTo(*uint256.Int, uint64) bool { return false }

func (c *channels) Refresh(_ context.Context, id *uint256.Int) (blockchain.Channel, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
	if c.err != nil {
		return blockchain.Channel{}, c.err
	}
	channel, found := c.actual[*id]
	if !found {
		return channel, blockchain.ErrChannelNotFound
	}
	c.known[*id] = channel
	return channel, nil
}

func (c *channels) Earlier(_ context.Context, id *uint256.Int, _ uint64) (blockchain.Channel, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	channel, found := c.earlier[*id]
	if !found {
		return channel, blockchain.ErrChannelNotFound
	}
	return channel, c.err
}

// change changes a channel on the chain; nobody is told.
func (c *channels) change(id uint64, change func(*blockchain.Channel)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	channel := c.actual[*uint256.NewInt(id)]
	change(&channel)
	c.actual[*uint256.NewInt(id)] = channel
}

func (c *channels) of(id uint64) *blockchain.Channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	channel := c.actual[*uint256.NewInt(id)]
	return &channel
}

func (c *channels) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.known)
}

// taken is how often the chain was read since the last time.
func (c *channels) taken() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	reads := c.reads
	c.reads = 0
	return reads
}

// counted is a ledger that counts what is read for callers.
type counted struct {
	*channelstate.Ledger
	mu    sync.Mutex
	reads int
}

func (c *counted) Read(ctx context.Context, key channelstate.Key) (channelstate.Record, bool, error) {
	c.mu.Lock()
	c.reads++
	c.mu.Unlock()
	return c.Ledger.Read(ctx, key)
}

func (c *counted) taken() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	reads := c.reads
	c.reads = 0
	return reads
}

// provision is a ControlService over gRPC with a real ledger.
type provision struct {
	t        *testing.T
	store    channelstate.Store
	ledger   *counted
	channels *channels
	chain    *chain // the height
	client   escrow.ProviderControlServiceClient
	group    channelstate.Group
}

// newProvision has the channels 0 to 9 and 1234, at nonce 5.
func newProvision(t *testing.T, open storetest.Opener) *provision {
	t.Helper()
	store := open(t)
	w := newWorldOn(t, store)
	p := &provision{
		t: t, store: store, ledger: &counted{Ledger: w.ledger}, chain: w.chain,
		channels: &channels{
			actual: map[uint256.Int]blockchain.Channel{}, known: map[uint256.Int]blockchain.Channel{}, earlier: map[uint256.Int]blockchain.Channel{},
		},
		group: channelstate.Group{ChainID: chainID, MPE: mpe, GroupID: w.metadata.Group.ID},
	}
	for _, id := range []uint64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1234} {
		channel := w.chain.actual
		channel.ID = *uint256.NewInt(id)
		p.channels.actual[channel.ID] = channel
	}
	p.client = escrow.NewProviderControlServiceClient(dial(t, func(server *grpc.Server) {
		escrow.RegisterProviderControlServiceServer(server, service.NewControlService(service.Control{
			Claims: p.ledger, Lists: store, Channels: p.channels, Head: head{w.chain},
			Metadata: func() *blockchain.Metadata { return w.metadata }, ChainID: chainID,
		}))
	}))
	return p
}

// pay charges a call on a channel and returns the signature over the amount.
func (p *provision) pay(id, nonce, amount uint64) []byte {
	p.t.Helper()
	_, signature := p.charge(id, nonce, amount)
	return signature
}

func (p *provision) charge(id, nonce, amount uint64) (channelstate.Refund, []byte) {
	p.t.Helper()
	channel := p.channels.of(id)
	signature := user.sign(p.t, blockchain.ClaimMessage(mpe, &channel.ID, uint256.NewInt(nonce), uint256.NewInt(amount)))
	charge := channelstate.Charge{
		ID: channelstate.NewChargeID(), Nonce: *uint256.NewInt(nonce), Amount: *uint256.NewInt(amount), Price: *uint256.NewInt(price),
		Signature: signature, Block: block, Threshold: 100,
	}
	if err := p.ledger.Charge(p.t.Context(), p.group.Key(&channel.ID), channel, charge); err != nil {
		p.t.Fatal(err)
	}
	return channelstate.Refund{ID: charge.ID, Nonce: charge.Nonce, Amount: charge.Amount, Price: charge.Price, Sender: channel.Sender}, signature
}

func (p *provision) refund(id uint64, refund channelstate.Refund, want channelstate.RefundOutcome) {
	p.t.Helper()
	outcome, err := p.ledger.Refund(p.t.Context(), p.group.Key(uint256.NewInt(id)), refund)
	if err != nil || outcome != want {
		p.t.Errorf("refund: %s, %v, want %s", outcome, err, want)
	}
}

// mined is the chain after the claim of a channel: its nonce is up.
func (p *provision) mined(id, nonce uint64) {
	p.channels.change(id, func(channel *blockchain.Channel) { channel.Nonce = *uint256.NewInt(nonce) })
}

func (p *provision) startRequest(by account, id, nonce uint64) *escrow.StartClaimRequest {
	p.t.Helper()
	channel := uint256.NewInt(id)
	return &escrow.StartClaimRequest{
		MpeAddress: mpe.Hex(), ChannelId: channel.Bytes(),
		Signature: by.sign(p.t, blockchain.StartClaimMessage(mpe, channel, uint256.NewInt(nonce))),
	}
}

func (p *provision) start(id, nonce uint64) (*escrow.PaymentReply, error) {
	p.t.Helper()
	return p.client.StartClaim(p.t.Context(), p.startRequest(provider, id, nonce))
}

func (p *provision) startMany(ids ...uint64) (*escrow.PaymentsListReply, error) {
	p.t.Helper()
	words := make([]uint256.Int, len(ids))
	for i, id := range ids {
		words[i].SetUint64(id)
	}
	return p.client.StartClaimForMultipleChannels(p.t.Context(), &escrow.StartMultipleClaimRequest{
		MpeAddress: mpe.Hex(), ChannelIds: ids, CurrentBlock: block,
		Signature: provider.sign(p.t, blockchain.StartClaimForMultipleChannelsMessage(mpe, words, block)),
	})
}

func listRequest(t *testing.T, by account, message func(common.Address, uint64) []byte) *escrow.GetPaymentsListRequest {
	t.Helper()
	return &escrow.GetPaymentsListRequest{MpeAddress: mpe.Hex(), CurrentBlock: block, Signature: by.sign(t, message(mpe, block))}
}

func (p *provision) unclaimed() []payment {
	p.t.Helper()
	reply, err := p.client.GetListUnclaimed(p.t.Context(), listRequest(p.t, provider, blockchain.ListUnclaimedMessage))
	return p.payments(reply, err)
}

func (p *provision) inProgress() []payment {
	p.t.Helper()
	reply, err := p.client.GetListInProgress(p.t.Context(), listRequest(p.t, provider, blockchain.ListInProgressMessage))
	return p.payments(reply, err)
}

// payment is a PaymentReply in short; expiry -1 is none.
type payment struct {
	id, nonce, signed, spent uint64
	expiry                   int64
	signature                string
}

func (p *provision) payments(reply *escrow.PaymentsListReply, err error) []payment {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	var list []payment
	for _, entry := range reply.GetPayments() {
		list = append(list, p.payment(entry))
	}
	return list
}

func (p *provision) payment(entry *escrow.PaymentReply) payment {
	p.t.Helper()
	short := payment{expiry: -1, signature: string(entry.GetSignature())}
	for _, field := range []struct {
		value []byte
		into  *uint64
	}{
		{entry.GetChannelId(), &short.id}, {entry.GetChannelNonce(), &short.nonce},
		{entry.GetSignedAmount(), &short.signed}, {entry.GetSpentAmount(), &short.spent},
	} {
		if len(field.value) != 32 {
			p.t.Errorf("a number has %d bytes: %v", len(field.value), entry)
		}
		*field.into = new(uint256.Int).SetBytes(field.value).Uint64()
	}
	if entry.GetChannelExpiry() != nil {
		short.expiry = int64(new(uint256.Int).SetBytes(entry.GetChannelExpiry()).Uint64())
	}
	return short
}

const expiry = block + 1000000

// vectorSignature is a signature of payment-protocol.md section 5.
func vectorSignature(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile("../../blockchain/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Messages []struct{ Name, Signature string }
	}
	if err := json.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	for _, vector := range file.Messages {
		if vector.Name != name {
			continue
		}
		signature, err := hex.DecodeString(vector.Signature)
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	t.Fatalf("vectors.json has no %s", name)
	return nil
}
