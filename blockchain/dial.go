package blockchain

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/rpc"
)

// ErrChainUnavailable: the node could not be asked, or gave no usable answer.
var ErrChainUnavailable = errors.New("the chain cannot be asked")

// ErrWrongChain: the node serves another chain than the settings name.
var ErrWrongChain = errors.New("wrong chain")

// Announcements are headers of about a kilobyte.
const webSocketMessageLimit = 1 << 20 // bytes

// nodeClient is embedded under this name so that its method Client stays in reach.
type nodeClient = ethclient.Client

// Client is a connection to a node that counts its requests.
type Client struct {
	*nodeClient
	requests atomic.Uint64
}

var _ Backend = (*Client)(nil)

// Requests is the number of JSON-RPC requests made so far.
func (c *Client) Requests() uint64 { return c.requests.Load() }

func (c *Client) countRequest() { c.requests.Add(1) }

// Dial connects to the node at blockchain.rpc_url and checks that it serves the
// chain of the settings. Errors: ErrChainUnavailable, ErrWrongChain; they never
// show more of the URL than its host.
func Dial(ctx context.Context, settings Settings) (*Client, error) {
	endpoint, err := parseEndpoint(settings.RPCURL)
	if err != nil {
		return nil, fmt.Errorf("blockchain.rpc_url: %w", err)
	}
	client := &Client{}
	httpClient := &http.Client{
		Transport: newNodeTransport(endpoint, httpAuthorization(endpoint, settings.APIKey), settings, client.countRequest),
		Timeout:   settings.RequestTimeout,
		// A node has no reason to redirect, and the key must not follow.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	// The client is given nothing but the host, so its errors can show no more.
	connection, err := rpc.DialOptions(ctx, RedactURL(settings.RPCURL), rpc.WithHTTPClient(httpClient))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChainUnavailable, err)
	}
	client.nodeClient = ethclient.NewClient(connection)
	if err := checkChain(ctx, connection, settings, "blockchain.rpc_url", endpoint); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// dialWebSocket connects to blockchain.websocket_url and checks the chain.
func dialWebSocket(ctx context.Context, settings Settings, count func()) (*rpc.Client, error) {
	endpoint, err := parseEndpoint(settings.WebSocketURL)
	if err != nil {
		return nil, fmt.Errorf("blockchain.websocket_url: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, settings.RequestTimeout)
	defer cancel()
	secrets := secretsOf(endpoint, settings.APIKey)
	connection, err := rpc.DialOptions(ctx, withoutUser(endpoint),
		rpc.WithWebsocketMessageSizeLimit(webSocketMessageLimit),
		rpc.WithHTTPAuth(func(header http.Header) error {
			if authorization := webSocketAuthorization(endpoint, settings.APIKey); authorization != "" {
				header.Set("Authorization", authorization)
			}
			return nil
		}))
	if err != nil {
		// Not wrapped: the text could hold the URL.
		return nil, fmt.Errorf("%w: connecting to %s: %s", ErrChainUnavailable, endpoint.Host, redact(err.Error(), secrets))
	}
	count()
	if err := checkChain(ctx, connection, settings, "blockchain.websocket_url", endpoint); err != nil {
		connection.Close()
		return nil, err
	}
	return connection, nil
}

func checkChain(ctx context.Context, connection *rpc.Client, settings Settings, key string, endpoint *url.URL) error {
	ctx, cancel := context.WithTimeout(ctx, settings.RequestTimeout)
	defer cancel()
	var answer hexutil.Big
	if err := connection.CallContext(ctx, &answer, "eth_chainId"); err != nil {
		return fmt.Errorf("%w: the node at %s does not tell its chain id, check %s and blockchain.api_key: %w",
			ErrChainUnavailable, endpoint.Host, key, err)
	}
	if answer.ToInt().Cmp(new(big.Int).SetUint64(settings.ChainID)) == 0 {
		return nil
	}
	return fmt.Errorf("%w: the node at %s serves chain id %s, but blockchain.network %s has chain id %d: set %s to a node of that chain, or blockchain.network to the one you mean",
		ErrWrongChain, endpoint.Host, answer.ToInt(), settings.Network, settings.ChainID, key)
}

// parseEndpoint never repeats the URL in its error.
func parseEndpoint(text string) (*url.URL, error) {
	endpoint, err := url.Parse(text)
	if err != nil || endpoint.Host == "" {
		return nil, errors.New("not a URL with a host (value not shown, it may hold a key)")
	}
	return endpoint, nil
}

// httpAuthorization is the Authorization header towards an HTTP node. Infura
// takes its secret as the password of an empty user; a JWT and the keys of other
// providers are bearer tokens.
func httpAuthorization(endpoint *url.URL, apiKey string) string {
	switch {
	case apiKey == "":
		return userAuthorization(endpoint)
	case !looksLikeJWT(apiKey) && strings.Contains(strings.ToLower(endpoint.String()), "infura"):
		return basicAuthorization("", apiKey)
	}
	return "Bearer " + apiKey
}

// webSocketAuthorization is always Basic: providers take nothing else there.
func webSocketAuthorization(endpoint *url.URL, apiKey string) string {
	if apiKey == "" {
		return userAuthorization(endpoint)
	}
	return basicAuthorization("", apiKey)
}

func userAuthorization(endpoint *url.URL) string {
	if endpoint.User == nil {
		return ""
	}
	password, _ := endpoint.User.Password()
	return basicAuthorization(endpoint.User.Username(), password)
}

func basicAuthorization(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// looksLikeJWT: three parts of base64url with dots between (RFC 7519).
func looksLikeJWT(key string) bool {
	parts := strings.Split(key, ".")
	if len(parts) != 3 {
		return false
	}
	for _, part := range parts {
		if _, err := base64.RawURLEncoding.DecodeString(part); err != nil || part == "" {
			return false
		}
	}
	return true
}
