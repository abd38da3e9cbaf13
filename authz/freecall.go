package authz

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

// FreeCalls knows who may make free calls and counts them; *channelstate.FreeCalls is the real one.
type FreeCalls interface {
	// Admit finds out who calls. It asks nobody before all signatures are good.
	Admit(ctx context.Context, metadata *blockchain.Metadata, proof *channelstate.FreeCallProof, block channelstate.CurrentBlock,
		client string) (channelstate.FreeCallUser, channelstate.Quota, error)
	// Charge counts a call. Once it is counted it stays so also when the context has ended.
	Charge(ctx context.Context, user channelstate.FreeCallUser, quota channelstate.Quota) error
	// Refund gives a counted call back once, however often it is asked to.
	Refund(ctx context.Context, user channelstate.FreeCallUser, id channelstate.ChargeID) (channelstate.RefundOutcome, error)
}

// freeCall lets calls pass that nobody pays for. They are counted, and a failed one is given back as a paid one is.
type freeCall struct {
	*escrow // for its terms, and the height of the chain
	calls   FreeCalls
}

// readProof reads the headers in the order in which the network's clients expect the first fault to be named.
func readProof(headers map[string]string) (*channelstate.FreeCallProof, *verdict) {
	proof := &channelstate.FreeCallProof{UserID: headers[envoy.HeaderFreeCallUserID]}
	var denied *verdict
	if proof.Address, denied = single(headers, envoy.HeaderFreeCallUserAddress); denied != nil {
		if headers[envoy.HeaderFreeCallTokenExpiry] != "" && denied.outcome == missingHeader {
			denied.message += ": the headers are those of clients before version 6, which free calls no longer take"
		}
		return nil, denied
	}
	if _, ok := parseAddress(proof.Address); !ok {
		return nil, malformed(envoy.HeaderFreeCallUserAddress, proof.Address)
	}
	var block uint256.Int
	text, denied := readNumber(headers, envoy.HeaderCurrentBlock, &block)
	if denied != nil {
		return nil, denied
	}
	if !block.IsUint64() || block.Uint64() >= 1<<63 {
		return nil, malformed(envoy.HeaderCurrentBlock, text)
	}
	proof.Block = block.Uint64()
	if proof.Signature, denied = signature(headers, envoy.HeaderChannelSignature); denied != nil {
		return nil, denied
	}
	token, denied := single(headers, envoy.HeaderFreeCallToken)
	if denied != nil {
		return nil, denied
	}
	if len(token) > maxSignatureText*2 {
		return nil, deny(freeTokenMalformed, "invalid token: it is too long")
	}
	decoded, err := envoy.DecodeBinary(token)
	if err != nil {
		return nil, denyf(malformedHeader, "incorrect format %q: it is not base64", envoy.HeaderFreeCallToken)
	}
	proof.Token = decoded
	return proof, nil
}

func (f *freeCall) charge(ctx context.Context, c *call) *verdict {
	proof, denied := readProof(c.headers)
	if denied != nil {
		return denied
	}
	terms, _, denied := f.offer(c) // a method that is not for sale is not given away either
	if denied != nil {
		return denied
	}
	c.price = "0"
	user, quota, err := f.calls.Admit(ctx, terms.metadata, proof, f.currentBlock, c.client)
	if err != nil {
		return f.refused(ctx, c, err)
	}
	if !f.listed.admits(user.Address) {
		return deny(notListed, "sign is not valid")
	}
	if ctx.Err() != nil {
		return c.outOfTime(ctx)
	}
	id := channelstate.NewChargeID()
	started := time.Now()
	err = f.calls.Charge(ctx, user, quota)
	f.metrics.chargeSeconds.Observe(time.Since(started).Seconds())
	if err != nil {
		return f.refused(ctx, c, err)
	}
	c.charged = describeFreeCall(id, &user)
	return &verdict{outcome: allowed, user: user.Address.Hex(), charged: c.charged}
}

// errUnknownBlock is that of a chain whose height is not known.
var errUnknownBlock = errors.New("cannot determine current block")

func (f *freeCall) currentBlock(context.Context, uint64) (uint64, error) {
	block, err := f.head.Block()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errUnknownBlock, err)
	}
	return block, nil
}

// refused turns what Admit and Charge say into our answer.
func (f *freeCall) refused(ctx context.Context, c *call, err error) *verdict {
	var refusal *channelstate.FreeCallRefusal
	switch {
	case errors.As(err, &refusal):
		return deny(freeCallOutcomes[refusal.Reason], refusal.Message) // undecided for a reason not known here
	case errors.Is(err, errUnknownBlock):
		return denyFor(unknownBlock, err, "cannot determine current block")
	case errors.Is(err, blockchain.ErrTooManyReads):
		return denyFor(tooManyReads, err, "too many addresses that are not known are asked for, try again later")
	case ctx.Err() != nil:
		return c.outOfTime(ctx)
	case errors.Is(err, blockchain.ErrChainUnavailable):
		return denyFor(chainUnavailable, err, "the balance cannot be asked for, try again later")
	}
	return denyFor(stateUnavailable, err, "the free calls cannot be counted, try again later")
}

var freeCallOutcomes = map[channelstate.FreeCallReason]outcome{
	channelstate.FreeCallMalformed:      freeTokenMalformed,
	channelstate.FreeCallSignature:      invalidSignature,
	channelstate.FreeCallTokenSignature: freeTokenInvalid,
	channelstate.FreeCallTokenExpired:   freeTokenExpired,
	channelstate.FreeCallSignatureOld:   signatureOld,
	channelstate.FreeCallUserID:         notTrusted,
	channelstate.FreeCallBalance:        balanceTooLow,
	channelstate.FreeCallLimit:          freeCallsUsedUp,
}

// describeFreeCall puts the user where other charges have their channel, since no other field of the description is
// needed for it: the address as the channel, the user id as the nonce, the organisation and the service as the amount.
func describeFreeCall(id channelstate.ChargeID, user *channelstate.FreeCallUser) *envoy.Charged {
	return &envoy.Charged{
		ID: id.String(), PaymentType: typeFree, ChainID: chainText(user.Group.ChainID), MPE: user.Group.MPE.Hex(),
		Group: hex.EncodeToString(user.Group.GroupID[:]), Channel: user.Address.Hex(), Nonce: pack(user.UserID),
		Amount: pack(user.OrganizationID) + "." + pack(user.ServiceID), Price: "0",
	}
}

// pack makes any text fit for a field of a description, which may not hold a space.
func pack(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

func unpack(text string) (string, bool) {
	data, err := base64.RawURLEncoding.DecodeString(text)
	return string(data), err == nil
}

// refund trusts nothing but the description: settings may have changed since the call.
func (f *freeCall) refund(ctx context.Context, charged *envoy.Charged) (channelstate.RefundOutcome, error) {
	user, id, err := readFreeCall(charged)
	if err != nil {
		return 0, err
	}
	return f.calls.Refund(ctx, user, id)
}

func readFreeCall(charged *envoy.Charged) (user channelstate.FreeCallUser, id channelstate.ChargeID, err error) {
	fault := func(field string) error { return fmt.Errorf("%w: %s", errMalformedCharge, field) }
	if id, err = channelstate.ParseChargeID(charged.ID); err != nil {
		return user, id, fault("id")
	}
	if user.Group.ChainID, err = strconv.ParseUint(charged.ChainID, 10, 64); err != nil {
		return user, id, fault("chain id")
	}
	var ok bool
	if user.Group.MPE, ok = parseAddress(charged.MPE); !ok {
		return user, id, fault("contract address")
	}
	group, err := hex.DecodeString(charged.Group)
	if err != nil || len(group) != len(user.Group.GroupID) {
		return user, id, fault("group")
	}
	copy(user.Group.GroupID[:], group)
	if user.Address, ok = parseAddress(charged.Channel); !ok || user.Address == (common.Address{}) {
		return user, id, fault("address")
	}
	if user.UserID, ok = unpack(charged.Nonce); !ok {
		return user, id, fault("user id")
	}
	organization, service, found := strings.Cut(charged.Amount, ".")
	if user.OrganizationID, ok = unpack(organization); !ok || !found {
		return user, id, fault("organization")
	}
	if user.ServiceID, ok = unpack(service); !ok {
		return user, id, fault("service")
	}
	return user, id, nil
}
