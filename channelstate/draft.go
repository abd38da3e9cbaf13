package channelstate

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"time"
)

// maxAsides bounds the records that one transaction sets aside.
const maxAsides = 8

// draft is what the operations of a batch, one after the other, make of a record.
type draft struct {
	base    Stored
	record  *Record
	refunds []ChargeID
	claims  []Claim
	asides  []Aside

	// unconfirmed: something was answered from the record alone. It holds if
	// the record is what the store has, which a transaction or a read shows.
	unconfirmed bool
}

// draft applies the batch to the record as it is known.
func (l *Ledger) draft(q *channelQueue) draft {
	d := draft{base: q.stored, record: q.stored.Record}
	for _, op := range q.batch {
		op.err, op.charged, op.outcome = nil, false, 0
		switch op.kind {
		case operationCharge:
			d.charge(op, l.now)
		case operationPrepaid:
			d.prepaid(op, l.now)
		case operationRaise:
			d.raise(op, l.now)
		case operationRefund:
			d.refund(op, l.now().Sub(op.refund.ID.Time()) > l.retention)
		case operationStartClaim:
			next, claim, err := d.record.StartClaim(&op.channel)
			d.claim(op, next, claim, err)
		case operationSendClaim:
			next, claim, err := d.record.SendClaim(&op.nonce)
			d.claim(op, next, claim, err)
		}
	}
	return d
}

func (d *draft) charge(op *operation, now func() time.Time) {
	before := d.record
	next, aside, refusal := before.Charge(&op.channel, &op.charge)
	if d.accept(op, next, aside, refusal, now) {
		op.charged = next != before
	}
}

// refund with tooOld is one of a charge so old that an earlier refund of it
// could have been forgotten.
func (d *draft) refund(op *operation, tooOld bool) {
	switch {
	case op.repeated || slices.Contains(d.refunds, op.refund.ID):
		op.outcome = AlreadyRefunded
		return
	case tooOld:
		op.outcome = TooLate
		return
	}
	next, outcome := d.record.Refund(&op.refund)
	op.outcome = outcome
	if next == d.record {
		d.unconfirmed = d.unconfirmed || outcome != Refunded
		return
	}
	d.record = next
	d.refunds = append(d.refunds, op.refund.ID)
	if outcome == ClaimCorrected {
		d.putClaim(*next.Pending)
	}
}

func (d *draft) claim(op *operation, next *Record, claim Claim, err error) {
	op.claim, op.err = claim, err
	if err != nil || next == d.record {
		d.unconfirmed = true
		return
	}
	d.record = next
	d.putClaim(claim)
}

// putClaim writes a claim as it is at the end of the batch.
func (d *draft) putClaim(claim Claim) {
	for i := range d.claims {
		if d.claims[i].Nonce == claim.Nonce && d.claims[i].ID == claim.ID {
			d.claims[i] = claim
			return
		}
	}
	d.claims = append(d.claims, claim)
}

func (d *draft) changed() bool { return d.record != d.base.Record }

// transaction writes the draft. The record is the draft's own until then, so
// it may be given the batch's name.
func (d *draft) transaction(key Key) *Transaction {
	d.record.Batch = newBatchID()
	return &Transaction{
		Key: key, Base: d.base, Record: d.record, Refunds: d.refunds, Claims: d.claims, Asides: d.asides,
	}
}

func newBatchID() (id BatchID) {
	binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	return id
}

// wroteLast tells whether the stored record is the one of this transaction.
func (t *Transaction) wroteLast(stored *Stored) bool {
	return stored.Version == t.Base.Version+1 && stored.Record != nil && stored.Record.Batch == t.Record.Batch
}

// fence changes nothing but the record's revision. Once it is applied the
// transaction can no longer be.
func (t *Transaction) fence() *Transaction {
	record := &Record{Sender: t.Record.Sender, Signer: t.Record.Signer, Nonce: t.Record.Nonce}
	if t.Base.Record != nil {
		*record = *t.Base.Record
	}
	record.Batch = newBatchID()
	return &Transaction{Key: t.Key, Base: t.Base, Record: record}
}

// isKnown tells results that say why from those that say that nobody knows.
func isKnown(err error) bool { return err == nil || !errors.Is(err, ErrOutcomeUnknown) }
