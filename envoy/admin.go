package envoy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// admin talks to the admin interface of one Envoy.
type admin struct {
	file   string // Envoy writes the interface's address here
	client *http.Client

	mutex sync.Mutex
	known *Address
}

// maxAdminReply bounds what is read of one answer.
const maxAdminReply = 1 << 20

func newAdmin(file string) *admin {
	a := &admin{file: file}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		address, err := a.address()
		if err != nil {
			return nil, err
		}
		var dialer net.Dialer
		return dialer.DialContext(ctx, address.Network(), address.Dial())
	}
	a.client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: dial, MaxIdleConns: 1}}
	return a
}

func (a *admin) close() { a.client.CloseIdleConnections() }

// address is where the interface really is: Envoy replaces the port 0 of its configuration by a free one.
func (a *admin) address() (Address, error) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if a.known != nil {
		return *a.known, nil
	}
	content, err := os.ReadFile(a.file)
	if err != nil {
		return Address{}, fmt.Errorf("the admin interface of Envoy is not open: %w", err)
	}
	text := strings.TrimSpace(string(content))
	if strings.HasPrefix(text, "/") {
		text = "unix:" + text
	}
	return ParseAddress(text)
}

// settle keeps the address, so that the file is not needed any more.
func (a *admin) settle() error {
	address, err := a.address()
	if err != nil {
		return err
	}
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.known = &address
	return nil
}

func (a *admin) do(ctx context.Context, method, path string) (body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://admin"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := a.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask Envoy: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAdminReply))
	if err != nil {
		return nil, fmt.Errorf("ask Envoy %s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the admin interface of Envoy answers %s with %s: %s", path, response.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// ready says whether Envoy is live and its worker threads take connections.
func (a *admin) ready(ctx context.Context) (bool, error) {
	if _, err := a.do(ctx, http.MethodGet, "/ready"); err != nil {
		return false, err
	}
	started, err := a.sum(ctx, `^listener_manager\.workers_started$`)
	return started == 1, err
}

// idle says whether no call is under way.
func (a *admin) idle(ctx context.Context) (bool, error) {
	calls, err := a.sum(ctx, `^http\.public\.downstream_rq_active$`)
	return err == nil && calls == 0, err
}

// sum adds up the counters and gauges that the expression finds.
func (a *admin) sum(ctx context.Context, expression string) (uint64, error) {
	body, err := a.do(ctx, http.MethodGet, "/stats?format=json&filter="+expression)
	if err != nil {
		return 0, err
	}
	var reply struct {
		Stats []struct {
			Name  string `json:"name"`
			Value uint64 `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return 0, fmt.Errorf("statistics of Envoy: %w", err)
	}
	var sum uint64
	for _, stat := range reply.Stats {
		sum += stat.Value
	}
	return sum, nil
}

func (a *admin) listener(ctx context.Context, name string) (Address, error) {
	body, err := a.do(ctx, http.MethodGet, "/listeners?format=json")
	if err != nil {
		return Address{}, err
	}
	var reply struct {
		Listeners []struct {
			Name  string `json:"name"`
			Local struct {
				Socket struct {
					Address string `json:"address"`
					Port    uint16 `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return Address{}, fmt.Errorf("list of Envoy's listeners: %w", err)
	}
	for _, listener := range reply.Listeners {
		if listener.Name == name {
			return Address{Host: listener.Local.Socket.Address, Port: listener.Local.Socket.Port}, nil
		}
	}
	return Address{}, fmt.Errorf("there is no listener %q in Envoy", name)
}

// drain makes Envoy tell its clients to go away, with GOAWAY or "connection: close" on the next answer, and
// take no new connections.
func (a *admin) drain(ctx context.Context) error {
	if _, err := a.do(ctx, http.MethodPost, "/healthcheck/fail"); err != nil {
		return err
	}
	_, err := a.do(ctx, http.MethodPost, "/drain_listeners")
	return err
}
