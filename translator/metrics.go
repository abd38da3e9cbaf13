package translator

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	namespace = "mpegate"
	subsystem = "translator"
)

// latencyBuckets reach from a quick service to one that takes its time.
var latencyBuckets = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 100}

type metrics struct {
	calls     [causeCount]prometheus.Counter
	callsVec  *prometheus.CounterVec
	seconds   prometheus.Histogram
	active    prometheus.GaugeFunc
	waiting   prometheus.GaugeFunc
	processes prometheus.Gauge
	killed    prometheus.Counter
	reloads   *prometheus.CounterVec
}

func newMetrics(serviceType string, active, waiting func() float64) *metrics {
	name := func(name, help string) prometheus.Opts {
		return prometheus.Opts{
			Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, ConstLabels: prometheus.Labels{"type": serviceType},
		}
	}
	m := &metrics{
		callsVec: prometheus.NewCounterVec(prometheus.CounterOpts(name("calls_total", "Translated calls by type of service and outcome.")), []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "call_seconds", Help: "Time of a whole translated call, the service's own included.",
			ConstLabels: prometheus.Labels{"type": serviceType}, Buckets: latencyBuckets,
		}),
		active:    prometheus.NewGaugeFunc(prometheus.GaugeOpts(name("calls_active", "Translated calls under way.")), active),
		waiting:   prometheus.NewGaugeFunc(prometheus.GaugeOpts(name("process_queue", "Calls that wait for a process.")), waiting),
		processes: prometheus.NewGauge(prometheus.GaugeOpts(name("processes", "Processes under way."))),
		killed:    prometheus.NewCounter(prometheus.CounterOpts(name("processes_killed_total", "Processes that were killed: late, too much output, or their client gone."))),
		reloads:   prometheus.NewCounterVec(prometheus.CounterOpts(name("definition_loads_total", "Attempts to load the service's definition by outcome.")), []string{"outcome"}),
	}
	for i := range m.calls {
		m.calls[i] = m.callsVec.WithLabelValues(cause(i).String())
	}
	for _, outcome := range []string{"loaded", "failed"} {
		m.reloads.WithLabelValues(outcome)
	}
	return m
}

func (m *metrics) register(registerer prometheus.Registerer) error {
	if registerer == nil {
		return nil
	}
	var faults []error
	for _, collector := range []prometheus.Collector{m.callsVec, m.seconds, m.active, m.waiting, m.processes, m.killed, m.reloads} {
		faults = append(faults, registerer.Register(collector))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("metrics of the translator: %w", err)
	}
	return nil
}

// ended counts a call; failed is nil for one that was answered.
func (m *metrics) ended(failed *failure, took time.Duration) {
	outcome := answered
	if failed != nil {
		outcome = failed.cause
	}
	m.calls[outcome].Inc()
	m.seconds.Observe(took.Seconds())
}
