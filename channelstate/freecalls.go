package channelstate

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/mpegate/mpegate/blockchain"
	recordpb "github.com/mpegate/mpegate/channelstate/proto/record"
)

const (
	sharedFreeCallKey = "free-call-key"
	freeCallKeyFormat = 1
)

// Balances knows who holds how many of the network's tokens.
// blockchain.TokenBalances is one.
type Balances interface {
	// Holds tells whether an owner has at least so many whole tokens; client is the IP address of who asks.
	Holds(ctx context.Context, owner common.Address, tokens uint64, client string) (bool, error)
}

// FreeCalls says who may make free calls of a service, counts them and issues
// the tokens for them. It is safe for concurrent use.
type FreeCalls struct {
	rules    *freeCallRules
	key      *ecdsa.PrivateKey
	address  common.Address // of the key
	chainID  uint64
	counter  *freeCallCounter
	balances Balances
}

// FreeCallParts is what FreeCalls ask others for.
type FreeCallParts struct {
	Stores   func(FreeCallUser) FreeCallStore // chooses the store of each user
	Shared   SharedStore
	Balances Balances
	Logger   *zap.Logger // nil: nothing is logged
}

// OpenFreeCalls takes the key of the settings, or the one that the replicas of
// the group share, which is made when there is none: a client whose free calls
// are off must get a token all the same.
func OpenFreeCalls(ctx context.Context, parts FreeCallParts, group Group, settings FreeCallSettings, store Settings) (*FreeCalls, error) {
	rules, err := settings.compile()
	if err != nil {
		return nil, err
	}
	logger := parts.Logger
	if logger == nil {
		logger = zap.NewNop()
	}
	f := &FreeCalls{
		rules: rules, key: rules.key, chainID: group.ChainID, balances: parts.Balances,
		counter: newFreeCallCounter(parts.Stores, store, logger),
	}
	if f.key == nil {
		if f.key, err = sharedKey(ctx, parts.Shared, group, store.Etcd.RequestTimeout); err != nil {
			return nil, err
		}
	}
	f.address = crypto.PubkeyToAddress(f.key.PublicKey)
	return f, nil
}

// sharedKey reads the key that the replicas share, or makes it.
func sharedKey(ctx context.Context, store SharedStore, group Group, timeout time.Duration) (*ecdsa.PrivateKey, error) {
	made, err := crypto.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("cannot make a key for free-call tokens: %w", err)
	}
	value, err := proto.Marshal(&recordpb.FreeCallKey{Format: freeCallKeyFormat, PrivateKey: crypto.FromECDSA(made)})
	if err != nil {
		return nil, err
	}
	pause := newPause(5*time.Millisecond, 200*time.Millisecond)
	for range sharedAttempts {
		stored, err := loadOrMake(ctx, store, group, value, timeout)
		if err == nil {
			return decodeFreeCallKey(stored.Value)
		}
		if !errors.Is(err, ErrOutcomeUnknown) || !pause.wait(ctx) { // else the next look shows it
			return nil, unavailable(err)
		}
	}
	return nil, unavailable(errors.New("the key of free-call tokens could not be written"))
}

func loadOrMake(ctx context.Context, store SharedStore, group Group, value []byte, timeout time.Duration) (Shared, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	stored, err := store.LoadShared(ctx, group, sharedFreeCallKey)
	if err != nil || stored.Revision != 0 {
		return stored, err
	}
	stored, _, err = store.SwapShared(ctx, group, sharedFreeCallKey, 0, value)
	return stored, err
}

func decodeFreeCallKey(data []byte) (*ecdsa.PrivateKey, error) {
	var message recordpb.FreeCallKey
	if err := proto.Unmarshal(data, &message); err != nil || message.GetFormat() != freeCallKeyFormat {
		return nil, fmt.Errorf("%w: key of free-call tokens", ErrCorrupt) // without the library's text, which may quote it
	}
	key, err := crypto.ToECDSA(message.GetPrivateKey())
	if err != nil {
		return nil, fmt.Errorf("%w: key of free-call tokens", ErrCorrupt)
	}
	return key, nil
}

// Signer is the address whose key signs tokens. Free calls are offered while
// the service's metadata names it.
func (f *FreeCalls) Signer() common.Address { return f.address }

// Offered tells whether there are free calls.
func (f *FreeCalls) Offered(metadata *blockchain.Metadata) bool {
	return f.rules.enabled && metadata.ServiceGroup.FreeCallSigner == f.address
}

// Status says in a sentence whether there are free calls, and why not.
func (f *FreeCalls) Status(metadata *blockchain.Metadata) string {
	switch published := metadata.ServiceGroup.FreeCallSigner; {
	case !f.rules.enabled:
		return "free calls are off: free_calls.enabled is false"
	case published == f.address:
		return fmt.Sprintf("free calls are offered, %d for each caller unless free_calls.per_address says otherwise", metadata.ServiceGroup.FreeCalls)
	case published == (common.Address{}):
		return fmt.Sprintf("free calls are off: to offer them, publish free_call_signer_address %s and free_calls in the service's metadata", f.address)
	case f.rules.key == nil:
		return fmt.Sprintf("free calls are off: the service's metadata names free_call_signer_address %s; set free_calls.private_key to its key, "+
			"or publish %s, whose key is in the channel state", published, f.address)
	default:
		return fmt.Sprintf("free calls are off: free_calls.private_key is the key of %s, and the service's metadata names "+
			"free_call_signer_address %s", f.address, published)
	}
}

// quota is how many free calls an address has in all.
func (f *FreeCalls) quota(metadata *blockchain.Metadata, address common.Address) Quota {
	if !f.Offered(metadata) {
		return Quota{}
	}
	if quota, set := f.rules.quotas[address]; set {
		return quota
	}
	return Quota{Calls: metadata.ServiceGroup.FreeCalls}
}

// CurrentBlock gives the height of the chain. signed is the block that a client
// has signed: who can ask the node may do so when it is far from the known height.
type CurrentBlock func(ctx context.Context, signed uint64) (uint64, error)

// Admit finds out who makes a free call, and how many of them he has in all.
// Nothing is asked of anybody before both signatures are good. client is the
// caller's IP address. The error is a *FreeCallRefusal, or says what could not
// be asked.
func (f *FreeCalls) Admit(
	ctx context.Context, metadata *blockchain.Metadata, proof *FreeCallProof, block CurrentBlock, client string,
) (FreeCallUser, Quota, error) {
	if proof.Token == nil {
		return FreeCallUser{}, Quota{}, refuseFreeCall(FreeCallMalformed, "invalid token: no '_' found")
	}
	address, err := f.prove(ctx, metadata, proof, block)
	if err != nil {
		return FreeCallUser{}, Quota{}, err
	}
	user := FreeCallUser{
		Group:          Group{ChainID: f.chainID, MPE: metadata.Service.MPE, GroupID: metadata.Group.ID},
		OrganizationID: metadata.OrganizationID, ServiceID: metadata.ServiceID, Address: address, UserID: proof.UserID,
	}
	quota := f.quota(metadata, address)
	if quota.isNone() {
		return user, quota, refuseLimit(0, quota)
	}
	if f.rules.trusted[address] {
		return user, quota, nil
	}
	enough, err := f.balances.Holds(ctx, address, f.rules.minBalance, client)
	if err == nil && !enough {
		err = refuseFreeCall(FreeCallBalance, "you must have at least %d FET (ASI) in your balance to use free calls", f.rules.minBalance)
	}
	return user, quota, err
}

// prove checks all that is signed.
func (f *FreeCalls) prove(ctx context.Context, metadata *blockchain.Metadata, proof *FreeCallProof, block CurrentBlock) (common.Address, error) {
	address, expiry, err := proof.verify(metadata, metadata.ServiceGroup.FreeCallSigner, f.address)
	if err != nil {
		return address, err
	}
	if proof.UserID != "" && !f.rules.trusted[address] {
		return address, refuseFreeCall(FreeCallUserID, "address %s is not trusted, user_id is not allowed: leave it empty", address)
	}
	current, err := block(ctx, proof.Block)
	if err != nil {
		return address, err
	}
	return address, proof.checkBlocks(expiry, current)
}

// Charge counts one free call of a user whom Admit has let in, in one
// transaction. Once counted it is so also when the context has ended. The
// error is a *FreeCallRefusal, the context's, or one that wraps ErrUnavailable.
func (f *FreeCalls) Charge(ctx context.Context, user FreeCallUser, quota Quota) error {
	return f.counter.charge(ctx, user, quota)
}

// Refund gives back one free call, once for each id however often it is
// delivered. An error wraps ErrUnavailable or is the context's; asking again
// is safe.
func (f *FreeCalls) Refund(ctx context.Context, user FreeCallUser, id ChargeID) (RefundOutcome, error) {
	return f.counter.refund(ctx, user, id)
}

// Reset forgets the free calls that a user has made.
func (f *FreeCalls) Reset(ctx context.Context, user FreeCallUser) error {
	return f.counter.reset(ctx, user)
}

// Available tells how many free calls the client has left, UnlimitedFreeCalls
// for one without limit. Who has too small a balance has none. Errors are those
// of Admit, for requests that are not good.
func (f *FreeCalls) Available(
	ctx context.Context, metadata *blockchain.Metadata, proof *FreeCallProof, block CurrentBlock, client string,
) (uint64, error) {
	user, quota, err := f.Admit(ctx, metadata, proof, block, client)
	var refusal *FreeCallRefusal
	if errors.As(err, &refusal) && (refusal.Reason == FreeCallLimit || refusal.Reason == FreeCallBalance) {
		return 0, nil
	}
	if err != nil || quota.Unlimited {
		return quota.left(0), err
	}
	used, err := f.counter.used(ctx, user)
	return quota.left(used), err
}

// IssueToken answers a signed request for a free-call token with the token and
// the block until which it is good. It is given to everybody, also where there
// are no free calls: clients give up where this fails, and go on to pay where
// they are told that none are left. lifetime is what the client asks for, in
// blocks, nil for the default.
func (f *FreeCalls) IssueToken(
	ctx context.Context, metadata *blockchain.Metadata, proof *FreeCallProof, lifetime *uint64, block CurrentBlock,
) (token []byte, expiry uint64, err error) {
	proof.Token = nil
	var current uint64
	address, err := f.prove(ctx, metadata, proof, func(ctx context.Context, signed uint64) (uint64, error) {
		var err error
		current, err = block(ctx, signed)
		return current, err
	})
	if err != nil {
		return nil, 0, err
	}
	expiry = current + f.rules.lifetime
	if lifetime != nil && *lifetime <= f.rules.lifetime {
		expiry = current + *lifetime
	}
	token, err = signFreeCallToken(f.key, metadata, address, proof.UserID, expiry)
	return token, expiry, err
}
