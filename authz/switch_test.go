package authz

import (
	"strings"
	"sync/atomic"
	"testing"
)

type testSwitch struct{ atomic.Bool }

func (s *testSwitch) Stopped() bool { return s.Load() }

// A stopped service turns every call away before anything is checked or taken.
func TestCallsWhileTheOperatorHasStoppedThem(t *testing.T) {
	turn := &testSwitch{}
	w := newWorld(t, func(w *world) { w.dependencies.Switch = turn })
	headers := w.headers(testPrice)
	turn.Store(true)
	for name, sent := range map[string]map[string]string{"paid": headers, "unpaid": {}, "free": {"snet-payment-type": "free-call"}} {
		got := w.check(sent)
		if got.code != 14 || !strings.Contains(got.message, "no requests are processed at the moment, try later") {
			t.Errorf("%s: %d %q", name, got.code, got.message)
		}
	}
	if charges, _ := w.ledger.counts(); charges != 0 {
		t.Errorf("%d calls were charged", charges)
	}
	turn.Store(false)
	if got := w.check(headers); got.code != 0 {
		t.Errorf("started again: %d %q", got.code, got.message)
	}
}
