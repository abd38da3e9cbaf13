package blockchain

import (
	"strings"
	"testing"
	"time"
)

func TestSettingsFollowFromTheNetwork(t *testing.T) {
	for network, want := range networks {
		settings := DefaultSettings()
		settings.Network = network
		if err := settings.Validate(); err != nil {
			t.Errorf("%s: %v", network, err)
		}
		if settings.ChainID != want.chainID || settings.RegistryAddress != want.registry || settings.RPCURL != want.rpcURL {
			t.Errorf("%s became %v", network, settings)
		}
		// What is set stays, and validating twice changes nothing.
		settings.RPCURL, settings.RegistryAddress = "http://127.0.0.1:8545", "0x00000000000000000000000000000000000000aa"
		if err := settings.Validate(); err != nil || settings.RPCURL != "http://127.0.0.1:8545" || settings.Registry()[19] != 0xaa {
			t.Errorf("%s: %v, %v", network, settings, err)
		}
	}
	custom := Settings{Enabled: true, Network: NetworkCustom, ChainID: 1337, RPCURL: "http://127.0.0.1:8545",
		PollInterval: time.Second, MaxBlockAge: time.Minute, RequestTimeout: time.Second}
	if err := custom.Validate(); err != nil {
		t.Error(err)
	}
	off := Settings{Network: "nonsense"}
	if err := off.Validate(); err != nil {
		t.Errorf("with blockchain off: %v", err)
	}
}

func TestSettingsFaultsNameKeyAndFix(t *testing.T) {
	tests := map[string]struct {
		spoil func(*Settings)
		want  []string
	}{
		"network":          {func(s *Settings) { s.Network = "goerli" }, []string{"blockchain.network", "goerli", "sepolia"}},
		"custom, no chain": {func(s *Settings) { s.Network = NetworkCustom }, []string{"blockchain.chain_id", "missing"}},
		"custom, no node":  {func(s *Settings) { s.Network, s.ChainID = NetworkCustom, 5 }, []string{"blockchain.rpc_url", "missing"}},
		"chain id":         {func(s *Settings) { s.ChainID = 1 }, []string{"blockchain.chain_id", "11155111", "custom"}},
		"scheme":           {func(s *Settings) { s.RPCURL = "ws://node.example" }, []string{"blockchain.rpc_url", "https://"}},
		"socket scheme":    {func(s *Settings) { s.WebSocketURL = "https://node.example" }, []string{"blockchain.websocket_url", "wss://"}},
		"no host":          {func(s *Settings) { s.RPCURL = "https:///path" }, []string{"blockchain.rpc_url", "host"}},
		"two keys": {func(s *Settings) { s.RPCURL, s.APIKey = "https://user:pass@node.example", "key" },
			[]string{"blockchain.rpc_url", "blockchain.api_key"}},
		"registry":       {func(s *Settings) { s.RegistryAddress = "0x12" }, []string{"blockchain.registry_address", "0x12"}},
		"zero registry":  {func(s *Settings) { s.RegistryAddress = "0x" + strings.Repeat("0", 40) }, []string{"blockchain.registry_address"}},
		"confirmations":  {func(s *Settings) { s.Confirmations = 500 }, []string{"blockchain.confirmations", "500", "100"}},
		"poll":           {func(s *Settings) { s.PollInterval = 0 }, []string{"blockchain.poll_interval", "0s"}},
		"timeout":        {func(s *Settings) { s.RequestTimeout = time.Hour }, []string{"blockchain.request_timeout", "1h"}},
		"age":            {func(s *Settings) { s.MaxBlockAge = -1 }, []string{"blockchain.max_block_age"}},
		"age below poll": {func(s *Settings) { s.MaxBlockAge, s.PollInterval = time.Minute, 50*time.Second }, []string{"blockchain.max_block_age", "twice"}},
	}
	for name, test := range tests {
		settings := DefaultSettings()
		test.spoil(&settings)
		err := settings.Validate()
		for _, part := range test.want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want %q in it", name, err, part)
			}
		}
	}
	all := Settings{Enabled: true, Network: "x", RPCURL: "x", RegistryAddress: "x", WebSocketURL: "x"}
	if err := all.Validate(); strings.Count(err.Error(), "blockchain.") < 6 {
		t.Errorf("not every fault is named: %v", err)
	}
}

func TestRedactURL(t *testing.T) {
	for url, want := range map[string]string{
		"https://user:pass@Node.example:8545/v3/key?x=y": "https://Node.example:8545",
		"WSS://node.example/key":                         "wss://node.example",
		"key":                                            "(not shown)",
		"http://bad host/key":                            "(not shown)",
		"":                                               "(not shown)",
	} {
		if got := RedactURL(url); got != want {
			t.Errorf("RedactURL(%q) = %q, want %q", url, got, want)
		}
	}
}
