package desk

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// Place says where the books are.
type Place struct {
	Chain    blockchain.Settings
	Metadata blockchain.MetadataSettings
	State    channelstate.Settings
	Free     channelstate.FreeCallSettings
	Admin    string            // host:port of the running process
	Key      *ecdsa.PrivateKey // nil can only read
}

// Opened is a desk to be closed.
type Opened struct {
	*Desk
	closers []func() error
}

// Close lets go of the books and the node.
func (o *Opened) Close() error {
	var faults []error
	for i := len(o.closers) - 1; i >= 0; i-- {
		faults = append(faults, o.closers[i]())
	}
	return errors.Join(faults...)
}

// Open reaches the books: those of the process that runs at the admin address, or, when nobody listens there, the
// channel state itself.
func Open(ctx context.Context, place Place) (*Opened, error) {
	client, err := blockchain.Dial(ctx, place.Chain)
	if err != nil {
		return nil, err
	}
	opened := &Opened{closers: []func() error{func() error { client.Close(); return nil }}}
	if err := opened.open(ctx, place, client); err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	return opened, nil
}

func (o *Opened) open(ctx context.Context, place Place, client *blockchain.Client) error {
	var books Books = &Remote{Address: place.Admin, Key: place.Key, Block: client.BlockNumber}
	terms, err := books.Terms(ctx)
	switch {
	case errors.Is(err, ErrNobody):
		if books, err = o.openState(ctx, place, client); err != nil {
			return err
		}
		if terms, err = books.Terms(ctx); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		if err := place.matches(&terms); err != nil {
			return err
		}
	}
	chain, err := NewChain(terms.MPE, client)
	if err != nil {
		return err
	}
	o.Desk = &Desk{Books: books, Chain: chain}
	return nil
}

// matches tells whether the process that answered has the books that the settings mean: at the default address
// another service's may.
func (p *Place) matches(terms *Terms) error {
	if terms.Organization == p.Metadata.OrganizationID && terms.GroupName == p.Metadata.GroupName && terms.ChainID == p.Chain.ChainID {
		return nil
	}
	return fmt.Errorf("the mpegate at admin.address %s is of organization %q, group %q on chain %d, the settings are of %q, %q on chain %d: "+
		"give the right one by --admin HOST:PORT", p.Admin, terms.Organization, terms.GroupName, terms.ChainID,
		p.Metadata.OrganizationID, p.Metadata.GroupName, p.Chain.ChainID)
}

func (o *Opened) openState(ctx context.Context, place Place, client *blockchain.Client) (Books, error) {
	switch place.State.Store {
	case channelstate.StoreMemory:
		return nil, fmt.Errorf("channel_state.store is memory, which only the running mpegate has, and none answers at admin.address %s: "+
			"name it by --admin HOST:PORT", place.Admin)
	case channelstate.StoreEmbedded:
		if _, err := os.Stat(place.State.Embedded.DataDir); err != nil { // opening would make an empty one
			return nil, fmt.Errorf("no mpegate answers at admin.address %s, and channel_state.embedded.data_dir cannot be opened: %w; "+
				"a relative folder is looked for in the current one", place.Admin, err)
		}
	}
	var registry *blockchain.Registry
	var err error
	if !place.Metadata.FromFiles() {
		if registry, err = blockchain.NewRegistry(place.Chain.Registry(), client); err != nil {
			return nil, fmt.Errorf("blockchain.registry_address: %w", err)
		}
	}
	logger := zap.NewNop() // what went wrong is in the errors
	follower := blockchain.NewMetadataFollower(registry, blockchain.NewFetcher(place.Metadata, logger), place.Metadata, logger)
	metadata, err := follower.Load(ctx)
	if err != nil {
		return nil, err
	}
	store, err := channelstate.Open(ctx, place.State, metadata.Group.StorageEndpoints, logger)
	if err != nil {
		return nil, fmt.Errorf("no mpegate answers at admin.address %s, and the channel state cannot be opened here: %w; "+
			"where mpegate runs with another admin.address, name it by --admin HOST:PORT", place.Admin, err)
	}
	o.closers = append(o.closers, store.Close)
	ledger := channelstate.NewLedger(func(channelstate.Key) channelstate.Store { return store.Store }, place.State, logger)
	o.closers = append(o.closers, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		return ledger.Close(ctx)
	})
	chain, err := NewChain(metadata.Service.MPE, client)
	if err != nil {
		return nil, err
	}
	terms := TermsOf(metadata, &place.Metadata, place.Chain.ChainID)
	free, err := channelstate.OpenFreeCalls(ctx, channelstate.FreeCallParts{
		Stores: func(channelstate.FreeCallUser) channelstate.FreeCallStore { return store.FreeCalls() }, Shared: store.Shared(),
	}, terms.group(), place.Free, place.State)
	if err != nil {
		return nil, err
	}
	return &Local{Current: func() (Terms, error) { return terms, nil }, Store: store.Store, Ledger: ledger, OnChain: chain, Free: free}, nil
}

const closeTimeout = 10 * time.Second

// TermsOf are the terms of the metadata in force.
func TermsOf(metadata *blockchain.Metadata, settings *blockchain.MetadataSettings, chainID uint64) Terms {
	return Terms{
		Organization: settings.OrganizationID, GroupName: settings.GroupName, ChainID: chainID, MPE: metadata.Service.MPE,
		GroupID: metadata.Group.ID, PaymentAddress: metadata.Group.PaymentAddress, Threshold: metadata.Group.ExpirationThreshold,
	}
}
