package channelstate

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
)

var (
	alice = common.HexToAddress("0xa11ce00000000000000000000000000000000001")
	bob   = common.HexToAddress("0xb0b0000000000000000000000000000000000002")
	carol = common.HexToAddress("0xca20100000000000000000000000000000000003")

	largest = new(uint256.Int).SetAllOne()
)

func number(value uint64) uint256.Int { return *uint256.NewInt(value) }

// channelAt is channel 7 as the chain has it: value 1000, ending at block 5000.
func channelAt(nonce uint64) *blockchain.Channel {
	return &blockchain.Channel{
		ID: number(7), Nonce: number(nonce), Value: number(1000), Expiration: number(5000), Sender: alice, Signer: bob,
	}
}

func signatureOf(nonce, amount uint64) []byte {
	return append(bytes.Repeat([]byte{byte(nonce)}, 57), uint256.NewInt(amount).PaddedBytes(8)...)
}

func chargeOf(nonce, amount, price uint64) *Charge {
	return &Charge{
		ID: NewChargeID(), Nonce: number(nonce), Amount: number(amount), Price: number(price),
		Signature: signatureOf(nonce, amount), Block: 4000, Threshold: 100,
	}
}

func refundOf(nonce, amount, price uint64) *Refund {
	return &Refund{ID: NewChargeID(), Nonce: number(nonce), Amount: number(amount), Price: number(price)}
}

// charged is a record after charges of amounts in that order, each at a price of 10.
func charged(t *testing.T, nonce uint64, amounts ...uint64) *Record {
	t.Helper()
	var record *Record
	for _, amount := range amounts {
		record = mustCharge(t, record, channelAt(nonce), chargeOf(nonce, amount, 10))
	}
	return record
}

func mustCharge(t *testing.T, record *Record, channel *blockchain.Channel, charge *Charge) *Record {
	t.Helper()
	next, aside, refusal := record.Charge(channel, charge)
	if refusal != nil || aside != nil {
		t.Fatalf("charge of %s: refused %v, set aside %v", charge.Amount.Dec(), refusal, aside)
	}
	return next
}

func wantRecord(t *testing.T, record *Record, nonce, signed, spent uint64, accepted ...uint64) {
	t.Helper()
	if record.Nonce != number(nonce) || record.Signed != number(signed) || record.Spent != number(spent) {
		t.Errorf("nonce %s signed %s spent %s, want %d %d %d",
			record.Nonce.Dec(), record.Signed.Dec(), record.Spent.Dec(), nonce, signed, spent)
	}
	var want []byte
	if signed > 0 {
		want = signatureOf(nonce, signed)
	}
	if !bytes.Equal(record.Signature, want) {
		t.Errorf("signature %x is not the one sent with %d", record.Signature, signed)
	}
	var amounts []uint64
	for _, amount := range amountsOf(&record.Window) {
		amounts = append(amounts, amount.Uint64())
	}
	if len(amounts) != len(accepted) {
		t.Fatalf("accepted %v, want %v", amounts, accepted)
	}
	for i := range amounts {
		if amounts[i] != accepted[i] {
			t.Fatalf("accepted %v, want %v", amounts, accepted)
		}
	}
}

func TestChargeAccepts(t *testing.T) {
	for _, test := range []struct {
		name          string
		before        []uint64 // amounts charged at 10 each
		amount, price uint64
		signed, spent uint64
		accepted      []uint64
	}{
		{"first call", nil, 10, 10, 10, 10, []uint64{10}},
		{"first call signs more than the price", nil, 50, 10, 50, 10, []uint64{50}},
		{"amounts rise", []uint64{10}, 20, 10, 20, 20, []uint64{10, 20}},
		{"calls overtake each other", []uint64{30, 10}, 20, 10, 30, 30, []uint64{10, 20, 30}},
		{"the last call is the one overtaken by all", []uint64{20, 30}, 10, 10, 30, 30, []uint64{10, 20, 30}},
		{"an unused lower amount while the signed one covers more", []uint64{50}, 1, 10, 50, 20, []uint64{1, 50}},
		{"all that is signed", []uint64{50}, 40, 40, 50, 50, []uint64{40, 50}},
		{"the whole value", nil, 1000, 1000, 1000, 1000, []uint64{1000}},
		{"a free method with a higher amount", []uint64{10}, 11, 0, 11, 10, []uint64{10, 11}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := charged(t, 3, test.before...)
			next := mustCharge(t, before, channelAt(3), chargeOf(3, test.amount, test.price))
			wantRecord(t, next, 3, test.signed, test.spent, test.accepted...)
			if next.Sender != alice || next.Signer != bob {
				t.Error("the record does not name the channel's parties")
			}
		})
	}
}

func TestChargeRefuses(t *testing.T) {
	for _, test := range []struct {
		name    string
		before  []uint64
		channel func(*blockchain.Channel)
		charge  func(*Charge) // of amount 20 and price 10, after before
		reason  Reason
		message string
	}{
		{
			name: "nonce too low", before: []uint64{10}, charge: func(c *Charge) { c.Nonce = number(2) },
			reason: ReasonNonce, message: "incorrect payment channel nonce, latest: 3, sent: 2",
		},
		{
			name: "nonce too high", charge: func(c *Charge) { c.Nonce = number(4) },
			reason: ReasonNonce, message: "incorrect payment channel nonce, latest: 3, sent: 4",
		},
		{
			name: "near expiry", charge: func(c *Charge) { c.Block, c.Threshold = 4900, 100 }, reason: ReasonNearExpiry,
			message: "payment channel is near to be expired, expiration time: 5000, current block: 4900, expiration threshold: 100",
		},
		{
			name: "block and threshold beyond 64 bits", charge: func(c *Charge) { c.Block, c.Threshold = 1<<63, 1<<63 },
			reason: ReasonNearExpiry, message: "expiration threshold: 9223372036854775808",
		},
		{
			name: "amount above the value", charge: func(c *Charge) { c.Amount = number(1001) }, reason: ReasonAboveValue,
			message: "not enough tokens on payment channel, channel amount: 1000, payment amount: 1001",
		},
		{
			name: "amount beyond all", charge: func(c *Charge) { c.Amount = *largest }, reason: ReasonAboveValue,
			message: "payment amount: 115792089237316195423570985008687907853269984665640564039457584007913129639935",
		},
		{
			name: "amount used before", before: []uint64{10, 20}, reason: ReasonAlreadyAccepted,
			message: "income 0 does not equal to price 10: the amount 20 was used before, sign 30",
		},
		{
			name: "lower amount used before", before: []uint64{10, 40}, charge: func(c *Charge) { c.Amount = number(10) },
			reason: ReasonAlreadyAccepted, message: "income -30 does not equal to price 10: the amount 10 was used before, sign 50",
		},
		{
			name: "no amount", charge: func(c *Charge) { c.Amount = number(0) }, reason: ReasonAlreadyAccepted,
			message: "income 0 does not equal to price 10: ",
		},
		{
			name: "price not covered", before: []uint64{10}, charge: func(c *Charge) { c.Amount = number(19) }, reason: ReasonNotCovered,
			message: "income 9 does not equal to price 10: the amount 19 does not cover the price and the 10 spent before, sign 20",
		},
		{
			name: "lower amount, not covered", before: []uint64{10, 20}, charge: func(c *Charge) { c.Amount = number(15) },
			reason: ReasonNotCovered, message: "income -5 does not equal to price 10: ",
		},
		{
			name: "price beyond all", before: []uint64{10}, charge: func(c *Charge) { c.Price = *largest }, reason: ReasonNotCovered,
			message: "income 10 does not equal to price 1157920892373161954235709850086879078532699846656405640394575840079131296399",
		},
		{
			name: "value lowered below what is spent", before: []uint64{500}, channel: func(c *blockchain.Channel) { c.Value = number(15) },
			charge: func(c *Charge) { c.Amount = number(12) }, reason: ReasonFunds,
			message: "not enough tokens on payment channel, channel amount: 15, payment amount: 20",
		},
		{
			name: "free method, wrong nonce", charge: func(c *Charge) { c.Price, c.Nonce = number(0), number(9) },
			reason: ReasonNonce, message: "incorrect payment channel nonce, latest: 3, sent: 9",
		},
		{
			name: "first in order: nonce", charge: func(c *Charge) { c.Nonce, c.Block, c.Amount = number(9), 9000, number(9999) },
			reason: ReasonNonce, message: "nonce",
		},
		{
			name: "second in order: expiry", charge: func(c *Charge) { c.Block, c.Amount = 9000, number(9999) },
			reason: ReasonNearExpiry, message: "near to be expired",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, channel, charge := charged(t, 3, test.before...), channelAt(3), chargeOf(3, 20, 10)
			if test.channel != nil {
				test.channel(channel)
			}
			if test.charge != nil {
				test.charge(charge)
			}
			next, aside, refusal := before.Charge(channel, charge)
			if refusal == nil {
				t.Fatalf("accepted: %+v", next)
			}
			if next != nil || aside != nil {
				t.Error("a refused charge changes something")
			}
			if refusal.Reason != test.reason || !strings.Contains(refusal.Message, test.message) {
				t.Errorf("refused with %s: %s\nwant %s: %s", refusal.Reason, refusal.Message, test.reason, test.message)
			}
			if test.reason == ReasonNonce && refusal.Latest != number(3) {
				t.Errorf("latest nonce is %s", refusal.Latest.Dec())
			}
		})
	}
}

func TestChargeOfNothingWritesNothing(t *testing.T) {
	before := charged(t, 3, 10, 20)
	for _, amount := range []uint64{0, 10, 15, 20} {
		if next := mustCharge(t, before, channelAt(3), chargeOf(3, amount, 0)); next != before {
			t.Errorf("a free call with amount %d writes a record", amount)
		}
	}
	if next := mustCharge(t, nil, channelAt(3), chargeOf(3, 0, 0)); next != nil {
		t.Error("a free call on a channel first seen writes a record")
	}
}

func TestChargeLeavesTheRecordAsItWas(t *testing.T) {
	amounts := make([]uint64, 64)
	for i := range amounts {
		amounts[i] = uint64(i+1) * 10
	}
	for _, count := range []int{1, 2, 63, 64} {
		before := charged(t, 3, amounts[:count]...)
		kept, err := encodeRecord(before)
		if err != nil {
			t.Fatal(err)
		}
		mustCharge(t, before, channelAt(3), chargeOf(3, 995, 10))
		before.Refund(refundOf(3, 10, 10))
		if after, _ := encodeRecord(before); !bytes.Equal(kept, after) {
			t.Errorf("with %d amounts the record has changed", count)
		}
	}
}

func TestWhenTheChainContradictsTheRecord(t *testing.T) {
	claimed, _, err := charged(t, 3, 10, 20).StartClaim(channelAt(3)) // nonce 4, the claim of 3 pending
	if err != nil {
		t.Fatal(err)
	}
	claimed = mustCharge(t, claimed, channelAt(3), chargeOf(4, 10, 10))
	other := func(channel *blockchain.Channel) *blockchain.Channel { channel.Signer = carol; return channel }
	for _, test := range []struct {
		name    string
		record  *Record
		channel *blockchain.Channel
		nonce   uint64 // the one that can be used
		reason  AsideReason
		fresh   bool // needed
	}{
		{"same nonce", charged(t, 3, 10), channelAt(3), 3, "", false},
		{"claimed by somebody else", charged(t, 3, 10), channelAt(5), 5, AsideNoncePassed, false},
		{"our claim is under way", claimed, channelAt(3), 4, "", false},
		{"our claim is done", claimed, channelAt(4), 4, "", false},
		{"the nonce is behind our claim", claimed, channelAt(2), 2, AsideNonceAhead, true},
		{"the nonce went back", charged(t, 3, 10), channelAt(2), 2, AsideNonceAhead, true},
		{"another signer", charged(t, 3, 10), other(channelAt(3)), 3, AsideOtherParties, true},
		{"another signer and nonce", charged(t, 3, 10), other(channelAt(0)), 0, AsideOtherParties, true},
		{"nothing signed yet", &Record{Sender: alice, Signer: bob, Nonce: number(3)}, channelAt(4), 4, "dropped", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			charge := chargeOf(test.nonce, 50, 10)
			next, aside, refusal := test.record.Charge(test.channel, charge)
			if test.fresh {
				if refusal == nil || refusal.Reason != ReasonChannelChanged || next != nil || aside != nil {
					t.Fatalf("an old view of the channel sets the record aside: %v", refusal)
				}
				charge.Fresh = true
				next, aside, refusal = test.record.Charge(test.channel, charge)
			}
			if refusal != nil {
				t.Fatal(refusal)
			}
			if test.reason == "" {
				if aside != nil || next.Signed != number(50) || len(amountsOf(&next.Window)) != 2 {
					t.Fatalf("the record was not gone on with: aside %+v, next %+v", aside, next)
				}
				return
			}
			wantRecord(t, next, test.nonce, 50, 10, 50)
			if next.Sender != test.channel.Sender || next.Signer != test.channel.Signer || next.Pending != nil {
				t.Errorf("the new record is not clean: %+v", next)
			}
			if test.reason == "dropped" {
				if aside != nil {
					t.Error("a record with nothing signed is kept aside")
				}
				return
			}
			if aside == nil || aside.Reason != test.reason || aside.Record != test.record || aside.Channel != number(7) {
				t.Errorf("set aside %+v, want reason %s", aside, test.reason)
			}
		})
	}
}

func TestRefusedChargeSetsNothingAside(t *testing.T) {
	next, aside, refusal := charged(t, 3, 10).Charge(channelAt(5), chargeOf(3, 20, 10))
	if refusal == nil || refusal.Reason != ReasonNonce || refusal.Latest != number(5) || aside != nil || next != nil {
		t.Errorf("refusal %v, aside %v, next %v", refusal, aside, next)
	}
}
