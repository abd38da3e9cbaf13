package channelstate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/holiman/uint256"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
)

// ErrUnavailable: the channel state cannot be asked just now. Nothing was
// charged, or what was is being given back. A refund or claim that fails with
// it may have happened and can be asked for again.
var ErrUnavailable = errors.New("channel state is not available")

var (
	errTooManyCalls = fmt.Errorf("%w: too many calls wait on this channel", ErrUnavailable)
	errClosed       = fmt.Errorf("%w: the process is stopping", ErrUnavailable)
)

const (
	// resolveRequests is how many request timeouts a caller waits to learn the
	// outcome of a transaction whose reply was lost.
	resolveRequests = 2
	// backgroundLimit ends what goes on after the caller was answered: learning
	// an outcome, giving back a charge. Stores must keep their history longer.
	backgroundLimit = time.Minute
	// maxUnresolved is how many outcomes are searched for in the background at once.
	maxUnresolved = 256
)

// Ledger charges calls to channels and gives back what failed calls cost. The
// operations that wait on one channel share a transaction. It is safe for
// concurrent use, and several ledgers may work on one store.
type Ledger struct {
	stores         func(Key) Store
	logger         *zap.Logger
	requestTimeout time.Duration
	retention      time.Duration
	maxWaiting     int
	now            func() time.Time

	queues     *channelQueues
	counters   counters
	unresolved atomic.Int64
	base       context.Context // of requests to stores: they outlive their callers
	stop       context.CancelFunc
}

// NewLedger makes a ledger; stores chooses the store of each channel and is
// asked often. Close it before the stores. A nil logger logs nothing.
func NewLedger(stores func(Key) Store, settings Settings, logger *zap.Logger) *Ledger {
	if logger == nil {
		logger = zap.NewNop()
	}
	base, stop := context.WithCancel(context.Background())
	return &Ledger{
		stores:         stores,
		logger:         logger,
		requestTimeout: settings.Etcd.RequestTimeout,
		retention:      settings.RefundRetention,
		maxWaiting:     settings.WaitingCalls,
		now:            time.Now,
		queues:         newChannelQueues(settings.CachedChannels),
		base:           base,
		stop:           stop,
	}
}

// Charge takes the price of one call. The signature must have been verified
// and the channel must be one of ours. It returns nil when the call is paid
// for; a *Refusal when the rules do not allow the charge; the context's error
// when it ended, and what was charged then is given back at once; or an error
// that wraps ErrUnavailable.
func (l *Ledger) Charge(ctx context.Context, key Key, channel *blockchain.Channel, charge Charge) error {
	if channel.ID != key.Channel {
		return fmt.Errorf("the payment is for channel %s, not for channel %s", key.Channel.Dec(), channel.ID.Dec())
	}
	if len(charge.Signature) > maxSignature {
		return fmt.Errorf("the signature has %d bytes, at most %d are kept", len(charge.Signature), maxSignature)
	}
	op := newOperation(operationCharge)
	op.channel, op.charge = *channel, charge
	op.charge.Signature = bytes.Clone(charge.Signature) // the record keeps it
	if err := l.run(ctx, &key, op); err != nil {
		return err
	}
	defer op.recycle()
	if op.charged && ctx.Err() != nil {
		q := l.queues.acquire(&key, true)
		defer l.queues.release(q)
		l.giveBackLater(q, op.refundOfCharge())
		return ctx.Err()
	}
	return op.err
}

// Refund gives back one charge, once however often it is delivered. An error
// wraps ErrUnavailable or is the context's; the refund may then have happened,
// asking again is safe.
func (l *Ledger) Refund(ctx context.Context, key Key, refund Refund) (RefundOutcome, error) {
	return l.refund(ctx, key, refund, false)
}

func (l *Ledger) refund(ctx context.Context, key Key, refund Refund, urgent bool) (RefundOutcome, error) {
	op := newOperation(operationRefund)
	op.refund, op.urgent = refund, urgent
	if err := l.run(ctx, &key, op); err != nil {
		return 0, err
	}
	outcome, err := op.outcome, op.err
	op.recycle()
	return outcome, err
}

// StartClaim moves what the channel's nonce holds to a claim and starts the
// next nonce, in one transaction. The channel should have been read from the
// chain for this. Refunds may still lower what the claim spends, until SendClaim.
// Errors: ErrNothingToClaim, ErrClaimPending, ErrChannelChanged, or as for Refund.
func (l *Ledger) StartClaim(ctx context.Context, key Key, channel *blockchain.Channel) (Claim, error) {
	if channel.ID != key.Channel {
		return Claim{}, fmt.Errorf("the claim is of channel %s, not of channel %s", key.Channel.Dec(), channel.ID.Dec())
	}
	op := newOperation(operationStartClaim)
	op.channel = *channel
	return l.runClaim(ctx, key, op)
}

// SendClaim makes the pending claim of a nonce final and returns it. It must
// be called before the claim leaves our hands; calling it again changes nothing.
func (l *Ledger) SendClaim(ctx context.Context, key Key, nonce *uint256.Int) (Claim, error) {
	op := newOperation(operationSendClaim)
	op.nonce = *nonce
	return l.runClaim(ctx, key, op)
}

func (l *Ledger) runClaim(ctx context.Context, key Key, op *operation) (Claim, error) {
	if err := l.run(ctx, &key, op); err != nil {
		return Claim{}, err
	}
	claim, err := op.claim, op.err
	op.recycle()
	return claim, err
}

// Read reads the record of a channel as the store has it; false when there is none.
func (l *Ledger) Read(ctx context.Context, key Key) (Record, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, l.requestTimeout)
	defer cancel()
	l.counters.reads.Add(1)
	stored, err := l.stores(key).Load(ctx, key)
	if err != nil {
		return Record{}, false, unavailable(err)
	}
	if stored.Record == nil {
		return Record{}, false, nil
	}
	return *stored.Record, true, nil
}

// Claim reads the claim of one nonce; false when there is none.
func (l *Ledger) Claim(ctx context.Context, key Key, nonce *uint256.Int) (Claim, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, l.requestTimeout)
	defer cancel()
	claim, found, err := l.stores(key).Claim(ctx, key, nonce)
	if err != nil {
		return Claim{}, false, unavailable(err)
	}
	return claim, found, nil
}

// Stats are counters since the ledger was made.
func (l *Ledger) Stats() Stats {
	stats := l.counters.stats()
	stats.CachedChannels = uint64(l.queues.size())
	return stats
}

// Close turns new calls away and waits for what is under way, refunds for
// callers that have gone too, at most as long as the context lasts.
func (l *Ledger) Close(ctx context.Context) error {
	defer l.stop()
	select {
	case <-l.queues.close():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the ledger was closed with work under way: %w", ctx.Err())
	}
}

// run has an operation settled. An error means that it is not, and then the
// operation is no longer the caller's.
func (l *Ledger) run(ctx context.Context, key *Key, op *operation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	q := l.queues.acquire(key, op.urgent)
	if q == nil {
		return errClosed
	}
	defer l.queues.release(q)
	lead, joined := q.join(op, l.maxWaiting)
	if !joined {
		l.counters.queueFull.Add(1)
		return errTooManyCalls
	}
	if lead {
		l.lead(q)
	}
	return l.wait(ctx, q, op)
}

// wait waits for an operation that has joined, and leads when it is its turn.
func (l *Ledger) wait(ctx context.Context, q *channelQueue, op *operation) error {
	for {
		select {
		case wake := <-op.wake:
			if wake == wakeSettled {
				return nil
			}
			l.lead(q)
		case <-ctx.Done():
			if q.leave(op) {
				return nil
			}
			return ctx.Err()
		}
	}
}

// giveBackLater refunds a charge whose caller has gone, in the background.
func (l *Ledger) giveBackLater(q *channelQueue, refund Refund) {
	op := newOperation(operationRefund)
	op.refund, op.urgent = refund, true
	l.queues.hold(q)
	go func() {
		if lead, _ := q.join(op, 0); lead {
			l.lead(q)
		}
		l.giveBack(q, op)
	}()
}

// giveBack waits for the refund of a charge whose caller has gone, and tries
// again as long as it fails. The refund has joined the queue, which is held.
func (l *Ledger) giveBack(q *channelQueue, op *operation) {
	defer l.queues.release(q)
	l.counters.abandonedCharges.Add(1)
	ctx, cancel := context.WithTimeout(l.base, backgroundLimit)
	defer cancel()
	refund := op.refund
	err := l.wait(ctx, q, op)
	if err == nil {
		err = op.err
		op.recycle()
	}
	pause := newPause(10*time.Millisecond, time.Second)
	for err != nil {
		if !pause.wait(ctx) {
			l.counters.lostRefunds.Add(1)
			l.logger.Error("a charge could not be given back, refund it by hand",
				append(refundFields(q.key, refund), zap.Error(err))...)
			return
		}
		_, err = l.refund(ctx, q.key, refund, true)
	}
}

func refundFields(key Key, refund Refund) []zap.Field {
	return []zap.Field{
		zap.Stringer("charge", refund.ID), zap.String("channel", key.Channel.Dec()), zap.String("nonce", refund.Nonce.Dec()),
		zap.String("amount", refund.Amount.Dec()), zap.String("price", refund.Price.Dec()),
	}
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }
