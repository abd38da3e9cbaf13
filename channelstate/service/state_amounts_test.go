package service_test

import (
	"math"
	"testing"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/channelstate"
)

// Amounts that the 64-bit fields cannot hold are left out, both, and never cut.
func TestPlannedAndUsedAmountsThatDoNotFit(t *testing.T) {
	w := newWorld(t)
	largest := uint256.NewInt(math.MaxUint64)
	for _, test := range []struct {
		signed        *uint256.Int
		spent         uint64
		planned, used uint64
	}{
		{largest, 7, math.MaxUint64, 7},
		{new(uint256.Int).AddUint64(largest, 1), 7, 0, 0},
		{new(uint256.Int).Lsh(largest, 100), 7, 0, 0},
	} {
		record := channelstate.Record{
			Sender: user.address, Signer: signer.address, Nonce: *uint256.NewInt(5), Signed: *test.signed, Spent: *uint256.NewInt(test.spent),
		}
		reply, err := w.serve(records{record: record}).GetChannelState(t.Context(), query(t, user))
		if err != nil || reply.GetPlannedAmount() != test.planned || reply.GetUsedAmount() != test.used {
			t.Errorf("signed %s: planned %d, used %d, %v", test.signed.Dec(), reply.GetPlannedAmount(), reply.GetUsedAmount(), err)
		}
		if signed := test.signed.Bytes32(); string(reply.GetCurrentSignedAmount()) != string(signed[:]) {
			t.Errorf("signed %s: %x", test.signed.Dec(), reply.GetCurrentSignedAmount())
		}
	}
}
