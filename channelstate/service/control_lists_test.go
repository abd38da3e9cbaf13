package service_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/channelstate/service"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

// While the chain cannot be asked the lists are answered as far as is known.
func TestListsWhileTheNodeIsAway(t *testing.T) {
	p := newProvision(t, storetest.Memory)
	p.pay(1, 5, 10)
	signature := string(p.pay(2, 5, 10))
	if _, err := p.start(2, 5); err != nil {
		t.Fatal(err)
	}
	p.channels.forget()
	p.channels.err = blockchain.ErrChainUnavailable
	expectPayments(t, "unclaimed", p.unclaimed(), payment{1, 5, 10, 10, -1, ""})
	expectPayments(t, "in progress", p.inProgress(), payment{2, 5, 10, 10, -1, signature})
	_, err := p.start(1, 5)
	expectStatus(t, "start", err, codes.Unavailable, "the chain cannot be asked")
	_, err = p.startMany(1)
	expectStatus(t, "start several", err, codes.Unavailable, "the chain cannot be asked")
}

func TestBlockWindowOfLists(t *testing.T) {
	p := newProvision(t, storetest.Memory)
	p.chain.knownBlock, p.chain.latest = block+6, block+6
	_, err := p.client.GetListUnclaimed(t.Context(), listRequest(t, provider, blockchain.ListUnclaimedMessage))
	expectStatus(t, "unclaimed", err, codes.Unauthenticated, "expired")
	_, err = p.client.GetListInProgress(t.Context(), listRequest(t, provider, blockchain.ListInProgressMessage))
	expectStatus(t, "in progress", err, codes.Unauthenticated, "expired")
	_, err = p.startMany(1)
	expectStatus(t, "several", err, codes.Unauthenticated, "expired")
	p.chain.knownBlock, p.chain.latest = block+5, block+5
	expectPayments(t, "at the edge", p.unclaimed())
}

// A list longer than a reply may be says so, and goes on once its claims are started.
func TestListsLongerThanAReply(t *testing.T) {
	p := newProvision(t, storetest.Memory)
	const most, more = 10_000, 3
	for id := range uint64(most + more) {
		record := &channelstate.Record{
			Sender: user.address, Signer: signer.address, Nonce: *uint256.NewInt(5), Signed: *uint256.NewInt(10),
			Signature: bytes.Repeat([]byte{1}, 65), Spent: *uint256.NewInt(10),
		}
		key := p.group.Key(uint256.NewInt(100_000 + id))
		claim := channelstate.Claim{
			Channel: key.Channel, Nonce: *uint256.NewInt(4), Signed: record.Signed, Spent: record.Spent, Signature: record.Signature,
			Sender: record.Sender, Signer: record.Signer,
		}
		_, err := p.store.Commit(t.Context(), &channelstate.Transaction{Key: key, Record: record, Claims: []channelstate.Claim{claim}})
		if err != nil {
			t.Fatal(err)
		}
	}
	p.channels.err = blockchain.ErrChainUnavailable
	for name, message := range map[string]func(common.Address, uint64) []byte{
		"unclaimed": blockchain.ListUnclaimedMessage, "in progress": blockchain.ListInProgressMessage,
	} {
		ask := p.client.GetListUnclaimed
		if name == "in progress" {
			ask = p.client.GetListInProgress
		}
		reply, err := ask(t.Context(), listRequest(t, provider, message)) // with the 4 MiB that clients take by default
		if err != nil || len(reply.GetPayments()) != most || !reply.GetMore() {
			t.Errorf("%s: %d entries, more %v, error %v", name, len(reply.GetPayments()), reply.GetMore(), err)
		}
	}
	if asked := p.channels.taken(); asked > 600 {
		t.Errorf("the chain was asked %d times", asked)
	}
	p.pay(1, 5, 10)
	if listed := p.unclaimed(); len(listed) != most || listed[0].id != 1 {
		t.Errorf("%d entries", len(listed))
	}
}

// Claims of one nonce that a reorganisation has brought back: one of them can be claimed.
func TestClaimsOfANonceThatCameBack(t *testing.T) {
	p := newProvision(t, storetest.Memory)
	key := p.group.Key(uint256.NewInt(1))
	claim := func(id byte, nonce, spent uint64, sender account) channelstate.Claim {
		return channelstate.Claim{
			Channel: key.Channel, Nonce: *uint256.NewInt(nonce), ID: channelstate.BatchID{id}, Signed: *uint256.NewInt(spent),
			Spent: *uint256.NewInt(spent), Signature: []byte{id}, Sender: sender.address, Signer: signer.address,
		}
	}
	_, err := p.store.Commit(t.Context(), &channelstate.Transaction{
		Key: key, Record: &channelstate.Record{Sender: user.address, Signer: signer.address, Nonce: *uint256.NewInt(7)},
		Claims: []channelstate.Claim{claim(1, 5, 30, user), claim(2, 5, 50, user), claim(3, 5, 40, user), claim(4, 5, 90, stranger), claim(5, 6, 10, user)},
	})
	if err != nil {
		t.Fatal(err)
	}
	expectPayments(t, "in progress", p.inProgress(), payment{1, 5, 50, 50, expiry, "\x02"}, payment{1, 6, 10, 10, expiry, "\x05"})
}

// brokenLists are those of a store that cannot be asked.
type brokenLists struct{ err error }

func (b brokenLists) Channels(context.Context, channelstate.Group, string, int) ([]channelstate.ChannelRecord, string, error) {
	return nil, "", b.err
}

func (b brokenLists) Claims(context.Context, channelstate.Group, string, int) ([]channelstate.Claim, string, error) {
	return nil, "", b.err
}

func TestControlInTrouble(t *testing.T) {
	p := newProvision(t, storetest.Memory)
	var metadata *blockchain.Metadata
	faulty := &storetest.Faulty{Store: p.store, BeforeLoad: func(channelstate.Key) error { return storetest.ErrInjected }}
	ledger := channelstate.NewLedger(func(channelstate.Key) channelstate.Store { return faulty }, channelstate.DefaultSettings(), nil)
	defer func() {
		if err := ledger.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	client := escrow.NewProviderControlServiceClient(dial(t, func(server *grpc.Server) {
		escrow.RegisterProviderControlServiceServer(server, service.NewControlService(service.Control{
			Claims: ledger, Lists: brokenLists{errors.New("away")}, Channels: p.channels, Head: head{p.chain},
			Metadata: func() *blockchain.Metadata { return metadata }, ChainID: chainID,
		}))
	}))
	ask := func(phrase string) {
		t.Helper()
		_, err := client.GetListUnclaimed(t.Context(), listRequest(t, provider, blockchain.ListUnclaimedMessage))
		expectStatus(t, "unclaimed", err, codes.Unavailable, phrase)
		_, err = client.GetListInProgress(t.Context(), listRequest(t, provider, blockchain.ListInProgressMessage))
		expectStatus(t, "in progress", err, codes.Unavailable, phrase)
		_, err = client.StartClaim(t.Context(), p.startRequest(provider, 1, 5))
		expectStatus(t, "start", err, codes.Unavailable, phrase)
		message := blockchain.StartClaimForMultipleChannelsMessage(mpe, []uint256.Int{*uint256.NewInt(1)}, block)
		_, err = client.StartClaimForMultipleChannels(t.Context(), &escrow.StartMultipleClaimRequest{
			MpeAddress: mpe.Hex(), ChannelIds: []uint64{1}, CurrentBlock: block, Signature: provider.sign(t, message)})
		expectStatus(t, "several", err, codes.Unavailable, phrase)
	}
	ask("metadata")
	metadata = &blockchain.Metadata{
		Service: &blockchain.Service{MPE: mpe}, Group: &blockchain.OrganizationGroup{ID: p.group.GroupID, PaymentAddress: provider.address},
	}
	ask("channel state is not available")
}

func TestControlWithoutBlockchainIsEmpty(t *testing.T) {
	client := escrow.NewProviderControlServiceClient(dial(t, func(server *grpc.Server) {
		escrow.RegisterProviderControlServiceServer(server, service.ControlWithoutBlockchain{})
	}))
	for name, ask := range map[string]func() (interface{ String() string }, error){
		"unclaimed": func() (interface{ String() string }, error) {
			return client.GetListUnclaimed(t.Context(), &escrow.GetPaymentsListRequest{})
		},
		"in progress": func() (interface{ String() string }, error) {
			return client.GetListInProgress(t.Context(), &escrow.GetPaymentsListRequest{})
		},
		"start": func() (interface{ String() string }, error) {
			return client.StartClaim(t.Context(), &escrow.StartClaimRequest{})
		},
		"several": func() (interface{ String() string }, error) {
			return client.StartClaimForMultipleChannels(t.Context(), &escrow.StartMultipleClaimRequest{})
		},
	} {
		if reply, err := ask(); err != nil || reply.String() != "" {
			t.Errorf("%s: %v, %v", name, reply, err)
		}
	}
}
