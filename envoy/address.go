package envoy

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Address is where something listens: a TCP host and port, or the path of a Unix socket.
type Address struct {
	Host string
	Port uint16
	Path string // of a Unix socket; Host and Port are empty then
}

// maxSocketPath is what a sockaddr_un holds on Linux without its closing zero; macOS has 103.
const maxSocketPath = 103

// ParseAddress reads "host:port" or "unix:/path".
func ParseAddress(text string) (Address, error) {
	if path, found := strings.CutPrefix(text, "unix:"); found {
		if !strings.HasPrefix(path, "/") || len(path) > maxSocketPath {
			return Address{}, fmt.Errorf("%q: write unix: and an absolute path of at most %d bytes", text, maxSocketPath)
		}
		return Address{Path: path}, nil
	}
	host, port, err := net.SplitHostPort(text)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || host == "" {
		return Address{}, fmt.Errorf("%q: write host:port, such as 127.0.0.1:7000, or unix:/path", text)
	}
	return Address{Host: host, Port: uint16(number)}, nil
}

// String is the form that ParseAddress reads.
func (a Address) String() string {
	if a.Path != "" {
		return "unix:" + a.Path
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// IsName says whether the host has to be looked up.
func (a Address) IsName() bool {
	_, err := netip.ParseAddr(a.Host)
	return a.Path == "" && err != nil
}

// Local says whether only this machine can reach the address.
func (a Address) Local() bool {
	if a.Path != "" || a.Host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(a.Host)
	return err == nil && ip.IsLoopback()
}

// Network and Dial are what net.Dial takes.
func (a Address) Network() string {
	if a.Path != "" {
		return "unix"
	}
	return "tcp"
}

// Dial is the address without a scheme.
func (a Address) Dial() string {
	if a.Path != "" {
		return a.Path
	}
	return a.String()
}
