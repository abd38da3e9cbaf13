package envoy

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"
)

// Bounds of a Supervisor.
const (
	readyTimeout = time.Minute // for one Envoy to become ready
	settled      = time.Minute // an Envoy that lived so long starts the backoff anew
	stopTimeout  = 5 * time.Second
)

// Supervisor keeps one Envoy running.
type Supervisor struct {
	options  RunOptions
	process  atomic.Pointer[Process]
	ready    atomic.Bool
	restarts atomic.Uint64

	mutex   sync.Mutex         // between a new Envoy and Stop
	stopped bool               // no new Envoy may become the running one
	cancel  context.CancelFunc // ends the waiting between two Envoys
	ended   chan struct{}
}

// Supervise starts Envoy and returns once it is ready; ctx bounds this first start only. When Envoy dies it is
// started again, with growing pauses, until Stop.
func Supervise(ctx context.Context, options RunOptions) (*Supervisor, error) {
	if options.Logger == nil {
		options.Logger = zap.NewNop()
	}
	first, err := startReady(ctx, options)
	if err != nil {
		return nil, err
	}
	living, cancel := context.WithCancel(context.Background())
	s := &Supervisor{options: options, cancel: cancel, ended: make(chan struct{})}
	s.adopt(first)
	go s.run(living, first)
	return s, nil
}

// startReady starts Envoy and waits until it serves; on any error nothing is left running.
func startReady(ctx context.Context, options RunOptions) (*Process, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	process, err := Start(ctx, options)
	if err != nil {
		return nil, err
	}
	if err := process.Ready(ctx); err != nil {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		return nil, errors.Join(err, process.Stop(stopping))
	}
	return process, nil
}

func (s *Supervisor) run(ctx context.Context, process *Process) {
	defer close(s.ended)
	pauses := newPauses()
	began := time.Now()
	for {
		err := process.Wait()
		s.down()
		if ctx.Err() != nil {
			return
		}
		s.options.Logger.Error("Envoy ended, starting it again", zap.Error(err))
		if time.Since(began) > settled {
			pauses.Reset()
		}
		if process = s.again(ctx, pauses); process == nil {
			return
		}
		began = time.Now()
		s.restarts.Add(1)
		if !s.adopt(process) {
			s.end(process)
			return
		}
	}
}

func newPauses() *backoff.ExponentialBackOff {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval = 100 * time.Millisecond
	pauses.MaxInterval = 10 * time.Second
	return pauses
}

// again starts Envoy until it is ready; nil when ctx ended first.
func (s *Supervisor) again(ctx context.Context, pauses *backoff.ExponentialBackOff) *Process {
	for {
		select {
		case <-time.After(pauses.NextBackOff()):
		case <-ctx.Done():
			return nil
		}
		process, err := startReady(ctx, s.options)
		if err == nil {
			return process
		}
		if ctx.Err() == nil {
			s.options.Logger.Error("Envoy cannot be started, trying again", zap.Error(err))
		}
	}
}

// adopt makes a process the running one, unless Stop came first.
func (s *Supervisor) adopt(process *Process) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.stopped {
		return false
	}
	s.process.Store(process)
	s.tell(true)
	return true
}

func (s *Supervisor) down() {
	s.process.Store(nil)
	s.tell(false)
}

func (s *Supervisor) tell(ready bool) {
	if s.ready.Swap(ready) != ready && s.options.OnReady != nil {
		s.options.OnReady(ready)
	}
}

func (s *Supervisor) end(process *Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return process.Stop(ctx)
}

// Ready says whether Envoy serves now.
func (s *Supervisor) Ready() bool { return s.ready.Load() }

// Process is the running Envoy, nil between two of them.
func (s *Supervisor) Process() *Process { return s.process.Load() }

// Restarts counts how often Envoy had to be started again.
func (s *Supervisor) Restarts() uint64 { return s.restarts.Load() }

// Stop drains Envoy until no call is under way or ctx ends, then ends it for good. The error says that calls
// were cut.
func (s *Supervisor) Stop(ctx context.Context) error {
	s.mutex.Lock()
	first := !s.stopped
	s.stopped = true
	process := s.Process()
	s.mutex.Unlock()

	var err error
	if first {
		s.cancel()
		s.tell(false)
		if process != nil {
			err = errors.Join(process.Drain(ctx), s.end(process))
		}
	}
	<-s.ended
	return err
}
