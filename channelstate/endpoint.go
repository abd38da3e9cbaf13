package channelstate

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
)

const (
	maxEndpoints = 64
	// socketPathLength is the shortest limit of the systems we run on (macOS; Linux allows 107).
	socketPathLength = 103
)

// checkEndpoints refuses lists that the etcd client would read in another way
// than they are meant: it decides by the first endpoint whether TLS is used
// for all of them. key names the list in the error.
func checkEndpoints(key string, endpoints []string, withTLS bool) error {
	if len(endpoints) > maxEndpoints {
		return fmt.Errorf("%s has %d entries: list at most %d", key, len(endpoints), maxEndpoints)
	}
	schemes := map[string]bool{}
	for i, endpoint := range endpoints {
		scheme, err := endpointScheme(endpoint)
		if err != nil {
			return fmt.Errorf("%s[%d] %w", key, i, err)
		}
		schemes[scheme] = true
	}
	if len(schemes) > 1 {
		return fmt.Errorf("%s mixes http and https: all members must be asked the same way", key)
	}
	if schemes["http"] && withTLS {
		return fmt.Errorf("%s has http:// while etcd.ca_file or etcd.cert_file is set: write https://, or remove the files from the settings", key)
	}
	return nil
}

// endpointScheme tells how one endpoint is asked. Errors of an endpoint that
// may hold a password do not repeat it.
func endpointScheme(endpoint string) (string, error) {
	text := endpoint
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	parsed, err := url.Parse(text)
	switch {
	case err != nil || strings.TrimSpace(endpoint) != endpoint:
		return "", errors.New("is not a URL: write one such as https://etcd-1.example.org:2379")
	case parsed.User != nil:
		return "", errors.New("holds a user: move it to etcd.username and etcd.password")
	case parsed.Scheme != "http" && parsed.Scheme != "https":
		return "", fmt.Errorf("is %q: write http://host:port or https://host:port", endpoint)
	case parsed.Hostname() == "" || parsed.Port() == "" || strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" || parsed.Fragment != "":
		return "", fmt.Errorf("is %q: write a host and a port and no more, such as https://etcd-1.example.org:2379", endpoint)
	}
	return parsed.Scheme, nil
}

// listenURL is where etcd clients may ask the embedded etcd; nil is nowhere.
// Whoever reaches it can change the books, so it is never on a network.
func (s *EmbeddedSettings) listenURL() (*url.URL, error) {
	const key = "embedded.listen_client_url"
	if s.ListenClientURL == "" {
		return nil, nil
	}
	if path, isSocket := strings.CutPrefix(s.ListenClientURL, "unix:"); isSocket {
		if path = strings.TrimPrefix(path, "//"); path == "" {
			path = filepath.Join(s.DataDir, "client.sock")
		}
		path, err := filepath.Abs(path)
		if err != nil {
			return nil, fmt.Errorf("%s is %q: %w", key, s.ListenClientURL, err)
		}
		if len(path) > socketPathLength {
			return nil, fmt.Errorf("%s is %q: the path of the socket has %d bytes and may have %d: write a shorter one, such as unix:/run/mpegate/etcd.sock",
				key, s.ListenClientURL, len(path), socketPathLength)
		}
		return &url.URL{Scheme: "unix", Path: path}, nil
	}
	parsed, err := url.Parse(s.ListenClientURL)
	if err == nil && parsed.Scheme == "http" && parsed.Port() != "" && strings.Trim(parsed.Path, "/") == "" && parsed.User == nil {
		if address, err := netip.ParseAddr(parsed.Hostname()); err == nil && address.IsLoopback() {
			return &url.URL{Scheme: "http", Host: net.JoinHostPort(address.String(), parsed.Port())}, nil
		}
	}
	return nil, fmt.Errorf("%s is %q: write unix: for a socket in embedded.data_dir, unix:/path/to/socket or http://127.0.0.1:port; "+
		"to share the state with other machines use store etcd", key, s.ListenClientURL)
}
