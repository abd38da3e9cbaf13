// Package demo runs the whole system on one machine with nothing to configure: an embedded chain with the published
// contracts, a sample gRPC service in its own process, and `mpegate serve` with embedded etcd and Envoy. It then makes
// real calls and checks what became of each.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Options of Run.
type Options struct {
	Keep   bool      // leave everything running until the context ends
	Output io.Writer // the story
	// Executable is the mpegate binary that the demo starts its parts with; empty means the running one.
	Executable string
}

// Run starts the parts and tells the story. It returns an error when one step did not hold.
func Run(ctx context.Context, options Options) (err error) {
	started := time.Now()
	teller := &teller{output: options.Output}
	stage, err := start(ctx, teller, options.Executable)
	defer func() {
		if stopped := stage.stop(); err == nil && stopped != nil {
			err = stopped
		}
		if err != nil {
			stage.showLogs(options.Output)
		}
	}()
	if err != nil {
		return err
	}
	story := &story{stage: stage, teller: teller}
	if err := story.tell(ctx); err != nil {
		return err
	}
	fmt.Fprintf(options.Output, "\nEvery step held, in %.1fs.\n", time.Since(started).Seconds())
	if !options.Keep {
		return nil
	}
	if err := story.keep(ctx); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-stage.broken():
		return errors.New("a part of the demo ended on its own")
	}
}

// teller writes one line a step with the time it took.
type teller struct {
	output io.Writer
	steps  int
}

func (t *teller) chapter(title string) { fmt.Fprintf(t.output, "\n%s\n", title) }

// step runs one step. act returns what is worth telling.
func (t *teller) step(title string, act func() (string, error)) error {
	t.steps++
	began := time.Now()
	detail, err := act()
	took := time.Since(began)
	if err != nil {
		fmt.Fprintf(t.output, "  %2d. %-44s FAILED after %s: %v\n", t.steps, title, readable(took), err)
		return fmt.Errorf("%s: %w", title, err)
	}
	fmt.Fprintf(t.output, "  %2d. %-44s %8s  %s\n", t.steps, title, readable(took), detail)
	return nil
}

func readable(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1fms", float64(d.Microseconds())/1000)
	}
	if d < time.Second {
		return fmt.Sprintf("%dms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}

// progress indents what a part says while it starts.
type progress struct{ output io.Writer }

func (p progress) Write(text []byte) (int, error) {
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			fmt.Fprintf(p.output, "        %s\n", line)
		}
	}
	return len(text), nil
}
