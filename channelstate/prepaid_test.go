package channelstate

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
)

// raised is a record after a raise.
func raised(t *testing.T, record *Record, nonce, amount uint64) *Record {
	t.Helper()
	next, balance, aside, refusal := record.Raise(channelAt(nonce), chargeOf(nonce, amount, 0))
	if refusal != nil || aside != nil {
		t.Fatalf("raise to %d: refused %v, set aside %v", amount, refusal, aside)
	}
	if next != nil && balance != next.balance() {
		t.Fatalf("raise to %d: the balance is %+v, the record has %+v", amount, balance, next.balance())
	}
	return next
}

func chargedPrepaid(t *testing.T, record *Record, nonce, price uint64) *Record {
	t.Helper()
	next, aside, refusal := record.ChargePrepaid(channelAt(nonce), chargeOf(nonce, 0, price))
	if refusal != nil || aside != nil {
		t.Fatalf("prepaid call of %d: refused %v, set aside %v", price, refusal, aside)
	}
	return next
}

func TestRaise(t *testing.T) {
	for _, test := range []struct {
		name          string
		before        []uint64 // amounts charged at 10 each
		amount        uint64
		signed, spent uint64
		accepted      []uint64
		writes        bool
	}{
		{"first", nil, 50, 50, 0, nil, true},
		{"after escrow calls", []uint64{10, 20}, 50, 50, 20, []uint64{10, 20}, true},
		{"the whole value", nil, 1000, 1000, 0, nil, true},
		{"renewal", []uint64{10, 20}, 20, 20, 20, []uint64{10, 20}, false},
		{"lower", []uint64{10, 20}, 10, 20, 20, []uint64{10, 20}, false},
		{"nothing", []uint64{10}, 0, 10, 10, []uint64{10}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := charged(t, 3, test.before...)
			next := raised(t, before, 3, test.amount)
			if (next != before) != test.writes {
				t.Errorf("writes %v, want %v", next != before, test.writes)
			}
			wantRecord(t, next, 3, test.signed, test.spent, test.accepted...)
		})
	}
	next, balance, _, refusal := (*Record)(nil).Raise(channelAt(3), chargeOf(3, 0, 0))
	if next != nil || refusal != nil || balance != (Balance{Nonce: number(3)}) {
		t.Errorf("a token for nothing: record %+v, balance %+v, refused %v", next, balance, refusal)
	}
}

func TestRaiseRefuses(t *testing.T) {
	before := charged(t, 3, 10)
	for _, test := range []struct {
		name    string
		change  func(*blockchain.Channel, *Charge)
		reason  Reason
		message string
	}{
		{"nonce", func(_ *blockchain.Channel, c *Charge) { c.Nonce = number(4) }, ReasonNonce,
			"incorrect payment channel nonce, latest: 3, sent: 4"},
		{"near expiry", func(_ *blockchain.Channel, c *Charge) { c.Block = 4900 }, ReasonNearExpiry, "near to be expired"},
		{"renewal near expiry", func(_ *blockchain.Channel, c *Charge) { c.Block, c.Amount = 4900, number(10) }, ReasonNearExpiry, "near to be expired"},
		{"above the value", func(_ *blockchain.Channel, c *Charge) { c.Amount = number(1001) }, ReasonAboveValue,
			"not enough tokens on payment channel, channel amount: 1000, payment amount: 1001"},
		{"beyond all", func(_ *blockchain.Channel, c *Charge) { c.Amount = *largest }, ReasonAboveValue, "not enough tokens"},
		{"another signer", func(channel *blockchain.Channel, _ *Charge) { channel.Signer = carol }, ReasonChannelChanged, "has changed"},
		{"closed", func(channel *blockchain.Channel, c *Charge) {
			channel.Value, channel.Expiration, channel.Nonce, c.Nonce = number(0), number(0), number(4), number(4)
		}, ReasonNearExpiry, "near to be expired, expiration time: 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			channel, raise := channelAt(3), chargeOf(3, 50, 0)
			test.change(channel, raise)
			next, _, aside, refusal := before.Raise(channel, raise)
			if refusal == nil || refusal.Reason != test.reason || !strings.Contains(refusal.Message, test.message) {
				t.Fatalf("refused with %v, want %s: %s", refusal, test.reason, test.message)
			}
			if next != nil || aside != nil {
				t.Error("a refused raise changes something")
			}
		})
	}
}

func TestPrepaidCharges(t *testing.T) {
	record := raised(t, nil, 3, 30)
	for spent := uint64(10); spent <= 30; spent += 10 {
		record = chargedPrepaid(t, record, 3, 10)
		wantRecord(t, record, 3, 30, spent)
	}
	_, _, refusal := record.ChargePrepaid(channelAt(3), chargeOf(3, 0, 1))
	if refusal == nil || refusal.Reason != ReasonCredit || !strings.HasPrefix(refusal.Message, "Usage Exceeded on channel Id 7: ") {
		t.Fatalf("more than is signed: %v", refusal)
	}
	if same := chargedPrepaid(t, record, 3, 0); same != record {
		t.Error("a free call writes a record")
	}
	record = raised(t, record, 3, 50)
	record = mustCharge(t, record, channelAt(3), chargeOf(3, 60, 10)) // escrow and prepaid on one channel
	record = chargedPrepaid(t, record, 3, 20)
	wantRecord(t, record, 3, 60, 60, 60)
}

func TestPrepaidRefuses(t *testing.T) {
	before := raised(t, nil, 3, 500)
	for _, test := range []struct {
		name   string
		change func(*blockchain.Channel, *Charge)
		reason Reason
	}{
		{"near expiry", func(_ *blockchain.Channel, c *Charge) { c.Block = 4900 }, ReasonNearExpiry},
		{"free, near expiry", func(_ *blockchain.Channel, c *Charge) { c.Block, c.Price = 4900, number(0) }, ReasonNearExpiry},
		{"no credit", func(_ *blockchain.Channel, c *Charge) { c.Price = number(501) }, ReasonCredit},
		{"price beyond all", func(_ *blockchain.Channel, c *Charge) { c.Price = *largest }, ReasonCredit},
		{"value lowered", func(channel *blockchain.Channel, _ *Charge) { channel.Value = number(9) }, ReasonFunds},
		{"claimed by others", func(channel *blockchain.Channel, _ *Charge) { channel.Nonce = number(4) }, ReasonCredit},
		{"timed out", func(channel *blockchain.Channel, _ *Charge) {
			channel.Nonce, channel.Value, channel.Expiration = number(4), number(0), number(0)
		}, ReasonNearExpiry},
		{"another sender", func(channel *blockchain.Channel, _ *Charge) { channel.Sender = carol }, ReasonChannelChanged},
		{"another sender, read again", func(channel *blockchain.Channel, c *Charge) { channel.Sender, c.Fresh = carol, true }, ReasonCredit},
	} {
		t.Run(test.name, func(t *testing.T) {
			channel, charge := channelAt(3), chargeOf(3, 0, 10)
			test.change(channel, charge)
			next, aside, refusal := before.ChargePrepaid(channel, charge)
			if refusal == nil || refusal.Reason != test.reason || next != nil || aside != nil {
				t.Errorf("refused with %v, want %s; record %v, aside %v", refusal, test.reason, next, aside)
			}
		})
	}
}

// A token is good across nonces, the credit is not: the client signs again.
func TestPrepaidAcrossAClaim(t *testing.T) {
	record := chargedPrepaid(t, raised(t, nil, 3, 50), 3, 20)
	record, claim, err := record.StartClaim(channelAt(3))
	if err != nil || claim.Spent != number(20) || claim.Signed != number(50) {
		t.Fatalf("claim %+v, error %v", claim, err)
	}
	if _, _, refusal := record.ChargePrepaid(channelAt(3), chargeOf(3, 0, 10)); refusal == nil || refusal.Reason != ReasonCredit {
		t.Fatalf("the claimed credit is spent again: %v", refusal)
	}
	// What is signed for the claim stays reserved until the claim is on chain.
	if _, _, _, refusal := record.Raise(channelAt(3), chargeOf(4, 951, 0)); refusal == nil || refusal.Reason != ReasonAboveValue {
		t.Fatalf("raised above what is left: %v", refusal)
	}
	next, _, _, refusal := record.Raise(channelAt(3), chargeOf(4, 950, 0))
	if refusal != nil {
		t.Fatal(refusal)
	}
	next = chargedPrepaid(t, next, 3, 10)
	wantRecord(t, next, 4, 950, 10)
	// A call that was paid for before the claim and fails after it.
	corrected, outcome := next.Refund(refundOf(3, 0, 20))
	if outcome != ClaimCorrected || corrected.Pending.Spent != number(0) {
		t.Errorf("outcome %s, claim %+v", outcome, corrected.Pending)
	}
}

func TestPrepaidRefunds(t *testing.T) {
	record := chargedPrepaid(t, chargedPrepaid(t, raised(t, nil, 3, 30), 3, 10), 3, 10)
	record, outcome := record.Refund(refundOf(3, 0, 10))
	if outcome != Refunded {
		t.Fatal(outcome)
	}
	wantRecord(t, record, 3, 30, 10)
	record, outcome = record.Refund(refundOf(3, 0, 11))
	if outcome != NotCharged {
		t.Errorf("a refund of more than is spent: %s", outcome)
	}
	wantRecord(t, record, 3, 30, 10)
}

// What a client has signed for prepaid calls survives the refund of an escrow
// call before it, and so does what prepaid calls have spent.
func TestEscrowRefundsLeavePrepaidCredit(t *testing.T) {
	record := raised(t, charged(t, 3, 10, 20), 3, 20) // renewal: the call with 20 is still the last
	record, _ = record.Refund(refundOf(3, 20, 10))
	wantRecord(t, record, 3, 10, 10, 10)

	record = raised(t, charged(t, 3, 10, 20), 3, 50)
	record, _ = record.Refund(refundOf(3, 20, 10))
	wantRecord(t, record, 3, 50, 10, 10)

	record = chargedPrepaid(t, charged(t, 3, 10, 50), 3, 30)
	record, _ = record.Refund(refundOf(3, 50, 10))
	wantRecord(t, record, 3, 50, 40, 10)
}

// In any order, raises leave the highest amount, and spent is never above it.
func TestPrepaidRulesKeepTheBooks(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		var record *Record
		var highest, spent uint64
		for range 100 {
			switch random.IntN(3) {
			case 0:
				amount := random.Uint64N(1000)
				highest = max(highest, amount)
				record = raised(t, record, 3, amount)
			case 1:
				price := 1 + random.Uint64N(50)
				next, _, refusal := record.ChargePrepaid(channelAt(3), chargeOf(3, 0, price))
				if (refusal == nil) != (spent+price <= highest) {
					t.Fatalf("price %d with %d of %d spent: refused %v", price, spent, highest, refusal)
				}
				if refusal == nil {
					record, spent = next, spent+price
				}
			case 2:
				price := 1 + random.Uint64N(50)
				next, outcome := record.Refund(refundOf(3, 0, price))
				if (outcome == Refunded) != (record != nil && price <= spent) {
					t.Fatalf("refund of %d of %d: %s", price, spent, outcome)
				}
				if outcome == Refunded {
					record, spent = next, spent-price
				}
			}
			if record == nil {
				continue
			}
			if record.Signed != *uint256.NewInt(highest) || record.Spent != *uint256.NewInt(spent) {
				t.Fatalf("signed %s spent %s, want %d %d", record.Signed.Dec(), record.Spent.Dec(), highest, spent)
			}
			wantReadable(t, record)
		}
	}
}
