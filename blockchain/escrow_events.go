package blockchain

import (
	"context"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/holiman/uint256"
)

// EventKind says what an MPE event did to a channel.
type EventKind uint8

// The kinds of ChannelEvent.
const (
	ChannelOpened  EventKind = iota + 1
	ChannelRaised            // funds added or expiration moved away: an old copy of the channel stays a lower bound
	ChannelClaimed           // claimed by the recipient or taken back by the sender: nonce and value changed
)

// ChannelEvent is one change of one channel.
type ChannelEvent struct {
	Kind    EventKind
	Channel uint256.Int
	Block   uint64
}

// Events lists what happened to channels in the blocks from up to and including
// to, oldest first.
func (e *Escrow) Events(ctx context.Context, from, to uint64) ([]ChannelEvent, error) {
	logs, err := e.backend.FilterLogs(ctx, ethereum.FilterQuery{
		FromBlock: new(big.Int).SetUint64(from),
		ToBlock:   new(big.Int).SetUint64(to),
		Addresses: []common.Address{e.address},
		Topics:    [][]common.Hash{{topicOpen, topicClaim, topicSenderClaim, topicExtend, topicAddFunds}},
	})
	if err != nil {
		return nil, fmt.Errorf("events of the MPE contract in blocks %d to %d could not be read: %w", from, to, err)
	}
	events := make([]ChannelEvent, 0, len(logs))
	for i := range logs {
		if event, ok := decodeEvent(&logs[i]); ok {
			events = append(events, event)
		}
	}
	return events, nil
}

func decodeEvent(log *types.Log) (ChannelEvent, bool) {
	event := ChannelEvent{Block: log.BlockNumber}
	if len(log.Topics) == 0 {
		return event, false
	}
	switch log.Topics[0] {
	case topicOpen: // the id is the only one that is not indexed
		if len(log.Data) < wordLength {
			return event, false
		}
		event.Kind = ChannelOpened
		setWord(&event.Channel, log.Data, 0)
		return event, true
	case topicClaim, topicSenderClaim:
		event.Kind = ChannelClaimed
	case topicExtend, topicAddFunds:
		event.Kind = ChannelRaised
	default:
		return event, false
	}
	if len(log.Topics) < 2 {
		return event, false
	}
	event.Channel.SetBytes32(log.Topics[1][:])
	return event, true
}
