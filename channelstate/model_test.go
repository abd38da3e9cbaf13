package channelstate_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

// The model: several replicas on one store whose transactions fail in every
// way, channels whose nonce, value and parties change on the chain, clients
// that sign rising, repeated, overlapping and hopeless amounts, callers that
// leave. At rest the books must be what the answers said.

const modelChannels = 3

// modelCharge is a charge that was answered with yes.
type modelCharge struct {
	channelstate.Charge
	channel  uint64
	sender   common.Address
	refunded bool
}

// at is what the sums are kept for: a nonce of a channel of one sender.
type at struct {
	channel uint64
	sender  common.Address
	nonce   uint256.Int
}

type sentClaim struct {
	at at
	id channelstate.BatchID
}

type model struct {
	t       *testing.T
	random  *rand.Rand
	store   channelstate.Store
	ledgers []*channelstate.Ledger
	views   []map[uint64]blockchain.Channel // what each replica last saw of the chain
	chain   map[uint64]blockchain.Channel
	next    map[at]uint64 // the amount a client would sign next
	highest map[at]uint64 // that a client has ever signed

	mu      sync.Mutex // guards all below, which concurrent calls write
	charges []*modelCharge
	left    map[channelstate.ChargeID]*modelCharge // those whose callers left, or were told of a failure
	sent    map[sentClaim]uint256.Int              // what claims spent when they were sent
	raised  map[at]uint256.Int                     // the highest amount accepted for prepaid calls
}

func TestBooksUnderRandomOperations(t *testing.T) {
	for name, open := range storetest.Stores() {
		runs, rounds := 3, 8
		if name == "memory" {
			runs, rounds = 25, 20
		}
		if testing.Short() {
			runs = 2
		}
		for run := range runs {
			seed := uint64(run + 1)
			if run == runs-1 {
				seed = uint64(time.Now().UnixNano())
			}
			t.Run(fmt.Sprintf("%s/%d", name, run), func(t *testing.T) {
				t.Logf("seed %d", seed)
				store := open(t)
				m := &model{
					t: t, random: rand.New(rand.NewPCG(seed, 1)), store: store,
					left: map[channelstate.ChargeID]*modelCharge{}, chain: map[uint64]blockchain.Channel{}, next: map[at]uint64{}, highest: map[at]uint64{}, sent: map[sentClaim]uint256.Int{},
					raised: map[at]uint256.Int{},
				}
				for channel := range uint64(modelChannels) {
					m.chain[channel] = *modelChannel(channel, 0)
				}
				for round := range rounds {
					m.round(store, seed+uint64(round)<<32)
				}
				if len(m.charges) < 10*rounds {
					t.Errorf("only %d charges were accepted in %d rounds: this tests little", len(m.charges), rounds)
				}
			})
		}
	}
}

// modelChannel has so little value that calls come to its end.
func modelChannel(id, nonce uint64) *blockchain.Channel {
	channel := channelOf(id, nonce)
	channel.Value = number(1000)
	return channel
}

// round works with new replicas for a while, stops them and checks the books.
func (m *model) round(store channelstate.Store, seed uint64) {
	share := []float64{0, 0.05, 0.3}[m.random.IntN(3)]
	faulty := &storetest.Faulty{Store: store, Next: storetest.Randomly(seed, share)}
	core, logged := observer.New(zap.WarnLevel)
	m.ledgers, m.views = nil, nil
	for range 1 + m.random.IntN(3) {
		m.ledgers = append(m.ledgers, newLedgerWith(m.t, faulty, zap.New(core)))
		view := map[uint64]blockchain.Channel{}
		for id, channel := range m.chain {
			view[id] = channel
		}
		m.views = append(m.views, view)
	}
	for range 20 {
		m.step()
	}
	for _, ledger := range m.ledgers {
		closeLedger(m.t, ledger)
		if stats := ledger.Stats(); stats.LostRefunds != 0 || stats.Unresolved != 0 {
			m.t.Errorf("stats %+v", stats)
		}
	}
	m.keepWhatCameTooLate(logged)
	m.check()
	if m.t.Failed() {
		m.t.FailNow()
	}
}

func (m *model) step() {
	id := m.random.Uint64N(modelChannels)
	switch choice := m.random.IntN(100); {
	case choice < 55:
		m.burst(id)
	case choice < 75:
		m.refunds(id)
	case choice < 80:
		m.startClaim(id)
	case choice < 86:
		m.claimOnChain(id)
	case choice < 88: // the sender adds funds
		channel := m.chain[id]
		channel.Value.AddUint64(&channel.Value, 500)
		m.chain[id] = channel
	case choice < 92: // claimed without us, or timed out and opened again
		channel := m.chain[id]
		channel.Nonce.AddUint64(&channel.Nonce, 1)
		m.chain[id] = channel
	case choice < 94: // a reorganisation gives the id to another sender
		channel := *modelChannel(id, m.random.Uint64N(3))
		channel.Sender = common.BigToAddress(uint256.NewInt(m.random.Uint64()).ToBig())
		m.chain[id] = channel
	default: // a replica hears of the chain
		replica := m.random.IntN(len(m.views))
		m.views[replica][id] = m.chain[id]
	}
}

// burst sends several charges and refunds at once, through all replicas.
func (m *model) burst(id uint64) {
	var calls []func()
	for range 1 + m.random.IntN(12) {
		replica := m.random.IntN(len(m.ledgers))
		if m.random.IntN(8) == 0 {
			if refund := m.pick(id); refund != nil {
				calls = append(calls, func() { m.refund(replica, refund) })
			}
			continue
		}
		if m.random.IntN(3) == 0 {
			calls = append(calls, m.prepaid(replica, id))
			continue
		}
		charge, leave := m.charge(id), time.Duration(-1)
		if m.random.IntN(10) == 0 {
			leave = time.Duration(m.random.Int64N(int64(2 * time.Millisecond)))
		}
		view := m.views[replica][id]
		fresh := m.chain[id]
		calls = append(calls, func() { m.pay(replica, view, fresh, charge, leave) })
	}
	var done sync.WaitGroup
	for _, call := range calls {
		done.Go(call)
	}
	done.Wait()
}

// charge signs an amount as clients do, good and bad ones.
func (m *model) charge(id uint64) channelstate.Charge {
	channel := m.chain[id]
	nonce := channel.Nonce
	if m.random.IntN(3) == 0 { // our claim may be under way
		nonce.AddUint64(&nonce, m.random.Uint64N(2))
	}
	place := at{id, channel.Sender, nonce}
	price := 1 + m.random.Uint64N(20)
	amount := m.next[place] + price
	switch m.random.IntN(12) {
	case 0: // again, or one that is lower
		amount = m.random.Uint64N(amount + 1)
	case 1: // more than the price
		amount += m.random.Uint64N(100)
		m.next[place] = amount
	case 2: // too little
		amount--
	case 3:
		price = 0
	default:
		m.next[place] = amount
	}
	m.highest[place] = max(m.highest[place], amount)
	charge := chargeOf(id, 0, amount, price)
	charge.Nonce = nonce
	charge.Signature = signatureOf(&channel.ID, &nonce, &charge.Amount)
	return charge
}

// pay charges as authz does: on a refusal the channel is read from the chain.
func (m *model) pay(replica int, view, fresh blockchain.Channel, charge channelstate.Charge, leave time.Duration) {
	ctx, cancel := context.WithCancel(m.t.Context())
	defer cancel()
	if leave >= 0 {
		defer time.AfterFunc(leave, cancel).Stop()
	}
	used := &view
	err := m.ledgers[replica].Charge(ctx, group.Key(&view.ID), used, charge)
	var refusal *channelstate.Refusal
	if errors.As(err, &refusal) {
		used, charge.Fresh = &fresh, true
		err = m.ledgers[replica].Charge(ctx, group.Key(&view.ID), used, charge)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		if !charge.Price.IsZero() {
			m.charges = append(m.charges, &modelCharge{Charge: charge, channel: used.ID.Uint64(), sender: used.Sender})
		}
	case errors.As(err, &refusal):
	case errors.Is(err, context.Canceled), errors.Is(err, channelstate.ErrUnavailable):
		m.left[charge.ID] = &modelCharge{Charge: charge, channel: used.ID.Uint64(), sender: used.Sender}
	default:
		m.t.Errorf("charge: %v", err)
	}
}

// keepWhatCameTooLate counts as charged what was to be given back to a caller
// who had left, but was claimed or set aside before. The ledger has to log it.
func (m *model) keepWhatCameTooLate(logged *observer.ObservedLogs) {
	for _, entry := range logged.FilterMessage("a refund gave nothing back").All() {
		fields := entry.ContextMap()
		id, err := channelstate.ParseChargeID(fmt.Sprint(fields["charge"]))
		if err != nil {
			m.t.Error(err)
		}
		if charge := m.left[id]; charge != nil && fields["outcome"] == channelstate.TooLate.String() {
			nonce, err := uint256.FromDecimal(fmt.Sprint(fields["nonce"])) // of a prepaid call only the ledger knows it
			if err != nil {
				m.t.Fatal(err)
			}
			charge.Nonce = *nonce
			m.charges = append(m.charges, charge)
			delete(m.left, id)
		}
	}
}

// pick chooses a charge to refund, refunded ones too.
func (m *model) pick(id uint64) *modelCharge {
	m.mu.Lock()
	defer m.mu.Unlock()
	var candidates []*modelCharge
	for _, charge := range m.charges {
		if charge.channel == id {
			candidates = append(candidates, charge)
		}
	}
	if len(candidates) == 0 {
		return nil
	}
	recent := max(0, len(candidates)-100)
	return candidates[recent+m.random.IntN(len(candidates)-recent)]
}

func (m *model) refunds(id uint64) {
	for range 1 + m.random.IntN(4) {
		replica := m.random.IntN(len(m.ledgers))
		if m.random.IntN(6) == 0 { // of a charge that never was
			outcome, err := m.ledgers[replica].Refund(m.t.Context(), keyOf(id), refundOf(chargeOf(id, 1000, 1<<40, 5)))
			if err == nil && outcome != channelstate.NotCharged {
				m.t.Errorf("a refund of nothing: %s", outcome)
			}
		}
		if charge := m.pick(id); charge != nil {
			m.refund(replica, charge)
			if m.random.IntN(3) == 0 { // delivered twice
				m.refund(m.random.IntN(len(m.ledgers)), charge)
			}
		}
	}
}

// refund delivers one until its outcome is known, as the settlement does.
func (m *model) refund(replica int, charge *modelCharge) {
	for {
		refund := refundOf(charge.Charge)
		refund.Sender = charge.sender
		outcome, err := m.ledgers[replica].Refund(m.t.Context(), keyOf(charge.channel), refund)
		if errors.Is(err, channelstate.ErrUnavailable) {
			continue
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		switch {
		case err != nil:
			m.t.Errorf("refund: %v", err)
		case outcome == channelstate.Refunded || outcome == channelstate.ClaimCorrected || outcome == channelstate.AlreadyRefunded:
			charge.refunded = true // the same charge may be refunded by others now
		case charge.refunded:
			m.t.Errorf("charge %s was refunded, then %s", charge.ID, outcome)
		}
		return
	}
}

func (m *model) startClaim(id uint64) {
	channel := m.chain[id]
	_, err := m.ledgers[m.random.IntN(len(m.ledgers))].StartClaim(m.t.Context(), group.Key(&channel.ID), &channel)
	switch {
	case err == nil, errors.Is(err, channelstate.ErrUnavailable), errors.Is(err, channelstate.ErrNothingToClaim),
		errors.Is(err, channelstate.ErrClaimPending), errors.Is(err, channelstate.ErrChannelChanged):
	default:
		m.t.Errorf("start of a claim: %v", err)
	}
}

// claimOnChain sends the pending claim of the chain's nonce, if there is one.
func (m *model) claimOnChain(id uint64) {
	channel := m.chain[id]
	ledger := m.ledgers[m.random.IntN(len(m.ledgers))]
	claim, err := ledger.SendClaim(m.t.Context(), group.Key(&channel.ID), &channel.Nonce)
	if err != nil || claim.Sender != channel.Sender {
		return
	}
	if claim.Spent.Gt(&channel.Value) {
		m.t.Errorf("channel %d: the claim of %s is above the value of %s", id, claim.Spent.Dec(), channel.Value.Dec())
	}
	m.sent[sentClaim{at{id, claim.Sender, claim.Nonce}, claim.ID}] = claim.Spent
	if m.random.IntN(4) > 0 { // or the transaction is never mined
		channel.Value.Sub(&channel.Value, &claim.Spent)
		channel.Nonce.AddUint64(&channel.Nonce, 1)
		m.chain[id] = channel
	}
}
