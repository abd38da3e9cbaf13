package service_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/holiman/uint256"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/channelstate/service"
)

// want is a reply in short: -1 for a field that is absent.
type want struct {
	nonce, signed, old   int64
	signature, oldSigned []byte
	spent                uint64
}

func (w *world) expect(name string, client escrow.PaymentChannelStateServiceClient, want want) {
	w.t.Helper()
	reply, err := client.GetChannelState(w.t.Context(), query(w.t, user))
	if err != nil {
		w.t.Errorf("%s: %v", name, err)
		return
	}
	for field, pair := range map[string]struct {
		got  []byte
		want int64
	}{
		"current_nonce":           {reply.GetCurrentNonce(), want.nonce},
		"current_signed_amount":   {reply.GetCurrentSignedAmount(), want.signed},
		"old_nonce_signed_amount": {reply.GetOldNonceSignedAmount(), want.old},
	} {
		var expected []byte
		if pair.want >= 0 {
			word := uint256.NewInt(uint64(pair.want)).Bytes32()
			expected = word[:]
		}
		if !bytes.Equal(pair.got, expected) {
			w.t.Errorf("%s: %s is %x, want %x", name, field, pair.got, expected)
		}
	}
	if !bytes.Equal(reply.GetCurrentSignature(), want.signature) {
		w.t.Errorf("%s: current_signature is %x, want %x", name, reply.GetCurrentSignature(), want.signature)
	}
	if !bytes.Equal(reply.GetOldNonceSignature(), want.oldSigned) {
		w.t.Errorf("%s: old_nonce_signature is %x, want %x", name, reply.GetOldNonceSignature(), want.oldSigned)
	}
	if planned := uint64(max(want.signed, 0)); reply.GetPlannedAmount() != planned || reply.GetUsedAmount() != want.spent {
		w.t.Errorf("%s: planned_amount is %d, used_amount %d, want %d and %d", name, reply.GetPlannedAmount(), reply.GetUsedAmount(), planned, want.spent)
	}
}

// The life of a channel as payment-protocol.md section 7.3 tells it.
func TestRepliesAlongTheLifeOfAChannel(t *testing.T) {
	w := newWorld(t)
	w.expect("nothing signed", w.client, want{nonce: 5, signed: -1, old: -1})

	first := w.pay(5, 10)
	w.expect("after a call", w.client, want{nonce: 5, signed: 10, spent: 10, signature: first, old: -1})
	second := w.pay(5, 20)
	w.expect("after another call", w.client, want{nonce: 5, signed: 20, spent: 20, signature: second, old: -1})

	w.startClaim()
	w.expect("claim started", w.client, want{nonce: 6, signed: 0, old: 20, oldSigned: second})
	third := w.pay(6, 10)
	w.expect("claim started, call at the new nonce", w.client, want{nonce: 6, signed: 10, spent: 10, signature: third, old: 20, oldSigned: second})

	w.chain.actual.Nonce = *uint256.NewInt(6) // the claim is mined, the cache does not know yet
	before := w.chain.refreshed.Load()
	w.expect("claim mined", w.client, want{nonce: 6, signed: 10, spent: 10, signature: third, old: -1})
	if asked := w.chain.refreshed.Load() - before; asked != 1 {
		t.Errorf("the chain was asked %d times for a stale channel", asked)
	}
	w.chain.known = w.chain.actual
	before = w.chain.refreshed.Load()
	w.expect("claim known to be mined", w.client, want{nonce: 6, signed: 10, spent: 10, signature: third, old: -1})
	if asked := w.chain.refreshed.Load() - before; asked != 0 {
		t.Errorf("the chain was asked %d times for a known channel", asked)
	}

	w.chain.actual.Nonce = *uint256.NewInt(7) // the sender has taken back an expired channel
	w.chain.known = w.chain.actual
	w.expect("chain ahead", w.client, want{nonce: 7, signed: -1, old: -1})
}

func TestAChannelThatChangedHandsShowsNothingOfBefore(t *testing.T) {
	w := newWorld(t)
	w.pay(5, 10)
	w.chain.known.Sender, w.chain.known.Signer = user.address, stranger.address
	w.chain.actual = w.chain.known
	w.expect("other signer", w.client, want{nonce: 5, signed: -1, old: -1})

	w.chain.actual.Sender, w.chain.actual.Signer = stranger.address, stranger.address // only the node knows of it
	_, err := w.client.GetChannelState(t.Context(), query(t, user))
	expectStatus(t, "no party any more", err, codes.Unauthenticated, "only channel signer/sender/receiver")
}

func expectStatus(t *testing.T, name string, err error, code codes.Code, phrase string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), phrase) {
		t.Errorf("%s: got %v, want code %d and %q", name, err, code, phrase)
	}
}

func TestWhoMayAsk(t *testing.T) {
	w := newWorld(t)
	for name, party := range map[string]account{"sender": user, "signer": signer, "recipient": provider} {
		if _, err := w.client.GetChannelState(t.Context(), query(t, party)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := w.client.GetChannelState(t.Context(), query(t, stranger))
	expectStatus(t, "stranger", err, codes.Unauthenticated, "only channel signer/sender/receiver")
}

// What a request shows to be wrong is refused without asking anybody.
func TestBadRequestsReachNobody(t *testing.T) {
	w := newWorld(t)
	tests := []struct {
		name   string
		change func(*escrow.ChannelStateRequest)
		code   codes.Code
		phrase string
	}{
		{"no signature", func(r *escrow.ChannelStateRequest) { r.Signature = nil }, codes.InvalidArgument, "incorrect signature"},
		{"short signature", func(r *escrow.ChannelStateRequest) { r.Signature = r.Signature[:64] }, codes.InvalidArgument, "incorrect signature"},
		{"no point", func(r *escrow.ChannelStateRequest) { r.Signature = make([]byte, 65) }, codes.Unauthenticated, "incorrect signature"},
		{"wrong v", func(r *escrow.ChannelStateRequest) { r.Signature[64] = 5 }, codes.Unauthenticated, "incorrect signature"},
		{"huge block", func(r *escrow.ChannelStateRequest) { r.CurrentBlock = 1 << 63 }, codes.InvalidArgument, "current_block"},
		{"long id", func(r *escrow.ChannelStateRequest) { r.ChannelId = make([]byte, 65) }, codes.InvalidArgument, "channel_id has 65 bytes"},
		{"id of 257 bits", func(r *escrow.ChannelStateRequest) { r.ChannelId = append([]byte{1}, make([]byte, 32)...) },
			codes.InvalidArgument, "channel_id has more than 256 bits"},
	}
	for _, test := range tests {
		request := query(t, user)
		test.change(request)
		_, err := w.client.GetChannelState(t.Context(), request)
		expectStatus(t, test.name, err, test.code, test.phrase)
	}
	if asked := w.chain.asked.Load(); asked != 0 {
		t.Errorf("the chain or its cache was asked %d times", asked)
	}
}

func TestChannelIDsWithAndWithoutLeadingZeros(t *testing.T) {
	w := newWorld(t)
	word := channelID.Bytes32()
	for _, id := range [][]byte{{0x04, 0xd2}, {0, 0, 4, 0xd2}, word[:], append(make([]byte, 32), word[:]...)} {
		request := query(t, user)
		request.ChannelId = id
		if _, err := w.client.GetChannelState(t.Context(), request); err != nil {
			t.Errorf("channel id %x: %v", id, err)
		}
	}
	request := &escrow.ChannelStateRequest{CurrentBlock: block, Signature: user.sign(t, blockchain.ChannelStateMessage(mpe, new(uint256.Int), block))}
	if _, err := w.client.GetChannelState(t.Context(), request); err != nil {
		t.Errorf("channel 0 as no bytes at all: %v", err)
	}
}

func TestBlockWindow(t *testing.T) {
	tests := []struct {
		name          string
		known, latest uint64
		knownErr      error
		nodeErr       error
		code          codes.Code
		asks          int64
	}{
		{"oldest", block + 5, block + 5, nil, nil, codes.OK, 0},
		{"newest", block - 5, block - 5, nil, nil, codes.OK, 0},
		{"too old", block + 6, block + 6, nil, nil, codes.Unauthenticated, 1},
		{"too new", block - 6, block - 6, nil, nil, codes.Unauthenticated, 1},
		{"we are behind", block - 6, block - 5, nil, nil, codes.OK, 1},
		{"height not known, node answers", 0, block, blockchain.ErrHeadStale, nil, codes.OK, 1},
		{"height not known, node away", 0, 0, blockchain.ErrHeadStale, errors.New("node away"), codes.Unavailable, 1},
		{"behind, node away", block - 6, 0, nil, errors.New("node away"), codes.Unavailable, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.chain.knownBlock, w.chain.latest, w.chain.knownErr, w.chain.nodeErr = test.known, test.latest, test.knownErr, test.nodeErr
			_, err := w.client.GetChannelState(t.Context(), query(t, user))
			phrase := map[codes.Code]string{codes.Unauthenticated: "expired", codes.Unavailable: "cannot determine current block"}[test.code]
			expectStatus(t, test.name, err, test.code, phrase)
			if asked := w.chain.refreshed.Load(); asked != test.asks {
				t.Errorf("the node was asked %d times, want %d", asked, test.asks)
			}
		})
	}
}

func TestChannelsThatCannotBeAnswered(t *testing.T) {
	tests := []struct {
		name   string
		change func(*world)
		code   codes.Code
		phrase string
	}{
		{"unknown", func(w *world) { w.chain.channelErr = blockchain.ErrChannelNotFound }, codes.NotFound, "channel is not found, channelId: 1234"},
		{"zero", func(w *world) { w.chain.known = blockchain.Channel{} }, codes.NotFound, "channel is not found, channelId: 1234"},
		{"too many", func(w *world) { w.chain.channelErr = fmt.Errorf("x: %w", blockchain.ErrTooManyReads) }, codes.ResourceExhausted, "channel error"},
		{"node away", func(w *world) { w.chain.channelErr = errors.New("node away") }, codes.Unavailable, "channel error: node away"},
		{"other group", func(w *world) { w.chain.known.GroupID = [32]byte{8} }, codes.Unauthenticated, "belongs to another replica group"},
		{"no metadata", func(w *world) { w.metadata = nil }, codes.Unavailable, "metadata"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			test.change(w)
			_, err := w.client.GetChannelState(t.Context(), query(t, user))
			expectStatus(t, test.name, err, test.code, test.phrase)
		})
	}
}

// records are those of a store with troubles that a sound ledger does not have.
type records struct {
	record             channelstate.Record
	claim              *channelstate.Claim
	readErr, claimsErr error
}

func (r records) Read(context.Context, channelstate.Key) (channelstate.Record, bool, error) {
	return r.record, r.readErr == nil, r.readErr
}

func (r records) Claim(_ context.Context, _ channelstate.Key, nonce *uint256.Int) (channelstate.Claim, bool, error) {
	if r.claim == nil || r.claim.Nonce != *nonce {
		return channelstate.Claim{}, false, r.claimsErr
	}
	return *r.claim, true, nil
}

func TestRecordsInTrouble(t *testing.T) {
	w := newWorld(t)
	ahead := channelstate.Record{Sender: user.address, Signer: signer.address, Nonce: *uint256.NewInt(6)}
	tests := []struct {
		name    string
		records records
		phrase  string
	}{
		{"store away", records{readErr: channelstate.ErrUnavailable}, "channel state is not available"},
		{"claims away", records{record: ahead, claimsErr: channelstate.ErrUnavailable}, "channel state is not available"},
		{"claim gone", records{record: ahead}, "old payment is not found in storage"},
	}
	for _, test := range tests {
		_, err := w.serve(test.records).GetChannelState(t.Context(), query(t, user))
		expectStatus(t, test.name, err, codes.Unavailable, test.phrase)
	}
	claim := &channelstate.Claim{Nonce: *uint256.NewInt(5), Signed: *uint256.NewInt(30), Signature: []byte("old")}
	w.expect("claim outside of the record", w.serve(records{record: ahead, claim: claim}),
		want{nonce: 6, signed: 0, old: 30, oldSigned: []byte("old")})
}

// The vectors of payment-protocol.md section 5: a request as clients send it.
func TestRequestOfVectorV2(t *testing.T) {
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
		if vector.Name != "V2" {
			continue
		}
		signature, err := hex.DecodeString(vector.Signature)
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t)
		reply, err := w.client.GetChannelState(t.Context(),
			&escrow.ChannelStateRequest{ChannelId: []byte{4, 0xd2}, Signature: signature, CurrentBlock: block})
		if err != nil || !bytes.Equal(reply.GetCurrentNonce(), append(make([]byte, 31), 5)) {
			t.Errorf("got %v, %v", reply, err)
		}
		return
	}
	t.Error("vectors.json has no V2")
}

func TestWhoseBudgetOfReadsIsUsed(t *testing.T) {
	tests := map[string]struct {
		forwarded []string
		want      string
	}{
		"no proxy":           {nil, "127.0.0.1"},
		"proxy":              {[]string{"203.0.113.9"}, "203.0.113.9"},
		"client adds others": {[]string{"198.51.100.1, 203.0.113.9"}, "203.0.113.9"},
		"two headers":        {[]string{"198.51.100.1", "2001:DB8::1"}, "2001:db8::1"},
		"no address":         {[]string{"unknown"}, "127.0.0.1"},
	}
	for name, test := range tests {
		w := newWorld(t)
		ctx := t.Context()
		for _, value := range test.forwarded {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-forwarded-for", value)
		}
		if _, err := w.client.GetChannelState(ctx, query(t, user)); err != nil {
			t.Fatal(err)
		}
		if w.chain.client != test.want {
			t.Errorf("%s: the client is %q, want %q", name, w.chain.client, test.want)
		}
	}
}

func TestWithoutBlockchainEveryReplyIsEmpty(t *testing.T) {
	client := escrow.NewPaymentChannelStateServiceClient(dial(t, func(server *grpc.Server) {
		escrow.RegisterPaymentChannelStateServiceServer(server, service.WithoutBlockchain{})
	}))
	reply, err := client.GetChannelState(t.Context(), &escrow.ChannelStateRequest{})
	if err != nil || reply.String() != "" {
		t.Errorf("got %v, %v", reply, err)
	}
}
