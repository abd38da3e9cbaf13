package channelstate

import (
	"slices"
	"sync"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
)

// maxBatch is how many waiting operations of a channel share one transaction.
// With a refund each they stay below what etcd takes in one (128).
const maxBatch = 64

// channelQueue lets the operations on one channel share transactions. One of
// the callers leads: it works on all operations that wait, while later ones
// wait for the next leader, which is one of them.
type channelQueue struct {
	key Key

	mu      sync.Mutex // guards waiting, led and the places of operations
	waiting []*operation
	led     bool

	// Only the leader touches these. stored is what was last read or written
	// here; another replica may have written since.
	stored Stored
	known  bool
	batch  []*operation

	// Guarded by the mutex of channelQueues.
	users        int
	older, newer *channelQueue
}

// place is where an operation is on its way through the queue.
type place uint8

const (
	placeWaiting place = iota
	placeLeading       // its caller is to lead, and may not have noticed yet
	placeTaken         // in the batch of a leader
	placeSettled       // its results may be read
)

// wakeUp tells a waiting caller why it is woken.
type wakeUp uint8

const (
	wakeToLead wakeUp = iota
	wakeSettled
)

type operationKind uint8

const (
	operationCharge operationKind = iota
	operationPrepaid
	operationRaise
	operationRefund
	operationStartClaim
	operationSendClaim
	operationHold // its caller leads alone (hold.go)
)

// operation is what one caller wants of a channel.
type operation struct {
	kind    operationKind
	charge  Charge
	refund  Refund
	nonce   uint256.Int        // of the claim to send
	channel blockchain.Channel // as the chain has it
	urgent  bool               // waits however many wait already

	place     place
	abandoned bool // the caller has gone and does not read the results
	wake      chan wakeUp

	// Results, written by the leader. err is a *Refusal when the rules refuse.
	err      error
	charged  bool // the record written has this charge
	outcome  RefundOutcome
	repeated bool // the store knows a refund with this id
	claim    Claim
	balance  Balance // after a raise
}

var operations = sync.Pool{New: func() any { return &operation{wake: make(chan wakeUp, 1)} }}

func newOperation(kind operationKind) *operation {
	op := operations.Get().(*operation)
	*op = operation{kind: kind, wake: op.wake}
	return op
}

// recycle takes back a settled operation whose results have been read.
func (op *operation) recycle() { operations.Put(op) }

// join adds an operation; lead says that its caller has to lead now. False
// when too many wait.
func (q *channelQueue) join(op *operation, most int) (lead, joined bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.led && len(q.waiting) >= most && !op.urgent {
		return false, false
	}
	q.waiting = append(q.waiting, op)
	if q.led {
		return false, true
	}
	q.led = true
	op.place = placeLeading
	return true, true
}

// leave is called when a caller stops waiting. True when the operation is
// settled after all and its results must be read; otherwise the operation is
// dropped, or the leader that has it knows that nobody waits for it.
func (q *channelQueue) leave(op *operation) (settled bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch op.place {
	case placeSettled:
		<-op.wake
		return true
	case placeTaken:
		op.abandoned = true
		return false
	}
	for i, waiting := range q.waiting {
		if waiting == op {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			break
		}
	}
	if op.place == placeLeading {
		<-op.wake
		q.handOver()
	}
	return false
}

// take moves what waits into the leader's batch. When more waits than a batch
// takes, lower amounts go first: accepted after so many higher ones they would
// be below the window.
func (q *channelQueue) take() {
	q.mu.Lock()
	defer q.mu.Unlock()
	most := slices.IndexFunc(q.waiting, func(op *operation) bool { return op.kind == operationHold })
	if most < 0 {
		most = len(q.waiting)
	}
	count := min(most, maxBatch)
	if count < most {
		slices.SortStableFunc(q.waiting[1:most], func(a, b *operation) int { // the first is the leader's
			return a.charge.Amount.Cmp(&b.charge.Amount) // zero for what is no charge
		})
	}
	q.batch = append(q.batch[:0], q.waiting[:count]...)
	rest := copy(q.waiting, q.waiting[count:])
	clear(q.waiting[rest:])
	q.waiting = q.waiting[:rest]
	for _, op := range q.batch {
		op.place = placeTaken
	}
}

// settle gives the callers of the batch their results and makes one of those
// who wait the next leader. See is called for every operation before its
// caller may go on. The refunds returned are for callers that have gone; they
// have joined already, before all who wait, so that nobody is refused for a
// charge that nobody wanted. Somebody must wait for each.
func (q *channelQueue) settle(see func(*operation)) (refunds []*operation) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, op := range q.batch {
		see(op)
		if !op.abandoned {
			op.place = placeSettled
			op.wake <- wakeSettled
		} else if op.charged {
			refund := newOperation(operationRefund)
			refund.refund, refund.urgent = op.refundOfCharge(), true
			refunds = append(refunds, refund)
		}
	}
	clear(q.batch)
	q.batch = q.batch[:0]
	if len(refunds) > 0 {
		q.waiting = slices.Concat(refunds, q.waiting)
	}
	q.handOver()
	return refunds
}

// handOver makes one of those who wait the leader. The mutex is held.
func (q *channelQueue) handOver() {
	if len(q.waiting) == 0 {
		q.led = false
		return
	}
	next := q.waiting[0]
	next.place = placeLeading
	next.wake <- wakeToLead
}

// wanted tells whether somebody still waits for the batch.
func (q *channelQueue) wanted() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, op := range q.batch {
		if !op.droppable() {
			return true
		}
	}
	return false
}

// dropAbandoned takes out of the batch what nobody waits for, before it is
// tried again.
func (q *channelQueue) dropAbandoned() {
	q.mu.Lock()
	defer q.mu.Unlock()
	kept := q.batch[:0]
	for _, op := range q.batch {
		if !op.droppable() {
			kept = append(kept, op)
		}
	}
	clear(q.batch[len(kept):])
	q.batch = kept
}

// droppable operations need not happen. A refund should, whoever has asked.
func (op *operation) droppable() bool { return op.abandoned && op.kind != operationRefund }

// refundOfCharge gives back what the operation has charged.
func (op *operation) refundOfCharge() Refund {
	charge := &op.charge
	return Refund{ID: charge.ID, Nonce: charge.Nonce, Amount: charge.Amount, Price: charge.Price, Sender: op.channel.Sender}
}
