package channelstate

import "testing"

func TestRefund(t *testing.T) {
	for _, test := range []struct {
		name          string
		before        []uint64 // amounts charged at 10 each
		refunds       []uint64 // amounts refunded at 10 each
		outcome       RefundOutcome
		signed, spent uint64
		accepted      []uint64
	}{
		{"the only call", []uint64{10}, []uint64{10}, Refunded, 0, 0, nil},
		{"the last call", []uint64{10, 20}, []uint64{20}, Refunded, 10, 10, []uint64{10}},
		{"not the last call", []uint64{10, 20}, []uint64{10}, Refunded, 20, 10, []uint64{20}},
		{"both, the last first", []uint64{10, 20}, []uint64{20, 10}, Refunded, 10, 0, nil},
		{"both, the first first", []uint64{10, 20}, []uint64{10, 20}, Refunded, 10, 0, nil},
		{"what was signed before does not cover the rest", []uint64{10, 40, 20, 30}, []uint64{40}, Refunded, 40, 30, []uint64{10, 20, 30}},
		{"a lower amount came after the highest", []uint64{10, 30, 20}, []uint64{30}, Refunded, 30, 20, []uint64{10, 20}},
		{"never charged", []uint64{10, 30}, []uint64{20}, NotCharged, 30, 20, []uint64{10, 30}},
		{"twice, when the store does not notice", []uint64{10, 20}, []uint64{20, 20}, NotCharged, 10, 10, []uint64{10}},
	} {
		t.Run(test.name, func(t *testing.T) {
			record := charged(t, 3, test.before...)
			var outcome RefundOutcome
			for _, amount := range test.refunds {
				record, outcome = record.Refund(refundOf(3, amount, 10))
			}
			if outcome != test.outcome {
				t.Errorf("outcome %s, want %s", outcome, test.outcome)
			}
			wantRecord(t, record, 3, test.signed, test.spent, test.accepted...)
		})
	}
}

func TestRefundOfWhatIsNotThere(t *testing.T) {
	record := charged(t, 3, 10, 20)
	for _, test := range []struct {
		name    string
		record  *Record
		refund  *Refund
		outcome RefundOutcome
	}{
		{"no record", nil, refundOf(3, 10, 10), NotCharged},
		{"a nonce to come", record, refundOf(4, 10, 10), NotCharged},
		{"a nonce that has passed", record, refundOf(2, 10, 10), TooLate},
		{"more than was spent", record, refundOf(3, 20, 21), NotCharged},
		{"another sender's", record, &Refund{Nonce: number(3), Amount: number(20), Price: number(10), Sender: carol}, TooLate},
		{"a price of nothing", record, refundOf(3, 20, 0), Refunded},
	} {
		t.Run(test.name, func(t *testing.T) {
			next, outcome := test.record.Refund(test.refund)
			if outcome != test.outcome || next != test.record {
				t.Errorf("outcome %s, want %s; record written: %v", outcome, test.outcome, next != test.record)
			}
		})
	}
}

func TestRefundedAmountMayBeSentAgain(t *testing.T) {
	record := charged(t, 3, 10, 20, 30)
	record, _ = record.Refund(refundOf(3, 20, 10))
	record = mustCharge(t, record, channelAt(3), chargeOf(3, 20, 10))
	wantRecord(t, record, 3, 30, 30, 10, 20, 30)
	if _, _, refusal := record.Charge(channelAt(3), chargeOf(3, 20, 10)); refusal == nil || refusal.Reason != ReasonAlreadyAccepted {
		t.Errorf("the amount was accepted a third time: %v", refusal)
	}
}

func TestRefundBelowTheFloor(t *testing.T) {
	record := charged(t, 3, 10, 20, 30)
	record.Window = Window{Floor: number(10), Runs: []Run{{First: number(20), Last: number(30), Step: number(10)}}}
	next, outcome := record.Refund(refundOf(3, 10, 10))
	if outcome != Refunded {
		t.Errorf("outcome %s", outcome)
	}
	wantRecord(t, next, 3, 30, 20, 20, 30)
}
