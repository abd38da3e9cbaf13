package blockchain_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
)

// publisher is a local IPFS node, answering Kubo's cat and, as a gateway, GET.
type publisher struct {
	server *httptest.Server

	mutex    sync.Mutex
	files    map[string][]byte
	requests map[string]int
}

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	p := &publisher{files: map[string][]byte{}, requests: map[string]int{}}
	p.server = httptest.NewServer(http.HandlerFunc(p.answer))
	t.Cleanup(p.server.Close)
	return p
}

func (p *publisher) answer(writer http.ResponseWriter, request *http.Request) {
	id := strings.TrimPrefix(request.URL.Path, "/ipfs/")
	if request.URL.Path == "/api/v0/cat" && request.Method == http.MethodPost {
		id = request.URL.Query().Get("arg")
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.requests[id]++
	content, known := p.files[id]
	if !known {
		http.Error(writer, "not found", http.StatusNotFound)
		return
	}
	_, _ = writer.Write(content)
}

// publish stores a file under the CID of its bytes.
func (p *publisher) publish(t *testing.T, content []byte) string {
	t.Helper()
	sum, err := multihash.Sum(content, multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	id := cid.NewCidV1(cid.Raw, sum).String()
	p.put(id, content)
	return id
}

func (p *publisher) put(id string, content []byte) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.files[id] = content
}

func (p *publisher) count(id string) int {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.requests[id]
}

func (p *publisher) settings() blockchain.MetadataSettings {
	settings := blockchain.DefaultMetadataSettings()
	settings.OrganizationID, settings.ServiceID = "acme-vision", "captioner"
	settings.IPFSEndpoint, settings.FilecoinGateway = p.server.URL, p.server.URL+"/ipfs/"
	settings.RefreshInterval = time.Millisecond // tests of Run wait for the effect
	return settings
}

func example(t *testing.T, name string, replacements ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "metadata", name))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer(replacements...).Replace(string(data))
	if len(replacements) > 0 && changed == string(data) {
		t.Fatalf("%q are not in %s", replacements, name)
	}
	return []byte(changed)
}

func follow(t *testing.T, registry *blockchain.Registry, settings blockchain.MetadataSettings) (*blockchain.MetadataFollower, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	logger := zap.New(core)
	return blockchain.NewMetadataFollower(registry, blockchain.NewFetcher(settings, logger), settings, logger), logs
}

func price(t *testing.T, metadata *blockchain.Metadata) uint64 {
	t.Helper()
	cost, defined := metadata.ServiceGroup.Pricing.Price("/acme.v1.Captioner/Caption")
	if !defined {
		t.Fatal("the method has no price")
	}
	return cost.Uint64()
}

// registered starts a chain whose Registry names the given files.
func registered(t *testing.T, organizationURI, serviceURI string) (*devchain.Chain, *blockchain.Registry) {
	t.Helper()
	chain, err := devchain.Start(t.Context(), devchain.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chain.Close)
	register(t, chain, organizationURI, serviceURI)
	registry, err := blockchain.NewRegistry(chain.Registry, chain.Client)
	if err != nil {
		t.Fatal(err)
	}
	return chain, registry
}

func register(t *testing.T, chain *devchain.Chain, organizationURI, serviceURI string) {
	t.Helper()
	if err := chain.RegisterService(t.Context(), "acme-vision", organizationURI, "captioner", serviceURI); err != nil {
		t.Fatal(err)
	}
}

func TestMetadataFollowsTheRegistry(t *testing.T) {
	source := newPublisher(t)
	organization, first := source.publish(t, example(t, "organization.json")), source.publish(t, example(t, "service.json"))
	chain, registry := registered(t, "ipfs://"+organization, "filecoin://"+first)
	follower, logs := follow(t, registry, source.settings())
	if follower.Current() != nil {
		t.Error("metadata before Load")
	}
	loaded, err := follower.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if price(t, loaded) != 2000 || loaded.OrganizationURI != "ipfs://"+organization || loaded.ServiceURI != "filecoin://"+first {
		t.Errorf("loaded %+v", loaded)
	}

	changed := make(chan *blockchain.Metadata, 8)
	follower.OnChange(func(metadata *blockchain.Metadata) { changed <- metadata })
	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- follower.Run(running) }()
	defer func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	}()

	second := source.publish(t, example(t, "service.json", ":2000", ":2345"))
	register(t, chain, "ipfs://"+organization, "ipfs://"+second)
	select {
	case metadata := <-changed:
		if price(t, metadata) != 2345 || metadata != follower.Current() || metadata == loaded {
			t.Errorf("changed to %+v", metadata)
		}
		if price(t, loaded) != 2000 {
			t.Error("the metadata that was replaced has changed")
		}
	case <-t.Context().Done():
		t.Fatal("the change was never seen")
	}
	for _, id := range []string{organization, first, second} {
		if count := source.count(id); count != 1 {
			t.Errorf("%s was fetched %d times", id, count)
		}
	}
	if warnings := logs.FilterLevelExact(zapcore.WarnLevel).Len() + logs.FilterLevelExact(zapcore.ErrorLevel).Len(); warnings > 0 {
		t.Errorf("warnings in the log: %v", logs.All())
	}
}

func TestBadMetadataLeavesTheOldInForce(t *testing.T) {
	source := newPublisher(t)
	organization, good := source.publish(t, example(t, "organization.json")), source.publish(t, example(t, "service.json"))
	chain, registry := registered(t, organization, good)
	follower, logs := follow(t, registry, source.settings())
	if _, err := follower.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	forged := source.publish(t, example(t, "service.json", ":2000", ":2001"))
	source.put(forged, example(t, "service.json", ":2000", ":1"))
	tests := []struct{ name, serviceURI, want string }{
		{"no price", source.publish(t, example(t, "service.json", "price_in_cogs", "price")), "price_in_cogs"},
		{"other escrow contract", source.publish(t, example(t, "service.json", "0x042d31F61c598eADcAc729B845406514521db520",
			"0x7E0aF8988DF45B824b2E0e0A87c6196897744970")), "restart"},
		{"web page", source.publish(t, []byte("<html></html>")), "not a JSON object"},
		{"forged", forged, "does not match CID"},
		{"scheme", "https://example.com/" + good, "not supported"},
		{"nowhere to be found", "ipfs://bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", "status 404"},
	}
	failures := 0
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			register(t, chain, organization, test.serviceURI)
			for range 3 { // the second and the third time nothing is new
				failures++
				err := follower.Refresh(t.Context())
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
			}
			if price(t, follower.Current()) != 2000 || follower.Current().ServiceURI != good {
				t.Errorf("in force: %+v", follower.Current())
			}
			if got := logs.FilterMessageSnippet("stays in force").TakeAll(); len(got) == 0 {
				t.Error("no log line")
			}
		})
	}
	if stats := follower.Stats(); stats.Failures != uint64(failures) || stats.Changes != 0 {
		t.Errorf("stats %+v, want %d failures", stats, failures)
	}
	if refused := tests[0].serviceURI; source.count(refused) != 1 {
		t.Errorf("what was found unusable was fetched %d times", source.count(refused))
	}
	better := source.publish(t, example(t, "service.json", ":2000", ":77"))
	register(t, chain, organization, better)
	if err := follower.Refresh(t.Context()); err != nil || price(t, follower.Current()) != 77 {
		t.Errorf("%v; in force %+v", err, follower.Current())
	}
	if logs.FilterMessageSnippet("in force again").Len() != 1 {
		t.Error("no log line about the recovery")
	}
}

func TestEachFaultIsLoggedOnce(t *testing.T) {
	settings := newPublisher(t).settings()
	settings.OrganizationFile, settings.ServiceFile = writeFile(t, example(t, "organization.json")), writeFile(t, example(t, "service.json"))
	follower, logs := follow(t, nil, settings)
	if _, err := follower.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, content := range []string{"{}", "[]"} {
			overwrite(t, settings.ServiceFile, []byte(content))
			if follower.Refresh(t.Context()) == nil {
				t.Errorf("%s was accepted", content)
			}
		}
	}
	if got := logs.FilterMessageSnippet("stays in force").Len(); got != 2 {
		t.Errorf("%d lines for two faults", got)
	}
}

func writeFile(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "metadata.json")
	overwrite(t, path, content)
	return path
}

func overwrite(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestMetadataFromFiles(t *testing.T) {
	settings := newPublisher(t).settings()
	settings.OrganizationFile, settings.ServiceFile = writeFile(t, example(t, "organization.json")), writeFile(t, example(t, "service.json"))
	follower, _ := follow(t, nil, settings)
	if _, err := follower.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	calls := 0
	follower.OnChange(func(*blockchain.Metadata) { calls++ })
	if err := follower.Refresh(t.Context()); err != nil || calls != 0 {
		t.Errorf("%v, %d changes where nothing changed", err, calls)
	}
	overwrite(t, settings.OrganizationFile, example(t, "organization.json", "40320", "100"))
	if err := follower.Refresh(t.Context()); err != nil || calls != 1 || follower.Current().Group.ExpirationThreshold != 100 {
		t.Errorf("%v, %d changes, %+v", err, calls, follower.Current().Group)
	}
	if stats := follower.Stats(); stats.Changes != 1 || stats.LastSuccess.IsZero() {
		t.Errorf("stats %+v", stats)
	}
}

func TestContentThatCannotBeCheckedIsFetchedAgain(t *testing.T) {
	source := newPublisher(t)
	organization := source.publish(t, example(t, "organization.json"))
	padding := strings.Repeat(" ", 300<<10)
	const chunked = "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o" // of another content, as a root of several blocks would be
	source.put(chunked, append(example(t, "service.json"), padding...))
	_, registry := registered(t, organization, chunked)
	follower, logs := follow(t, registry, source.settings())
	if _, err := follower.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	source.put(chunked, append(example(t, "service.json", ":2000", ":88"), padding...))
	if err := follower.Refresh(t.Context()); err != nil || price(t, follower.Current()) != 88 {
		t.Errorf("%v, in force %+v", err, follower.Current())
	}
	if source.count(chunked) != 2 || source.count(organization) != 1 {
		t.Errorf("fetched %d and %d times", source.count(chunked), source.count(organization))
	}
	if got := logs.FilterMessageSnippet("cannot be checked").Len(); got != 1 {
		t.Errorf("logged %d times", got)
	}
}

func TestFirstLoadFaults(t *testing.T) {
	source := newPublisher(t)
	organization, service := source.publish(t, example(t, "organization.json")), source.publish(t, example(t, "service.json"))
	_, registry := registered(t, organization, service)
	missing := filepath.Join(t.TempDir(), "none.json")
	tests := map[string]struct {
		registry *blockchain.Registry
		change   func(*blockchain.MetadataSettings)
		want     string
	}{
		"unknown organisation": {registry, func(s *blockchain.MetadataSettings) { s.OrganizationID = "nobody" }, "nobody"},
		"unknown service":      {registry, func(s *blockchain.MetadataSettings) { s.ServiceID = "nothing" }, "nothing"},
		"unknown group":        {registry, func(s *blockchain.MetadataSettings) { s.GroupName = "other" }, `only "default_group"`},
		"no registry":          {nil, func(*blockchain.MetadataSettings) {}, "metadata.organization_file is not set"},
		"no file":              {registry, func(s *blockchain.MetadataSettings) { s.ServiceFile = missing }, "metadata.service_file"},
		"a folder":             {registry, func(s *blockchain.MetadataSettings) { s.ServiceFile = filepath.Dir(missing) }, "not a plain file"},
		"large file": {registry, func(s *blockchain.MetadataSettings) {
			s.ServiceFile, s.MaxSize = filepath.Join("testdata", "metadata", "service.json"), 800
		}, "metadata.max_size"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			settings := source.settings()
			test.change(&settings)
			follower, logs := follow(t, test.registry, settings)
			metadata, err := follower.Load(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) || metadata != nil || follower.Current() != nil {
				t.Errorf("%v, error %v, want %q", metadata, err, test.want)
			}
			if logs.Len() > 0 {
				t.Errorf("logged what the caller shows: %v", logs.All())
			}
		})
	}
}
