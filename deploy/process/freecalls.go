package process

import (
	"context"
	"fmt"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// openFreeCalls reads or makes the key of free-call tokens, and tells the operator whether there are free calls, now
// and whenever the metadata changes that.
func (p *process) openFreeCalls(
	ctx context.Context, opened *channelstate.Opened, group channelstate.Group, metadata *blockchain.MetadataFollower, balances channelstate.Balances,
) (*channelstate.FreeCalls, error) {
	free, err := channelstate.OpenFreeCalls(ctx, channelstate.FreeCallParts{
		Stores: func(channelstate.FreeCallUser) channelstate.FreeCallStore { return opened.FreeCalls() },
		Shared: opened.Shared(), Balances: balances, Logger: p.logger.Logger,
	}, group, p.settings.FreeCalls, p.settings.ChannelState)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", partState, qualify("free_calls", err))
	}
	status := free.Status(metadata.Current())
	p.logger.Info(status)
	metadata.OnChange(func(current *blockchain.Metadata) {
		if changed := free.Status(current); changed != status {
			status = changed
			p.logger.Info(changed)
		}
	})
	return free, nil
}
