package translator

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	// inlineInput fits into a pipe that nobody has read from yet, also where the system makes them small.
	inlineInput = 4 << 10
	// maxErrors is how much of a program's stderr is kept; the rest is read and dropped, so that it never waits.
	maxErrors = 8 << 10
	// afterExit is how long more output is waited for once the program has ended and its group was killed.
	afterExit = 500 * time.Millisecond
)

// process is one run of the program, in a process group of its own.
type process struct {
	child  *os.Process
	output *pipeReader // its stdout
	errors *errorKeeper
	answer []byte // a frame, as far as it is known to be whole

	exited chan struct{}

	mutex  sync.Mutex
	reaped bool // its number may be another's by now
	shot   bool // by us, while it ran
	state  *os.ProcessState
	err    error
}

// startProcess runs the program with the input on stdin.
func startProcess(command []string, method string, environment []string, folder string, input []byte) (*process, error) {
	var pipes pipeSet
	stdin, input1 := pipes.add()
	output, stdout := pipes.add()
	errorsOut, stderr := pipes.add()
	if pipes.err != nil {
		pipes.close()
		return nil, pipes.err
	}
	arguments := append(append(make([]string, 0, len(command)+1), command...), method)
	child, err := os.StartProcess(command[0], arguments, &os.ProcAttr{
		Dir: folder, Env: environment, Files: []*os.File{stdin, stdout, stderr},
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		pipes.close()
		return nil, err
	}
	for _, file := range []*os.File{stdin, stdout, stderr} {
		_ = file.Close()
	}
	exited := make(chan struct{})
	p := &process{
		child: child, exited: exited, output: &pipeReader{file: output, exited: exited},
		errors: &errorKeeper{source: &pipeReader{file: errorsOut, exited: exited}, done: make(chan struct{})},
	}
	go p.errors.read()
	go p.reap()
	if len(input) <= inlineInput {
		feed(input1, input)
	} else {
		go feed(input1, input)
	}
	return p, nil
}

// feed gives the program its input. One that ends without reading all of it has its reasons.
func feed(pipe *os.File, input []byte) {
	_, _ = pipe.Write(input)
	_ = pipe.Close()
}

// pipeSet makes pipes, and closes all of them if one cannot be had.
type pipeSet struct {
	files []*os.File
	err   error
}

func (s *pipeSet) add() (read, write *os.File) {
	if s.err != nil {
		return nil, nil
	}
	if read, write, s.err = os.Pipe(); s.err == nil {
		s.files = append(s.files, read, write)
	}
	return read, write
}

func (s *pipeSet) close() {
	for _, file := range s.files {
		_ = file.Close()
	}
}

// reap waits for the program's end, and takes what it started in its group along.
func (p *process) reap() {
	p.collect()
	now := time.Now() // wakes whoever still reads; see pipeReader
	_ = p.output.file.SetReadDeadline(now)
	_ = p.errors.source.file.SetReadDeadline(now)
	close(p.exited)
}

// pipeReader reads what a program writes. Once the program has ended it takes what is there, but waits for more no
// longer than a moment: only what left the program's group can still hold the pipe open.
type pipeReader struct {
	file   *os.File
	exited <-chan struct{}
}

func (r *pipeReader) Read(buffer []byte) (int, error) {
	for {
		over := false
		select {
		case <-r.exited:
			over = true
			_ = r.file.SetReadDeadline(time.Now().Add(afterExit))
		default:
		}
		count, err := r.file.Read(buffer)
		if count > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return count, err
		}
		if over {
			return 0, io.EOF
		}
	}
}

// kill ends the program and all of its group at once.
func (p *process) kill() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if !p.reaped {
		p.shot = true
		p.signal()
	}
}

// signal kills the group; the mutex is held and the child not reaped, so that the number is still its own.
func (p *process) signal() { _ = syscall.Kill(-p.child.Pid, syscall.SIGKILL) }

func (p *process) killed() bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.shot
}

// wait returns once nothing of the program is left: nil if it ended well, else how it ended, in words that a client
// may see.
func (p *process) wait() error {
	<-p.exited
	<-p.errors.done
	_ = p.output.file.Close()
	switch {
	case p.err != nil:
		return errors.New("its end is not known")
	case p.state.Success():
		return nil
	}
	if status, ok := p.state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return fmt.Errorf("signal %d", int(status.Signal()))
	}
	return fmt.Errorf("exit status %d", p.state.ExitCode())
}

// errorKeeper reads a program's stderr and keeps the first of it.
type errorKeeper struct {
	source *pipeReader
	done   chan struct{}
	kept   []byte
}

func (k *errorKeeper) read() {
	defer close(k.done)
	defer func() { _ = k.source.file.Close() }()
	kept, err := io.ReadAll(io.LimitReader(k.source, maxErrors))
	k.kept = kept
	if err == nil && len(kept) == maxErrors {
		_, _ = io.Copy(io.Discard, k.source)
	}
}

// text is what was kept; read must be done.
func (k *errorKeeper) text() string {
	text := strings.TrimSpace(string(k.kept))
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "?")
	}
	return text
}
