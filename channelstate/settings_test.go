package channelstate

import (
	"strings"
	"testing"
	"time"
)

func TestDefaultSettingsAreValid(t *testing.T) {
	for _, store := range []string{StoreEmbedded, StoreEtcd, StoreMemory} {
		settings := DefaultSettings()
		settings.Store = store
		if err := settings.Validate(); err != nil {
			t.Errorf("%s: %v", store, err)
		}
	}
}

func TestSettingsFaults(t *testing.T) {
	for fault, change := range map[string]func(*Settings){
		`store is "redis": write embedded, etcd or memory`:  func(s *Settings) { s.Store = "redis" },
		"refund_retention is 1s: write a duration from":     func(s *Settings) { s.RefundRetention = time.Second },
		"etcd.dial_timeout is 0s":                           func(s *Settings) { s.Etcd.DialTimeout = 0 },
		"etcd.request_timeout is 1h0m0s":                    func(s *Settings) { s.Etcd.RequestTimeout = time.Hour },
		"cached_channels is 0":                              func(s *Settings) { s.CachedChannels = 0 },
		"waiting_calls is -1":                               func(s *Settings) { s.WaitingCalls = -1 },
		`etcd.key_prefix is "mpegate"`:                      func(s *Settings) { s.Etcd.KeyPrefix = "mpegate" },
		`etcd.key_prefix is "/a/"`:                          func(s *Settings) { s.Etcd.KeyPrefix = "/a/" },
		`etcd.cert_file is "c.pem" and etcd.key_file is ""`: func(s *Settings) { s.Etcd.CertFile = "c.pem" },
		"etcd.password is set and etcd.username is not":     func(s *Settings) { s.Etcd.Password = "hidden" },
		"etcd.endpoints[1]":                                 func(s *Settings) { s.Etcd.Endpoints = []string{"http://a:2379", ""} },
		"embedded.data_dir is empty":                        func(s *Settings) { s.Embedded.DataDir = "" },
		"embedded.name is empty":                            func(s *Settings) { s.Embedded.Name = "" },
		"embedded.quota_bytes is 1: write at least":         func(s *Settings) { s.Embedded.QuotaBytes = 1 },
		`embedded.listen_client_url is "http://0.0.0.0:1"`:  func(s *Settings) { s.Embedded.ListenClientURL = "http://0.0.0.0:1" },
	} {
		settings := DefaultSettings()
		change(&settings)
		err := settings.Validate()
		if err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("want %s\ngot %v", fault, err)
		}
		if err != nil && strings.Contains(err.Error(), "hidden") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}
