package channelstate

import "context"

// FreeCallStore keeps the counters of free calls. The stores of this package
// are such stores too.
//
// A transaction is applied whole or not at all, and only on the revision it
// was computed from. It may be committed again after an unknown outcome and is
// applied at most once. An error of CommitFreeCalls means that nothing was and
// nothing will be written, except ErrOutcomeUnknown: then it may have been.
// Refunds are remembered as those of channels are, under the same ids.
type FreeCallStore interface {
	// LoadFreeCalls reads a counter; its Count is nil when there is none.
	LoadFreeCalls(ctx context.Context, user FreeCallUser) (StoredFreeCalls, error)

	// CommitFreeCalls writes a counter if it is at the revision of the
	// transaction's base and its refund is not known.
	CommitFreeCalls(ctx context.Context, transaction *FreeCallTransaction) (FreeCallResult, error)

	// Refunded tells whether a refund with this id was applied in the key's
	// group and is still remembered.
	Refunded(ctx context.Context, key Key, id ChargeID) (bool, error)

	// FreeCallUsers lists the counters of a group, a page at a time, as
	// Store.Channels does.
	FreeCallUsers(ctx context.Context, group Group, cursor string, limit int) (page []FreeCallEntry, next string, err error)
}

// StoredFreeCalls is a counter as a store has it.
type StoredFreeCalls struct {
	Count    *FreeCallCount // nil when there is none
	Revision int64          // of the store when it was written, 0 when there is none
	Version  int64          // how often it was written, 0 when there is none
}

// FreeCallTransaction writes the next version of one counter.
type FreeCallTransaction struct {
	User   FreeCallUser
	Base   StoredFreeCalls // what the new one was computed from
	Count  *FreeCallCount
	Refund *ChargeID // nil unless a call is given back
}

// batch is the name of this write.
func (t *FreeCallTransaction) batch() BatchID { return t.Count.Writes[len(t.Count.Writes)-1] }

// FreeCallResult is what became of a transaction.
type FreeCallResult struct {
	Applied  bool
	Stored   StoredFreeCalls // afterwards: the new counter if applied, else the one found
	Refunded bool            // not applied, and the refund is known already
}

// FreeCallEntry is one entry of the list of counters.
type FreeCallEntry struct {
	User FreeCallUser
	Used uint64
}

var (
	_ FreeCallStore = (*etcdStore)(nil)
	_ FreeCallStore = (*memoryStore)(nil)
)

// FreeCalls is the store of the counters of free calls.
func (o *Opened) FreeCalls() FreeCallStore { return o.Store.(FreeCallStore) } // both kinds of stores are one, see above
