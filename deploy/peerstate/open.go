package peerstate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// Source says where the peer's etcd is. It asks for no user.
type Source struct {
	Endpoints                 []string // empty: those of the organization's metadata
	CAFile, CertFile, KeyFile string
	Network                   string // as the peer names it; empty: as our settings do
}

// Dial makes a client of the peer's etcd.
func (s *Source) Dial(settings *channelstate.EtcdSettings) (*clientv3.Client, error) {
	if len(s.Endpoints) == 0 {
		return nil, errors.New("the organization's metadata names no storage endpoints: name the etcd of snetd by --from URL")
	}
	config := clientv3.Config{Endpoints: s.Endpoints, DialTimeout: settings.DialTimeout, MaxCallRecvMsgSize: 64 << 20, Logger: zap.NewNop()}
	if s.CAFile != "" || s.CertFile != "" || strings.HasPrefix(s.Endpoints[0], "https:") {
		files := transport.TLSInfo{TrustedCAFile: s.CAFile, CertFile: s.CertFile, KeyFile: s.KeyFile}
		var err error
		if config.TLS, err = files.ClientConfig(); err != nil {
			return nil, fmt.Errorf("--from-ca, --from-cert and --from-key cannot be used: %w", err)
		}
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	return client, nil
}

// Ours are the settings of the service that takes the state over.
type Ours struct {
	Chain    blockchain.Settings
	Metadata blockchain.MetadataSettings
	State    channelstate.Settings
}

// Import reads the peer's state and, with write, puts into our store what is not there yet. The report is there also
// with an error of our store.
func Import(ctx context.Context, source Source, ours Ours, write bool) (report *Report, err error) {
	if ours.State.Store == channelstate.StoreMemory {
		return nil, errors.New("channel_state.store is memory, which ends with the process: set it to embedded or etcd")
	}
	metadata, err := load(ctx, &ours)
	if err != nil {
		return nil, err
	}
	if len(source.Endpoints) == 0 {
		source.Endpoints = metadata.Group.StorageEndpoints
	}
	if source.Network == "" {
		source.Network = ours.Chain.Network
	}
	client, err := source.Dial(&ours.State.Etcd)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	place := Place{
		Network: source.Network, Organization: ours.Metadata.OrganizationID, GroupText: metadata.Group.IDText,
		Group: channelstate.Group{ChainID: ours.Chain.ChainID, MPE: metadata.Service.MPE, GroupID: metadata.Group.ID},
	}
	entries, err := Read(ctx, client, &place)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("the etcd at %s has no key that begins with %q: is it the one of snetd, and is --from-network what snetd was set to?",
			strings.Join(source.Endpoints, ", "), place.base())
	}
	plan := NewPlan(place, entries)
	return apply(ctx, plan, ours.State, metadata.Group.StorageEndpoints, write)
}

func apply(ctx context.Context, plan *Plan, settings channelstate.Settings, endpoints []string, write bool) (report *Report, err error) {
	if !write && settings.Store == channelstate.StoreEmbedded {
		if _, err := os.Stat(settings.Embedded.DataDir); errors.Is(err, os.ErrNotExist) {
			return plan.Report(false), nil // a dry run does not make an empty store
		}
	}
	store, err := channelstate.Open(ctx, settings, endpoints, zap.NewNop())
	if err != nil {
		return nil, fmt.Errorf("our channel state cannot be opened: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := plan.Look(ctx, store.Store, store.FreeCalls()); err != nil {
		return nil, err
	}
	if write {
		err = plan.Write(ctx, store.Store, store.FreeCalls())
	}
	return plan.Report(write), err
}

func load(ctx context.Context, ours *Ours) (*blockchain.Metadata, error) {
	client, err := blockchain.Dial(ctx, ours.Chain)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var registry *blockchain.Registry
	if !ours.Metadata.FromFiles() {
		if registry, err = blockchain.NewRegistry(ours.Chain.Registry(), client); err != nil {
			return nil, fmt.Errorf("blockchain.registry_address: %w", err)
		}
	}
	logger := zap.NewNop() // what went wrong is in the errors
	fetcher := blockchain.NewFetcher(ours.Metadata, logger)
	return blockchain.NewMetadataFollower(registry, fetcher, ours.Metadata, logger).Load(ctx)
}
