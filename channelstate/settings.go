package channelstate

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
)

// The stores a process can keep its channel state in.
const (
	StoreEmbedded = "embedded" // etcd inside this process, on disk
	StoreEtcd     = "etcd"     // an etcd cluster
	StoreMemory   = "memory"   // lost when the process ends
)

// Settings say where channel state is kept and how much of it is held in memory.
type Settings struct {
	Store           string           `koanf:"store" help:"Where channel state is kept: embedded (etcd in this process, on disk), etcd (a cluster) or memory (lost at the end, for tests)."`
	Etcd            EtcdSettings     `koanf:"etcd"`
	Embedded        EmbeddedSettings `koanf:"embedded"`
	RefundRetention time.Duration    `koanf:"refund_retention" help:"How long a refund is remembered, so that one delivered twice counts once; later refunds are refused."`
	CachedChannels  int              `koanf:"cached_channels" help:"Channels whose records are held in memory."`
	WaitingCalls    int              `koanf:"waiting_calls" help:"Calls that may wait on one channel; more are answered unavailable."`
}

// EtcdSettings say how the cluster of store etcd is reached. KeyPrefix and RequestTimeout hold for store embedded as well.
type EtcdSettings struct {
	Endpoints      []string      `koanf:"endpoints" help:"URLs of the cluster; empty takes the storage endpoints of the organization's metadata."`
	CAFile         string        `koanf:"ca_file" help:"Certificate authority of the cluster (PEM)."`
	CertFile       string        `koanf:"cert_file" help:"Client certificate (PEM)."`
	KeyFile        string        `koanf:"key_file" help:"Key of the client certificate (PEM)."`
	Username       string        `koanf:"username" help:"User of the cluster, when it asks for one."`
	Password       string        `koanf:"password" secret:"true" help:"Password of etcd.username."`
	KeyPrefix      string        `koanf:"key_prefix" help:"What all keys begin with."`
	DialTimeout    time.Duration `koanf:"dial_timeout" help:"How long connecting may take."`
	RequestTimeout time.Duration `koanf:"request_timeout" help:"How long one request may take; a call waits for at most three."`
}

// EmbeddedSettings are those of the etcd inside this process.
type EmbeddedSettings struct {
	DataDir         string `koanf:"data_dir" help:"Folder of the embedded etcd; it must survive a restart."`
	Name            string `koanf:"name" help:"Name of the embedded etcd member."`
	ListenClientURL string `koanf:"listen_client_url" help:"Loopback URL on which etcdctl may ask the embedded etcd; empty opens no port."`
	ListenPeerURL   string `koanf:"listen_peer_url" help:"URL of the member itself; empty takes one that nobody else can reach."`
	QuotaBytes      int64  `koanf:"quota_bytes" help:"Largest size of the database."`
}

// DefaultSettings work for one machine without a change.
func DefaultSettings() Settings {
	return Settings{
		Store: StoreEmbedded,
		Etcd: EtcdSettings{
			KeyPrefix:      "/mpegate",
			DialTimeout:    5 * time.Second,
			RequestTimeout: 2 * time.Second,
		},
		Embedded: EmbeddedSettings{
			DataDir:    "mpegate-state",
			Name:       "mpegate",
			QuotaBytes: 4 << 30,
		},
		RefundRetention: 24 * time.Hour,
		CachedChannels:  20_000,
		WaitingCalls:    256,
	}
}

// Bounds that keep a mistyped number from becoming an outage.
const (
	minRefundRetention = time.Minute
	maxRefundRetention = 30 * 24 * time.Hour
	minTimeout         = 10 * time.Millisecond
	maxTimeout         = time.Minute
	minQuota           = 64 << 20
	maxCachedChannels  = 10_000_000
	maxWaitingCalls    = 100_000
)

// Validate names every setting that cannot be used, its value and what to write instead.
func (s *Settings) Validate() error {
	var faults []error
	fault := func(format string, arguments ...any) {
		faults = append(faults, fmt.Errorf(format, arguments...))
	}
	within := func(key string, value, least, most time.Duration, example string) {
		if value < least || value > most {
			fault("%s is %s: write a duration from %s to %s, such as %s", key, value, least, most, example)
		}
	}
	switch s.Store {
	case StoreEmbedded:
		s.Embedded.validate(fault)
	case StoreEtcd, StoreMemory:
	default:
		fault("store is %q: write embedded, etcd or memory", s.Store)
	}
	within("refund_retention", s.RefundRetention, minRefundRetention, maxRefundRetention, "24h")
	within("etcd.dial_timeout", s.Etcd.DialTimeout, minTimeout, maxTimeout, "5s")
	within("etcd.request_timeout", s.Etcd.RequestTimeout, minTimeout, maxTimeout, "2s")
	if s.CachedChannels < 1 || s.CachedChannels > maxCachedChannels {
		fault("cached_channels is %d: write a number from 1 to %d", s.CachedChannels, maxCachedChannels)
	}
	if s.WaitingCalls < 1 || s.WaitingCalls > maxWaitingCalls {
		fault("waiting_calls is %d: write a number from 1 to %d", s.WaitingCalls, maxWaitingCalls)
	}
	s.Etcd.validate(fault)
	return errors.Join(faults...)
}

func (s *EtcdSettings) validate(fault func(string, ...any)) {
	if !strings.HasPrefix(s.KeyPrefix, "/") || s.KeyPrefix == "/" || path.Clean(s.KeyPrefix) != s.KeyPrefix {
		fault("etcd.key_prefix is %q: write a path such as /mpegate, without a slash at its end", s.KeyPrefix)
	}
	if (s.CertFile == "") != (s.KeyFile == "") {
		fault("etcd.cert_file is %q and etcd.key_file is %q: set both or none", s.CertFile, s.KeyFile)
	}
	if s.Password != "" && s.Username == "" {
		fault("etcd.password is set and etcd.username is not: set both or none")
	}
	if err := checkEndpoints("etcd.endpoints", s.Endpoints, s.CAFile != "" || s.CertFile != ""); err != nil {
		fault("%w", err)
	}
}

func (s *EmbeddedSettings) validate(fault func(string, ...any)) {
	if s.DataDir == "" {
		fault("embedded.data_dir is empty: name the folder for channel state")
	}
	if s.Name == "" {
		fault("embedded.name is empty: write a name such as mpegate")
	}
	if s.QuotaBytes < minQuota {
		fault("embedded.quota_bytes is %d: write at least %d", s.QuotaBytes, minQuota)
	}
	if _, err := s.listenURL(); err != nil {
		fault("%w", err)
	}
}
