package translator

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
)

const patience = 30 * time.Second

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %s: %s", patience, what)
		}
	}
}

// published stands for metadata that changes.
type published struct {
	current atomic.Pointer[blockchain.Metadata]
}

func (p *published) set(serviceType, encoding, source string) *blockchain.Metadata {
	metadata := &blockchain.Metadata{Service: &blockchain.Service{Type: serviceType, Encoding: encoding, APISource: source}}
	p.current.Store(metadata)
	return metadata
}

// archives answers for IPFS and Filecoin.
type archives map[string][]byte

func (a archives) Fetch(_ context.Context, uri string) ([]byte, error) {
	if data, known := a[uri]; known {
		return data, nil
	}
	return nil, errors.New(uri + " is not there")
}

func archiveOf(t *testing.T, method string) []byte {
	t.Helper()
	return pack(t, packed{name: "a.proto", text: strings.ReplaceAll(soloProto, "rpc M", "rpc "+method)})
}

func quickSettings() Settings {
	settings := DefaultSettings()
	settings.Endpoint = "http://127.0.0.1:1/"
	settings.RefreshInterval = 100 * time.Millisecond
	return settings
}

// The definition follows the metadata; what cannot be used never replaces what can.
func TestFollowMetadata(t *testing.T) {
	source := archives{"ipfs://one": archiveOf(t, "One"), "filecoin://two": archiveOf(t, "Two"), "ipfs://bad": []byte("rubbish")}
	var metadata published
	metadata.set(blockchain.ServiceTypeHTTP, blockchain.EncodingProto, "ipfs://one")
	s, err := NewServer(quickSettings(), Dependencies{Metadata: metadata.current.Load, Fetcher: source})
	if err != nil {
		t.Fatal(err)
	}
	if s.Ready(t.Context()) == nil {
		t.Error("ready before Load")
	}
	if err := s.Unsupported("/p.S/Two"); err != nil {
		t.Errorf("something is refused before Load: %v", err)
	}
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Ready(t.Context()) != nil || s.Type() != blockchain.ServiceTypeHTTP {
		t.Errorf("%v, type %s", s.Ready(t.Context()), s.Type())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	has := func(method string) bool { return s.Unsupported("/p.S/"+method) == nil }
	if !has("One") || has("Two") {
		t.Error("the first definition is not in force")
	}
	s.MetadataChanged(metadata.set(blockchain.ServiceTypeHTTP, blockchain.EncodingProto, "filecoin://two"))
	eventually(t, "the second definition is in force", func() bool { return has("Two") && !has("One") })

	failures := func() bool { return counterValue(t, s.metrics.reloads.WithLabelValues("failed")) > 1 }
	for _, bad := range []string{"ipfs://bad", "ipfs://nowhere"} {
		s.MetadataChanged(metadata.set(blockchain.ServiceTypeHTTP, blockchain.EncodingProto, bad))
		eventually(t, "it was tried", failures)
		if !has("Two") {
			t.Errorf("%s has taken the definition away", bad)
		}
	}
	s.MetadataChanged(metadata.set(blockchain.ServiceTypeHTTP, blockchain.EncodingJSON, "filecoin://two"))
	eventually(t, "the encoding has changed", func() bool { return s.runtime.Load().json })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFollowFolder(t *testing.T) {
	folder := t.TempDir()
	write := func(method string) {
		if err := os.WriteFile(filepath.Join(folder, "a.proto"), []byte(strings.ReplaceAll(soloProto, "rpc M", "rpc "+method)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("One")
	settings := quickSettings()
	settings.Type, settings.Definition = blockchain.ServiceTypeJSONRPC, folder
	s, err := NewServer(settings, Dependencies{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = s.Run(ctx) }()
	write("Another")
	eventually(t, "the new definition is in force", func() bool { return s.Unsupported("/p.S/Another") == nil })
}

// Through the real fetcher, from something that answers as an IPFS node and as a gateway do.
func TestFetchDefinition(t *testing.T) {
	const cid = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("arg") == cid || strings.HasSuffix(r.URL.Path, cid) {
			_, _ = w.Write(gzipped(archiveOf(t, "One")))
			return
		}
		http.NotFound(w, r)
	}))
	defer node.Close()
	fetching := blockchain.DefaultMetadataSettings()
	fetching.IPFSEndpoint, fetching.FilecoinGateway, fetching.CheckCID = node.URL, node.URL+"/ipfs/", false
	for _, scheme := range []string{"ipfs://", "filecoin://"} {
		var metadata published
		metadata.set(blockchain.ServiceTypeHTTP, blockchain.EncodingProto, scheme+cid)
		s, err := NewServer(quickSettings(), Dependencies{Metadata: metadata.current.Load, Fetcher: blockchain.NewFetcher(fetching, zap.NewNop())})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Load(t.Context()); err != nil || s.Unsupported("/p.S/One") != nil {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

func TestDefinitionNeeded(t *testing.T) {
	for _, c := range []struct {
		serviceType, encoding, input string
		reflection, needed           bool
	}{
		{blockchain.ServiceTypeHTTP, "proto", "raw", false, true},
		{blockchain.ServiceTypeHTTP, "json", "raw", false, false},
		{blockchain.ServiceTypeJSONRPC, "proto", "raw", false, true},
		{blockchain.ServiceTypeJSONRPC, "json", "raw", false, false},
		{blockchain.ServiceTypeProcess, "proto", "raw", false, false},
		{blockchain.ServiceTypeProcess, "proto", "json", false, true},
		{blockchain.ServiceTypeProcess, "json", "json", false, false},
		{blockchain.ServiceTypeGRPC, "proto", "raw", false, false},
		{blockchain.ServiceTypeGRPC, "proto", "raw", true, true},
	} {
		settings := quickSettings()
		settings.Type, settings.Encoding, settings.Reflection = c.serviceType, c.encoding, c.reflection
		settings.Process.Executable, settings.Process.Input = "/bin/sh", c.input
		s, err := NewServer(settings, Dependencies{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Load(t.Context()); (err != nil) != c.needed || err != nil && !strings.Contains(err.Error(), "definition") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
