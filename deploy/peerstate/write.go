package peerstate

import (
	"context"
	"errors"
	"fmt"

	"github.com/mpegate/mpegate/channelstate"
)

// writeAttempts is how often a transaction is sent whose outcome is not known. A store applies it at most once.
const writeAttempts = 3

// Why something is not written when our store fails; the next run writes it.
const (
	reasonFailed     = "could not be written"
	reasonNotReached = "was not reached: our store has failed"
)

// Look finds out what our store has already, and skips it.
func (p *Plan) Look(ctx context.Context, store channelstate.Store, calls channelstate.FreeCallStore) error {
	for _, channel := range p.Channels {
		if channel.Skipped != "" {
			continue
		}
		stored, err := store.Load(ctx, p.place.Group.Key(&channel.ID))
		if err != nil {
			return err
		}
		if stored.Record != nil {
			channel.Skipped = reasonPresent
		}
	}
	for _, calling := range p.FreeCalls {
		stored, err := calls.LoadFreeCalls(ctx, calling.User)
		if err != nil {
			return err
		}
		if stored.Count != nil {
			calling.Skipped = reasonPresent
		}
	}
	return nil
}

// Write writes what Look has left, each channel and each counter in one transaction that our store applies only if it
// has nothing of it. After an error the plan says what was written; running again writes the rest.
func (p *Plan) Write(ctx context.Context, store channelstate.Store, calls channelstate.FreeCallStore) error {
	var fault error
	for _, channel := range p.Channels {
		switch {
		case channel.Skipped != "":
		case fault != nil:
			channel.Skipped = reasonNotReached
		default:
			if fault = p.writeChannel(ctx, store, channel); fault != nil {
				channel.Skipped = reasonFailed
			}
		}
	}
	for _, calling := range p.FreeCalls {
		switch {
		case calling.Skipped != "":
		case fault != nil:
			calling.Skipped = reasonNotReached
		default:
			if fault = p.writeFreeCalls(ctx, calls, calling); fault != nil {
				calling.Skipped = reasonFailed
			}
		}
	}
	return fault
}

func (p *Plan) writeChannel(ctx context.Context, store channelstate.Store, channel *Channel) error {
	transaction := &channelstate.Transaction{Key: p.place.Group.Key(&channel.ID), Record: channel.Record, Claims: channel.Claims}
	result, err := attempt(func() (channelstate.Result, error) { return store.Commit(ctx, transaction) })
	if err != nil {
		return fmt.Errorf("channel %s: %w", channel.ID.Dec(), err)
	}
	found := result.Stored.Record
	// Not applied and yet ours: an earlier attempt was.
	if channel.Written = result.Applied || found != nil && found.Batch == channel.Record.Batch; !channel.Written {
		channel.Skipped = reasonPresent
	}
	return nil
}

func (p *Plan) writeFreeCalls(ctx context.Context, store channelstate.FreeCallStore, calling *FreeCalls) error {
	batch := newBatch()
	transaction := &channelstate.FreeCallTransaction{
		User: calling.User, Count: &channelstate.FreeCallCount{Used: calling.Used, Writes: []channelstate.BatchID{batch}},
	}
	result, err := attempt(func() (channelstate.FreeCallResult, error) { return store.CommitFreeCalls(ctx, transaction) })
	if err != nil {
		return fmt.Errorf("free calls of %s: %w", calling.User.Address, err)
	}
	found := result.Stored.Count
	if calling.Written = result.Applied || found != nil && len(found.Writes) > 0 && found.Writes[0] == batch; !calling.Written {
		calling.Skipped = reasonPresent
	}
	return nil
}

func attempt[R any](commit func() (R, error)) (result R, err error) {
	for range writeAttempts {
		if result, err = commit(); !errors.Is(err, channelstate.ErrOutcomeUnknown) {
			break
		}
	}
	return result, err
}
