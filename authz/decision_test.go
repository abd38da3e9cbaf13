package authz

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

func TestCheckDeadlineEndsTheCall(t *testing.T) {
	late := func(ctx context.Context, _ *blockchain.Channel, _ *channelstate.Charge) error {
		<-ctx.Done()
		return ctx.Err()
	}
	cases := []struct {
		name    string
		adjust  func(*world)
		timeout string
		code    envoy.Code
	}{
		{"the client's time is over", func(*world) {}, "1m", 4},
		{"the client's time is over at once", func(*world) {}, "1n", 4},
		{"our own time is over", func(w *world) { w.settings.CheckTimeout = time.Millisecond }, "", 14},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, test.adjust)
			w.ledger.charge = late
			headers := w.headers(testPrice)
			if test.timeout != "" {
				headers[envoy.HeaderGRPCTimeout] = test.timeout
			}
			if got := w.check(headers); got.code != test.code {
				t.Errorf("got %d %q, want %d", got.code, got.message, test.code)
			}
		})
	}
}

// A charge whose call is over before we can say yes goes back.
func TestCallerGoneAfterCharge(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.ledger.charge = func(context.Context, *blockchain.Channel, *channelstate.Charge) error {
		cancel()
		return nil
	}
	response, err := w.server.Check(ctx, request(testMethod, w.headers(testPrice)))
	if err != nil {
		t.Fatal(err)
	}
	if got := readAnswer(t, response); got.code != 1 {
		t.Errorf("got %d %q", got.code, got.message)
	}
	w.close()
	if charges, refunds := w.ledger.counts(); charges != 1 || refunds != 1 {
		t.Errorf("%d charges, %d refunds", charges, refunds)
	}
}

func TestPanicIsAnAnswer(t *testing.T) {
	w := newWorld(t)
	w.ledger.charge = func(context.Context, *blockchain.Channel, *channelstate.Charge) error { panic("made up") }
	got := w.check(w.headers(testPrice))
	if got.code != 13 || strings.Contains(got.message, "made up") {
		t.Errorf("got %d %q", got.code, got.message)
	}
	if counted := counterValue(t, w.server.metrics.panics); counted != 1 {
		t.Errorf("%v panics counted", counted)
	}
}

// panickyMethod takes money and then fails.
type panickyMethod struct{ *escrow }

func (p panickyMethod) charge(ctx context.Context, c *call) *verdict {
	p.escrow.charge(ctx, c)
	panic("after the charge")
}

// forgetfulMethod takes money and decides nothing.
type forgetfulMethod struct{ *escrow }

func (f forgetfulMethod) charge(ctx context.Context, c *call) *verdict {
	f.escrow.charge(ctx, c)
	return nil
}

func TestNothingStaysChargedWithoutAYes(t *testing.T) {
	for name, wrap := range map[string]func(*escrow) paymentMethod{
		"panic":       func(e *escrow) paymentMethod { return panickyMethod{e} },
		"no decision": func(e *escrow) paymentMethod { return forgetfulMethod{e} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.server.methods[typeEscrow] = wrap(w.server.methods[typeEscrow].(*escrow))
			if got := w.check(w.headers(testPrice)); got.code != 13 {
				t.Errorf("got %d %q", got.code, got.message)
			}
			w.close()
			if charges, refunds := w.ledger.counts(); charges != 1 || refunds != 1 {
				t.Errorf("%d charges, %d refunds", charges, refunds)
			}
		})
	}
}

func TestZeroVerdictDenies(t *testing.T) {
	got := readAnswer(t, reply(&verdict{}))
	if got.code != 13 {
		t.Errorf("got %d", got.code)
	}
	for outcome := range outcomeCount {
		if outcomes[outcome].word == "" {
			t.Errorf("outcome %d has no word", outcome)
		}
		denies := (&verdict{outcome: outcome}).allows() == false
		if denies == (outcomes[outcome].code == envoy.CodeOK) {
			t.Errorf("%s: code %d", outcome, outcomes[outcome].code)
		}
	}
}

func TestEmptyRequests(t *testing.T) {
	w := newWorld(t)
	for _, empty := range []string{"no request", "no attributes"} {
		request := request(testMethod, nil)
		if empty == "no attributes" {
			request.Attributes = nil
		} else {
			request = nil
		}
		response, err := w.server.Check(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAnswer(t, response); got.code != 12 {
			t.Errorf("%s: %d %s", empty, got.code, got.message)
		}
	}
}
