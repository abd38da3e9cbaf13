package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/deploy/desk"
	"github.com/mpegate/mpegate/envoy"
)

// openListeners takes every address first, so that a taken one is an error before anything slow has begun.
func (p *process) openListeners(ctx context.Context) (net.Listener, error) {
	admin, err := p.listenAdmin(ctx)
	if err != nil {
		return nil, err
	}
	server := newAdminServer(admin, p.parts, p.metrics, p.logger.Level, p.redactor)
	server.mux.HandleFunc("POST "+RotatePath, p.rotateTokens)
	server.mux.HandleFunc("POST "+desk.Path, p.serveDesk)
	p.goRun("admin", server.Run)
	p.onStop("admin", server.Close)
	p.logger.Info("admin listens", zap.Stringer("address", admin.Addr()))

	listener, err := p.listenAuthz(ctx)
	if err != nil {
		return nil, err
	}
	p.onStop("authz listener", func(context.Context) error { return closeListener(listener) })
	if p.role == RoleServe {
		if err := p.choosePublicPort(ctx); err != nil {
			return nil, err
		}
	}
	return listener, nil
}

// listenAdmin opens admin.address. Where nobody chose one, a second service on the machine takes a free port.
func (p *process) listenAdmin(ctx context.Context) (net.Listener, error) {
	chosen := p.settings.Admin.Address
	listener, err := listen(ctx, "admin.address", chosen)
	if chosen != DefaultAdminAddress || !errors.Is(err, errInUse) {
		return listener, err
	}
	p.logger.Warn("the default admin.address is in use, a free port is taken: set admin.address to know it beforehand",
		zap.String("in_use", chosen))
	return listen(ctx, "admin.address", "127.0.0.1:0")
}

// listenAuthz opens authz.address. Without one, serve takes a Unix socket that only this user can reach: whoever
// reaches the access log service can report calls as failed.
func (p *process) listenAuthz(ctx context.Context) (net.Listener, error) {
	text := p.settings.Authz.Address
	switch {
	case text == "" && p.role == RoleAuthz:
		text = DefaultAuthzAddress
	case text == "":
		removeDeadFolders()
		folder, err := os.MkdirTemp("", socketFolder)
		if err != nil {
			return nil, fmt.Errorf("authz.address: cannot make a folder for the socket: %w; set authz.address to 127.0.0.1:7391", err)
		}
		p.onStop("authz socket", func(context.Context) error { return os.RemoveAll(folder) })
		text = "unix:" + filepath.Join(folder, socketName)
	}
	return listen(ctx, "authz.address", text)
}

// listen opens a TCP address or a Unix socket. A socket file that nobody listens on any more is replaced.
func listen(ctx context.Context, key, text string) (net.Listener, error) {
	address, err := envoy.ParseAddress(text)
	if err != nil {
		return nil, fmt.Errorf("%s is %w", key, err)
	}
	if address.Path != "" {
		removeDeadSocket(address.Path)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, address.Network(), address.Dial())
	if err != nil {
		return nil, listenFault(key, text, err)
	}
	if address.Path != "" {
		if err := os.Chmod(address.Path, 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", key, err), listener.Close())
		}
	}
	return listener, nil
}

// The private socket of serve stands in a folder of its own.
const (
	socketFolder = "mpegate-authz-"
	socketName   = "authz.sock"
)

func removeDeadSocket(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return false
	}
	if connection, err := net.DialTimeout("unix", path, time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		if err == nil {
			connection.Close()
		}
		return false
	}
	return os.Remove(path) == nil
}

// removeDeadFolders clears away what killed processes left behind. Those of other users cannot be removed and stay.
func removeDeadFolders() {
	sockets, _ := filepath.Glob(filepath.Join(os.TempDir(), socketFolder+"*", socketName)) // the pattern is good
	for _, socket := range sockets {
		if removeDeadSocket(socket) {
			os.Remove(filepath.Dir(socket))
		}
	}
}

var errInUse = errors.New("is in use")

func listenFault(key, text string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s %s %w: choose another address, or end the program that holds it", key, text, errInUse)
	}
	if errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("%s %s is not allowed for this user: choose a port above 1023 or a folder it may write", key, text)
	}
	return fmt.Errorf("%s %s cannot be listened on: %w; give an address of this machine", key, text, err)
}

func closeListener(listener net.Listener) error {
	if err := listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// authzAddress is where Envoy finds a listener; one on every address is asked on loopback.
func authzAddress(listener net.Listener) envoy.Address {
	switch address := listener.Addr().(type) {
	case *net.UnixAddr:
		return envoy.Address{Path: address.Name}
	case *net.TCPAddr:
		host := address.IP.String()
		if address.IP.IsUnspecified() {
			host = map[bool]string{true: "127.0.0.1", false: "::1"}[address.IP.To4() != nil]
		}
		return envoy.Address{Host: host, Port: uint16(address.Port)}
	}
	return envoy.Address{}
}

// choosePublicPort finds out whether Envoy can have listen.address, and picks a port for port 0. Right after a crash
// the Envoy of the process before may hold the address for a moment.
func (p *process) choosePublicPort(ctx context.Context) error {
	const patience = 5 * time.Second
	listener, err := backoff.Retry(ctx, func() (net.Listener, error) {
		listener, err := listen(ctx, "listen.address", p.settings.Listen.Address)
		if err != nil && !errors.Is(err, errInUse) {
			return nil, backoff.Permanent(err)
		}
		return listener, err
	}, backoff.WithMaxElapsedTime(patience), backoff.WithBackOff(quickBackOff()))
	if err != nil {
		return err
	}
	address, err := envoy.ParseAddress(p.settings.Listen.Address)
	if tcp, ok := listener.Addr().(*net.TCPAddr); ok && err == nil && address.Port == 0 {
		address.Port = uint16(tcp.Port)
		p.settings.Listen.Address = address.String()
	}
	return errors.Join(err, listener.Close())
}
