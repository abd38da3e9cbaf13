package process

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

const metricPrefix = "mpegate_"

func (p *process) registerAll(list ...prometheus.Collector) error {
	var faults []error
	for _, collector := range list {
		faults = append(faults, p.metrics.Register(collector))
	}
	return errors.Join(faults...)
}

func counter(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: metricPrefix + name, Help: help}, value)
}

func gauge(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: metricPrefix + name, Help: help}, value)
}

// registerBuild adds what every process has: its build, Go's own figures and the readiness of the parts.
func (p *process) registerBuild() error {
	build := ReadBuild()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: metricPrefix + "build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": build.Version, "revision": build.Revision, "goversion": build.GoVersion},
	})
	info.Set(1)
	return p.registerAll(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &partCollector{p.parts})
}

// registerPayments adds the figures of the chain, the metadata and the channel state.
func (p *process) registerPayments(client *blockchain.Client, head *blockchain.Head, metadata *blockchain.MetadataFollower,
	channels *blockchain.ChannelCache, ledger *channelstate.Ledger) error {
	return p.registerAll(
		gauge("chain_block", "Newest known block of the chain.", func() float64 {
			block, err := head.Block()
			if err != nil {
				return 0
			}
			return float64(block)
		}),
		gauge("chain_block_age_seconds", "Time since the node last confirmed the newest block.", func() float64 { return head.Age().Seconds() }),
		counter("chain_requests_total", "JSON-RPC requests to the node.", func() float64 { return float64(client.Requests()) }),
		counter("channel_cache_requests_total", "Requests to the node that the channel cache caused.", func() float64 { return float64(channels.Requests()) }),
		gauge("channel_cache_channels", "Channels of the chain held in memory.", func() float64 { return float64(channels.Len()) }),
		counter("metadata_refreshes_total", "Looks for changed metadata.", func() float64 { return float64(metadata.Stats().Refreshes) }),
		counter("metadata_changes_total", "Times that changed metadata came into force.", func() float64 { return float64(metadata.Stats().Changes) }),
		counter("metadata_failures_total", "Looks for metadata that ended without any that can be used.", func() float64 { return float64(metadata.Stats().Failures) }),
		gauge("metadata_age_seconds", "Time since the metadata in force was last known to be what is published.", func() float64 {
			return time.Since(metadata.Stats().LastSuccess).Seconds()
		}),
		&ledgerCollector{ledger: ledger},
	)
}

func (p *process) registerEnvoy(supervisor *envoy.Supervisor) error {
	return p.registerAll(counter("envoy_restarts_total", "Times that Envoy had to be started again.", func() float64 {
		return float64(supervisor.Restarts())
	}))
}

// ledgerFigure is one counter of the ledger.
type ledgerFigure struct {
	description *prometheus.Desc
	kind        prometheus.ValueType
	value       func(*channelstate.Stats) uint64
}

var ledgerFigures = func() []ledgerFigure {
	figure := func(name, help string, kind prometheus.ValueType, value func(*channelstate.Stats) uint64) ledgerFigure {
		return ledgerFigure{prometheus.NewDesc(metricPrefix+name, help, nil, nil), kind, value}
	}
	total := func(name, help string, value func(*channelstate.Stats) uint64) ledgerFigure {
		return figure("channel_state_"+name+"_total", help, prometheus.CounterValue, value)
	}
	type stats = channelstate.Stats
	return []ledgerFigure{
		total("charges", "Charges accepted.", func(s *stats) uint64 { return s.Charges }),
		total("raises", "Requests for prepaid credit accepted, renewals of tokens too.", func(s *stats) uint64 { return s.Raises }),
		total("merged_charges", "Charges that shared a transaction with another one.", func(s *stats) uint64 { return s.MergedCharges }),
		total("refusals", "Charges refused by the rules.", func(s *stats) uint64 { return s.Refusals }),
		total("refunds", "Refunds that gave something back.", func(s *stats) uint64 { return s.Refunds }),
		total("repeated_refunds", "Refunds delivered again.", func(s *stats) uint64 { return s.RepeatedRefunds }),
		total("late_refunds", "Refunds that came too late.", func(s *stats) uint64 { return s.LateRefunds }),
		total("unknown_refunds", "Refunds of charges that no record knows.", func(s *stats) uint64 { return s.UnknownRefunds }),
		total("abandoned_charges", "Charges given back at once because their caller had gone.", func(s *stats) uint64 { return s.AbandonedCharges }),
		total("lost_refunds", "Charges that could not be given back in time.", func(s *stats) uint64 { return s.LostRefunds }),
		total("transactions", "Transactions sent to the store, repeated ones included.", func(s *stats) uint64 { return s.Transactions }),
		total("reads", "Records read from the store.", func(s *stats) uint64 { return s.Reads }),
		total("conflicts", "Transactions that another writer was faster than.", func(s *stats) uint64 { return s.Conflicts }),
		total("lost_replies", "Transactions whose reply never came.", func(s *stats) uint64 { return s.LostReplies }),
		total("unresolved_transactions", "Transactions whose outcome was never learnt.", func(s *stats) uint64 { return s.Unresolved }),
		total("queue_full", "Calls turned away because too many wait on their channel.", func(s *stats) uint64 { return s.QueueFull }),
		total("unavailable", "Calls that failed because the store could not be asked.", func(s *stats) uint64 { return s.Unavailable }),
		total("records_set_aside", "Records set aside because the chain contradicts them.", func(s *stats) uint64 { return s.Asides }),
		figure("channel_state_cached_records", "Records held in memory.", prometheus.GaugeValue, func(s *stats) uint64 { return s.CachedChannels }),
	}
}()

// ledgerCollector reads all figures of a ledger at once, so that one scrape is consistent.
type ledgerCollector struct{ ledger *channelstate.Ledger }

func (c *ledgerCollector) Describe(descriptions chan<- *prometheus.Desc) {
	for _, figure := range ledgerFigures {
		descriptions <- figure.description
	}
}

func (c *ledgerCollector) Collect(metrics chan<- prometheus.Metric) {
	stats := c.ledger.Stats()
	for _, figure := range ledgerFigures {
		metrics <- prometheus.MustNewConstMetric(figure.description, figure.kind, float64(figure.value(&stats)))
	}
}

// partCollector shows the readiness of each part.
type partCollector struct{ parts *Parts }

var partReady = prometheus.NewDesc(metricPrefix+"part_ready", "1 while a part of the process is ready, else 0.", []string{"part"}, nil)

func (c *partCollector) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- partReady }

func (c *partCollector) Collect(metrics chan<- prometheus.Metric) {
	states, _ := c.parts.States(context.Background())
	for _, state := range states {
		value := 0.0
		if state.Ready {
			value = 1
		}
		metrics <- prometheus.MustNewConstMetric(partReady, prometheus.GaugeValue, value, state.Name)
	}
}
