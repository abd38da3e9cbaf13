package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/deploy/desk"
)

// Role says which parts a process runs.
type Role int

// The roles of a process.
const (
	RoleServe Role = iota // authz and Envoy as a supervised child
	RoleAuthz             // authz alone
)

// Options is what Run needs.
type Options struct {
	Settings       *Settings // as Load gives them
	Role           Role
	Stdout, Stderr io.Writer
}

// Run starts the parts of the role one after the other and serves until the context ends or a part fails. Then it
// stops them in the opposite order, each within its time. The error is that of the part that failed; a stop that
// was asked for is no error.
func Run(ctx context.Context, options Options) error {
	redactor := NewRedactor(options.Settings)
	stdout := &sharedWriter{target: redactor.Writer(options.Stdout)}
	stderr := &sharedWriter{target: redactor.Writer(options.Stderr)}
	logger, err := NewLogger(options.Settings.Log, redactor, stdout, stderr)
	if err != nil {
		return redactor.Error(err)
	}
	p := &process{
		settings: options.Settings, role: options.Role, stdout: stdout, logger: logger, redactor: redactor,
		metrics: prometheus.NewRegistry(), parts: &Parts{}, failed: make(chan error, 1), started: time.Now(),
	}
	err = p.run(ctx)
	return redactor.Error(errors.Join(err, logger.Close()))
}

// process is one running process.
type process struct {
	settings *Settings
	role     Role
	stdout   io.Writer
	logger   *Logger
	redactor *Redactor
	metrics  *prometheus.Registry
	parts    *Parts
	started  time.Time
	tokens   atomic.Pointer[channelstate.Tokens] // once they are open
	desk     atomic.Pointer[desk.Server]         // once the channel state is open

	group        errgroup.Group
	failed       chan error // the first fault of a running part
	once         sync.Once
	cancelStart  context.CancelFunc
	updateHealth func(context.Context) // tells grpc.health.v1 at once
	stops        []stopStep            // in the order of the start
}

// stopStep ends one part.
type stopStep struct {
	name  string
	extra time.Duration // beside what stop.timeout leaves
	stop  func(context.Context) error
}

// garbagePercent trades memory for processor time: what the process keeps is small beside what a call leaves behind, so
// the collector may run a quarter as often. GOGC overrules it.
const garbagePercent = 400

func (p *process) run(ctx context.Context) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	// The context asks for the stop; the parts themselves live until their own stop step.
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	p.cancelStart = cancel
	cause := p.start(starting)
	if cause == nil {
		cancel()
	}
	if cause == nil || starting.Err() != nil {
		cause = p.wait(ctx)
	}
	if cause != nil {
		p.logger.Error("stopping", zap.Error(cause))
	}
	stopErr := p.stop()
	ending, cancelEnding := context.WithTimeout(context.Background(), time.Second)
	defer cancelEnding()
	if err := inTime(ending, p.group.Wait); cause == nil {
		cause = err // a part that failed during the stop
	}
	return errors.Join(cause, stopErr)
}

// wait gives the fault of the part that failed, nil when the context ended first.
func (p *process) wait(ctx context.Context) error {
	select {
	case cause := <-p.failed:
		return cause
	case <-ctx.Done():
		p.logger.Info("stopping: asked to")
		return nil
	}
}

// goRun keeps a part going in its own goroutine; its end with an error ends the process.
func (p *process) goRun(name string, part func() error) {
	p.group.Go(func() (err error) {
		defer func() {
			if fault := recover(); fault != nil {
				err = fmt.Errorf("panic: %v\n%s", fault, debug.Stack())
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
				p.fail(err)
			}
		}()
		return part()
	})
}

// fail stops the process because of a part; only the first fault counts.
func (p *process) fail(err error) {
	p.once.Do(func() {
		p.failed <- err
		p.cancelStart()
	})
}

// background runs a part that follows something until its stop step.
func (p *process) background(name string, follow func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	p.goRun(name, func() error {
		defer close(ended)
		if err := follow(ctx); ctx.Err() == nil {
			if err == nil {
				err = errors.New("ended on its own")
			}
			return err
		}
		return nil
	})
	p.onStop(name, func(ctx context.Context) error {
		cancel()
		return waitFor(ctx, ended)
	})
}

func waitFor(ctx context.Context, ended <-chan struct{}) error {
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return errors.New("did not end in time")
	}
}

func (p *process) onStop(name string, stop func(context.Context) error) {
	p.stops = append(p.stops, stopStep{name: name, stop: stop})
}

// stop ends the parts, the last started first, all within stop.timeout and what a step adds to it. A part that does
// not end in time is left behind and named.
func (p *process) stop() error {
	p.parts.Stop()
	if p.updateHealth != nil {
		p.updateHealth(context.Background())
	}
	began := time.Now()
	left := p.settings.Stop.Timeout
	var faults []error
	for i := len(p.stops) - 1; i >= 0; i-- {
		step := p.stops[i]
		stepBegan := time.Now()
		// Even when others used up the time, a step may do what it can at once.
		ctx, cancel := context.WithTimeout(context.Background(), max(left, 100*time.Millisecond)+step.extra)
		err := step.stop(ctx)
		cancel()
		took := time.Since(stepBegan)
		left -= max(0, took-step.extra)
		p.logger.Debug("part stopped", zap.String("part", step.name), zap.Duration("took", took), zap.Error(err))
		if err != nil {
			faults = append(faults, fmt.Errorf("stopping %s: %w", step.name, err))
		}
	}
	p.logger.Info("stopped", zap.Duration("took", time.Since(began).Round(time.Millisecond)))
	return errors.Join(faults...)
}
