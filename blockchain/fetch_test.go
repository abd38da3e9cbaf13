package blockchain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

const helloCID = "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o"

var hello = []byte("hello world\n")

// newTestFetcher returns a Fetcher of one local server, both as Kubo and as gateway.
func newTestFetcher(t *testing.T, handler http.HandlerFunc, change func(*MetadataSettings)) (*Fetcher, *observer.ObservedLogs) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	settings := DefaultMetadataSettings()
	settings.IPFSEndpoint, settings.FilecoinGateway = server.URL, server.URL+"/ipfs/"
	if change != nil {
		change(&settings)
	}
	core, logs := observer.New(zapcore.DebugLevel)
	fetcher := NewFetcher(settings, zap.New(core))
	fetcher.retry = time.Millisecond
	t.Cleanup(fetcher.client.CloseIdleConnections)
	return fetcher, logs
}

func answering(content []byte) http.HandlerFunc {
	return func(writer http.ResponseWriter, _ *http.Request) { _, _ = writer.Write(content) }
}

func TestFetchAsksAsTheSourcesWant(t *testing.T) {
	var mutex sync.Mutex
	var asked string
	record := func(writer http.ResponseWriter, request *http.Request) {
		mutex.Lock()
		defer mutex.Unlock()
		user, password, _ := request.BasicAuth()
		asked = fmt.Sprintf("%s %s %s:%s", request.Method, request.URL.RequestURI(), user, password)
		_, _ = writer.Write(hello)
	}
	tests := map[string]struct {
		uri    string
		change func(*MetadataSettings)
		want   string
	}{
		"Kubo":            {"ipfs://" + helloCID, nil, "POST /api/v0/cat?arg=" + helloCID + " :"},
		"a CID alone":     {helloCID + "\x00\x00", nil, "POST /api/v0/cat?arg=" + helloCID + " :"},
		"gateway":         {"filecoin://" + helloCID, nil, "GET /ipfs/" + helloCID + " :"},
		"Kubo below path": {"ipfs://" + helloCID, func(s *MetadataSettings) { s.IPFSEndpoint += "/rpc/" }, "POST /rpc/api/v0/cat?arg=" + helloCID + " :"},
		"gateway, no slash": {"filecoin://" + helloCID, func(s *MetadataSettings) { s.FilecoinGateway = strings.TrimSuffix(s.FilecoinGateway, "/") },
			"GET /ipfs/" + helloCID + " :"},
		"gateway with query": {"filecoin://" + helloCID, func(s *MetadataSettings) { s.FilecoinGateway += "get?cid=" }, "GET /ipfs/get?cid=" + helloCID + " :"},
		"password in the URL": {"ipfs://" + helloCID, func(s *MetadataSettings) {
			s.IPFSEndpoint = strings.Replace(s.IPFSEndpoint, "://", "://user:secret@", 1)
		}, "POST /api/v0/cat?arg=" + helloCID + " user:secret"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			fetcher, _ := newTestFetcher(t, record, test.change)
			content, err := fetcher.Fetch(t.Context(), test.uri)
			if err != nil || !bytes.Equal(content, hello) {
				t.Fatalf("%q, %v", content, err)
			}
			mutex.Lock()
			defer mutex.Unlock()
			if asked != test.want {
				t.Errorf("asked %q, want %q", asked, test.want)
			}
		})
	}
}

func TestFetchFaults(t *testing.T) {
	broken := func(writer http.ResponseWriter, _ *http.Request) {
		writer.Header().Set("Trailer", "X-Stream-Error")
		_, _ = writer.Write(hello)
		writer.Header().Set("X-Stream-Error", "block was not found locally")
	}
	truncated := func(writer http.ResponseWriter, _ *http.Request) {
		writer.Header().Set("Content-Length", "100")
		_, _ = writer.Write(hello)
	}
	status := func(code int) http.HandlerFunc {
		return func(writer http.ResponseWriter, _ *http.Request) { http.Error(writer, "merkledag: not found", code) }
	}
	redirect := func(target string) http.HandlerFunc {
		return func(writer http.ResponseWriter, request *http.Request) {
			http.Redirect(writer, request, target, http.StatusTemporaryRedirect)
		}
	}
	tests := map[string]struct {
		handler http.HandlerFunc
		change  func(*MetadataSettings)
		want    string
		tries   int32
	}{
		"other content":      {answering([]byte("forged")), nil, "does not match CID", 1},
		"too large":          {answering(hello), func(s *MetadataSettings) { s.MaxSize = 11 }, "11 bytes of metadata.max_size", 1},
		"not found":          {status(http.StatusNotFound), nil, `status 404: "merkledag: not found"`, 1},
		"server error":       {status(http.StatusInternalServerError), nil, "status 500", fetchTries},
		"too many requests":  {status(http.StatusTooManyRequests), nil, "status 429", fetchTries},
		"broken off by Kubo": {broken, nil, "block was not found locally", fetchTries},
		"broken off":         {truncated, nil, "cannot be asked", fetchTries},
		"redirected away":    {redirect("ftp://example.com/x"), nil, `a redirection from http to "ftp"`, fetchTries},
		"redirected for ever": {func(writer http.ResponseWriter, request *http.Request) {
			http.Redirect(writer, request, request.URL.RequestURI(), http.StatusTemporaryRedirect)
		}, nil, "more than 5 redirections", fetchTries * (maxRedirects + 1)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var tries atomic.Int32
			fetcher, _ := newTestFetcher(t, func(writer http.ResponseWriter, request *http.Request) {
				tries.Add(1)
				test.handler(writer, request)
			}, test.change)
			content, err := fetcher.Fetch(t.Context(), "ipfs://"+helloCID)
			if err == nil || !strings.Contains(err.Error(), test.want) || content != nil {
				t.Errorf("%q, error %v, want %q", content, err, test.want)
			}
			if tries.Load() != test.tries {
				t.Errorf("%d requests, want %d", tries.Load(), test.tries)
			}
		})
	}
}

func TestFetchTriesAgain(t *testing.T) {
	var tries atomic.Int32
	fetcher, _ := newTestFetcher(t, func(writer http.ResponseWriter, _ *http.Request) {
		if tries.Add(1) < fetchTries {
			writer.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = writer.Write(hello)
	}, nil)
	if content, err := fetcher.Fetch(t.Context(), helloCID); err != nil || !bytes.Equal(content, hello) {
		t.Errorf("%q, %v", content, err)
	}
}

func TestFetchErrorsHideSecrets(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close() // nobody listens there any more
	for _, uri := range []string{"ipfs://" + helloCID, "filecoin://" + helloCID} {
		fetcher, _ := newTestFetcher(t, answering(hello), func(s *MetadataSettings) {
			s.IPFSEndpoint = "http://user:hush1@" + address + "/hush2"
			s.FilecoinGateway = "http://user:hush1@" + address + "/?key=hush2&cid="
		})
		_, err := fetcher.Fetch(t.Context(), uri)
		if err == nil || strings.Contains(err.Error(), "hush") || !strings.Contains(err.Error(), address) {
			t.Errorf("error %v", err)
		}
	}
}

func TestFetchGivesUpInTime(t *testing.T) {
	fetcher, _ := newTestFetcher(t, func(_ http.ResponseWriter, request *http.Request) { <-request.Context().Done() },
		func(s *MetadataSettings) { s.FetchTimeout = 20 * time.Millisecond })
	_, err := fetcher.Fetch(t.Context(), helloCID)
	if err == nil || !strings.Contains(err.Error(), "metadata.fetch_timeout (20ms)") {
		t.Errorf("error %v", err)
	}
}

func TestFetchOnceForManyCallers(t *testing.T) {
	var requests atomic.Int32
	arrived, release := make(chan struct{}), make(chan struct{})
	fetcher, _ := newTestFetcher(t, func(writer http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 1 {
			close(arrived)
		}
		<-release
		_, _ = writer.Write(hello)
	}, nil)
	leaving, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := fetcher.Fetch(leaving, helloCID)
		left <- err
	}()
	<-arrived
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the first caller got %v", err)
	}
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			content, err := fetcher.Fetch(t.Context(), "ipfs://"+helloCID)
			if err == nil && !bytes.Equal(content, hello) {
				err = fmt.Errorf("content %q", content)
			}
			results <- err
		}()
	}
	close(release)
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	// Callers that come after the flight has landed start another; the first caller's leaving started none.
	if requests.Load() > int32(cap(results))+1 {
		t.Errorf("%d requests", requests.Load())
	}
}

func TestUncheckableContentIsLoggedOnce(t *testing.T) {
	large := bytes.Repeat([]byte{'x'}, oneChunk+1)
	root := cidV0Of(t, []byte("root of a tree"))
	fetcher, logs := newTestFetcher(t, answering(large), nil)
	for range 3 {
		file, err := fetcher.fetch(t.Context(), root)
		if err != nil || file.proved || !bytes.Equal(file.content, large) {
			t.Fatalf("%d bytes, proved %v, %v", len(file.content), file.proved, err)
		}
	}
	if got := logs.FilterMessageSnippet("cannot be checked against its CID").Len(); got != 1 {
		t.Errorf("logged %d times", got)
	}
}

func TestCheckCanBeSwitchedOff(t *testing.T) {
	fetcher, _ := newTestFetcher(t, answering([]byte("anything")), func(s *MetadataSettings) { s.CheckCID = false })
	file, err := fetcher.fetch(t.Context(), "ipfs://QmNotAContentIdAtAll")
	if err != nil || string(file.content) != "anything" || file.proved {
		t.Errorf("%+v, %v", file, err)
	}
}

func TestMetadataSettings(t *testing.T) {
	valid := func() MetadataSettings {
		settings := DefaultMetadataSettings()
		settings.OrganizationID, settings.ServiceID = "acme", "captioner"
		return settings
	}
	settings := valid()
	if err := settings.Validate(); err != nil {
		t.Error(err)
	}
	tests := map[string]struct {
		change func(*MetadataSettings)
		want   string
	}{
		"no organisation":  {func(s *MetadataSettings) { s.OrganizationID = "" }, "metadata.organization_id is missing"},
		"long service":     {func(s *MetadataSettings) { s.ServiceID = strings.Repeat("x", 33) }, "metadata.service_id"},
		"no group":         {func(s *MetadataSettings) { s.GroupName = " " }, "metadata.group_name"},
		"endpoint":         {func(s *MetadataSettings) { s.IPFSEndpoint = "ipfs.example:443" }, "metadata.ipfs_endpoint"},
		"gateway":          {func(s *MetadataSettings) { s.FilecoinGateway = "ftp://user:hush@x/" }, "metadata.filecoin_gateway"},
		"fragment":         {func(s *MetadataSettings) { s.FilecoinGateway = "http://x/#a" }, "after #"},
		"timeout":          {func(s *MetadataSettings) { s.FetchTimeout = 0 }, "metadata.fetch_timeout"},
		"size":             {func(s *MetadataSettings) { s.MaxSize = -1 }, "metadata.max_size"},
		"refresh interval": {func(s *MetadataSettings) { s.RefreshInterval = time.Millisecond }, "metadata.refresh_interval"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			settings := valid()
			test.change(&settings)
			err := settings.Validate()
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hush") {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}
