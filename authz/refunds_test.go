package authz

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

func counterValue(t testing.TB, counter prometheus.Counter) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(counter)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

// startTestRefunds makes a queue of one worker and one place.
func startTestRefunds(t testing.TB, refund refundFunction) (*refunds, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	settings := SettlementSettings{Workers: 1, QueueLength: 1, RetryFor: time.Minute}
	return startRefunds(settings, refund, newMetrics(func() float64 { return 0 }), zap.New(core)), logs
}

var oneCharge = &envoy.Charged{ID: "7", Channel: "1234", Amount: "50", Price: "10", PaymentType: typeEscrow}

func TestRefundIsTriedAgain(t *testing.T) {
	attempts := 0
	r, _ := startTestRefunds(t, func(context.Context, *envoy.Charged) (channelstate.RefundOutcome, error) {
		attempts++
		switch attempts {
		case 1:
			return 0, channelstate.ErrUnavailable
		case 2:
			panic("made up")
		}
		return channelstate.Refunded, nil
	})
	r.add(oneCharge)
	if err := r.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if attempts != 3 {
		t.Errorf("%d attempts", attempts)
	}
	if done := counterValue(t, r.metrics.refundsDone.WithLabelValues("refunded")); done != 1 {
		t.Errorf("%v done", done)
	}
	if again := counterValue(t, r.metrics.refundRetries); again != 2 {
		t.Errorf("%v tried again", again)
	}
}

// A refund outlives the call and its context; close waits for it.
func TestCloseWaitsForRefunds(t *testing.T) {
	release := make(chan struct{})
	var done atomic.Int32
	r, _ := startTestRefunds(t, func(ctx context.Context, _ *envoy.Charged) (channelstate.RefundOutcome, error) {
		<-release
		done.Add(1)
		return channelstate.Refunded, ctx.Err()
	})
	r.add(oneCharge)
	r.add(oneCharge)
	closed := make(chan error)
	go func() { closed <- r.close(context.Background()) }()
	select {
	case err := <-closed:
		t.Fatalf("closed with refunds under way: %v", err)
	case release <- struct{}{}:
	}
	close(release)
	if err := <-closed; err != nil || done.Load() != 2 {
		t.Errorf("%v, %d done", err, done.Load())
	}
	if err := r.close(t.Context()); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

func TestCloseIsBounded(t *testing.T) {
	started := make(chan struct{}, 8)
	r, logs := startTestRefunds(t, func(ctx context.Context, _ *envoy.Charged) (channelstate.RefundOutcome, error) {
		started <- struct{}{}
		<-ctx.Done()
		return 0, ctx.Err()
	})
	r.add(oneCharge)
	<-started
	r.add(oneCharge)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := r.close(ctx)
	if err == nil || !strings.Contains(err.Error(), "2 refunds were lost") {
		t.Errorf("got %v", err)
	}
	if lost := counterValue(t, r.metrics.refundsLost.WithLabelValues(lostStopped)); lost != 2 {
		t.Errorf("%v lost", lost)
	}
	r.add(oneCharge) // too late, and told so
	if lost := counterValue(t, r.metrics.refundsLost.WithLabelValues(lostStopped)); lost != 3 {
		t.Errorf("%v lost", lost)
	}
	for _, entry := range logs.FilterMessage("a refund was lost").All() {
		fields := entry.ContextMap()
		if fields["charge"] != "7" || fields["channel"] != "1234" || fields["amount"] != "50" || fields["price"] != "10" {
			t.Errorf("nobody could give it back by hand: %v", fields)
		}
	}
}

func TestFullQueueHoldsUpThenLoses(t *testing.T) {
	release := make(chan struct{})
	started := make(chan struct{}, 8)
	r, _ := startTestRefunds(t, func(context.Context, *envoy.Charged) (channelstate.RefundOutcome, error) {
		started <- struct{}{}
		<-release
		return channelstate.Refunded, nil
	})
	r.add(oneCharge)
	<-started // the worker is busy
	r.add(oneCharge)
	r.add(oneCharge) // no place
	if lost := counterValue(t, r.metrics.refundsLost.WithLabelValues(lostQueueFull)); lost != 1 {
		t.Errorf("%v lost", lost)
	}
	waiting := make(chan struct{})
	go func() {
		r.add(oneCharge) // may be in time, may be lost, but ends
		close(waiting)
	}()
	close(release)
	<-waiting
	if err := r.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := counterValue(t, r.metrics.refundsDone.WithLabelValues("refunded"))
	lost := counterValue(t, r.metrics.refundsLost.WithLabelValues(lostQueueFull))
	if done+lost != 4 || done < 2 {
		t.Errorf("%v done, %v lost of 4", done, lost)
	}
}

func TestRefundsThatTooLateAreTold(t *testing.T) {
	for _, outcome := range []channelstate.RefundOutcome{channelstate.TooLate, channelstate.NotCharged} {
		r, logs := startTestRefunds(t, func(context.Context, *envoy.Charged) (channelstate.RefundOutcome, error) { return outcome, nil })
		r.add(oneCharge)
		if err := r.close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if logs.FilterLevelExact(zap.WarnLevel).Len() != 1 {
			t.Errorf("%s: %v", outcome, logs.All())
		}
	}
}

func TestRetryEnds(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	settings := SettlementSettings{Workers: 1, QueueLength: 1, RetryFor: time.Nanosecond}
	r := startRefunds(settings, func(context.Context, *envoy.Charged) (channelstate.RefundOutcome, error) {
		return 0, channelstate.ErrUnavailable
	}, newMetrics(func() float64 { return 0 }), zap.New(core))
	r.add(oneCharge)
	if err := r.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lost := counterValue(t, r.metrics.refundsLost.WithLabelValues(lostFailed)); lost != 1 || logs.FilterMessage("a refund was lost").Len() != 1 {
		t.Errorf("%v lost", lost)
	}
}

func TestMetricsAreShown(t *testing.T) {
	registry := prometheus.NewRegistry()
	w := newWorld(t, func(w *world) { w.dependencies.Registerer = registry })
	w.check(w.headers(testPrice))
	w.check(nil)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				name += " " + label.GetValue()
			}
			counted[name] = metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"mpegate_authz_decisions_total allowed escrow":        1,
		"mpegate_authz_decisions_total missing_header escrow": 1,
		"mpegate_authz_check_seconds":                         2,
		"mpegate_authz_charge_seconds":                        1,
		"mpegate_authz_refunds_lost_total queue_full":         0,
		"mpegate_authz_refund_queue":                          0,
	} {
		if got, shown := counted[name]; !shown || got != want {
			t.Errorf("%s is %v, want %v (shown: %t)", name, got, want, shown)
		}
	}
	if _, err := NewServer(DefaultSettings(), Dependencies{WithoutPayment: true, Registerer: registry}); err == nil {
		t.Error("the same metrics were registered twice")
	}
}
