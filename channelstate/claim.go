package channelstate

import (
	"errors"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
)

// Claim is what one nonce of a channel held when its claim was started. On
// chain, Spent is the actual and Signed the planned amount of channelClaim.
type Claim struct {
	Channel        uint256.Int
	Nonce          uint256.Int
	ID             BatchID     // tells claims of one nonce apart: a reorganisation can bring it back
	Signed         uint256.Int // cogs
	Signature      []byte      // over Signed, as the client sent it
	Spent          uint256.Int // cogs, lowered by refunds that arrive before the claim is sent
	Sender, Signer common.Address

	Sent   bool // out of our hands: Spent is final
	Passed bool // the chain's nonce was seen beyond this one
}

// Why a claim is not started.
var (
	ErrNothingToClaim = errors.New("nothing was spent at the channel's nonce, there is nothing to claim")
	ErrClaimPending   = errors.New("the channel's last claim is not on the blockchain yet, wait until its nonce is")
	ErrChannelChanged = errors.New("the channel is not what its record says: read it from the blockchain again")
)

// Aside is a record that no longer belongs to its channel: kept so that
// nothing signed is lost, listed to the operator, never served again.
type Aside struct {
	Channel uint256.Int
	Reason  AsideReason
	Time    time.Time
	Record  *Record
}

// AsideReason is the stable word for why a record was set aside.
type AsideReason string

// Why a record is set aside.
const (
	AsideNoncePassed  AsideReason = "nonce_passed"  // the chain's nonce is beyond the record's
	AsideNonceAhead   AsideReason = "nonce_ahead"   // the record's nonce is beyond the chain's and no claim explains it
	AsideOtherParties AsideReason = "other_parties" // the channel's sender or signer is another one
)

// StartClaim moves what the nonce holds to a claim and returns the record to
// write with it, which begins the next nonce at zero. The channel should have
// been read from the chain lately.
func (r *Record) StartClaim(channel *blockchain.Channel) (*Record, Claim, error) {
	if r == nil {
		return nil, Claim{}, ErrNothingToClaim
	}
	switch r.contradiction(channel) {
	case "":
	case AsideNoncePassed: // what was signed for a passed nonce is worth nothing
		return nil, Claim{}, ErrNothingToClaim
	default:
		return nil, Claim{}, ErrChannelChanged
	}
	if r.Nonce != channel.Nonce {
		return nil, Claim{}, ErrClaimPending
	}
	if r.Spent.IsZero() {
		return nil, Claim{}, ErrNothingToClaim
	}
	claim := Claim{
		Channel: channel.ID, Nonce: r.Nonce, ID: r.Batch, Signed: r.Signed, Signature: r.Signature, Spent: r.Spent,
		Sender: r.Sender, Signer: r.Signer,
	}
	next := newRecord(channel)
	next.Nonce.AddUint64(&r.Nonce, 1)
	next.Pending = &claim
	return next, claim, nil
}

// SendClaim makes the pending claim of the nonce final, before it leaves our
// hands: no later refund changes what it claims. The record itself is returned
// when it is so already.
func (r *Record) SendClaim(nonce *uint256.Int) (*Record, Claim, error) {
	if r == nil || r.Pending == nil || r.Pending.Nonce != *nonce {
		return nil, Claim{}, ErrNothingToClaim
	}
	if r.Pending.Sent {
		return r, *r.Pending, nil
	}
	sent := *r.Pending
	sent.Sent = true
	next := *r
	next.Pending = &sent
	return &next, sent, nil
}

// isBefore tells whether this claim is the one that led to the nonce.
func (c *Claim) isBefore(nonce *uint256.Int) bool {
	var following uint256.Int
	following.AddUint64(&c.Nonce, 1)
	return following == *nonce
}

// seenAt notes that the chain's nonce has passed the claim's. It is kept
// nevertheless: a reorganisation can undo that.
func (c *Claim) seenAt(nonce *uint256.Int) *Claim {
	if c == nil || c.Passed || !nonce.Gt(&c.Nonce) {
		return c
	}
	passed := *c
	passed.Passed = true
	return &passed
}
