package authz

import (
	"strings"
	"testing"
	"time"
)

func TestDefaultSettings(t *testing.T) {
	settings := DefaultSettings()
	if err := settings.Validate(); err != nil {
		t.Error(err)
	}
	if !settings.Settlement.RefundOnClientCancel {
		t.Error("a client that goes away before any answer gets its money back by default")
	}
}

func TestSettingsFaults(t *testing.T) {
	cases := []struct {
		change func(*Settings)
		phrase string
	}{
		{func(s *Settings) { s.CheckTimeout = 0 }, "check_timeout is 0s: write a duration"},
		{func(s *Settings) { s.CheckTimeout = 5 * time.Second }, "check_timeout is 5s"},
		{func(s *Settings) { s.Settlement.Workers = 0 }, "settlement.workers is 0: write a number from 1"},
		{func(s *Settings) { s.Settlement.QueueLength = -1 }, "settlement.queue_length is -1"},
		{func(s *Settings) { s.Settlement.RetryFor = 2 * time.Hour }, "settlement.retry_for is 2h0m0s"},
		{func(s *Settings) { s.AllowList.Enabled = true }, "allow_list.addresses has 0 addresses"},
		{func(s *Settings) { s.AllowList = AllowListSettings{true, []string{"0x12"}} }, `allow_list.addresses[0] is "0x12": write an address`},
		{func(s *Settings) {
			s.AllowList = AllowListSettings{true, []string{testMPE.Hex(), "0x" + strings.Repeat("0", 40)}}
		}, "allow_list.addresses[1]"},
	}
	for _, test := range cases {
		settings := DefaultSettings()
		test.change(&settings)
		err := settings.Validate()
		if err == nil || !strings.Contains(err.Error(), test.phrase) {
			t.Errorf("got %v, want %s", err, test.phrase)
		}
		if _, err := NewServer(settings, Dependencies{WithoutPayment: true}); err == nil {
			t.Error("a server was made with it")
		}
	}
	all := Settings{}
	if err := all.Validate(); err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("not all faults are told at once: %v", err)
	}
}

func TestAllowListOnMainnet(t *testing.T) {
	settings := DefaultSettings()
	settings.AllowList = AllowListSettings{true, []string{testMPE.Hex()}}
	for _, test := range []struct {
		enabled bool
		network string
		refused bool
	}{{true, "mainnet", true}, {true, "Mainnet", true}, {true, "sepolia", false}, {true, "custom", false}, {false, "mainnet", false}} {
		if err := settings.ValidateNetwork(test.enabled, test.network); (err != nil) != test.refused {
			t.Errorf("%+v: %v", test, err)
		}
	}
	settings.AllowList.Enabled = false
	if err := settings.ValidateNetwork(true, "mainnet"); err != nil {
		t.Error(err)
	}
}

func TestServerNeedsItsParts(t *testing.T) {
	if _, err := NewServer(DefaultSettings(), Dependencies{}); err == nil {
		t.Error("a server without a ledger was made")
	}
}
