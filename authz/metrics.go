package authz

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mpegate/mpegate/channelstate"
)

// What becomes of entries of the access log.
const (
	settledKept = iota
	settledRefund
	settledUnanswered
	settledNoCharge
	settledCount
)

var settledWords = [settledCount]string{
	settledKept: "kept", settledRefund: "refund", settledUnanswered: "unanswered", settledNoCharge: "no_charge",
}

// Why a refund was lost.
const (
	lostQueueFull = "queue_full"
	lostFailed    = "failed"
	lostMalformed = "malformed"
	lostStopped   = "stopped"
)

// refundOutcomes are all outcomes of the ledger.
var refundOutcomes = []channelstate.RefundOutcome{
	channelstate.Refunded, channelstate.AlreadyRefunded, channelstate.ClaimCorrected, channelstate.TooLate,
	channelstate.NotCharged,
}

// typeUnknown is the label of calls that were refused before their payment type was known. Label values never come
// from a client.
const typeUnknown = "unknown"

// labelledTypes has every payment type of paymentMethods.
var labelledTypes = []string{typeUnknown, typeEscrow, typePrepaid, typeFree}

// latencyBuckets begin at 0.1 ms: a charge in embedded etcd takes well under 1 ms.
var latencyBuckets = []float64{
	0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5,
}

type metrics struct {
	decisions     *prometheus.CounterVec
	counted       map[string]*[outcomeCount]prometheus.Counter // the same counters without a look-up by label
	checkSeconds  prometheus.Histogram
	chargeSeconds prometheus.Histogram
	refundSeconds prometheus.Histogram
	entries       *prometheus.CounterVec
	settled       [settledCount]prometheus.Counter
	refundsDone   *prometheus.CounterVec
	refundRetries prometheus.Counter
	refundsLost   *prometheus.CounterVec
	refundQueue   prometheus.GaugeFunc
	panics        prometheus.Counter
}

func newMetrics(queueLength func() float64) *metrics {
	m := &metrics{
		decisions:     counters("decisions_total", "Payment decisions by payment type and outcome.", "payment_type", "outcome"),
		checkSeconds:  histogram("check_seconds", "Time of a whole payment decision."),
		chargeSeconds: histogram("charge_seconds", "Time of one charge in the channel state."),
		refundSeconds: histogram("refund_seconds", "Time of one attempt to refund in the channel state."),
		entries:       counters("settled_total", "Calls settled, by what became of their charge.", "outcome"),
		refundsDone:   counters("refunds_total", "Refunds done by outcome.", "outcome"),
		refundRetries: counter("refund_retries_total", "Attempts to refund that failed and were tried again."),
		refundsLost:   counters("refunds_lost_total", "Refunds given up by reason; each is in the log.", "reason"),
		panics:        counter("panics_total", "Decisions and settlements that panicked."),
		counted:       map[string]*[outcomeCount]prometheus.Counter{},
	}
	m.refundQueue = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "refund_queue", Help: "Refunds that wait for a worker.",
	}, queueLength)
	for _, paymentType := range labelledTypes {
		m.counted[paymentType] = &[outcomeCount]prometheus.Counter{}
		for outcome := range outcomeCount {
			m.counted[paymentType][outcome] = m.decisions.WithLabelValues(paymentType, outcome.String())
		}
	}
	for i, word := range settledWords {
		m.settled[i] = m.entries.WithLabelValues(word)
	}
	for _, result := range refundOutcomes {
		m.refundsDone.WithLabelValues(result.String())
	}
	for _, reason := range []string{lostQueueFull, lostFailed, lostMalformed, lostStopped} {
		m.refundsLost.WithLabelValues(reason)
	}
	return m
}

const (
	namespace = "mpegate"
	subsystem = "authz"
)

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
}

func histogram(name, help string) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, Buckets: latencyBuckets,
	})
}

func (m *metrics) register(registerer prometheus.Registerer) error {
	if registerer == nil {
		return nil
	}
	var faults []error
	for _, collector := range []prometheus.Collector{
		m.decisions, m.checkSeconds, m.chargeSeconds, m.refundSeconds, m.entries, m.refundsDone, m.refundRetries,
		m.refundsLost, m.refundQueue, m.panics,
	} {
		faults = append(faults, registerer.Register(collector))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("metrics of authz: %w", err)
	}
	return nil
}

func (m *metrics) decision(paymentType string, result outcome) {
	counted, known := m.counted[paymentType]
	if !known {
		counted = m.counted[typeUnknown]
	}
	counted[result].Inc()
}

func (m *metrics) refunded(result channelstate.RefundOutcome) {
	m.refundsDone.WithLabelValues(result.String()).Inc()
}
