package blockchain

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// slowestRefresh is the longest pause between two looks while the node or the source cannot be asked.
	slowestRefresh = 2 * time.Minute
	// maxNotedFaults bounds the faults remembered so that each is logged once.
	maxNotedFaults = 64
)

// MetadataFollower holds the metadata in force and replaces it, whole, when what is published changes.
// Metadata that cannot be used never replaces metadata that can.
type MetadataFollower struct {
	registry uriSource // nil when both documents are files
	fetcher  *Fetcher
	settings MetadataSettings
	logger   *zap.Logger

	current atomic.Pointer[Metadata]
	stats   metadataCounters
	turn    chan struct{} // holds one token: one refresh at a time

	// Used only by the holder of the turn.
	organization, service document // as last seen, in force or not
	inForce               [2][sha256.Size]byte
	refused               [2][sha256.Size]byte // what was seen and found unusable
	refusal               error
	noted                 map[string]bool // faults logged since the last success

	mutex     sync.Mutex
	callbacks []func(*Metadata) // guarded by mutex
}

// uriSource is the part of Registry used here.
type uriSource interface {
	OrganizationURI(ctx context.Context, organizationID string) (string, error)
	ServiceURI(ctx context.Context, organizationID, serviceID string) (string, error)
}

// document is one published file.
type document struct {
	uri    string
	sum    [sha256.Size]byte
	file   fetched
	loaded bool
}

type metadataCounters struct {
	refreshes, changes, failures atomic.Uint64
	lastSuccess                  atomic.Int64 // Unix nanoseconds
}

// MetadataStats counts what a MetadataFollower did, for metrics.
type MetadataStats struct {
	Refreshes   uint64    // looks at the Registry or the files
	Changes     uint64    // times that new metadata came into force, the first one not counted
	Failures    uint64    // looks that ended without usable metadata
	LastSuccess time.Time // when what is published was last known to be what is in force; zero before Load
}

// NewMetadataFollower follows the documents the settings name. registry may be nil when both are local files.
func NewMetadataFollower(registry *Registry, fetcher *Fetcher, settings MetadataSettings, logger *zap.Logger) *MetadataFollower {
	if settings.RefreshInterval <= 0 {
		settings.RefreshInterval = DefaultMetadataSettings().RefreshInterval
	}
	if settings.MaxSize <= 0 {
		settings.MaxSize = DefaultMetadataSettings().MaxSize
	}
	follower := &MetadataFollower{
		fetcher: fetcher, settings: settings, logger: logger,
		turn: make(chan struct{}, 1), noted: map[string]bool{},
	}
	if registry != nil { // a nil *Registry in an interface would not be nil
		follower.registry = registry
	}
	return follower
}

// Load takes the metadata for the first time. Its error is a sentence for the operator.
func (f *MetadataFollower) Load(ctx context.Context) (*Metadata, error) {
	if _, err := f.refresh(ctx); err != nil {
		return nil, err
	}
	return f.Current(), nil
}

// Current returns the metadata in force, nil before Load. It must not be changed.
func (f *MetadataFollower) Current() *Metadata { return f.current.Load() }

// OnChange registers a function that is called with each metadata that replaces another, one call at a time.
func (f *MetadataFollower) OnChange(callback func(*Metadata)) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.callbacks = append(f.callbacks, callback)
}

// Stats returns what was counted so far.
func (f *MetadataFollower) Stats() MetadataStats {
	stats := MetadataStats{
		Refreshes: f.stats.refreshes.Load(), Changes: f.stats.changes.Load(), Failures: f.stats.failures.Load(),
	}
	if last := f.stats.lastSuccess.Load(); last != 0 {
		stats.LastSuccess = time.Unix(0, last)
	}
	return stats
}

// Run looks every settings.RefreshInterval for something new until ctx ends. While the node or the source cannot
// be asked the pauses grow to two minutes.
func (f *MetadataFollower) Run(ctx context.Context) error {
	pause := f.settings.RefreshInterval
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		reached, err := f.refresh(ctx)
		if err == nil || reached {
			pause = f.settings.RefreshInterval
		} else {
			pause = min(2*pause, max(f.settings.RefreshInterval, slowestRefresh))
		}
		timer.Reset(pause)
	}
}

// Refresh looks once for something new, besides what Run does. On an error the metadata in force stays.
func (f *MetadataFollower) Refresh(ctx context.Context) error {
	_, err := f.refresh(ctx)
	return err
}

// refresh reports whether both documents could be had, whatever they said.
func (f *MetadataFollower) refresh(ctx context.Context) (reached bool, err error) {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	f.stats.refreshes.Add(1)
	reached, err = f.look(ctx)
	if ctx.Err() != nil && err != nil {
		return reached, err // stopping is no fault
	}
	if err != nil {
		f.stats.failures.Add(1)
		f.note(reached, err)
		return reached, err
	}
	f.stats.lastSuccess.Store(time.Now().UnixNano())
	if len(f.noted) > 0 {
		f.logger.Info("the published metadata is in force again")
		clear(f.noted)
	}
	return true, nil
}

// note logs each distinct fault once until things are well again.
func (f *MetadataFollower) note(reached bool, err error) {
	text := err.Error()
	if f.Current() == nil || f.noted[text] || len(f.noted) >= maxNotedFaults {
		return // the error of the first load is shown by the caller
	}
	f.noted[text] = true
	if reached {
		f.logger.Error("the published metadata cannot be used, what was in force stays in force", zap.String("fault", text))
	} else {
		f.logger.Warn("the published metadata cannot be had, what was in force stays in force", zap.String("fault", text))
	}
}

func (f *MetadataFollower) look(ctx context.Context) (reached bool, err error) {
	if err := f.updateOrganization(ctx); err != nil {
		return false, err
	}
	if err := f.updateService(ctx); err != nil {
		return false, err
	}
	seen := [2][sha256.Size]byte{f.organization.sum, f.service.sum}
	old := f.Current()
	switch {
	case old != nil && seen == f.inForce && old.OrganizationURI == f.organization.uri && old.ServiceURI == f.service.uri:
		return true, nil
	case f.refusal != nil && seen == f.refused:
		return true, f.refusal
	}
	metadata, err := f.build()
	if err == nil {
		err = checkSuccessor(old, metadata)
	}
	if err != nil {
		f.refused, f.refusal = seen, err
		return true, err
	}
	f.refusal, f.inForce = nil, seen
	f.swap(old, metadata)
	return true, nil
}

func (f *MetadataFollower) build() (*Metadata, error) {
	organization, organizationError := ParseOrganization(f.organization.file.content)
	service, serviceError := ParseService(f.service.file.content)
	if err := joinFaults(organizationError, serviceError); err != nil {
		return nil, err
	}
	metadata, err := Resolve(organization, service, f.settings.OrganizationID, f.settings.ServiceID, f.settings.GroupName)
	if err != nil {
		return nil, err
	}
	metadata.OrganizationURI, metadata.ServiceURI = f.organization.uri, f.service.uri
	return metadata, nil
}

// checkSuccessor refuses what cannot change while calls are served: open channels, their cached state and
// everything signed belong to one escrow contract.
func checkSuccessor(old, next *Metadata) error {
	if old != nil && old.Service.MPE != next.Service.MPE {
		return fmt.Errorf("service metadata: mpe_address changed from %s to %s: restart mpegate to serve channels of the new contract",
			old.Service.MPE, next.Service.MPE)
	}
	return nil
}

func (f *MetadataFollower) swap(old, next *Metadata) {
	f.current.Store(next)
	for _, warning := range next.Warnings {
		f.logger.Warn("metadata: " + warning)
	}
	f.logger.Info("metadata is in force", zap.String("organization", next.OrganizationURI), zap.String("service", next.ServiceURI),
		zap.String("group", next.Group.Name), zap.Stringer("payment_address", next.Group.PaymentAddress),
		zap.Uint64("expiration_threshold", next.Group.ExpirationThreshold), zap.Stringer("mpe", next.Service.MPE),
		zap.String("price", next.ServiceGroup.Pricing.String()))
	if old == nil {
		return
	}
	f.stats.changes.Add(1)
	f.mutex.Lock()
	callbacks := append([]func(*Metadata){}, f.callbacks...)
	f.mutex.Unlock()
	for _, callback := range callbacks {
		callback(next)
	}
}

func (f *MetadataFollower) updateOrganization(ctx context.Context) error {
	return f.update(ctx, &f.organization, f.settings.OrganizationFile, "metadata.organization_file", func() (string, error) {
		return f.registry.OrganizationURI(ctx, f.settings.OrganizationID)
	})
}

func (f *MetadataFollower) updateService(ctx context.Context) error {
	return f.update(ctx, &f.service, f.settings.ServiceFile, "metadata.service_file", func() (string, error) {
		return f.registry.ServiceURI(ctx, f.settings.OrganizationID, f.settings.ServiceID)
	})
}

// update brings a document to its newest content. What is proved to be the content of a CID never changes and is
// not fetched twice.
func (f *MetadataFollower) update(ctx context.Context, known *document, path, setting string, registered func() (string, error)) error {
	if path != "" {
		content, err := readFileLimited(path, f.settings.MaxSize)
		if err != nil {
			return fmt.Errorf("%s: %w", setting, err)
		}
		*known = newDocument(path, fetched{content: content})
		return nil
	}
	if f.registry == nil {
		return fmt.Errorf("%s is not set and there is no Registry to ask: set it, or blockchain.registry_address", setting)
	}
	uri, err := registered()
	if err != nil {
		return err
	}
	if known.loaded && known.uri == uri && known.file.proved {
		return nil
	}
	file, err := f.fetcher.fetch(ctx, uri)
	if err != nil {
		return err
	}
	*known = newDocument(uri, file)
	return nil
}

func newDocument(uri string, file fetched) document {
	return document{uri: uri, sum: sha256.Sum256(file.content), file: file, loaded: true}
}

func readFileLimited(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a plain file", path)
	}
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%s has more than the %d bytes of metadata.max_size", path, limit)
	}
	return content, nil
}
