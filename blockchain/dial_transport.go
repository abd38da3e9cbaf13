package blockchain

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	responseLimit = 32 << 20 // bytes of one answer of the node
	faultLimit    = 2 << 10  // bytes: an error is no longer
	redacted      = "[redacted]"
	// Shorter pieces of a URL, such as "v3", are no secrets.
	shortestSecret = 6
)

var errResponseTooLarge = errors.New("the node's answer is too large")

// nodeTransport sends requests to the real URL of the node, with its key, while
// everything above knows the host only.
type nodeTransport struct {
	base          http.RoundTripper
	target        url.URL
	authorization string
	secrets       []string
	count         func()
}

func newNodeTransport(endpoint *url.URL, authorization string, settings Settings, count func()) *nodeTransport {
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.MaxIdleConnsPerHost = 16
	base.ResponseHeaderTimeout = settings.RequestTimeout
	target := *endpoint
	target.User = nil
	return &nodeTransport{
		base:          base,
		target:        target,
		authorization: authorization,
		secrets:       secretsOf(endpoint, settings.APIKey),
		count:         count,
	}
}

func (t *nodeTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	t.count()
	outgoing := request.Clone(request.Context())
	target := t.target
	outgoing.URL, outgoing.Host = &target, target.Host
	if t.authorization != "" {
		outgoing.Header.Set("Authorization", t.authorization)
	}
	response, err := t.base.RoundTrip(outgoing)
	if err != nil {
		return nil, err
	}
	response.Body = &limitedBody{ReadCloser: response.Body, left: responseLimit}
	return t.redactFault(response)
}

// redactFault takes the key out of an error the node answers, which may repeat
// it, and shortens an error page.
func (t *nodeTransport) redactFault(response *http.Response) (*http.Response, error) {
	start, err := io.ReadAll(io.LimitReader(response.Body, faultLimit))
	if err != nil {
		response.Body.Close()
		return nil, err
	}
	failed := response.StatusCode >= http.StatusMultipleChoices
	if failed || bytes.Contains(start, []byte(`"error"`)) {
		start = []byte(redact(string(start), t.secrets))
		response.ContentLength = -1
	}
	rest := io.Reader(response.Body)
	if failed {
		rest = bytes.NewReader(nil)
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(start), rest), response.Body}
	return response, nil
}

// CloseIdleConnections lets http.Client close what it no longer needs.
func (t *nodeTransport) CloseIdleConnections() {
	if base, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// limitedBody fails a body that is longer than allowed instead of cutting it.
type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(buffer []byte) (int, error) {
	if b.left <= 0 {
		return 0, errResponseTooLarge
	}
	if int64(len(buffer)) > b.left {
		buffer = buffer[:b.left]
	}
	n, err := b.ReadCloser.Read(buffer)
	b.left -= int64(n)
	return n, err
}

// secretsOf lists the parts of an endpoint that may be a key.
func secretsOf(endpoint *url.URL, apiKey string) []string {
	candidates := []string{apiKey, endpoint.RawQuery}
	if endpoint.User != nil {
		password, _ := endpoint.User.Password()
		candidates = append(candidates, endpoint.User.Username(), password, endpoint.User.String())
	}
	candidates = append(candidates, strings.Split(endpoint.Path, "/")...)
	candidates = append(candidates, strings.Split(endpoint.EscapedPath(), "/")...)
	for _, values := range endpoint.Query() {
		candidates = append(candidates, values...)
	}
	var secrets []string
	for _, candidate := range candidates {
		if len(candidate) >= shortestSecret {
			secrets = append(secrets, candidate)
		}
	}
	// The longest first: one may be a part of another.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return secrets
}

func redact(text string, secrets []string) string {
	for _, secret := range secrets {
		text = strings.ReplaceAll(text, secret, redacted)
	}
	return text
}

func withoutUser(endpoint *url.URL) string {
	clean := *endpoint
	clean.User = nil
	return clean.String()
}
