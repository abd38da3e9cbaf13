package channelstate

import (
	"context"
	"errors"

	"github.com/holiman/uint256"
)

// Store keeps the records, claims and refunds of channels.
//
// Atomicity: a Transaction is applied whole or not at all, and only on the
// revision it was computed from. Every write of a claim or of a refund is part
// of a transaction on its channel's record, so the record's revision fences
// them too. Records are never deleted.
//
// Replay: the same transaction may be committed again after an unknown
// outcome. It is applied at most once, since applying it changes the revision
// it asks for. A result that is not applied carries what is stored: when that
// has the transaction's own batch id, the earlier attempt was the one.
//
// Outcome: an error of Commit means that nothing was and nothing will be
// written, except ErrOutcomeUnknown: then it may have been, or may be later.
//
// A store is safe for concurrent use. Reads see every transaction that was
// applied before they began.
type Store interface {
	// Load reads the record of a channel; Stored.Record is nil when there is none.
	Load(ctx context.Context, key Key) (Stored, error)

	// Commit applies the transaction if the record is at the revision it is
	// based on and none of its refunds is known. Otherwise the result carries
	// what is stored instead.
	Commit(ctx context.Context, transaction *Transaction) (Result, error)

	// CommitAll applies transactions of several channels, which have no refunds,
	// as one: all of them if every record is at the revision that its transaction
	// is based on, else none. Without an error it answers what is stored for each
	// then. Replay and outcome are those of Commit.
	CommitAll(ctx context.Context, transactions []*Transaction) (applied bool, stored []Stored, err error)

	// BatchAfter reads which batch wrote the version that followed base, or
	// ErrHistoryGone when the store has let go of that version. It is asked
	// only when the record is known to be beyond base.
	BatchAfter(ctx context.Context, key Key, base Stored) (BatchID, error)

	// Refunded tells whether a refund with this id was applied and is still remembered.
	Refunded(ctx context.Context, key Key, id ChargeID) (bool, error)

	// Claim reads the claim of one nonce, put away or not, the last one started
	// if a reorganisation has brought the nonce back.
	Claim(ctx context.Context, key Key, nonce *uint256.Int) (Claim, bool, error)

	// Channels, Claims and Asides list what a group has, a page at a time: at
	// most limit entries from the cursor on, which is "" for the first page,
	// and the cursor of the next page, "" when there is none.
	Channels(ctx context.Context, group Group, cursor string, limit int) (page []ChannelRecord, next string, err error)
	Claims(ctx context.Context, group Group, cursor string, limit int) (page []Claim, next string, err error)
	Asides(ctx context.Context, group Group, cursor string, limit int) (page []Aside, next string, err error)
}

// Stored is a record as a store has it.
type Stored struct {
	Record   *Record // nil when there is none
	Revision int64   // of the store when the record was written, 0 when there is none
	Version  int64   // how often the record was written, 0 when there is none
}

// ChannelRecord is one entry of the list of channels.
type ChannelRecord struct {
	Channel uint256.Int
	Record  *Record
}

// Transaction writes the next version of one record and what belongs to it.
type Transaction struct {
	Key     Key
	Base    Stored  // what the new record was computed from
	Record  *Record // to be written; its Batch names this transaction
	Refunds []ChargeID
	Claims  []Claim // of this channel, each once
	Settled []Claim // to be put away: Claims lists them no more
	Asides  []Aside
}

// Result is what became of a transaction.
type Result struct {
	Applied bool
	Stored  Stored // afterwards: the new record if applied, else the one found

	// Refunded has, for a transaction that was not applied, those of its
	// refunds that are known already.
	Refunded []ChargeID
}

// Why a store cannot answer.
var (
	// ErrOutcomeUnknown: a transaction was sent and no reply came.
	ErrOutcomeUnknown = errors.New("the outcome of the transaction is not known")
	// ErrHistoryGone: the store no longer has the version asked for.
	ErrHistoryGone = errors.New("that version is no longer in the store's history")
	// ErrCorrupt: what is stored cannot be read as what it should be.
	ErrCorrupt = errors.New("stored channel state cannot be read")
)

// maxPage bounds one page of a list.
const maxPage = 1000
