// Package child runs one part of the system as a child process and watches its output, for the demo, the tests and the
// benchmark.
package child

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopTimeout is how long a part may take to end on its own.
const stopTimeout = 20 * time.Second

// keptLines bounds what is remembered of a part's output.
const keptLines = 60

// Process is one child process and its output.
type Process struct {
	Name    string
	command *exec.Cmd
	ended   chan struct{}
	failure error // how it ended; read after ended is closed

	mutex   sync.Mutex
	lines   []string  // the last ones
	waiting []waiter  // for a line
	shown   io.Writer // where lines go as they come
}

type waiter struct {
	prefix string
	found  chan string
}

// Start runs an executable in a folder. name is what errors call it.
func Start(executable, name, folder string, arguments ...string) (*Process, error) {
	p := &Process{Name: name, command: exec.Command(executable, arguments...), ended: make(chan struct{}), shown: io.Discard}
	p.command.Dir = folder
	p.command.SysProcAttr = childAttributes()
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.command.Stdout, p.command.Stderr = writer, writer
	if err := p.command.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", name, err), reader.Close(), writer.Close())
	}
	_ = writer.Close() // the child has its own
	go func() {
		p.read(reader)
		p.failure = p.command.Wait()
		close(p.ended)
	}()
	return p, nil
}

// read remembers the output until the child and its children have closed it.
func (p *Process) read(reader io.ReadCloser) {
	defer reader.Close()
	scanner := bufio.NewScanner(reader)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		p.line(scanner.Text())
	}
	_, _ = io.Copy(io.Discard, reader) // a line too long must not block the child
}

func (p *Process) line(text string) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.lines = append(p.lines, text); len(p.lines) > keptLines {
		p.lines = p.lines[1:]
	}
	fmt.Fprintln(p.shown, text)
	for _, waiter := range p.waiting {
		if rest, found := strings.CutPrefix(text, waiter.prefix); found {
			select {
			case waiter.found <- rest:
			default: // only the first such line counts
			}
		}
	}
}

// ShowTo passes the lines from now on to a writer too.
func (p *Process) ShowTo(output io.Writer) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.shown = output
}

// WaitFor returns the rest of the first line that begins with prefix.
func (p *Process) WaitFor(ctx context.Context, prefix string) (string, error) {
	waiter := waiter{prefix, make(chan string, 1)}
	p.mutex.Lock()
	for _, line := range p.lines {
		if rest, found := strings.CutPrefix(line, prefix); found {
			p.mutex.Unlock()
			return rest, nil
		}
	}
	p.waiting = append(p.waiting, waiter)
	p.mutex.Unlock()
	select {
	case rest := <-waiter.found:
		return rest, nil
	case <-p.ended:
		return "", fmt.Errorf("%s ended before it was ready (%w)", p.Name, p.failure)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// LastLines returns the end of the output, for a person to read.
func (p *Process) LastLines() string {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if len(p.lines) == 0 {
		return "  (no output)\n"
	}
	return "  " + strings.Join(p.lines, "\n  ") + "\n"
}

// Stop ends the child, by force when it does not end on its own.
func (p *Process) Stop() error {
	_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopTimeout):
		_ = p.command.Process.Kill()
		return fmt.Errorf("%s did not end within %s and was killed", p.Name, stopTimeout)
	}
}

// Kill ends the child as a crash would and waits until it is gone.
func (p *Process) Kill() {
	_ = p.command.Process.Kill() // it may have ended
	<-p.ended
}

// PID is the child's process id.
func (p *Process) PID() int { return p.command.Process.Pid }

// Ended is closed when the child has ended and its output has been read.
func (p *Process) Ended() <-chan struct{} { return p.ended }
