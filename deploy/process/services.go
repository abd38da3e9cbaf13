package process

import (
	"google.golang.org/grpc"

	"github.com/mpegate/mpegate/channelstate/proto/configuration"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/channelstate/service"
)

// registerServices adds the public services that read or move the state of channels.
func (p *process) registerServices(server *grpc.Server, parts *payments) error {
	if !p.settings.Blockchain.Enabled {
		escrow.RegisterPaymentChannelStateServiceServer(server, service.WithoutBlockchain{})
		escrow.RegisterTokenServiceServer(server, service.TokenWithoutBlockchain{})
		escrow.RegisterFreeCallStateServiceServer(server, service.FreeCallsWithoutBlockchain{})
		escrow.RegisterProviderControlServiceServer(server, service.ControlWithoutBlockchain{})
		configuration.RegisterConfigurationServiceServer(server, service.ConfigurationWithoutBlockchain{})
		return nil
	}
	operators, err := p.settings.Operators.compile()
	if err != nil {
		return err
	}
	chainID := p.settings.Blockchain.ChainID
	escrow.RegisterPaymentChannelStateServiceServer(server, service.NewChannelStateService(
		parts.ledger, parts.channels, parts.head, parts.metadata.Current, chainID))
	escrow.RegisterTokenServiceServer(server, service.NewTokenService(service.Prepaid{
		Credits: parts.ledger, Tokens: parts.tokens, Channels: parts.channels, Head: parts.head,
		Metadata: parts.metadata.Current, ChainID: chainID,
	}))
	escrow.RegisterFreeCallStateServiceServer(server, service.NewFreeCallStateService(parts.free, parts.head, parts.metadata.Current))
	escrow.RegisterProviderControlServiceServer(server, service.NewControlService(service.Control{
		Claims: parts.ledger, Lists: parts.state.Store, Channels: parts.channels, Head: parts.head,
		Metadata: parts.metadata.Current, ChainID: chainID, Logger: p.logger.Logger,
	}))
	configuration.RegisterConfigurationServiceServer(server, service.NewConfigurationService(service.Configuration{
		Operators: operators, Switch: parts.turn, Head: parts.head, Settings: p.configuration, Logger: p.logger.Logger,
	}))
	return nil
}
