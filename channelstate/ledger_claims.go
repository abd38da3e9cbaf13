package channelstate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mpegate/mpegate/blockchain"
)

// MaxClaimsTogether is how many claims can be started together: each makes two
// writes, and etcd takes 128 in one transaction.
const MaxClaimsTogether = 64

// StartClaims is StartClaim for several channels of a group: all claims are
// started, in one transaction, or none. They are returned in ascending order of
// their channels. The error is a *ChannelError when one of the channels cannot
// be claimed, else as for StartClaim.
func (l *Ledger) StartClaims(ctx context.Context, group Group, channels []blockchain.Channel) ([]Claim, error) {
	if len(channels) == 0 {
		return nil, nil
	}
	if len(channels) > MaxClaimsTogether {
		return nil, fmt.Errorf("%d claims cannot be started together, at most %d", len(channels), MaxClaimsTogether)
	}
	channels = slices.SortedFunc(slices.Values(channels), func(a, b blockchain.Channel) int { return a.ID.Cmp(&b.ID) })
	keys, claims := make([]Key, len(channels)), make([]Claim, len(channels))
	for i := range channels {
		if i > 0 && channels[i].ID == channels[i-1].ID {
			return nil, fmt.Errorf("channel %s is named twice", channels[i].ID.Dec())
		}
		keys[i] = group.Key(&channels[i].ID)
	}
	err := l.together(ctx, keys, func(i int, record *Record) (*Transaction, error) {
		next, claim, err := record.StartClaim(&channels[i])
		claims[i] = claim
		return &Transaction{Record: next, Claims: []Claim{claim}}, err
	})
	if err != nil {
		return nil, err
	}
	return claims, nil
}

// PassClaim notes that the chain has passed a claim, as it was listed: no
// refund lowers it any more. It stays listed, since a reorganisation may undo
// that. Doing it again changes nothing that counts. Errors wrap ErrUnavailable
// or are the context's.
func (l *Ledger) PassClaim(ctx context.Context, key Key, claim *Claim) error {
	return l.passClaim(ctx, key, claim, func(next *Record, passed Claim) *Transaction {
		return &Transaction{Record: next, Claims: []Claim{passed}}
	})
}

// SettleClaim is PassClaim for a claim that the chain has passed for good: it
// is put away and listed no more.
func (l *Ledger) SettleClaim(ctx context.Context, key Key, claim *Claim) error {
	return l.passClaim(ctx, key, claim, func(next *Record, passed Claim) *Transaction {
		return &Transaction{Record: next, Settled: []Claim{passed}}
	})
}

func (l *Ledger) passClaim(ctx context.Context, key Key, claim *Claim, write func(*Record, Claim) *Transaction) error {
	return l.together(ctx, []Key{key}, func(_ int, record *Record) (*Transaction, error) {
		if record == nil {
			return nil, errors.New("there is a claim of it and no record")
		}
		return write(record.PassClaim(claim)), nil
	})
}

// PassClaim notes that the chain has passed a claim and returns the record and
// the claim to write.
func (r *Record) PassClaim(claim *Claim) (*Record, Claim) {
	passed, next := *claim, *r
	pending := r.Pending != nil && r.Pending.Nonce == claim.Nonce && r.Pending.ID == claim.ID
	if pending {
		passed = *r.Pending // refunds may have lowered it since it was listed
	}
	passed.Passed = true
	if pending {
		next.Pending = &passed
	}
	return &next, passed
}
