package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// RunOptions say how Envoy is run as a child.
type RunOptions struct {
	Binary      string
	Config      []byte        // YAML; may hold secrets, so it is only ever in a private file
	Logger      *zap.Logger   // gets Envoy's own log, line by line
	LogLevel    string        // one of LogLevels; empty means warning
	Concurrency int           // worker threads; 0 means one for each core
	DrainTime   time.Duration // Envoy's own idea of a drain, in whole seconds; what bounds Drain is its context
	Stdout      io.Writer     // where an access log at /dev/stdout goes; nil means this process's
	// OnReady is called by a Supervisor when Envoy became ready and when it no longer is; may be nil. It must not
	// call the Supervisor.
	OnReady func(ready bool)
}

// Process is one running Envoy.
type Process struct {
	command *exec.Cmd
	folder  string // private, holds the configuration and the admin address
	log     *logWriter
	admin   *admin

	done     chan struct{}
	mutex    sync.Mutex
	err      error // why it ended
	stopping bool
}

// Start runs Envoy, and returns before it is ready. Envoy ends with this process, whatever ends that (on
// Linux; elsewhere only when it is stopped in order). ctx bounds nothing after Start has returned.
func Start(ctx context.Context, options RunOptions) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if options.Logger == nil {
		options.Logger = zap.NewNop()
	}
	folder, err := writeConfig(options.Config)
	if err != nil {
		return nil, err
	}
	log := newLogWriter(options.Logger.Named("envoy"))
	addressFile := filepath.Join(folder, "admin")
	p := &Process{
		command: newCommand(options, folder, addressFile, log),
		folder:  folder, log: log, done: make(chan struct{}),
	}
	p.admin = newAdmin(addressFile)

	started := make(chan error, 1)
	go p.live(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start Envoy: %w", err)
	}
	return p, nil
}

// writeConfig puts the configuration where nobody else can read it.
func writeConfig(config []byte) (folder string, err error) {
	folder, err = os.MkdirTemp("", "mpegate-envoy-*") // 0700
	if err != nil {
		return "", fmt.Errorf("cannot make a folder for Envoy's configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(folder, configFile), config, 0o600); err != nil {
		_ = os.RemoveAll(folder)
		return "", fmt.Errorf("cannot write Envoy's configuration: %w", err)
	}
	return folder, nil
}

const configFile = "envoy.yaml"

func newCommand(options RunOptions, folder, addressFile string, log io.Writer) *exec.Cmd {
	level := options.LogLevel
	if level == "" {
		level = "warning"
	}
	arguments := []string{
		"--config-path", filepath.Join(folder, configFile),
		"--admin-address-path", addressFile,
		"--log-level", level,
		"--log-format", logFormat, "--log-format-escaped",
		"--drain-time-s", strconv.Itoa(max(1, int(options.DrainTime.Seconds()))),
		"--drain-strategy", "immediate",
		// Hot restart needs an id that no other Envoy of the machine has, and leaves a file in /dev/shm behind.
		"--disable-hot-restart",
	}
	if options.Concurrency > 0 {
		arguments = append(arguments, "--concurrency", strconv.Itoa(options.Concurrency))
	}
	command := exec.Command(options.Binary, arguments...)
	command.Env = withoutOwn(os.Environ())
	command.Stdout = options.Stdout
	if command.Stdout == nil {
		command.Stdout = os.Stdout
	}
	command.Stderr = log
	command.WaitDelay = time.Second // never wait for a pipe that something else keeps open
	command.SysProcAttr = childAttributes()
	return command
}

// withoutOwn keeps our settings, some of which are secrets, from the child.
func withoutOwn(environment []string) []string {
	var kept []string
	for _, variable := range environment {
		if !strings.HasPrefix(variable, "MPEGATE_") {
			kept = append(kept, variable)
		}
	}
	return kept
}

// live starts the child and waits for its end, on one thread: on Linux the child is killed when the thread
// that started it ends, which would otherwise be at some odd moment in the middle of our life.
func (p *Process) live(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.command.Start()
	if err != nil {
		_ = os.RemoveAll(p.folder)
		started <- err
		return
	}
	started <- nil
	err = p.command.Wait()
	p.log.flush()
	_ = os.RemoveAll(p.folder)
	p.admin.close()

	p.mutex.Lock()
	defer p.mutex.Unlock()
	if !p.stopping {
		p.err = p.reason(err)
	}
	close(p.done)
}

// reason says why Envoy ended by itself, in Envoy's last words if it had any.
func (p *Process) reason(err error) error {
	if err == nil {
		err = errors.New("exit status 0")
	}
	if words := p.log.lastWords(); words != "" {
		return fmt.Errorf("the Envoy process ended (%w): %s", err, words)
	}
	return fmt.Errorf("the Envoy process ended (%w)", err)
}

// PID is the process id.
func (p *Process) PID() int { return p.command.Process.Pid }

// Done is closed when Envoy has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait returns once Envoy has ended: nil after Stop, else the reason.
func (p *Process) Wait() error {
	<-p.done
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.err
}

// poll is how often Envoy is asked while something is waited for.
const poll = 20 * time.Millisecond

// Ready returns once Envoy serves its listeners.
func (p *Process) Ready(ctx context.Context) error {
	if err := p.until(ctx, "Envoy is not ready", p.admin.ready); err != nil {
		return err
	}
	if err := p.admin.settle(); err != nil {
		return err
	}
	// Envoy has read what is in the folder, and so have we: a kill -9 later on leaves nothing behind.
	return os.RemoveAll(p.folder)
}

// until asks again and again until the answer is yes, Envoy has ended, or ctx is over.
func (p *Process) until(ctx context.Context, what string, ask func(context.Context) (bool, error)) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		yes, err := ask(ctx)
		if yes {
			return nil
		}
		select {
		case <-ticker.C:
		case <-p.done:
			if err := p.Wait(); err != nil {
				return err
			}
			return errors.New("the Envoy process was stopped")
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: %w", what, ctx.Err()), err) // err: the latest answer
		}
	}
}

// Admin is the address of the admin interface, known once Envoy is ready.
func (p *Process) Admin() (Address, error) { return p.admin.address() }

// ListenerAddress is where a listener of the configuration really listens, which matters for port 0.
func (p *Process) ListenerAddress(ctx context.Context, name string) (Address, error) {
	return p.admin.listener(ctx, name)
}

// Drain asks clients to go elsewhere and returns once no call is under way, or with an error when ctx ends
// first. From the start of it Envoy is not ready and refuses new connections.
func (p *Process) Drain(ctx context.Context) error {
	if err := p.admin.drain(ctx); err != nil {
		return err
	}
	return p.until(ctx, "calls are still under way", p.admin.idle)
}

// Stop ends Envoy: SIGTERM, and SIGKILL when ctx ends first. Calls under way are cut; Drain comes before.
func (p *Process) Stop(ctx context.Context) error {
	p.mutex.Lock()
	p.stopping = true
	p.mutex.Unlock()
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot stop Envoy: %w", err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	_ = p.command.Process.Kill()
	<-p.done
	return fmt.Errorf("the Envoy process did not end on SIGTERM and was killed: %w", ctx.Err())
}
