package process

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"
)

// Parts are the named parts of a process, in the order in which they start; each says whether it is ready.
type Parts struct {
	mutex    sync.Mutex
	list     []*part
	stopping bool
}

type part struct {
	name  string
	check func(context.Context) error // nil until the part has started
	state string                      // what it is doing before check is set

	last   error // answer of the last check
	lastAt time.Time
}

const (
	partCheckTimeout = 2 * time.Second
	partCheckEvery   = time.Second // checks asked more often get the last answer
)

var (
	errStarting = errors.New("starting")
	errStopping = errors.New("stopping")
)

// Add names a part that has not started yet.
func (p *Parts) Add(names ...string) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for _, name := range names {
		p.list = append(p.list, &part{name: name, state: errStarting.Error()})
	}
}

// Say describes what a part that is not ready is doing.
func (p *Parts) Say(name, state string) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for _, part := range p.list {
		if part.name == name {
			part.state = state
		}
	}
}

// Started gives the check that tells from now on whether the part is ready.
func (p *Parts) Started(name string, check func(context.Context) error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for _, part := range p.list {
		if part.name == name {
			part.check, part.lastAt = check, time.Time{}
		}
	}
}

// Stop makes the process not ready for good; what is under way goes on.
func (p *Parts) Stop() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.stopping = true
}

// PartState is one line of /readyz.
type PartState struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
	State string `json:"state"`
}

// States asks every part. The process is ready when all of them are and it is not stopping.
func (p *Parts) States(ctx context.Context) (states []PartState, ready bool) {
	p.mutex.Lock()
	list, stopping := append([]*part(nil), p.list...), p.stopping
	p.mutex.Unlock()
	ready = !stopping && len(list) > 0
	for _, part := range list {
		state := PartState{Name: part.name, Ready: true, State: "ready"}
		if err := p.ask(ctx, part); err != nil {
			state.Ready, state.State, ready = false, err.Error(), false
		} else if stopping {
			state.Ready, state.State = false, errStopping.Error()
		}
		states = append(states, state)
	}
	return states, ready
}

func (p *Parts) ask(ctx context.Context, part *part) error {
	p.mutex.Lock()
	check, last, fresh := part.check, part.last, time.Since(part.lastAt) < partCheckEvery
	state := part.state
	p.mutex.Unlock()
	switch {
	case check == nil:
		return errors.New(state)
	case fresh:
		return last
	}
	ctx, cancel := context.WithTimeout(ctx, partCheckTimeout)
	defer cancel()
	err := check(ctx)
	p.mutex.Lock()
	part.last, part.lastAt = err, time.Now()
	p.mutex.Unlock()
	return err
}

// ServeHTTP answers /readyz: every part and its state, status 503 when one is not ready.
func (p *Parts) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	states, ready := p.States(request.Context())
	writer.Header().Set("Content-Type", "application/json")
	writer.Header().Set("Cache-Control", "no-store")
	if !ready {
		writer.WriteHeader(http.StatusServiceUnavailable)
	}
	encoder := json.NewEncoder(writer)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(struct {
		Ready bool        `json:"ready"`
		Parts []PartState `json:"parts"`
	}{ready, states}) // the caller has gone when this fails
}
