package blockchain

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestFlightsShareTheCallAfterTheOneUnderWay(t *testing.T) {
	f := newFlights[int, int]()
	var calls atomic.Int64
	running, release := make(chan struct{}), make(chan struct{})
	first := func(bool) (int, error) {
		calls.Add(1)
		close(running)
		<-release
		return 1, nil
	}
	second := func(bool) (int, error) { return int(calls.Add(1)), nil }

	var group sync.WaitGroup
	group.Go(func() {
		if value, err := f.do(t.Context(), 7, false, always, first); value != 1 || err != nil {
			t.Errorf("the first caller got %d, %v", value, err)
		}
	})
	<-running
	var joined [100]*flight[int]
	for i := range joined {
		var err error
		if joined[i], err = f.join(7, false, always, second); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	for _, flight := range joined {
		<-flight.done
		if flight.value != 2 || flight.err != nil {
			t.Errorf("a later caller got %d, %v: want the second call's answer", flight.value, flight.err)
		}
	}
	group.Wait()
	if calls.Load() != 2 {
		t.Errorf("%d calls, want 2", calls.Load())
	}
	eventually(t, "the queue is forgotten", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.queues) == 0
	})
}

// eventually waits for a condition that something else brings about.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(30 * time.Second)
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("never came true: %s", what)
		}
	}
}

func TestFlightsForceIsNotLostOnWhoJoins(t *testing.T) {
	f := newFlights[int, bool]()
	release := make(chan struct{})
	forced := func(force bool) (bool, error) { <-release; return force, nil }
	running, _ := f.join(1, false, always, forced)
	waiting, _ := f.join(1, false, always, forced)
	joined, _ := f.join(1, true, always, forced)
	close(release)
	<-running.done
	<-waiting.done
	if running.value || !waiting.value || joined != waiting {
		t.Errorf("force: running %v, waiting %v", running.value, waiting.value)
	}
}

func TestFlightsOutliveTheirCaller(t *testing.T) {
	f := newFlights[int, int]()
	release := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.do(ctx, 1, false, always, func(bool) (int, error) { <-release; return 5, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gave up got %v", err)
	}
	waiting, err := f.join(1, false, always, func(bool) (int, error) { return 6, nil })
	if err != nil {
		t.Fatal(err)
	}
	close(release)
	<-waiting.done
	if waiting.value != 6 {
		t.Errorf("got %d", waiting.value)
	}
}

func TestFlightsAskForAdmissionOnlyForANewCall(t *testing.T) {
	f := newFlights[int, int]()
	refused := errors.New("refused")
	refuse := func() error { return refused }
	release := make(chan struct{})
	run := func(bool) (int, error) { <-release; return 0, nil }
	if _, err := f.join(1, false, refuse, run); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	running, _ := f.join(1, false, always, run)
	if _, err := f.join(1, false, refuse, run); !errors.Is(err, refused) {
		t.Errorf("a second call was admitted: %v", err)
	}
	waiting, _ := f.join(1, false, always, run)
	if joined, err := f.join(1, false, refuse, run); err != nil || joined != waiting {
		t.Errorf("joining needed admission: %v", err)
	}
	close(release)
	<-running.done
	<-waiting.done
}
