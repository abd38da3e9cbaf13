package process

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/mpegate/mpegate/authz"
	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// payments are the parts that a payment decision asks; nil fields while blockchain.enabled is false.
type payments struct {
	head     *blockchain.Head
	metadata *blockchain.MetadataFollower
	channels *blockchain.ChannelCache
	state    *channelstate.Opened
	ledger   *channelstate.Ledger
	turn     *channelstate.Switch // the operators' one
	tokens   *channelstate.Tokens
	free     *channelstate.FreeCalls
}

// startPayments reaches the chain, loads the metadata and opens the channel state.
func (p *process) startPayments(ctx context.Context) (*payments, error) {
	if !p.settings.Blockchain.Enabled {
		return &payments{}, nil
	}
	client, head, err := p.startChain(ctx)
	if err != nil {
		return nil, err
	}
	metadata, err := p.startMetadata(ctx, client)
	if err != nil {
		return nil, err
	}
	// The group's endpoints and the contract's address come from the metadata, so it is loaded before the rest.
	current := metadata.Current()
	escrow, err := blockchain.NewEscrow(current.Service.MPE, client)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", partChain, err)
	}
	channels := blockchain.NewChannelCache(escrow, head, p.settings.Blockchain, p.logger.Logger)
	p.background(partChain, head.Run)
	p.background(partMetadata, metadata.Run)
	opened, err := p.openState(ctx, current.Group.StorageEndpoints)
	if err != nil {
		return nil, err
	}
	ledger := channelstate.NewLedger(func(channelstate.Key) channelstate.Store { return opened.Store }, p.settings.ChannelState, p.logger.Logger)
	p.onStop("ledger", ledger.Close)
	group := channelstate.Group{ChainID: p.settings.Blockchain.ChainID, MPE: current.Service.MPE, GroupID: current.Group.ID}
	turn, err := p.openSwitch(ctx, opened.Shared(), group)
	if err != nil {
		return nil, err
	}
	tokens, err := p.openTokens(ctx, opened.Shared(), group)
	if err != nil {
		return nil, err
	}
	free, err := p.openFreeCalls(ctx, opened, group, metadata, blockchain.NewTokenBalances(escrow, p.settings.Blockchain))
	if err != nil {
		return nil, err
	}
	parts := &payments{
		head: head, metadata: metadata, channels: channels, state: opened, ledger: ledger, turn: turn, tokens: tokens, free: free,
	}
	if err := p.openDesk(client, parts); err != nil {
		return nil, err
	}
	return parts, p.registerPayments(client, head, metadata, channels, ledger)
}

func (p *process) startChain(ctx context.Context) (*blockchain.Client, *blockchain.Head, error) {
	settings := p.settings.Blockchain
	client, err := reach(ctx, p, partChain, func(ctx context.Context) (*blockchain.Client, error) {
		return blockchain.Dial(ctx, settings)
	})
	if err != nil {
		return nil, nil, err
	}
	p.onStop("chain connection", func(context.Context) error { client.Close(); return nil })
	head := blockchain.NewHead(client, settings, p.logger.Logger)
	block, err := reach(ctx, p, partChain, head.Latest)
	if err != nil {
		return nil, nil, err
	}
	p.parts.Started(partChain, func(context.Context) error {
		_, err := head.Block()
		return err
	})
	p.logger.Info("chain node reached", zap.String("chain", settings.String()), zap.Uint64("block", block.Number))
	return client, head, nil
}

func (p *process) startMetadata(ctx context.Context, client *blockchain.Client) (*blockchain.MetadataFollower, error) {
	settings := p.settings.Metadata
	var registry *blockchain.Registry
	if !settings.FromFiles() {
		var err error
		if registry, err = blockchain.NewRegistry(p.settings.Blockchain.Registry(), client); err != nil {
			return nil, fmt.Errorf("%s: blockchain.registry_address: %w", partMetadata, err)
		}
	}
	follower := blockchain.NewMetadataFollower(registry, blockchain.NewFetcher(settings, p.logger.Logger), settings, p.logger.Logger)
	if _, err := reach(ctx, p, partMetadata, follower.Load); err != nil { // it logs what is in force
		return nil, err
	}
	p.parts.Started(partMetadata, func(context.Context) error {
		if follower.Current() == nil {
			return errors.New("no metadata is loaded")
		}
		return nil
	})
	return follower, nil
}

// openState opens the store. It waits on its own for a cluster that is away, by the settings of channel_state.
func (p *process) openState(ctx context.Context, endpoints []string) (*channelstate.Opened, error) {
	p.parts.Say(partState, "opening "+p.settings.storePlace())
	began := time.Now()
	opened, err := channelstate.Open(ctx, p.settings.ChannelState, endpoints, p.logger.Logger)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", partState, qualify("channel_state", err))
	}
	stopped := make(chan struct{})
	p.goRun(partState, func() error {
		select {
		case <-opened.Failed():
			return errors.New("the store has stopped for good, see the log; start again once its cause is mended")
		case <-stopped:
			return nil
		}
	})
	p.onStop(partState, func(ctx context.Context) error {
		close(stopped)
		return inTime(ctx, opened.Close)
	})
	p.parts.Started(partState, opened.Ready)
	p.logger.Info("channel state is ready", zap.String("store", p.settings.storePlace()), zap.Duration("took", time.Since(began).Round(time.Millisecond)))
	return opened, nil
}

// inTime bounds a step that takes no context.
func inTime(ctx context.Context, step func() error) error {
	done := make(chan error, 1)
	go func() { done <- step() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.New("did not end in time")
	}
}

// decider makes the payment decision from its parts.
func (p *process) decider(parts *payments) (*authz.Server, error) {
	dependencies := authz.Dependencies{
		WithoutPayment: !p.settings.Blockchain.Enabled, ChainID: p.settings.Blockchain.ChainID,
		Logger: p.logger.Logger, Registerer: p.metrics,
	}
	if p.settings.Blockchain.Enabled {
		dependencies.Channels, dependencies.Head, dependencies.Ledger = parts.channels, parts.head, parts.ledger
		dependencies.Metadata, dependencies.Switch, dependencies.Tokens = parts.metadata.Current, parts.turn, parts.tokens
		dependencies.FreeCalls = parts.free
	}
	return authz.NewServer(p.settings.decision(), dependencies)
}
