package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/e2e/harness"
)

// traffic makes calls with rising amounts on one channel from several clients until it is stopped, and keeps books.
type traffic struct {
	world  *harness.World
	payer  *payer.Payer
	stop   context.CancelFunc
	ended  sync.WaitGroup
	amount atomic.Uint64 // signed last, in prices
	served atomic.Uint64 // calls that were answered OK
}

func startTraffic(t *testing.T, world *harness.World, p *payer.Payer, clients int) *traffic {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	flow := &traffic{world: world, payer: p, stop: stop}
	for range clients {
		client := samplev1.NewSampleClient(world.Dial())
		flow.ended.Go(func() {
			for ctx.Err() == nil {
				flow.call(ctx, client)
			}
		})
	}
	return flow
}

func (f *traffic) call(ctx context.Context, client samplev1.SampleClient) {
	limited, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	paid, err := f.payer.Paying(limited, f.amount.Add(1)*harness.Price)
	if err != nil {
		return
	}
	_, err = client.Echo(paid, &samplev1.EchoRequest{Behaviour: &samplev1.Behaviour{Delay: durationpb.New(2 * time.Millisecond)}})
	if err == nil {
		f.served.Add(1)
		return
	}
	select { // the gate is down: no busy loop
	case <-time.After(20 * time.Millisecond):
	case <-ctx.Done():
	}
}

// waitFor waits until so many more calls were served.
func (f *traffic) waitFor(t *testing.T, calls uint64) {
	t.Helper()
	want := f.served.Load() + calls
	harness.Eventually(t, "paid calls are served", func() (bool, string) {
		return f.served.Load() >= want, strconv.FormatUint(f.served.Load(), 10) + " served"
	})
}

func (f *traffic) finish() {
	f.stop()
	f.ended.Wait()
}

// expectHonestBooks checks what a crash may do to a channel: never below the calls answered OK, never above the calls
// that were let through, and the highest signature that was accepted is still there.
func (f *traffic) expectHonestBooks(t *testing.T) {
	t.Helper()
	state := f.world.State(f.payer)
	least, most := f.served.Load()*harness.Price, f.amount.Load()*harness.Price
	if state.Used < least || state.Used > most {
		t.Errorf("spent %d: must lie between the price of the calls answered OK, %d, and of all that were sent, %d", state.Used, least, most)
	}
	if state.Planned < state.Used {
		t.Errorf("spent %d is more than the %d that were signed", state.Used, state.Planned)
	}
	if !state.SignatureIsValid {
		t.Error("the signature of the highest amount is lost")
	}
}

func TestKillEverythingInTheMiddleOfCalls(t *testing.T) {
	world := harness.New(t, harness.Options{})
	p := world.OpenChannel(1_000_000 * harness.Price)
	flow := startTraffic(t, world, p, 8)
	for range 2 {
		flow.waitFor(t, 50)
		world.Serve.Kill()
		world.Launch(harness.Binary(t))
		flow.waitFor(t, 50) // the same channel, with nobody unlocking anything
	}
	flow.finish()
	flow.expectHonestBooks(t)
}

func TestKillEnvoyInTheMiddleOfCalls(t *testing.T) {
	world := harness.New(t, harness.Options{})
	p := world.OpenChannel(1_000_000 * harness.Price)
	flow := startTraffic(t, world, p, 8)
	flow.waitFor(t, 50)
	if err := syscall.Kill(envoyOf(t, world.Serve.PID()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	flow.waitFor(t, 50)
	flow.finish()
	flow.expectHonestBooks(t)
}

func TestEnvoyEndsWithServe(t *testing.T) {
	world := harness.New(t, harness.Options{})
	envoy := envoyOf(t, world.Serve.PID())
	world.Serve.Kill()
	harness.Eventually(t, "Envoy ends with its parent", func() (bool, string) {
		return syscall.Kill(envoy, 0) != nil, "it is still there"
	})
	world.Launch(harness.Binary(t))
}

// envoyOf finds the Envoy that a serve process started.
func envoyOf(t *testing.T, serve int) int {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(processes) == 0 {
		t.Skip("finding Envoy's process needs /proc")
	}
	for _, path := range processes {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// pid (command) state parent …
		head, tail, found := strings.Cut(string(content), ") ")
		fields := strings.Fields(tail)
		if !found || len(fields) < 2 || fields[1] != strconv.Itoa(serve) || !strings.Contains(head, "envoy") {
			continue
		}
		pid, err := strconv.Atoi(strings.Fields(head)[0])
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	t.Fatalf("process %d has no Envoy", serve)
	return 0
}
