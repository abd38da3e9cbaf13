package channelstate

import (
	"bytes"
	"errors"
	"testing"

	"github.com/mpegate/mpegate/blockchain"
)

func TestStartClaim(t *testing.T) {
	record := charged(t, 3, 10, 20, 50)
	record, _ = record.Refund(refundOf(3, 20, 10))
	next, claim, err := record.StartClaim(channelAt(3))
	if err != nil {
		t.Fatal(err)
	}
	if claim.Channel != number(7) || claim.Nonce != number(3) || claim.Signed != number(50) || claim.Spent != number(20) ||
		!bytes.Equal(claim.Signature, signatureOf(3, 50)) || claim.Sender != alice || claim.Signer != bob || claim.Sent || claim.Passed {
		t.Errorf("claim %+v", claim)
	}
	wantRecord(t, next, 4, 0, 0)
	if next.Pending == nil || next.Pending.Nonce != number(3) || next.Previous != nil {
		t.Errorf("next %+v", next)
	}
}

func TestStartClaimRefuses(t *testing.T) {
	record := charged(t, 3, 10)
	pending, _, err := record.StartClaim(channelAt(3))
	if err != nil {
		t.Fatal(err)
	}
	refunded, _ := record.Refund(refundOf(3, 10, 10))
	other := channelAt(3)
	other.Sender = carol
	for _, test := range []struct {
		name    string
		record  *Record
		channel *blockchain.Channel
		want    error
	}{
		{"no record", nil, channelAt(3), ErrNothingToClaim},
		{"all refunded", refunded, channelAt(3), ErrNothingToClaim},
		{"the nonce has passed", record, channelAt(4), ErrNothingToClaim},
		{"one is pending", mustCharge(t, pending, channelAt(3), chargeOf(4, 10, 10)), channelAt(3), ErrClaimPending},
		{"one is pending, nothing new", pending, channelAt(3), ErrClaimPending},
		{"the last one is done, nothing new", pending, channelAt(4), ErrNothingToClaim},
		{"the nonce went back", record, channelAt(2), ErrChannelChanged},
		{"another sender", record, other, ErrChannelChanged},
	} {
		t.Run(test.name, func(t *testing.T) {
			if next, _, err := test.record.StartClaim(test.channel); !errors.Is(err, test.want) || next != nil {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}

func TestSecondClaim(t *testing.T) {
	record, _, err := charged(t, 3, 10).StartClaim(channelAt(3))
	if err != nil {
		t.Fatal(err)
	}
	record = mustCharge(t, record, channelAt(4), chargeOf(4, 30, 10))
	if !record.Pending.Passed {
		t.Error("the charge did not note that the chain has the first claim")
	}
	record, claim, err := record.StartClaim(channelAt(4))
	if err != nil || claim.Nonce != number(4) || record.Nonce != number(5) || record.Pending.Nonce != number(4) {
		t.Errorf("claim %+v, error %v", claim, err)
	}
}

// The pending claim's signed amount may be claimed whole, so it is no longer there for calls.
func TestPendingClaimReservesWhatIsSigned(t *testing.T) {
	record, _, err := charged(t, 3, 900).StartClaim(channelAt(3))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		nonce   uint64
		value   uint64
		amount  uint64
		message string
	}{
		{"all that is left", 3, 1000, 100, ""},
		{"one more", 3, 1000, 101, "not enough tokens on payment channel, channel amount: 100, payment amount: 101"},
		{"less value than reserved", 3, 800, 10, "not enough tokens on payment channel, channel amount: 0, payment amount: 10"},
		{"the chain has the claim", 4, 990, 990, ""},
		{"the chain has the claim, one more", 4, 990, 991, "not enough tokens on payment channel, channel amount: 990, payment amount: 991"},
	} {
		t.Run(test.name, func(t *testing.T) {
			channel := channelAt(test.nonce)
			channel.Value = number(test.value)
			_, _, refusal := record.Charge(channel, chargeOf(4, test.amount, 10))
			switch {
			case test.message == "" && refusal != nil:
				t.Errorf("refused: %v", refusal)
			case test.message != "" && (refusal == nil || refusal.Message != test.message):
				t.Errorf("refusal %v, want %s", refusal, test.message)
			}
		})
	}
}

func TestRefundCorrectsThePendingClaim(t *testing.T) {
	record, _, err := charged(t, 3, 10, 20, 30).StartClaim(channelAt(3))
	if err != nil {
		t.Fatal(err)
	}
	record, outcome := record.Refund(refundOf(3, 20, 10))
	if outcome != ClaimCorrected || record.Pending.Spent != number(20) || record.Pending.Signed != number(30) {
		t.Fatalf("outcome %s, claim %+v", outcome, record.Pending)
	}
	if _, outcome := record.Refund(refundOf(3, 30, 21)); outcome != NotCharged {
		t.Errorf("more than the claim's spent was refunded: %s", outcome)
	}
	if _, outcome := record.Refund(refundOf(2, 30, 10)); outcome != TooLate {
		t.Errorf("an older nonce: %s", outcome)
	}
	passed := mustCharge(t, record, channelAt(4), chargeOf(4, 10, 10))
	if _, outcome := passed.Refund(refundOf(3, 30, 10)); outcome != TooLate {
		t.Errorf("the chain has the claim: %s", outcome)
	}

	three, seven := number(3), number(7)
	sent, claim, err := record.SendClaim(&three)
	if err != nil || !claim.Sent || claim.Spent != number(20) || !sent.Pending.Sent {
		t.Fatalf("claim %+v, error %v", claim, err)
	}
	if again, claim, err := sent.SendClaim(&three); err != nil || again != sent || !claim.Sent {
		t.Errorf("sending again: claim %+v, error %v", claim, err)
	}
	if next, outcome := sent.Refund(refundOf(3, 30, 10)); outcome != TooLate || next != sent {
		t.Errorf("the claim is sent: %s", outcome)
	}
	if _, _, err := record.SendClaim(&seven); !errors.Is(err, ErrNothingToClaim) {
		t.Errorf("another nonce: %v", err)
	}
	if _, _, err := (*Record)(nil).SendClaim(&three); !errors.Is(err, ErrNothingToClaim) {
		t.Errorf("no record: %v", err)
	}
}
