package channelstate

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"strings"

	"github.com/ethereum/go-ethereum/common"
)

// FreeCallSettings say who may make free calls, and how many. How many there
// are by default, and the address whose key signs their tokens, are in the
// service's metadata (free_calls, free_call_signer_address).
type FreeCallSettings struct {
	Enabled        bool           `koanf:"enabled" help:"Offer free calls, when the key here is that of free_call_signer_address in the service's metadata."`
	PrivateKey     string         `koanf:"private_key" secret:"true" help:"Key that free-call tokens are signed with: 64 hex digits, its address is free_call_signer_address of the service's metadata. Empty: one is made and kept in the channel state, and its address is in the log."`
	TrustedSigners []string       `koanf:"trusted_signers" help:"Addresses (0x and 40 hex digits) that may ask for tokens of their own users and need no balance, such as a marketplace."`
	MinBalance     uint64         `koanf:"min_balance" help:"Whole tokens that other callers must hold to make free calls; 0 asks for none, and then whoever makes new addresses has free calls without end."`
	PerAddress     map[string]any `koanf:"per_address" help:"How many free calls an address has in all, in place of free_calls of the metadata: a number, 0 for none, or unlimited. Text, as in a variable: 0xADDRESS=100,0xADDRESS=unlimited."`
	TokenLifetime  uint64         `koanf:"token_lifetime" help:"How long a free-call token is good unless its client asks for less, in blocks."`
}

const (
	maxTrustedSigners = 1000
	maxFreeCallQuotas = 10_000
)

// DefaultFreeCallSettings work without a change.
func DefaultFreeCallSettings() FreeCallSettings {
	return FreeCallSettings{Enabled: true, MinBalance: 10, TokenLifetime: FreeCallTokenLifetime}
}

// Validate names every setting that cannot be used, its value and what to write instead.
func (s *FreeCallSettings) Validate() error {
	_, err := s.compile()
	return err
}

// freeCallRules are the settings in the form in which calls need them.
type freeCallRules struct {
	enabled    bool
	key        *ecdsa.PrivateKey // nil when one is to be made
	trusted    map[common.Address]bool
	minBalance uint64
	quotas     map[common.Address]Quota
	lifetime   uint64
}

func (s *FreeCallSettings) compile() (*freeCallRules, error) {
	rules := &freeCallRules{
		enabled: s.Enabled, trusted: map[common.Address]bool{}, minBalance: s.MinBalance, quotas: map[common.Address]Quota{}, lifetime: s.TokenLifetime,
	}
	var faults []error
	fault := func(format string, arguments ...any) { faults = append(faults, fmt.Errorf(format, arguments...)) }
	if s.PrivateKey != "" {
		var err error
		if rules.key, err = parseFreeCallKey(strings.TrimSpace(s.PrivateKey)); err != nil {
			fault("private_key %w", err)
		}
	}
	if len(s.TrustedSigners) > maxTrustedSigners {
		fault("trusted_signers has %d addresses: list at most %d", len(s.TrustedSigners), maxTrustedSigners)
	}
	for i, text := range s.TrustedSigners {
		address, ok := readAddress(text)
		if !ok {
			fault("trusted_signers[%d] is %q: write an address, 0x and 40 hex digits", i, text)
		}
		rules.trusted[address] = true
	}
	if len(s.PerAddress) > maxFreeCallQuotas {
		fault("per_address has %d addresses: list at most %d", len(s.PerAddress), maxFreeCallQuotas)
	}
	for text, value := range s.PerAddress {
		address, ok := readAddress(text)
		if !ok {
			fault("per_address has the key %q: write an address, 0x and 40 hex digits, in quotes", text)
			continue
		}
		if _, twice := rules.quotas[address]; twice {
			fault("per_address has %s twice, in different case: keep one of the two", address)
		}
		quota, err := ParseQuota(fmt.Sprint(value))
		if err != nil {
			fault("per_address of %s is %q, which %w", text, fmt.Sprint(value), err)
		}
		rules.quotas[address] = quota
	}
	if s.TokenLifetime < 1 || s.TokenLifetime > FreeCallTokenLifetime {
		fault("token_lifetime is %d blocks: write a number from 1 to %d", s.TokenLifetime, FreeCallTokenLifetime)
	}
	return rules, errors.Join(faults...)
}

func readAddress(text string) (common.Address, bool) {
	text = strings.TrimSpace(text)
	address := common.HexToAddress(text)
	return address, strings.HasPrefix(text, "0x") && common.IsHexAddress(text) && address != (common.Address{})
}
