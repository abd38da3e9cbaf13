package blockchain

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
)

// Networks a provider can choose by name; NetworkCustom takes everything from
// the other settings.
const (
	NetworkMainnet = "mainnet"
	NetworkSepolia = "sepolia"
	NetworkCustom  = "custom"
)

// A node that is no archive keeps the state of 128 blocks; deeper confirmations
// could not be asked.
const maxConfirmations = 100

// Settings is the section "blockchain".
type Settings struct {
	Enabled         bool          `koanf:"enabled"`          // false: nothing is paid and no node is asked
	Network         string        `koanf:"network"`          // mainnet, sepolia or custom
	ChainID         uint64        `koanf:"chain_id"`         // of the network unless custom
	RPCURL          string        `koanf:"rpc_url"`          // JSON-RPC over http or https
	WebSocketURL    string        `koanf:"websocket_url"`    // ws or wss, optional: new blocks are announced instead of polled
	APIKey          string        `koanf:"api_key"`          // secret: the node provider's key
	RegistryAddress string        `koanf:"registry_address"` // of the network unless set
	Confirmations   uint64        `koanf:"confirmations"`    // blocks on top of a channel's opening before it is served
	PollInterval    time.Duration `koanf:"poll_interval"`    // between two questions for the newest block
	MaxBlockAge     time.Duration `koanf:"max_block_age"`    // after this long without an answer paid calls are refused
	RequestTimeout  time.Duration `koanf:"request_timeout"`  // of one request to the node
}

type network struct {
	chainID  uint64
	registry string
	rpcURL   string
}

// The Registry addresses are those published with the contracts.
var networks = map[string]network{
	NetworkMainnet: {
		chainID:  1,
		registry: "0x247DEbEBB766E4fA99667265A158060018D5f4F8",
		rpcURL:   "https://ethereum-rpc.publicnode.com",
	},
	NetworkSepolia: {
		chainID:  11155111,
		registry: "0x4DCc70c6FCE4064803f0ae0cE48497B3f7182e5D",
		rpcURL:   "https://ethereum-sepolia-rpc.publicnode.com",
	},
}

// DefaultSettings has every value that has a default. Chain id, Registry and RPC
// URL follow from the network when Validate is called.
func DefaultSettings() Settings {
	return Settings{
		Enabled:        true,
		Network:        NetworkSepolia,
		PollInterval:   2 * time.Second,
		MaxBlockAge:    5 * time.Minute,
		RequestTimeout: 10 * time.Second,
	}
}

// Validate fills in what follows from the network and checks the rest. The
// error joins a sentence for every fault.
func (s *Settings) Validate() error {
	if !s.Enabled {
		return nil
	}
	return errors.Join(
		s.fillFromNetwork(),
		s.validateAddresses(),
		validateURL("blockchain.rpc_url", s.RPCURL, s.APIKey, "http", "https"),
		s.validateWebSocket(),
		s.validateTimes(),
	)
}

func (s *Settings) fillFromNetwork() error {
	if s.Network == NetworkCustom {
		if s.ChainID == 0 {
			return errors.New("blockchain.chain_id is missing: with blockchain.network custom set the chain id of the node at blockchain.rpc_url")
		}
		return nil
	}
	known, ok := networks[s.Network]
	if !ok {
		return fmt.Errorf("blockchain.network is %q: use mainnet, sepolia or custom", s.Network)
	}
	if s.ChainID != 0 && s.ChainID != known.chainID {
		return fmt.Errorf("blockchain.chain_id is %d, but %s has chain id %d: remove chain_id or set blockchain.network to custom",
			s.ChainID, s.Network, known.chainID)
	}
	s.ChainID = known.chainID
	if s.RegistryAddress == "" {
		s.RegistryAddress = known.registry
	}
	if s.RPCURL == "" {
		s.RPCURL = known.rpcURL
	}
	return nil
}

func (s *Settings) validateAddresses() error {
	if s.RegistryAddress == "" {
		return nil // metadata may come from files
	}
	if !common.IsHexAddress(s.RegistryAddress) || s.Registry() == (common.Address{}) {
		return fmt.Errorf("blockchain.registry_address is %q: set a non-zero address of 40 hex digits with 0x in front", s.RegistryAddress)
	}
	return nil
}

func (s *Settings) validateWebSocket() error {
	if s.WebSocketURL == "" {
		return nil
	}
	return validateURL("blockchain.websocket_url", s.WebSocketURL, s.APIKey, "ws", "wss")
}

func (s *Settings) validateTimes() error {
	return errors.Join(
		validateDuration("blockchain.poll_interval", s.PollInterval, 50*time.Millisecond, 10*time.Minute),
		validateDuration("blockchain.request_timeout", s.RequestTimeout, 100*time.Millisecond, 5*time.Minute),
		validateDuration("blockchain.max_block_age", s.MaxBlockAge, time.Second, 24*time.Hour),
		s.validateBlockAge(),
		s.validateConfirmations(),
	)
}

func (s *Settings) validateBlockAge() error {
	if s.PollInterval > 0 && s.MaxBlockAge >= time.Second && s.MaxBlockAge < 2*s.PollInterval {
		return fmt.Errorf("blockchain.max_block_age is %s with blockchain.poll_interval %s: one missed poll would refuse every call, set at least twice the interval",
			s.MaxBlockAge, s.PollInterval)
	}
	return nil
}

func (s *Settings) validateConfirmations() error {
	if s.Confirmations > maxConfirmations {
		return fmt.Errorf("blockchain.confirmations is %d: nodes keep the state of 128 blocks, set at most %d", s.Confirmations, maxConfirmations)
	}
	return nil
}

func validateDuration(key string, value, lowest, highest time.Duration) error {
	if value < lowest || value > highest {
		return fmt.Errorf("%s is %s: set a time from %s to %s, such as 2s", key, value, lowest, highest)
	}
	return nil
}

// validateURL never shows the value: a path, a query or user information of a
// node's URL is often its key.
func validateURL(key, value, apiKey string, schemes ...string) error {
	example := schemes[len(schemes)-1] + "://node.example:8545"
	if value == "" {
		return fmt.Errorf("%s is missing: set the URL of a node, such as %s", key, example)
	}
	parsed, err := url.Parse(value)
	if err != nil {
		return fmt.Errorf("%s is not a URL (not shown, it may hold a key): set one such as %s", key, example)
	}
	if parsed.Host == "" || (parsed.Scheme != schemes[0] && parsed.Scheme != schemes[1]) {
		return fmt.Errorf("%s needs the scheme %s or %s and a host (value not shown, it may hold a key): set one such as %s",
			key, schemes[0], schemes[1], example)
	}
	if parsed.User != nil && apiKey != "" {
		return fmt.Errorf("%s holds user information and blockchain.api_key is set too: keep one of them", key)
	}
	return nil
}

// Registry is RegistryAddress in binary form, zero when not set.
func (s *Settings) Registry() common.Address {
	return common.HexToAddress(s.RegistryAddress)
}

// String shows the settings without their secrets.
func (s Settings) String() string {
	if !s.Enabled {
		return "blockchain off"
	}
	return fmt.Sprintf("%s (chain id %d), node %s, Registry %s", s.Network, s.ChainID, RedactURL(s.RPCURL), s.RegistryAddress)
}

// GoString keeps %#v from showing the secrets.
func (s Settings) GoString() string { return s.String() }

// RedactURL leaves of a URL what is safe to show: scheme, host and port.
func RedactURL(text string) string {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Host == "" {
		return "(not shown)"
	}
	return strings.ToLower(parsed.Scheme) + "://" + parsed.Host
}
