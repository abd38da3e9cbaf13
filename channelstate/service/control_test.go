package service_test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holiman/uint256"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

// onStores runs a test on a store in memory and on one in etcd.
func onStores(t *testing.T, test func(*testing.T, *provision)) {
	for name, open := range map[string]storetest.Opener{"memory": storetest.Memory, "embedded": storetest.Embedded} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newProvision(t, open))
		})
	}
}

func expectPayments(t *testing.T, name string, got []payment, want ...payment) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %+v\nwant %+v", name, got, want)
	}
}

// The life of claims as payment-protocol.md section 7.6 tells it.
func TestClaimsFromTheFirstCallToTheChain(t *testing.T) {
	onStores(t, func(t *testing.T, p *provision) {
		expectPayments(t, "unclaimed before", p.unclaimed())
		expectPayments(t, "in progress before", p.inProgress())

		p.pay(1, 5, 10)
		first := string(p.pay(1, 5, 20))
		second := string(p.pay(2, 5, 35)) // more than the price
		expectPayments(t, "unclaimed", p.unclaimed(),
			payment{1, 5, 20, 20, expiry, ""}, payment{2, 5, 35, 10, expiry, ""})

		reply, err := p.start(1, 5)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.payment(reply); got != (payment{1, 5, 20, 20, -1, first}) {
			t.Errorf("started %+v", got)
		}
		expectPayments(t, "unclaimed", p.unclaimed(), payment{2, 5, 35, 10, expiry, ""})
		expectPayments(t, "in progress", p.inProgress(), payment{1, 5, 20, 20, expiry, first})

		p.pay(1, 6, 10) // the client goes on at once
		expectPayments(t, "unclaimed at the new nonce", p.unclaimed(),
			payment{1, 6, 10, 10, expiry, ""}, payment{2, 5, 35, 10, expiry, ""})
		for _, nonce := range []uint64{5, 6} {
			_, err = p.start(1, nonce)
			expectStatus(t, "second claim", err, codes.FailedPrecondition, "a claim of channel {ID: 1} is in progress")
		}
		if reply, err = p.start(2, 5); err != nil || p.payment(reply) != (payment{2, 5, 35, 10, -1, second}) {
			t.Errorf("started %v, %v", reply, err)
		}
		expectPayments(t, "in progress", p.inProgress(), payment{1, 5, 20, 20, expiry, first}, payment{2, 5, 35, 10, expiry, second})

		p.mined(1, 6)
		expectPayments(t, "one is mined", p.inProgress(), payment{2, 5, 35, 10, expiry, second})
		if listed, _, err := p.store.Claims(t.Context(), p.group, "", 10); err != nil || len(listed) != 2 {
			t.Errorf("%d claims are kept at hand, error %v: a reorganisation could bring the first back", len(listed), err)
		}
		p.channels.earlier[*uint256.NewInt(1)] = *p.channels.of(1) // long ago by now
		for range 2 {
			expectPayments(t, "one is settled", p.inProgress(), payment{2, 5, 35, 10, expiry, second})
			if listed, _, err := p.store.Claims(t.Context(), p.group, "", 10); err != nil || len(listed) != 1 {
				t.Errorf("%d claims are kept at hand, error %v", len(listed), err)
			}
		}
		third := string(p.pay(1, 6, 20))
		if reply, err = p.start(1, 6); err != nil || p.payment(reply) != (payment{1, 6, 20, 20, -1, third}) {
			t.Errorf("started %v, %v", reply, err)
		}
		expectPayments(t, "in progress", p.inProgress(), payment{1, 6, 20, 20, expiry, third}, payment{2, 5, 35, 10, expiry, second})
	})
}

// A failed call lowers what the claim spends, not what is signed: the contract checks the signature over that.
func TestCallsThatFailAfterTheClaimWasStarted(t *testing.T) {
	p := newProvision(t, storetest.Memory)
	p.pay(1, 5, 10)
	failed, signature := p.charge(1, 5, 20)
	if _, err := p.start(1, 5); err != nil {
		t.Fatal(err)
	}
	late, _ := p.charge(1, 6, 10)
	p.refund(1, failed, channelstate.ClaimCorrected)
	expectPayments(t, "in progress", p.inProgress(), payment{1, 5, 20, 10, expiry, string(signature)})
	p.mined(1, 6)
	expectPayments(t, "mined", p.inProgress())
	last := failed
	last.ID, last.Amount = channelstate.NewChargeID(), *uint256.NewInt(10)
	p.refund(1, last, channelstate.TooLate) // it is on the chain
	p.refund(1, late, channelstate.Refunded)
	p.channels.earlier[*uint256.NewInt(1)] = *p.channels.of(1)
	expectPayments(t, "mined", p.inProgress())
	settled, found, err := p.ledger.Claim(t.Context(), p.group.Key(uint256.NewInt(1)), uint256.NewInt(5))
	if err != nil || !found || settled.Spent.Uint64() != 10 || settled.Signed.Uint64() != 20 {
		t.Errorf("settled %+v, %v, %v", settled, found, err)
	}
}

func TestWhatCannotBeClaimed(t *testing.T) {
	p := newProvision(t, storetest.Memory)
	failed, _ := p.charge(3, 5, 10)
	p.pay(3, 5, 20)
	p.refund(3, failed, channelstate.Refunded)
	only, _ := p.charge(4, 5, 10)
	later, _ := p.charge(4, 5, 20)
	p.refund(4, only, channelstate.Refunded)
	p.refund(4, later, channelstate.Refunded) // all was given back, and something stays signed
	p.pay(6, 5, 10)
	p.mined(6, 6) // the sender has taken back what was in it
	p.channels.change(7, func(channel *blockchain.Channel) { channel.Sender = stranger.address })
	p.pay(8, 5, 10)
	p.channels.change(8, func(channel *blockchain.Channel) { channel.Sender = stranger.address })
	p.pay(9, 5, 10)
	p.channels.mu.Lock()
	delete(p.channels.actual, *uint256.NewInt(9)) // a reorganisation has taken the channel away
	p.channels.mu.Unlock()

	expectPayments(t, "unclaimed", p.unclaimed(), payment{3, 5, 20, 10, expiry, ""}, payment{9, 5, 10, 10, -1, ""})
	for name, test := range map[string]struct {
		id, nonce uint64
		code      codes.Code
		phrase    string
	}{
		"all given back":     {4, 5, codes.FailedPrecondition, "authorized amount is zero"},
		"never called":       {5, 5, codes.Unauthenticated, "latest nonce"}, // we cannot know its nonce without asking the chain
		"taken back":         {6, 5, codes.FailedPrecondition, "its latest is 6"},
		"taken back, latest": {6, 6, codes.FailedPrecondition, "authorized amount is zero"},
		"other sender":       {8, 5, codes.FailedPrecondition, "has other parties"},
		"gone":               {9, 5, codes.NotFound, "channel is not found, channelId: 9"},
		"never opened":       {77, 0, codes.NotFound, "channel is not found, channelId: 77"},
	} {
		_, err := p.start(test.id, test.nonce)
		expectStatus(t, name, err, test.code, test.phrase)
	}
	expectPayments(t, "in progress", p.inProgress())
}

func TestStartClaimForMultipleChannels(t *testing.T) {
	onStores(t, func(t *testing.T, p *provision) {
		first, second := string(p.pay(1, 5, 10)), string(p.pay(7, 5, 20))
		p.pay(3, 5, 10)
		for name, test := range map[string]struct {
			ids    []uint64
			code   codes.Code
			phrase string
		}{
			"nothing spent": {[]uint64{7, 2, 1}, codes.FailedPrecondition, "no claim was started: authorized amount is zero, hence nothing to claim on the channel, channelId: 2"},
			"unknown":       {[]uint64{7, 1, 77}, codes.NotFound, "channelId: 77"},
			"twice":         {[]uint64{7, 1, 7}, codes.InvalidArgument, "channel 7 is named twice"},
			"too many":      {make([]uint64, 65), codes.InvalidArgument, "65 channels are named, at most 64"},
		} {
			_, err := p.startMany(test.ids...)
			expectStatus(t, name, err, test.code, test.phrase)
		}
		expectPayments(t, "in progress", p.inProgress())
		reply, err := p.startMany(7, 1)
		expectPayments(t, "started", p.payments(reply, err), payment{1, 5, 10, 10, -1, first}, payment{7, 5, 20, 10, -1, second})
		expectPayments(t, "in progress", p.inProgress(), payment{1, 5, 10, 10, expiry, first}, payment{7, 5, 20, 10, expiry, second})
		_, err = p.startMany(3, 7)
		expectStatus(t, "pending", err, codes.FailedPrecondition, "no claim was started: a claim of channel {ID: 7} is in progress")
		expectPayments(t, "unclaimed", p.unclaimed(), payment{3, 5, 10, 10, expiry, ""})
		reply, err = p.startMany()
		expectPayments(t, "none", p.payments(reply, err))
	})
}

// The vectors of payment-protocol.md section 5, V8: the requests as clients send them.
func TestRequestsOfVectorsV8(t *testing.T) {
	p := newProvision(t, storetest.Memory)
	lower := strings.ToLower(mpe.Hex()) // the address is compared, not its text
	for _, id := range []uint64{5, 7, 1234} {
		p.pay(id, 5, 10)
	}
	unclaimed, err := p.client.GetListUnclaimed(t.Context(), &escrow.GetPaymentsListRequest{
		MpeAddress: lower, CurrentBlock: block, Signature: vectorSignature(t, "V8 list_unclaimed")})
	if got := p.payments(unclaimed, err); len(got) != 3 {
		t.Errorf("unclaimed %+v", got)
	}
	started, err := p.client.StartClaim(t.Context(), &escrow.StartClaimRequest{
		MpeAddress: lower, ChannelId: []byte{0x04, 0xd2}, Signature: vectorSignature(t, "V8 start_claim")})
	if err != nil || p.payment(started).id != 1234 {
		t.Errorf("start: %v, %v", started, err)
	}
	progress, err := p.client.GetListInProgress(t.Context(), &escrow.GetPaymentsListRequest{
		MpeAddress: strings.TrimPrefix(lower, "0x"), CurrentBlock: block, Signature: vectorSignature(t, "V8 list_in_progress")})
	if got := p.payments(progress, err); len(got) != 1 {
		t.Errorf("in progress %+v", got)
	}
	p.mined(1234, 6)
	p.pay(1234, 6, 10)
	several, err := p.client.StartClaimForMultipleChannels(t.Context(), &escrow.StartMultipleClaimRequest{
		MpeAddress: lower, ChannelIds: []uint64{1234, 7, 5}, CurrentBlock: block, Signature: vectorSignature(t, "V8 start_claim_multi")})
	if got := p.payments(several, err); len(got) != 3 || got[0].id != 5 || got[2].id != 1234 {
		t.Errorf("several: %+v", got)
	}
}

// Who is not the provider reaches neither the chain nor the store, but for one
// bounded read of a record where the nonce has to be known.
func TestStrangersReachNothing(t *testing.T) {
	p := newProvision(t, storetest.Memory)
	p.pay(1, 5, 10)
	mayRead := 0
	check := func(name string, code codes.Code, phrase string, err error) {
		t.Helper()
		expectStatus(t, name, err, code, phrase)
		if reads, asked := p.ledger.taken(), p.channels.taken(); reads > mayRead || asked != 0 || p.chain.asked.Swap(0) != 0 {
			t.Errorf("%s: %d records were read, the chain was asked %d times", name, reads, asked)
		}
	}
	lists := map[string]func(*escrow.GetPaymentsListRequest) error{
		"unclaimed": func(request *escrow.GetPaymentsListRequest) error {
			_, err := p.client.GetListUnclaimed(t.Context(), request)
			return err
		},
		"in progress": func(request *escrow.GetPaymentsListRequest) error {
			_, err := p.client.GetListInProgress(t.Context(), request)
			return err
		},
		"several": func(request *escrow.GetPaymentsListRequest) error {
			_, err := p.client.StartClaimForMultipleChannels(t.Context(), &escrow.StartMultipleClaimRequest{
				MpeAddress: request.MpeAddress, ChannelIds: []uint64{1}, CurrentBlock: request.CurrentBlock, Signature: request.Signature})
			return err
		},
		"start": func(request *escrow.GetPaymentsListRequest) error {
			_, err := p.client.StartClaim(t.Context(), &escrow.StartClaimRequest{
				MpeAddress: request.MpeAddress, ChannelId: []byte{77}, Signature: request.Signature})
			return err
		},
	}
	for name, ask := range lists {
		good := listRequest(t, provider, blockchain.ListUnclaimedMessage)
		if name == "in progress" {
			good = listRequest(t, provider, blockchain.ListInProgressMessage)
		}
		with := func(change func(*escrow.GetPaymentsListRequest)) *escrow.GetPaymentsListRequest {
			request := &escrow.GetPaymentsListRequest{MpeAddress: good.MpeAddress, CurrentBlock: good.CurrentBlock, Signature: slices.Clone(good.Signature)}
			change(request)
			return request
		}
		type request = escrow.GetPaymentsListRequest
		check(name+" nothing", codes.InvalidArgument, "mpe_address is no address", ask(&request{}))
		check(name+" other contract", codes.InvalidArgument, "does not match to what has been registered",
			ask(with(func(r *request) { r.MpeAddress = user.address.Hex() })))
		check(name+" no signature", codes.InvalidArgument, "incorrect signature", ask(with(func(r *request) { r.Signature = nil })))
		check(name+" short", codes.InvalidArgument, "incorrect signature", ask(with(func(r *request) { r.Signature = r.Signature[:64] })))
		check(name+" no point", codes.Unauthenticated, "incorrect signature", ask(with(func(r *request) { r.Signature = make([]byte, 65) })))
		if name == "start" {
			mayRead = 1
		} else {
			check(name+" huge block", codes.InvalidArgument, "current_block", ask(with(func(r *request) { r.CurrentBlock = 1 << 63 })))
		}
		check(name+" stranger", codes.Unauthenticated, "does not match to what has been expected / registered",
			ask(with(func(r *request) { r.Signature = stranger.sign(t, []byte("anything")) })))
		mayRead = 0
	}
	_, err := p.client.StartClaim(t.Context(), &escrow.StartClaimRequest{MpeAddress: mpe.Hex(), ChannelId: make([]byte, 65)})
	check("long id", codes.InvalidArgument, "channel_id has 65 bytes", err)
}

// A signature for another nonce is as good as a stranger's; the one for the
// latest is found in memory when the channel is known, else in the record.
func TestNonceOfStartClaim(t *testing.T) {
	p := newProvision(t, storetest.Memory)
	p.pay(1, 5, 10)
	for _, nonce := range []uint64{0, 4, 6} {
		_, err := p.start(1, nonce)
		expectStatus(t, "other nonce", err, codes.Unauthenticated, "for the latest nonce")
	}
	if asked := p.channels.taken(); asked != 0 {
		t.Errorf("the chain was asked %d times", asked)
	}
	if _, err := p.channels.Refresh(t.Context(), uint256.NewInt(1)); err != nil {
		t.Fatal(err)
	}
	p.ledger.taken()
	if _, err := p.start(1, 5); err != nil {
		t.Error(err)
	}
	if reads := p.ledger.taken(); reads != 0 {
		t.Errorf("%d records were read for a channel known", reads)
	}
	p.pay(2, 5, 10)
	if _, err := p.start(2, 5); err != nil {
		t.Error(err)
	}
	if reads := p.ledger.taken(); reads != 1 {
		t.Errorf("%d records were read for a channel not known", reads)
	}
}

func TestReadsForStrangersAreBounded(t *testing.T) {
	p := newProvision(t, storetest.Memory)
	p.pay(1, 5, 10)
	refused := 0
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-for", "203.0.113.9")
	for range 300 {
		_, err := p.client.StartClaim(ctx, p.startRequest(stranger, 1, 5))
		switch status.Code(err) {
		case codes.ResourceExhausted:
			refused++
		case codes.Unauthenticated:
		default:
			t.Fatal(err)
		}
	}
	if reads := p.ledger.taken(); refused == 0 || reads != 300-refused {
		t.Errorf("%d of 300 were refused, %d records were read", refused, reads)
	}
	if _, err := p.start(1, 5); err != nil { // from another address
		t.Error(err)
	}
}

// The provider uses up nothing, however many claims he starts.
func TestTheProviderIsNoStranger(t *testing.T) {
	p := newProvision(t, storetest.Memory)
	p.pay(1, 5, 10)
	if _, err := p.start(1, 5); err != nil {
		t.Fatal(err)
	}
	p.mined(1, 6)
	for range 300 {
		p.channels.forget()
		if _, err := p.start(1, 6); status.Code(err) != codes.FailedPrecondition {
			t.Fatal(err)
		}
	}
	if reads := p.ledger.taken(); reads != 301 {
		t.Errorf("%d records were read", reads)
	}
}

// Of many who start a claim at once one gets it, whichever way he asks.
func TestOneClaimOfManyStartedAtOnce(t *testing.T) {
	onStores(t, func(t *testing.T, p *provision) {
		p.pay(1, 5, 10)
		p.pay(2, 5, 10)
		single, several := p.startRequest(provider, 1, 5), 0
		var mu sync.Mutex
		var replies []*escrow.PaymentReply
		var asking sync.WaitGroup
		for i := range 16 {
			asking.Go(func() {
				if i%4 == 0 {
					if reply, err := p.startMany(1, 2); err == nil {
						mu.Lock()
						defer mu.Unlock()
						replies = append(replies, reply.GetPayments()[0])
						several++
					} else if status.Code(err) != codes.FailedPrecondition {
						t.Error(err)
					}
					return
				}
				reply, err := p.client.StartClaim(t.Context(), single)
				if status.Code(err) == codes.OK {
					mu.Lock()
					defer mu.Unlock()
					replies = append(replies, reply)
				} else if code := status.Code(err); code != codes.FailedPrecondition && code != codes.Unauthenticated {
					t.Error(err)
				}
			})
		}
		asking.Wait()
		if len(replies) != 1 {
			t.Fatalf("%d claims were started", len(replies))
		}
		if listed := p.inProgress(); len(listed) != 1+several {
			t.Errorf("in progress: %+v", listed)
		}
	})
}
