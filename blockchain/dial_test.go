package blockchain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/rpc"
)

const (
	testKey     = "0123456789secretkey"
	testJWT     = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJub2RlIn0.c2lnbmF0dXJl"
	testChainID = 11155111
)

// testNode is a JSON-RPC server that knows eth_chainId only, and remembers what
// it was sent.
type testNode struct {
	*httptest.Server
	mu            sync.Mutex
	authorization []string
	paths         []string
	answer        func(w http.ResponseWriter, r *http.Request) bool // false: answer the chain id
}

func startTestNode(t *testing.T, start func(http.Handler) *httptest.Server) *testNode {
	t.Helper()
	node := &testNode{}
	node.Server = start(http.HandlerFunc(node.serve))
	t.Cleanup(node.Close)
	return node
}

func (n *testNode) serve(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.authorization = append(n.authorization, r.Header.Get("Authorization"))
	n.paths = append(n.paths, r.URL.RequestURI())
	answer := n.answer
	n.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	var request struct{ ID json.RawMessage }
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":"%#x"}`, request.ID, testChainID)
}

// seen lists the paths and Authorization headers of the requests so far.
func (n *testNode) seen() (paths, authorization []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.paths), slices.Clone(n.authorization)
}

func nodeSettings(url, apiKey string) Settings {
	settings := DefaultSettings()
	settings.ChainID, settings.RPCURL, settings.APIKey = testChainID, url, apiKey
	settings.RequestTimeout = 5 * time.Second
	return settings
}

func TestDialAuthorization(t *testing.T) {
	tests := map[string]struct {
		url, key, want, path string
	}{
		"no key":         {"/", "", "", "/"},
		"plain key":      {"/", testKey, "Bearer " + testKey, "/"},
		"infura":         {"/infura/v3/project", testKey, "Basic OjAxMjM0NTY3ODlzZWNyZXRrZXk=", "/infura/v3/project"},
		"infura in caps": {"/Infura", testKey, "Basic OjAxMjM0NTY3ODlzZWNyZXRrZXk=", "/Infura"},
		"JWT at infura":  {"/infura", testJWT, "Bearer " + testJWT, "/infura"},
		"JWT":            {"/", testJWT, "Bearer " + testJWT, "/"},
		"query":          {"/rpc?apikey=" + testKey, "", "", "/rpc?apikey=" + testKey},
		"user in URL":    {"USER", "", "Basic bmFtZTpwYXNz", "/"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			node := startTestNode(t, httptest.NewServer)
			url := node.URL + test.url
			if test.url == "USER" {
				url = strings.Replace(node.URL, "://", "://name:pass@", 1) + "/"
			}
			client, err := Dial(t.Context(), nodeSettings(url, test.key))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if paths, authorization := node.seen(); authorization[0] != test.want || paths[0] != test.path {
				t.Errorf("the node got %q at %q, want %q at %q", authorization[0], paths[0], test.want, test.path)
			}
			before := client.Requests()
			if _, err := client.ChainID(t.Context()); err != nil || before != 1 || client.Requests() != 2 {
				t.Errorf("requests %d then %d, %v", before, client.Requests(), err)
			}
		})
	}
}

func TestWebSocketAuthorizationIsBasic(t *testing.T) {
	for name, test := range map[string]struct{ key, user, want string }{
		"key":  {testKey, "", "Basic OjAxMjM0NTY3ODlzZWNyZXRrZXk="},
		"JWT":  {testJWT, "", basicAuthorization("", testJWT)},
		"user": {"", "name:pass@", "Basic bmFtZTpwYXNz"},
		"none": {"", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := rpc.NewServer()
			defer server.Stop()
			if err := server.RegisterName("eth", chainIDService{}); err != nil {
				t.Fatal(err)
			}
			var got string
			handler := server.WebsocketHandler([]string{"*"})
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got = r.Header.Get("Authorization")
				handler.ServeHTTP(w, r)
			}))
			defer web.Close()
			settings := nodeSettings("", test.key)
			settings.WebSocketURL = strings.Replace(web.URL, "http://", "ws://"+test.user, 1)
			counted := 0
			client, err := dialWebSocket(t.Context(), settings, func() { counted++ })
			if err != nil {
				t.Fatal(err)
			}
			client.Close()
			if got != test.want || counted != 1 {
				t.Errorf("the node got %q, want %q; %d requests counted", got, test.want, counted)
			}
		})
	}
}

type chainIDService struct{}

func (chainIDService) ChainId() string { return fmt.Sprintf("%#x", testChainID) } //nolint:revive // the RPC name

// TestErrorsHoldNoSecrets makes every kind of failure with a key in the path, the
// query, the user information and the API key setting.
func TestErrorsHoldNoSecrets(t *testing.T) {
	const path, query, user, password = "pathsecret4711", "querysecret4711", "usersecret4711", "passsecret4711"
	var secrets []string // of the settings in use
	unreachable := startTestNode(t, httptest.NewServer)
	unreachable.Close()
	faults := map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request) bool
		chain  uint64
		want   error
	}{
		"refused with the key in the page": {want: ErrChainUnavailable, answer: func(w http.ResponseWriter, r *http.Request) bool {
			http.Error(w, "no access for "+strings.Join(secrets, " ")+r.URL.String(), http.StatusForbidden)
			return true
		}},
		"refused with the key in JSON": {want: ErrChainUnavailable, answer: func(w http.ResponseWriter, r *http.Request) bool {
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"bad key %s at %s"}}`, strings.Join(secrets, " "), r.URL)
			return true
		}},
		"redirected": {want: ErrChainUnavailable, answer: func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "/elsewhere?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
			return true
		}},
		"not JSON": {want: ErrChainUnavailable, answer: func(w http.ResponseWriter, r *http.Request) bool {
			fmt.Fprint(w, "<html>"+r.URL.String())
			return true
		}},
		"cut off": {want: ErrChainUnavailable, answer: func(w http.ResponseWriter, _ *http.Request) bool {
			panic(http.ErrAbortHandler)
		}},
		"another chain": {want: ErrWrongChain, chain: 1},
		"unreachable":   {want: ErrChainUnavailable},
	}
	for name, fault := range faults {
		for _, withUser := range []bool{true, false} {
			node := startTestNode(t, httptest.NewServer)
			node.answer = fault.answer
			url := node.URL
			if name == "unreachable" {
				url = unreachable.URL
			}
			key := testKey
			secrets = []string{path, query, key}
			if withUser {
				key = ""
				secrets = []string{path, query, user, password}
				url = strings.Replace(url, "://", "://"+user+":"+password+"@", 1)
			}
			settings := nodeSettings(url+"/v3/"+path+"?apikey="+query, key)
			if fault.chain != 0 {
				settings.ChainID, settings.Network = fault.chain, NetworkMainnet
			}
			settings.WebSocketURL = strings.Replace(settings.RPCURL, "http", "ws", 1)
			_, err := Dial(t.Context(), settings)
			if !errors.Is(err, fault.want) {
				t.Errorf("%s: %v, want %v", name, err, fault.want)
				continue
			}
			expectNoSecret(t, name, err, secrets)
			_, err = dialWebSocket(t.Context(), settings, func() {})
			if !errors.Is(err, ErrChainUnavailable) {
				t.Errorf("%s over WebSocket: %v", name, err)
				continue
			}
			expectNoSecret(t, name+" over WebSocket", err, secrets)
			expectNoSecret(t, "settings", fmt.Errorf("%v %+v %#v %s", settings, settings, settings, &settings), secrets)
			if requests, _ := node.seen(); len(requests) > 2 {
				t.Errorf("%s: %d requests reached the node, a redirect was followed", name, len(requests))
			}
		}
	}
	secrets = []string{testKey}
	for _, url := range []string{"http://user:" + testKey + "@bad host", "://" + testKey, testKey} {
		settings := nodeSettings(url, "")
		settings.WebSocketURL = url
		_, err := Dial(t.Context(), settings)
		_, socketErr := dialWebSocket(t.Context(), settings, func() {})
		if err == nil || socketErr == nil {
			t.Errorf("%q was dialled", url)
		}
		expectNoSecret(t, "malformed", errors.Join(err, socketErr, settings.Validate()), secrets)
	}
}

func expectNoSecret(t *testing.T, name string, err error, secrets []string) {
	t.Helper()
	for _, secret := range secrets {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error shows a secret: %v", name, err)
		}
	}
}

func TestWrongChainIsExplained(t *testing.T) {
	node := startTestNode(t, httptest.NewServer)
	settings := nodeSettings(node.URL, "")
	settings.ChainID, settings.Network = 1, NetworkMainnet
	_, err := Dial(t.Context(), settings)
	for _, part := range []string{"11155111", "mainnet", "chain id 1", "blockchain.rpc_url", "blockchain.network"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v: %q is missing", err, part)
		}
	}
}

func TestDialChecksTheCertificate(t *testing.T) {
	node := startTestNode(t, func(handler http.Handler) *httptest.Server {
		server := httptest.NewUnstartedServer(handler)
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
		return server
	})
	_, err := Dial(t.Context(), nodeSettings(node.URL, testKey))
	if !errors.Is(err, ErrChainUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a node with a certificate nobody signed: %v", err)
	}
	if _, authorization := node.seen(); len(authorization) != 0 {
		t.Error("the key was sent to a node with a certificate nobody signed")
	}
}

func TestRequestsTimeOut(t *testing.T) {
	node := startTestNode(t, httptest.NewServer)
	release := make(chan struct{})
	defer close(release)
	node.answer = func(http.ResponseWriter, *http.Request) bool { <-release; return true }
	settings := nodeSettings(node.URL, "")
	settings.RequestTimeout = 20 * time.Millisecond
	if _, err := Dial(context.WithoutCancel(t.Context()), settings); !errors.Is(err, ErrChainUnavailable) {
		t.Errorf("a node that never answers: %v", err)
	}
}

func TestAnswersAreLimited(t *testing.T) {
	body := &limitedBody{ReadCloser: io.NopCloser(strings.NewReader("0123456789")), left: 4}
	read, err := io.ReadAll(body)
	if string(read) != "0123" || !errors.Is(err, errResponseTooLarge) {
		t.Errorf("read %q, %v", read, err)
	}
	node := startTestNode(t, httptest.NewServer)
	node.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"result":"0x`)
		zeros := strings.Repeat("0", 1<<20)
		for range responseLimit>>20 + 1 {
			if _, err := io.WriteString(w, zeros); err != nil {
				break
			}
		}
		return true
	}
	if _, err := Dial(t.Context(), nodeSettings(node.URL, "")); !errors.Is(err, ErrChainUnavailable) {
		t.Errorf("an endless answer: %v", err)
	}
}

func TestLongAnswersPassUnchanged(t *testing.T) {
	node := startTestNode(t, httptest.NewServer)
	client, err := Dial(t.Context(), nodeSettings(node.URL, testKey))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	long := strings.Repeat("ab", 3*faultLimit)
	node.mu.Lock()
	node.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":2,"result":"0x%s"}`, long)
		return true
	}
	node.mu.Unlock()
	code, err := client.CodeAt(t.Context(), [20]byte{1}, big.NewInt(1))
	if err != nil || fmt.Sprintf("%x", code) != long {
		t.Errorf("%d bytes, %v", len(code), err)
	}
}

func TestLooksLikeJWT(t *testing.T) {
	for key, want := range map[string]bool{
		testJWT: true, testKey: false, "": false, "a.b": false, "..": false, "ab.cd.ef.gh": false,
		"ab.cd.": false, "ab.c d.ef": false, "eyJ9.eyJ9.sig_-1": true,
	} {
		if looksLikeJWT(key) != want {
			t.Errorf("looksLikeJWT(%q) = %v", key, !want)
		}
	}
}
