package translator

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Endpoint is where an HTTP or JSON-RPC service is. Envoy needs the host, the translator path and query.
type Endpoint struct {
	TLS   bool
	Host  string
	Port  int
	Path  string // escaped, begins with a slash
	Query string // as written; may hold a secret
}

// Authority is the host as the service knows itself by, with the port where it is not the scheme's own.
func (e Endpoint) Authority() string {
	host := e.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if e.TLS && e.Port == 443 || !e.TLS && e.Port == 80 {
		return host
	}
	return host + ":" + strconv.Itoa(e.Port)
}

// ParseEndpoint takes the URL of an HTTP or JSON-RPC service apart: http or https, a host, and possibly a port, a path
// and a query. Errors never show the query, which may hold a secret.
func ParseEndpoint(text string) (Endpoint, error) {
	const hint = "write http://host:port/path, or https:// for a service with TLS"
	if text == "" {
		return Endpoint{}, errors.New("service.endpoint is missing: " + hint)
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	parsed, err := url.Parse(text)
	if err != nil {
		return Endpoint{}, errors.New("service.endpoint is no URL (not shown): " + hint)
	}
	shownURL := parsed.Scheme + "://" + parsed.Host + parsed.EscapedPath()
	switch {
	case parsed.User != nil:
		return Endpoint{}, errors.New("service.endpoint holds a user (not shown): remove it, and set http.credentials instead")
	case parsed.Scheme != "http" && parsed.Scheme != "https":
		return Endpoint{}, fmt.Errorf("service.endpoint is %q, whose scheme is %s: %s", shownURL, parsed.Scheme, hint)
	case parsed.Hostname() == "":
		return Endpoint{}, fmt.Errorf("service.endpoint is %q, which names no host: %s", shownURL, hint)
	case parsed.Fragment != "":
		return Endpoint{}, fmt.Errorf("service.endpoint is %q with a fragment, which is never sent: remove it", shownURL)
	case strings.ContainsFunc(parsed.RawQuery, func(r rune) bool { return r <= ' ' || r > '~' }):
		return Endpoint{}, fmt.Errorf("service.endpoint is %q with a query (not shown) that is not percent-encoded", shownURL)
	}
	endpoint := Endpoint{TLS: parsed.Scheme == "https", Host: parsed.Hostname(), Path: parsed.EscapedPath(), Query: parsed.RawQuery}
	if endpoint.Path == "" {
		endpoint.Path = "/"
	}
	switch port := parsed.Port(); {
	case port != "":
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil || number == 0 {
			return Endpoint{}, fmt.Errorf("service.endpoint is %q, whose port is no number from 1 to 65535: %s", shownURL, hint)
		}
		endpoint.Port = int(number)
	case endpoint.TLS:
		endpoint.Port = 443
	default:
		endpoint.Port = 80
	}
	return endpoint, nil
}
