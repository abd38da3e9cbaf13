package channelstate

import "sync/atomic"

// Stats counts what a ledger did since it was made.
type Stats struct {
	Charges          uint64 // charges accepted
	Raises           uint64 // requests for prepaid credit accepted, those that changed nothing too
	MergedCharges    uint64 // of these, those that shared a transaction with another charge
	Refusals         uint64 // charges and raises refused by the rules
	Refunds          uint64 // refunds that gave something back
	RepeatedRefunds  uint64 // refunds delivered again
	LateRefunds      uint64 // refunds that came too late, each one logged
	UnknownRefunds   uint64 // refunds of charges that no record knows, each one logged
	AbandonedCharges uint64 // charges given back at once, their caller had gone
	LostRefunds      uint64 // charges that could not be given back in time, each one logged

	Transactions uint64 // sent to a store, repeated ones included
	Reads        uint64 // of records
	Conflicts    uint64 // transactions that another writer was faster than
	LostReplies  uint64 // transactions whose reply never came
	Unresolved   uint64 // of these, those whose outcome was never learnt, each one logged
	QueueFull    uint64 // calls turned away because too many wait on their channel
	Unavailable  uint64 // calls that failed because a store could not be asked
	Asides       uint64 // records set aside, each one logged

	CachedChannels uint64 // channels held in memory now
}

// counters are Stats while they grow.
type counters struct {
	charges, raises, mergedCharges, refusals                atomic.Uint64
	refunds, repeatedRefunds, lateRefunds, unknownRefunds   atomic.Uint64
	abandonedCharges, lostRefunds                           atomic.Uint64
	transactions, reads, conflicts, lostReplies, unresolved atomic.Uint64
	queueFull, unavailable, asides                          atomic.Uint64
}

func (c *counters) stats() Stats {
	return Stats{
		Charges:          c.charges.Load(),
		Raises:           c.raises.Load(),
		MergedCharges:    c.mergedCharges.Load(),
		Refusals:         c.refusals.Load(),
		Refunds:          c.refunds.Load(),
		RepeatedRefunds:  c.repeatedRefunds.Load(),
		LateRefunds:      c.lateRefunds.Load(),
		UnknownRefunds:   c.unknownRefunds.Load(),
		AbandonedCharges: c.abandonedCharges.Load(),
		LostRefunds:      c.lostRefunds.Load(),
		Transactions:     c.transactions.Load(),
		Reads:            c.reads.Load(),
		Conflicts:        c.conflicts.Load(),
		LostReplies:      c.lostReplies.Load(),
		Unresolved:       c.unresolved.Load(),
		QueueFull:        c.queueFull.Load(),
		Unavailable:      c.unavailable.Load(),
		Asides:           c.asides.Load(),
	}
}
