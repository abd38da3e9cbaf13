package service_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/channelstate/service"
)

const marketKey = "2123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// freeShop is a world that offers three free calls to everyone; signer's key signs their tokens, as in the vectors.
type freeShop struct {
	*world
	calls      *channelstate.FreeCalls
	connection *grpc.ClientConn
	client     escrow.FreeCallStateServiceClient
	market     account
	balanceErr error
}

func (s *freeShop) Holds(_ context.Context, owner common.Address, tokens uint64, _ string) (bool, error) {
	return owner != stranger.address || tokens == 0, s.balanceErr
}

func newFreeShop(t *testing.T) *freeShop {
	t.Helper()
	w := newWorld(t)
	w.metadata.OrganizationID, w.metadata.ServiceID = "example-org", "example-service"
	w.metadata.Group.IDText, w.metadata.Group.Name = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "default_group"
	w.metadata.ServiceGroup = &blockchain.ServiceGroup{FreeCalls: 3, FreeCallSigner: signer.address}
	s := &freeShop{world: w, market: newAccount(marketKey)}
	settings, free := channelstate.DefaultSettings(), channelstate.DefaultFreeCallSettings()
	free.PrivateKey, free.TrustedSigners = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", []string{s.market.address.Hex()}
	free.PerAddress = map[string]any{provider.address.Hex(): "unlimited"}
	store, ok := channelstate.NewMemoryStore(settings).(channelstate.FreeCallStore)
	if !ok {
		t.Fatal("no counters")
	}
	var err error
	s.calls, err = channelstate.OpenFreeCalls(t.Context(), channelstate.FreeCallParts{
		Stores: func(channelstate.FreeCallUser) channelstate.FreeCallStore { return store }, Balances: s,
	}, w.key().Group(), free, settings)
	if err != nil {
		t.Fatal(err)
	}
	s.connection = dial(t, func(server *grpc.Server) {
		escrow.RegisterFreeCallStateServiceServer(server, service.NewFreeCallStateService(s.calls, head{w.chain}, func() *blockchain.Metadata { return w.metadata }))
	})
	s.client = escrow.NewFreeCallStateServiceClient(s.connection)
	return s
}

func (s *freeShop) request(by account, userID string) blockchain.FreeCallRequest {
	return blockchain.FreeCallRequest{
		Address: by.address.Hex(), UserID: userID, OrganizationID: "example-org", ServiceID: "example-service",
		GroupID: s.metadata.Group.IDText, Block: block,
	}
}

func (s *freeShop) askToken(by account, userID string) *escrow.GetFreeCallTokenRequest {
	request := &escrow.GetFreeCallTokenRequest{
		Address: by.address.Hex(), CurrentBlock: block,
		Signature: by.sign(s.t, blockchain.FreeCallTokenRequestMessage(s.request(by, userID))),
	}
	if userID != "" {
		request.UserId = &userID
	}
	return request
}

func (s *freeShop) token(by account, userID string) *escrow.FreeCallToken {
	s.t.Helper()
	token, err := s.client.GetFreeCallToken(s.t.Context(), s.askToken(by, userID))
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

func (s *freeShop) askLeft(by account, userID string, token []byte) *escrow.FreeCallStateRequest {
	return &escrow.FreeCallStateRequest{
		Address: by.address.Hex(), UserId: []byte(userID), FreeCallToken: token, CurrentBlock: block,
		Signature: by.sign(s.t, blockchain.FreeCallMessage(s.request(by, userID), token)),
	}
}

func (s *freeShop) wantLeft(by account, userID string, want uint64) {
	s.t.Helper()
	reply, err := s.client.GetFreeCallsAvailable(s.t.Context(), s.askLeft(by, userID, s.token(by, userID).GetToken()))
	if err != nil || reply.GetFreeCallsAvailable() != want {
		s.t.Errorf("%d left, %v, want %d", reply.GetFreeCallsAvailable(), err, want)
	}
}

// V4 to V7 of payment-protocol.md section 5.
func TestFreeCallVectorsOverGRPC(t *testing.T) {
	s := newFreeShop(t)
	signatures := vectors(t)
	reply, err := s.client.GetFreeCallToken(t.Context(), &escrow.GetFreeCallTokenRequest{Address: user.address.Hex(), CurrentBlock: block, Signature: signatures["V4"]})
	if err != nil {
		t.Fatal(err)
	}
	want := append(bytes.Clone(signatures["V5"]), "_7827121"...)
	if !bytes.Equal(reply.GetToken(), want) || reply.GetTokenHex() != hex.EncodeToString(want) || reply.GetTokenExpirationBlock() != 7827121 {
		t.Errorf("V5: %v", reply)
	}
	left, err := s.client.GetFreeCallsAvailable(t.Context(), &escrow.FreeCallStateRequest{
		Address: user.address.Hex(), FreeCallToken: want, Signature: signatures["V6"], CurrentBlock: block,
	})
	if err != nil || left.GetFreeCallsAvailable() != 3 {
		t.Errorf("V6: %v, %v", left, err)
	}
	// V7 is of a user id of an address that is not trusted here.
	_, err = s.client.GetFreeCallsAvailable(t.Context(), &escrow.FreeCallStateRequest{
		Address: user.address.Hex(), UserId: []byte("alice@example.com"), Signature: signatures["V7 call"], CurrentBlock: block,
		FreeCallToken: append(bytes.Clone(signatures["V7 token"]), "_7827121"...),
	})
	expectStatus(t, "V7", err, codes.PermissionDenied, "user_id is not allowed")
}

func TestFreeCallsAvailable(t *testing.T) {
	s := newFreeShop(t)
	s.wantLeft(user, "", 3)
	s.wantLeft(provider, "", 99999999)
	s.wantLeft(s.market, "ann", 3)
	s.wantLeft(stranger, "", 0) // holds too little
	s.metadata.ServiceGroup.FreeCallSigner = common.Address{}
	s.wantLeft(user, "", 0) // off, and a token all the same
}

func TestFreeCallRequestsThatAreRefused(t *testing.T) {
	for _, test := range []struct {
		name         string
		token, calls func(*freeShop) error // the outcome of the two methods; nil: not asked
		code         codes.Code
		phrase       string
	}{
		{"no address", func(s *freeShop) error {
			request := s.askToken(user, "")
			request.Address = ""
			_, err := s.client.GetFreeCallToken(t.Context(), request)
			return err
		}, nil, codes.InvalidArgument, "the address is not"},
		{"signature of another", func(s *freeShop) error {
			request := s.askToken(user, "")
			request.Address = provider.address.Hex()
			_, err := s.client.GetFreeCallToken(t.Context(), request)
			return err
		}, func(s *freeShop) error {
			request := s.askLeft(user, "", s.token(user, "").GetToken())
			request.Address = provider.address.Hex()
			_, err := s.client.GetFreeCallsAvailable(t.Context(), request)
			return err
		}, codes.Unauthenticated, "sign is not valid"},
		{"old", func(s *freeShop) error {
			s.chain.knownBlock, s.chain.latest = block+6, block+6
			_, err := s.client.GetFreeCallToken(t.Context(), s.askToken(user, ""))
			return err
		}, func(s *freeShop) error {
			request := s.askLeft(user, "", s.token(user, "").GetToken())
			s.chain.knownBlock, s.chain.latest = block+6, block+6
			_, err := s.client.GetFreeCallsAvailable(t.Context(), request)
			return err
		}, codes.Unauthenticated, "signature has expired"},
		{"height not known", func(s *freeShop) error {
			s.chain.knownErr, s.chain.nodeErr = blockchain.ErrHeadStale, errors.New("node away")
			_, err := s.client.GetFreeCallToken(t.Context(), s.askToken(user, ""))
			return err
		}, nil, codes.Unavailable, "cannot determine current block"},
		{"user id of who is not trusted", func(s *freeShop) error {
			_, err := s.client.GetFreeCallToken(t.Context(), s.askToken(user, "ann"))
			return err
		}, nil, codes.PermissionDenied, "user_id is not allowed"},
		{"no token", nil, func(s *freeShop) error {
			_, err := s.client.GetFreeCallsAvailable(t.Context(), s.askLeft(user, "", nil))
			return err
		}, codes.InvalidArgument, "invalid token: no '_' found"},
		{"token of another", nil, func(s *freeShop) error {
			_, err := s.client.GetFreeCallsAvailable(t.Context(), s.askLeft(user, "", s.token(provider, "").GetToken()))
			return err
		}, codes.Unauthenticated, "token sign is not valid"},
		{"token expired", nil, func(s *freeShop) error {
			request, none := s.askToken(user, ""), uint64(0)
			request.TokenLifetimeInBlocks = &none
			token, err := s.client.GetFreeCallToken(t.Context(), request)
			if err != nil {
				return err
			}
			s.chain.knownBlock = block + 1
			_, err = s.client.GetFreeCallsAvailable(t.Context(), s.askLeft(user, "", token.GetToken()))
			return err
		}, codes.Unauthenticated, "free call token has expired"},
		{"balance not to be had", nil, func(s *freeShop) error {
			s.balanceErr = blockchain.ErrChainUnavailable
			_, err := s.client.GetFreeCallsAvailable(t.Context(), s.askLeft(user, "", s.token(user, "").GetToken()))
			return err
		}, codes.Unavailable, ""},
		{"too many balances", nil, func(s *freeShop) error {
			s.balanceErr = blockchain.ErrTooManyReads
			_, err := s.client.GetFreeCallsAvailable(t.Context(), s.askLeft(user, "", s.token(user, "").GetToken()))
			return err
		}, codes.ResourceExhausted, "too many"},
		{"no metadata", func(s *freeShop) error {
			request := s.askToken(user, "")
			s.metadata = nil
			_, err := s.client.GetFreeCallToken(t.Context(), request)
			return err
		}, func(s *freeShop) error {
			request := s.askLeft(user, "", s.token(user, "").GetToken())
			s.metadata = nil
			_, err := s.client.GetFreeCallsAvailable(t.Context(), request)
			return err
		}, codes.Unavailable, "metadata"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.token != nil {
				expectStatus(t, "token", test.token(newFreeShop(t)), test.code, test.phrase)
			}
			if test.calls != nil {
				expectStatus(t, "calls", test.calls(newFreeShop(t)), test.code, test.phrase)
			}
		})
	}
}

// The client may be ahead of what we know of the chain.
func TestFreeCallsAskTheNode(t *testing.T) {
	s := newFreeShop(t)
	s.chain.knownBlock = block - 100
	if token := s.token(user, ""); token.GetTokenExpirationBlock() != block+172800 || s.chain.refreshed.Load() != 1 {
		t.Errorf("until %d, the node was asked %d times", token.GetTokenExpirationBlock(), s.chain.refreshed.Load())
	}
}

// What the request itself shows to be wrong is refused without asking anybody.
func TestBadFreeCallRequestsReachNobody(t *testing.T) {
	s := newFreeShop(t)
	for _, change := range []func(*escrow.GetFreeCallTokenRequest){
		func(r *escrow.GetFreeCallTokenRequest) { r.Reset() },
		func(r *escrow.GetFreeCallTokenRequest) { r.Signature[3]++ },
		func(r *escrow.GetFreeCallTokenRequest) { r.Signature = nil },
		func(r *escrow.GetFreeCallTokenRequest) { r.CurrentBlock++ },
		func(r *escrow.GetFreeCallTokenRequest) { r.CurrentBlock = 1 << 63 },
	} {
		request := s.askToken(user, "")
		change(request)
		if _, err := s.client.GetFreeCallToken(t.Context(), request); err == nil {
			t.Errorf("accepted: %v", request)
		}
	}
	if asked := s.chain.asked.Load(); asked != 0 {
		t.Errorf("the chain was asked %d times", asked)
	}
}

// A request as clients before version 6 write it: field 2 is the token, which is no text, and field 3 a number.
func TestOlderShapeOfFreeCallRequests(t *testing.T) {
	s := newFreeShop(t)
	older := func(token []byte, expiry uint64) error {
		var wire []byte
		wire = protowire.AppendString(protowire.AppendTag(wire, 1, protowire.BytesType), "alice@example.com")
		wire = protowire.AppendBytes(protowire.AppendTag(wire, 2, protowire.BytesType), token)
		if expiry != 0 {
			wire = protowire.AppendVarint(protowire.AppendTag(wire, 3, protowire.VarintType), expiry)
		}
		wire = protowire.AppendBytes(protowire.AppendTag(wire, 4, protowire.BytesType), make([]byte, 65))
		wire = protowire.AppendVarint(protowire.AppendTag(wire, 5, protowire.VarintType), block)
		var request emptypb.Empty
		if err := proto.Unmarshal(wire, &request); err != nil {
			t.Fatal(err)
		}
		return s.connection.Invoke(t.Context(), escrow.FreeCallStateService_GetFreeCallsAvailable_FullMethodName, &request, &escrow.FreeCallStateReply{})
	}
	const phrase = "the request has the shape of clients before version 6"
	expectStatus(t, "token that is no text", older(bytes.Repeat([]byte{0xff}, 65), 7654400), codes.InvalidArgument, phrase)
	expectStatus(t, "token that happens to be text", older(bytes.Repeat([]byte{'a'}, 65), 7654400), codes.InvalidArgument, phrase)
	expectStatus(t, "no expiry", older(bytes.Repeat([]byte{0xff}, 65), 0), codes.InvalidArgument, phrase)
}

func TestFreeCallsWithoutBlockchain(t *testing.T) {
	client := escrow.NewFreeCallStateServiceClient(dial(t, func(server *grpc.Server) {
		escrow.RegisterFreeCallStateServiceServer(server, service.FreeCallsWithoutBlockchain{})
	}))
	_, err := client.GetFreeCallToken(t.Context(), &escrow.GetFreeCallTokenRequest{})
	expectStatus(t, "token", err, codes.FailedPrecondition, "blockchain is disabled, contact service provider")
	_, err = client.GetFreeCallsAvailable(t.Context(), &escrow.FreeCallStateRequest{})
	expectStatus(t, "calls", err, codes.FailedPrecondition, "blockchain is disabled, contact service provider")
}
