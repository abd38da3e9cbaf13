package authz

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
)

// Settings say how calls are decided and settled. DefaultSettings gives values that work without a change.
type Settings struct {
	CheckTimeout time.Duration      `koanf:"check_timeout" help:"Longest time one payment decision may take; keep it below Envoy's ext_authz timeout (5s)."`
	AllowList    AllowListSettings  `koanf:"allow_list"`
	Settlement   SettlementSettings `koanf:"settlement"`
}

// AllowListSettings restrict the service to some signers, for tests before a service goes public.
type AllowListSettings struct {
	Enabled   bool     `koanf:"enabled" help:"Serve only the addresses of allow_list.addresses (not on mainnet)."`
	Addresses []string `koanf:"addresses" help:"Addresses (0x and 40 hex digits) whose signatures are served."`
}

// SettlementSettings say when and how failed calls are given back.
type SettlementSettings struct {
	RefundOnClientCancel bool          `koanf:"refund_on_client_cancel" help:"Give the price back when the client goes away before any response byte was sent to it."`
	Workers              int           `koanf:"workers" help:"Refunds under way at the same time."`
	QueueLength          int           `koanf:"queue_length" help:"Refunds that may wait; more are tried while the access log waits, then counted as lost."`
	RetryFor             time.Duration `koanf:"retry_for" help:"How long one refund is tried again while the channel state cannot be asked."`
}

// Bounds that keep a mistyped number from becoming an outage.
const (
	maxCheckTimeout = 4500 * time.Millisecond // Envoy gives up after 5s and answers for us
	maxWorkers      = 256
	maxQueueLength  = 1 << 20
	maxRetryFor     = time.Hour
	maxAllowList    = 10_000
)

// DefaultSettings are the settings of a process that was given none.
func DefaultSettings() Settings {
	return Settings{
		CheckTimeout: 3 * time.Second,
		Settlement: SettlementSettings{
			RefundOnClientCancel: true,
			Workers:              8,
			QueueLength:          10_000,
			RetryFor:             5 * time.Minute,
		},
	}
}

// Validate names every setting that cannot be used, its value and what to write instead.
func (s *Settings) Validate() error {
	var faults []error
	fault := func(format string, arguments ...any) {
		faults = append(faults, fmt.Errorf(format, arguments...))
	}
	if s.CheckTimeout <= 0 || s.CheckTimeout > maxCheckTimeout {
		fault("check_timeout is %s: write a duration above 0 and at most %s, such as 3s", s.CheckTimeout, maxCheckTimeout)
	}
	if workers := s.Settlement.Workers; workers < 1 || workers > maxWorkers {
		fault("settlement.workers is %d: write a number from 1 to %d", workers, maxWorkers)
	}
	if length := s.Settlement.QueueLength; length < 1 || length > maxQueueLength {
		fault("settlement.queue_length is %d: write a number from 1 to %d", length, maxQueueLength)
	}
	if retryFor := s.Settlement.RetryFor; retryFor <= 0 || retryFor > maxRetryFor {
		fault("settlement.retry_for is %s: write a duration above 0 and at most %s, such as 5m", retryFor, maxRetryFor)
	}
	if _, err := s.AllowList.compile(); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// ValidateNetwork refuses an allow-list where it would turn paying customers away: on mainnet, the peer's rule too.
func (s *Settings) ValidateNetwork(blockchainEnabled bool, network string) error {
	if s.AllowList.Enabled && blockchainEnabled && strings.EqualFold(network, "mainnet") {
		return errors.New("allow_list.enabled is true on blockchain.network mainnet: an allow-list is for tests, " +
			"set it to false or use another network")
	}
	return nil
}

// compile gives the set of listed addresses, nil when the list is off.
func (s *AllowListSettings) compile() (map[common.Address]struct{}, error) {
	if !s.Enabled {
		return nil, nil
	}
	if len(s.Addresses) == 0 || len(s.Addresses) > maxAllowList {
		return nil, fmt.Errorf("allow_list.addresses has %d addresses with allow_list.enabled true: list 1 to %d addresses "+
			"or set allow_list.enabled to false", len(s.Addresses), maxAllowList)
	}
	var faults []error
	listed := make(map[common.Address]struct{}, len(s.Addresses))
	for i, text := range s.Addresses {
		address, ok := parseAddress(strings.TrimSpace(text))
		if !ok || address == (common.Address{}) {
			faults = append(faults, fmt.Errorf("allow_list.addresses[%d] is %q: write an address, 0x and 40 hex digits", i, text))
			continue
		}
		listed[address] = struct{}{}
	}
	return listed, errors.Join(faults...)
}
