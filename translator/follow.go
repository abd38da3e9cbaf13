package translator

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
)

// follower keeps the definition of the service that is in force, and replaces it, whole, when what is published or
// lies in the local folder changes. A definition that cannot be used never replaces one that can.
type follower struct {
	server   *Server
	metadata func() *blockchain.Metadata
	fetcher  Fetcher
	logger   *zap.Logger
	changed  chan struct{} // holds one word: look again
	inForce  string        // where the definition in force is from
	fault    string        // the latest one, logged once
}

func newFollower(s *Server, dependencies Dependencies) *follower {
	return &follower{
		server: s, metadata: dependencies.Metadata, fetcher: dependencies.Fetcher,
		logger: dependencies.Logger.Named("translator"), changed: make(chan struct{}, 1),
	}
}

// Load takes the service's definition for the first time. The error is a sentence for the operator.
func (s *Server) Load(ctx context.Context) error { return s.follower.look(ctx) }

// MetadataChanged makes Run look at the metadata at once. It never waits.
func (s *Server) MetadataChanged(*blockchain.Metadata) {
	select {
	case s.follower.changed <- struct{}{}:
	default:
	}
}

// Run follows changes of the definition until ctx ends: at once after MetadataChanged, and every
// settings.RefreshInterval for local files and after a failure.
func (s *Server) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.settings.RefreshInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.follower.changed:
		case <-ticker.C:
		}
		if err := s.follower.look(ctx); err != nil && ctx.Err() == nil {
			s.follower.note(err)
		}
	}
}

// note logs each fault once until things are well again.
func (f *follower) note(err error) {
	f.server.metrics.reloads.WithLabelValues("failed").Inc()
	if f.fault != err.Error() {
		f.fault = err.Error()
		f.logger.Error("the service's definition cannot be used, what was in force stays in force", zap.Error(err))
	}
}

// look loads what the settings or the metadata name, if it is not what is in force.
func (f *follower) look(ctx context.Context) error {
	next := &runtime{json: f.server.settings.Encoding == blockchain.EncodingJSON}
	source := ""
	if f.metadata != nil {
		if metadata := f.metadata(); metadata != nil {
			if f.server.settings.Encoding == "" {
				next.json = metadata.Service.Encoding == blockchain.EncodingJSON
			}
			source = metadata.Service.APISource
			f.checkType(metadata.Service.Type)
		}
	}
	local := f.server.settings.Definition
	if local != "" {
		print, err := fingerprint(local)
		if err != nil {
			return fmt.Errorf("definition: %w", err)
		}
		source = print
	}
	current := f.server.runtime.Load()
	if current != nil && source == f.inForce {
		if current.json != next.json {
			next.definition = current.definition
			f.server.runtime.Store(next)
		}
		f.fault = ""
		return nil
	}
	var err error
	switch {
	case local != "":
		next.definition, err = loadLocal(ctx, local)
	case source != "":
		next.definition, err = f.fetch(ctx, source)
	default:
		err = f.server.needsDefinition(next.json)
	}
	if err != nil {
		return err
	}
	f.server.runtime.Store(next)
	f.inForce, f.fault = source, ""
	f.server.metrics.reloads.WithLabelValues("loaded").Inc()
	if next.definition != nil {
		f.logger.Info("the service's definition is in force", zap.Strings("services", next.definition.services),
			zap.Int("methods", len(next.definition.methods)))
	}
	return nil
}

// checkType tells the operator of a change that cannot be followed.
func (f *follower) checkType(published string) {
	if f.server.settings.Type == "" && published != f.server.serviceType && f.fault != published {
		f.fault = published
		f.logger.Error("the metadata now says another service_type: restart mpegate to serve it",
			zap.String("service_type", published), zap.String("in_force", f.server.serviceType))
	}
}

func (f *follower) fetch(ctx context.Context, uri string) (*definition, error) {
	if f.fetcher == nil {
		return nil, fmt.Errorf("the service's definition at %s cannot be fetched: set definition to a local copy", uri)
	}
	data, err := f.fetcher.Fetch(ctx, uri)
	if err != nil {
		return nil, fmt.Errorf("the service's definition: %w", err)
	}
	d, err := parseDefinition(ctx, data)
	if err != nil {
		return nil, fmt.Errorf("the service's definition at %s: %w", uri, err)
	}
	return d, nil
}

// needsDefinition says, where nothing is published, whether calls can be translated without.
func (s *Server) needsDefinition(jsonFrames bool) error {
	const hint = "publish service_api_source, or set definition to the folder of the .proto files"
	switch {
	case s.serviceType == blockchain.ServiceTypeHTTP && !jsonFrames, s.serviceType == blockchain.ServiceTypeJSONRPC && !jsonFrames:
		return fmt.Errorf("the metadata names no .proto files, which a service of type %s needs: %s", s.serviceType, hint)
	case s.serviceType == blockchain.ServiceTypeProcess && s.settings.Process.Input == InputJSON && !jsonFrames:
		return errors.New("the metadata names no .proto files, which process.input json needs: " + hint)
	case s.settings.Reflection && s.serviceType == blockchain.ServiceTypeGRPC:
		return errors.New("the metadata names no .proto files, which reflection needs: " + hint)
	}
	return nil
}

// maxLocalFile bounds a local archive or descriptor set, in bytes.
const maxLocalFile = maxArchiveBytes

func loadLocal(ctx context.Context, name string) (*definition, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("definition: %w", err)
	}
	if info.IsDir() {
		files, err := readFolder(name)
		if err != nil {
			return nil, fmt.Errorf("definition: %w", err)
		}
		d, err := compile(ctx, files)
		if err != nil {
			return nil, fmt.Errorf("definition: %s: %w", name, err)
		}
		return d, nil
	}
	if !info.Mode().IsRegular() || info.Size() > maxLocalFile {
		return nil, fmt.Errorf("definition is %s: it is no folder and no file of at most %d bytes", name, maxLocalFile)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("definition: %w", err)
	}
	d, err := parseDefinition(ctx, data)
	if err != nil {
		return nil, fmt.Errorf("definition: %s: %w", name, err)
	}
	return d, nil
}

// fingerprint changes when the files do.
func fingerprint(name string) (string, error) {
	sum := sha256.New()
	entries := 0
	err := filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != name && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		if entries++; entries > maxEntries {
			return fmt.Errorf("%s has more than %d entries", name, maxEntries)
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(sum, path, info.Size(), info.ModTime().UnixNano(), info.Mode())
		return err
	})
	return fmt.Sprintf("local:%x", sum.Sum(nil)), err
}
