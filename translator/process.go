package translator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// processes is a service that is a program: one process for each call, which reads the message and writes the answer.
type processes struct {
	server      *Server
	settings    ProcessSettings
	command     []string // executable and arguments before the method's name
	environment []string
	slots       chan struct{} // one word for each process under way
	waiting     atomic.Int64  // calls that wait for one
}

func newProcesses(server *Server) (*processes, error) {
	settings := server.settings.Process
	environment, err := settings.environment()
	if err != nil {
		return nil, err
	}
	executable, err := filepath.Abs(settings.Executable)
	if err != nil {
		return nil, fmt.Errorf("process.executable: %w", err)
	}
	return &processes{
		server: server, settings: settings, environment: environment,
		command: append([]string{executable}, settings.Arguments...),
		slots:   make(chan struct{}, settings.Concurrency),
	}, nil
}

// serve answers one call with one process.
func (a *processes) serve(c *call, message []byte) error {
	// The first cause that ends the context is the one that the client is told.
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	limit := a.server.settings.processTimeout()
	if c.timeout > 0 {
		limit = min(limit, c.timeout)
	}
	late := time.AfterFunc(limit, func() { cancel(outOfTime()) })
	defer late.Stop()
	defer context.AfterFunc(a.server.killed, func() { cancel(isStopping()) })()

	input, err := a.input(c, message)
	if err != nil {
		return err
	}
	if err := a.acquire(ctx); err != nil {
		return err
	}
	defer func() { <-a.slots }()
	return a.run(ctx, c, input)
}

func outOfTime() *failure {
	return fail(deadlinePassed, nil, "the call took longer than its deadline or the service's timeout")
}

// input is what the program reads.
func (a *processes) input(c *call, message []byte) ([]byte, error) {
	if a.settings.Input != InputJSON {
		return message, nil
	}
	return c.appendJSON(nil, message)
}

// acquire waits for the right to start a process.
func (a *processes) acquire(ctx context.Context) error {
	select {
	case a.slots <- struct{}{}:
		return nil
	default:
	}
	if a.waiting.Add(1) > int64(a.settings.QueueLength) {
		a.waiting.Add(-1)
		return fail(processesBusy, nil, "the service has too many calls under way: try again later")
	}
	defer a.waiting.Add(-1)
	select {
	case a.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run starts the program and passes its answer on. Whatever happens, nothing of it is left when run returns.
func (a *processes) run(ctx context.Context, c *call, input []byte) error {
	p, err := startProcess(a.command, c.name, a.environment, a.settings.folder(), input)
	if err != nil {
		return fail(processNotStarted, err, "the service's program cannot be started")
	}
	a.server.metrics.processes.Inc()
	defer a.server.metrics.processes.Dec()
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()

	answer := a.whole
	if c.method != nil && c.method.serverStreams {
		answer = a.stream
	}
	err = answer(c, p)
	if err != nil {
		p.kill()
	}
	ended := p.wait()
	if p.killed() {
		a.server.metrics.killed.Inc()
	}
	a.logged(c, p, ended)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case ended != nil:
		return fail(processFailed, ended, "the service's program failed: %s", ended)
	}
	return a.finish(c, p)
}

// logged puts what the program wrote to stderr into the log, and nowhere else.
func (a *processes) logged(c *call, p *process, ended error) {
	text := p.errors.text()
	if text == "" {
		return
	}
	fields := []zap.Field{zap.String("method", shown(c.path)), zap.String("stderr", a.server.redact(text))}
	if ended != nil {
		a.server.logger.Warn("the service's program wrote to stderr and failed", append(fields, zap.Error(ended))...)
		return
	}
	a.server.logger.Debug("the service's program wrote to stderr", fields...)
}

// whole takes all that the program writes as one answer, which finish sends once the program has ended well.
func (a *processes) whole(c *call, p *process) error {
	limit := a.server.settings.MaxMessageSize
	if a.settings.Input == InputJSON {
		limit = a.server.settings.bodyLimit()
	}
	frame, err := readLimited(p.output, newFrame(4<<10), limit)
	if err != nil {
		return err
	}
	p.answer = frame
	return nil
}

// readLimited appends everything that can be read.
func readLimited(source io.Reader, target []byte, limit int64) ([]byte, error) {
	start := len(target)
	for {
		if len(target) == cap(target) {
			target = slices.Grow(target, len(target))
		}
		count, err := source.Read(target[len(target):cap(target)])
		target = target[:len(target)+count]
		switch {
		case int64(len(target)-start) > limit:
			return nil, answerTooLarge(limit)
		case errors.Is(err, io.EOF):
			return target, nil
		case err != nil:
			return nil, badAnswer(err, "it cannot be read")
		}
	}
}

// finish ends a call whose program ended well.
func (a *processes) finish(c *call, p *process) error {
	if p.answer != nil {
		frame, err := a.frame(c, p.answer)
		if err != nil {
			return err
		}
		if err := a.send(c, frame); err != nil {
			return err
		}
	} else if err := c.beginStream(); err != nil { // a stream without a message
		return err
	}
	if err := c.closeStream(nil); err != nil {
		return err
	}
	return errDone
}

// frame makes a frame of one answer, for which there is room before what the program wrote.
func (a *processes) frame(c *call, frame []byte) (_ []byte, err error) {
	if a.settings.Input == InputJSON {
		text := frame[frameHeader:]
		if frame, err = c.appendMessage(newFrame(len(text)), text); err != nil {
			return nil, err
		}
	}
	return finishFrame(frame, a.server.settings.MaxMessageSize)
}

// send passes frames on.
func (a *processes) send(c *call, frames []byte) error {
	if err := c.beginStream(); err != nil {
		return err
	}
	return c.sendStreamFrame(frames)
}
