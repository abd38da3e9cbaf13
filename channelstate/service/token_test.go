package service_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/channelstate/service"
)

// shop is a world that sells tokens.
type shop struct {
	*world
	tokens *channelstate.Tokens
	client escrow.TokenServiceClient
}

func newShop(t *testing.T) *shop {
	t.Helper()
	w := newWorld(t)
	w.metadata.OrganizationID, w.metadata.ServiceID = "example-org", "example-service"
	w.metadata.Group.IDText, w.metadata.Group.Name, w.metadata.Group.ExpirationThreshold = "BwAA", "default_group", 100
	w.metadata.ServiceGroup = &blockchain.ServiceGroup{Pricing: blockchain.Pricing{Fixed: uint256.NewInt(price)}}
	settings := channelstate.DefaultSettings()
	shared, ok := channelstate.NewMemoryStore(settings).(channelstate.SharedStore)
	if !ok {
		t.Fatal("no shared store")
	}
	tokens, err := channelstate.OpenTokens(t.Context(), shared, w.key().Group(), channelstate.DefaultTokenSettings(), settings, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{world: w, tokens: tokens}
	s.client = s.sell(w.ledger, tokens)
	return s
}

func (s *shop) sell(credits service.Credits, tokens service.TokenIssuer) escrow.TokenServiceClient {
	return escrow.NewTokenServiceClient(dial(s.t, func(server *grpc.Server) {
		escrow.RegisterTokenServiceServer(server, service.NewTokenService(service.Prepaid{
			Credits: credits, Tokens: tokens, Channels: s.chain, Head: head{s.chain},
			Metadata: func() *blockchain.Metadata { return s.metadata }, ChainID: chainID,
		}))
	}))
}

// order asks for a token over a cumulative amount; the asker signs the request, the payer the amount.
func order(t *testing.T, asker, payer account, nonce, amount uint64) *escrow.TokenRequest {
	t.Helper()
	claim := payer.sign(t, blockchain.ClaimMessage(mpe, channelID, uint256.NewInt(nonce), uint256.NewInt(amount)))
	return &escrow.TokenRequest{
		ChannelId: channelID.Uint64(), CurrentNonce: nonce, SignedAmount: amount, CurrentBlock: block,
		ClaimSignature: claim, Signature: asker.sign(t, blockchain.TokenMessage(claim, block)),
	}
}

// wantToken asks for a token and checks all of the answer.
func (s *shop) wantToken(request *escrow.TokenRequest, by account, planned, used uint64) {
	s.t.Helper()
	reply, err := s.client.GetToken(s.t.Context(), request)
	if err != nil {
		s.t.Fatalf("token over %d: %v", request.GetSignedAmount(), err)
	}
	if reply.GetChannelId() != channelID.Uint64() || reply.GetPlannedAmount() != planned || reply.GetUsedAmount() != used {
		s.t.Errorf("channel %d planned %d used %d, want %d %d", reply.GetChannelId(), reply.GetPlannedAmount(), reply.GetUsedAmount(), planned, used)
	}
	if owner, err := s.tokens.Check(reply.GetToken(), channelID, "example-org", "BwAA"); err != nil || owner != by.address {
		s.t.Errorf("the token is of %s, error %v, want %s", owner, err, by.address)
	}
}

func (s *shop) call(cost uint64) error {
	_, err := s.ledger.ChargePrepaid(s.t.Context(), s.key(), &s.chain.actual, channelstate.Charge{
		ID: channelstate.NewChargeID(), Price: *uint256.NewInt(cost), Block: block, Threshold: 100,
	})
	return err
}

func TestGetToken(t *testing.T) {
	s := newShop(t)
	s.wantToken(order(t, user, user, 5, 0), user, 0, 0) // nothing bought yet, and a valid token all the same
	s.wantToken(order(t, user, user, 5, 20), user, 20, 0)
	s.wantToken(order(t, user, user, 5, 20), user, 20, 0)
	if err := s.call(price); err != nil {
		t.Fatal(err)
	}
	s.wantToken(order(t, user, user, 5, 20), user, 20, 10)
	s.wantToken(order(t, user, user, 5, 10), user, 20, 10)
	s.wantToken(order(t, signer, signer, 5, 30), signer, 30, 10)
	s.wantToken(order(t, provider, user, 5, 30), provider, 30, 10)
}

// A channel first used with escrow: clients ask with the amount they have signed, see that all is used and sign more.
func TestGetTokenAfterEscrowCalls(t *testing.T) {
	s := newShop(t)
	s.pay(5, 10)
	s.pay(5, 25)
	s.wantToken(order(t, user, user, 5, 25), user, 25, 25) // the rest of 5 pays for no call
	s.wantToken(order(t, user, user, 5, 35), user, 35, 20)
	if err := s.call(price); err != nil {
		t.Fatal(err)
	}
	s.wantToken(order(t, user, user, 5, 35), user, 35, 35)
}

// The rest that counts as used is what does not pay for the dearest method.
func TestGetTokenWithPricesPerMethod(t *testing.T) {
	s := newShop(t)
	s.metadata.ServiceGroup.Pricing = blockchain.Pricing{PerMethod: map[string]uint256.Int{"/a.B/C": *uint256.NewInt(3), "/a.B/D": *uint256.NewInt(30)}}
	s.wantToken(order(t, user, user, 5, 29), user, 29, 29)
	s.wantToken(order(t, user, user, 5, 30), user, 30, 0)
	s.metadata.ServiceGroup.Pricing = blockchain.Pricing{Fixed: new(uint256.Int)}
	s.wantToken(order(t, user, user, 5, 30), user, 30, 0)
}

func TestGetTokenRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*shop, *escrow.TokenRequest)
		code   codes.Code
		phrase string
	}{
		{"no metadata", func(s *shop, _ *escrow.TokenRequest) { s.metadata = nil }, codes.Unavailable, "metadata"},
		{"no claim signature", func(_ *shop, r *escrow.TokenRequest) { r.ClaimSignature = nil }, codes.InvalidArgument, "payment signature is not valid"},
		{"broken claim signature", func(_ *shop, r *escrow.TokenRequest) { r.ClaimSignature = make([]byte, 65) }, codes.Unauthenticated, "payment signature is not valid"},
		{"no signature", func(_ *shop, r *escrow.TokenRequest) { r.Signature = nil }, codes.InvalidArgument, "incorrect signature"},
		{"broken signature", func(_ *shop, r *escrow.TokenRequest) { r.Signature = make([]byte, 65) }, codes.Unauthenticated, "incorrect signature"},
		{"signature of another block", func(_ *shop, r *escrow.TokenRequest) { r.CurrentBlock++ }, codes.Unauthenticated, "only channel signer/sender/receiver"},
		{"huge block", func(_ *shop, r *escrow.TokenRequest) { r.CurrentBlock = math.MaxUint64 }, codes.InvalidArgument, "current_block"},
		{"old", func(s *shop, _ *escrow.TokenRequest) { s.chain.knownBlock, s.chain.latest = block+6, block+6 }, codes.Unauthenticated, "expired"},
		{"height not known", func(s *shop, _ *escrow.TokenRequest) {
			s.chain.knownErr, s.chain.nodeErr = blockchain.ErrHeadStale, errors.New("node away")
		}, codes.Unavailable, "cannot determine current block"},
		{"unknown channel", func(s *shop, _ *escrow.TokenRequest) { s.chain.channelErr = blockchain.ErrChannelNotFound }, codes.NotFound, "channel is not found, channelId: 1234"},
		{"channel of zeros", func(s *shop, _ *escrow.TokenRequest) { s.chain.known = blockchain.Channel{} }, codes.NotFound, "channel is not found, channelId: 1234"},
		{"too many channels", func(s *shop, _ *escrow.TokenRequest) { s.chain.channelErr = blockchain.ErrTooManyReads }, codes.ResourceExhausted, "channel error"},
		{"node away", func(s *shop, _ *escrow.TokenRequest) { s.chain.channelErr = errors.New("node away") }, codes.Unavailable, "node away"},
		{"other group", func(s *shop, _ *escrow.TokenRequest) { s.chain.known.GroupID[0]++ }, codes.Unauthenticated, "another replica group"},
		{"other recipient", func(s *shop, _ *escrow.TokenRequest) { s.chain.known.Recipient = stranger.address }, codes.Unauthenticated, "recipient of the channel differs"},
		{"stranger asks", func(s *shop, r *escrow.TokenRequest) {
			r.Signature = stranger.sign(s.t, blockchain.TokenMessage(r.GetClaimSignature(), block))
		}, codes.Unauthenticated, "only channel signer/sender/receiver"},
		{"stranger pays", func(s *shop, r *escrow.TokenRequest) {
			other := order(s.t, user, stranger, 5, 20)
			r.ClaimSignature, r.Signature = other.GetClaimSignature(), other.GetSignature()
		}, codes.Unauthenticated, "payment is not signed by channel signer/sender"},
		{"more than was signed", func(_ *shop, r *escrow.TokenRequest) { r.SignedAmount++ }, codes.Unauthenticated, "payment is not signed by channel signer/sender"},
		{"near its end", func(s *shop, _ *escrow.TokenRequest) {
			s.chain.known.Expiration = *uint256.NewInt(block + 100)
			s.chain.actual = s.chain.known
		}, codes.Unauthenticated, "payment channel is near to be expired"},
		{"above the value", func(s *shop, _ *escrow.TokenRequest) {
			s.chain.known.Value = *uint256.NewInt(19)
			s.chain.actual = s.chain.known
		}, codes.Unauthenticated, "not enough tokens on payment channel, channel amount: 19, payment amount: 20"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newShop(t)
			request := order(t, user, user, 5, 20)
			key := s.key()
			test.change(s, request)
			_, err := s.client.GetToken(t.Context(), request)
			expectStatus(t, test.name, err, test.code, test.phrase)
			if record, found, err := s.ledger.Read(t.Context(), key); found || err != nil {
				t.Errorf("a refused request has written %+v, error %v", record, err)
			}
		})
	}
	s := newShop(t)
	_, err := s.client.GetToken(t.Context(), order(t, user, user, 4, 20))
	expectStatus(t, "nonce", err, codes.Code(1000), "incorrect payment channel nonce, latest: 5, sent: 4")
}

// What the request itself shows to be wrong is refused without asking anybody.
func TestBadTokenRequestsReachNobody(t *testing.T) {
	s := newShop(t)
	for _, change := range []func(*escrow.TokenRequest){
		func(r *escrow.TokenRequest) { r.ClaimSignature = []byte{1} },
		func(r *escrow.TokenRequest) { r.ClaimSignature = make([]byte, 65) },
		func(r *escrow.TokenRequest) { r.Signature = append(r.Signature, 0) },
		func(r *escrow.TokenRequest) { r.Signature = make([]byte, 65) },
		func(r *escrow.TokenRequest) { r.CurrentBlock = 1 << 63 },
		func(r *escrow.TokenRequest) { r.Reset() },
	} {
		request := order(t, user, user, 5, 20)
		change(request)
		if _, err := s.client.GetToken(t.Context(), request); err == nil {
			t.Errorf("accepted: %v", request)
		}
	}
	if asked := s.chain.asked.Load(); asked != 0 {
		t.Errorf("the chain or its cache was asked %d times", asked)
	}
}

// The sender has added funds, extended the channel or had it claimed, and the cache does not know yet.
func TestGetTokenReadsTheChannelAgain(t *testing.T) {
	for name, change := range map[string]func(known *blockchain.Channel){
		"funds":      func(known *blockchain.Channel) { known.Value = *uint256.NewInt(5) },
		"expiration": func(known *blockchain.Channel) { known.Expiration = *uint256.NewInt(block) },
		"nonce":      func(known *blockchain.Channel) { known.Nonce = *uint256.NewInt(4) },
	} {
		s := newShop(t)
		change(&s.chain.known)
		s.wantToken(order(t, user, user, 5, 20), user, 20, 0)
		if read := s.chain.refreshed.Load(); read != 1 {
			t.Errorf("%s: the channel was read %d times", name, read)
		}
	}
}

// Amounts of escrow calls have 256 bits, those of GetToken 64.
func TestAmountsBeyond64Bits(t *testing.T) {
	s := newShop(t)
	s.chain.known.Value = *new(uint256.Int).SetAllOne()
	s.chain.actual = s.chain.known
	s.wantToken(order(t, user, user, 5, math.MaxUint64), user, math.MaxUint64, 0)
	amount := new(uint256.Int).AddUint64(uint256.NewInt(math.MaxUint64), 11)
	err := s.ledger.Charge(t.Context(), s.key(), &s.chain.actual, channelstate.Charge{
		ID: channelstate.NewChargeID(), Nonce: *uint256.NewInt(5), Amount: *amount, Price: *uint256.NewInt(price), Signature: []byte("large"), Block: block,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.client.GetToken(t.Context(), order(t, user, user, 5, math.MaxUint64))
	expectStatus(t, "beyond 64 bits", err, codes.OutOfRange, "18446744073709551626 cogs are signed, more than the 64 bits of planned_amount hold")
}

// Many at once, of rising and equal amounts: none is counted twice and none lowers another.
func TestGetTokenAtOnce(t *testing.T) {
	s := newShop(t)
	var done sync.WaitGroup
	for i := range uint64(32) {
		request := order(t, user, user, 5, 10*(i/2+1))
		done.Go(func() {
			reply, err := s.client.GetToken(t.Context(), request)
			if err != nil || reply.GetPlannedAmount() < request.GetSignedAmount() || reply.GetPlannedAmount() > 160 || reply.GetUsedAmount() != 0 {
				t.Errorf("asked for %d, got %v, error %v", request.GetSignedAmount(), reply, err)
			}
		})
	}
	done.Wait()
	s.wantToken(order(t, user, user, 5, 160), user, 160, 0)
	served := 0
	for s.call(price) == nil {
		served++
	}
	if served != 16 {
		t.Errorf("%d calls were served for 160", served)
	}
}

// While a claim is not on chain, clients that sign with the chain's nonce are told the new one.
func TestGetTokenWhileAClaimIsPending(t *testing.T) {
	s := newShop(t)
	s.wantToken(order(t, user, user, 5, 20), user, 20, 0)
	if err := s.call(price); err != nil {
		t.Fatal(err)
	}
	s.startClaim()
	_, err := s.client.GetToken(t.Context(), order(t, user, user, 5, 40))
	expectStatus(t, "old nonce", err, codes.Code(1000), "incorrect payment channel nonce, latest: 6, sent: 5")
	s.wantToken(order(t, user, user, 6, 10), user, 10, 0)
}

func TestTokenStoreInTrouble(t *testing.T) {
	s := newShop(t)
	_, err := s.sell(credits{fmt.Errorf("x: %w", channelstate.ErrUnavailable)}, s.tokens).GetToken(t.Context(), order(t, user, user, 5, 20))
	expectStatus(t, "store away", err, codes.Unavailable, "channel state is not available")
	_, err = s.sell(s.ledger, broken{}).GetToken(t.Context(), order(t, user, user, 5, 20))
	expectStatus(t, "no key", err, codes.Internal, "internal error")
}

type credits struct{ err error }

func (c credits) Raise(context.Context, channelstate.Key, *blockchain.Channel, channelstate.Charge) (channelstate.Balance, error) {
	return channelstate.Balance{}, c.err
}

type broken struct{}

func (broken) Issue(*uint256.Int, common.Address, string, string) (string, error) {
	return "", errors.New("a secret of 5 bytes: abcde")
}

// vectors are the signatures of payment-protocol.md section 5, by name.
func vectors(t *testing.T) map[string][]byte {
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
	signatures := map[string][]byte{}
	for _, vector := range file.Messages {
		if signatures[vector.Name], err = hex.DecodeString(vector.Signature); err != nil {
			t.Fatal(err)
		}
	}
	return signatures
}

// V3 of payment-protocol.md section 5: a request as clients sign it.
func TestRequestOfVectorV3(t *testing.T) {
	signatures := vectors(t)
	s := newShop(t)
	s.chain.known.Value = *uint256.NewInt(1e15)
	s.wantToken(&escrow.TokenRequest{
		ChannelId: 1234, CurrentNonce: 5, SignedAmount: 987654321000, CurrentBlock: block,
		ClaimSignature: signatures["V1"], Signature: signatures["V3"],
	}, user, 987654321000, 0)
}

func TestTokensWithoutBlockchain(t *testing.T) {
	client := escrow.NewTokenServiceClient(dial(t, func(server *grpc.Server) {
		escrow.RegisterTokenServiceServer(server, service.TokenWithoutBlockchain{})
	}))
	_, err := client.GetToken(t.Context(), &escrow.TokenRequest{})
	expectStatus(t, "blockchain off", err, codes.FailedPrecondition, "blockchain is disabled, contact service provider")
}
