package channelstate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"go.uber.org/zap"
)

// Switch is the operator's switch by which calls are stopped and started for
// all replicas of a group. It is kept in the store, so a restart changes nothing.
type Switch struct {
	store   SharedStore
	group   Group
	logger  *zap.Logger
	timeout time.Duration // of one request to the store
	stopped atomic.Bool

	mu       sync.Mutex // guards revision and the changes of stopped
	revision int64      // of the position known
}

// switchPosition is what is stored, as JSON, so that it can be read by people.
type switchPosition struct {
	Stopped bool           `json:"stopped"`
	By      common.Address `json:"by"` // the operator who asked for it
	Time    time.Time      `json:"time"`
}

const (
	switchName     = "processing"
	switchAttempts = 16          // to be faster than other operators
	switchPoll     = time.Second // after a watch has broken, and of stores that cannot be watched
)

// OpenSwitch reads in which position the group's switch is. Run follows it.
func OpenSwitch(ctx context.Context, store SharedStore, group Group, settings Settings, logger *zap.Logger) (*Switch, error) {
	if logger == nil {
		logger = zap.NewNop()
	}
	s := &Switch{store: store, group: group, logger: logger.Named("switch"), timeout: settings.Etcd.RequestTimeout}
	stored, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	s.see(stored)
	return s, nil
}

// Stopped tells whether calls are to be turned away.
func (s *Switch) Stopped() bool { return s.stopped.Load() }

// Set stops or starts calls, for an operator. When it returns nil this replica
// acts on it, the others do so as soon as the store has told them. An error
// wraps ErrUnavailable or is the context's; the switch may have moved then.
func (s *Switch) Set(ctx context.Context, stopped bool, by common.Address) error {
	value, err := json.Marshal(switchPosition{Stopped: stopped, By: by, Time: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	stored, err := s.load(ctx)
	pause := newPause(time.Millisecond, 30*time.Millisecond)
	for attempt := 0; err == nil && attempt < switchAttempts; attempt++ {
		if position, readable := readPosition(stored); readable && position.Stopped == stopped {
			s.see(stored)
			return nil
		}
		var swapped bool
		if stored, swapped, err = s.swap(ctx, stored.Revision, value); err == nil && swapped {
			s.see(stored)
			return nil
		}
		if err == nil && !pause.wait(ctx) {
			err = ctx.Err()
		}
	}
	if err == nil {
		err = unavailable(errors.New("the switch is moved by others all the time"))
	}
	return err
}

func (s *Switch) load(ctx context.Context) (Shared, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	stored, err := s.store.LoadShared(ctx, s.group, switchName)
	if err != nil {
		return Shared{}, unavailable(fmt.Errorf("cannot read whether calls are stopped: %w", err))
	}
	return stored, nil
}

func (s *Switch) swap(ctx context.Context, base int64, value []byte) (Shared, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	stored, swapped, err := s.store.SwapShared(ctx, s.group, switchName, base, value)
	if err != nil {
		return Shared{}, false, unavailable(fmt.Errorf("cannot stop or start calls: %w", err))
	}
	return stored, swapped, nil
}

// see takes over what is stored, unless something newer is known.
func (s *Switch) see(stored Shared) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stored.Revision <= s.revision {
		return
	}
	s.revision = stored.Revision
	position, readable := readPosition(stored)
	if !readable {
		s.logger.Error("the operator's switch cannot be read, calls go on as before: stop or start them again",
			zap.Bool("stopped", s.stopped.Load()))
		return
	}
	if s.stopped.Swap(position.Stopped) != position.Stopped {
		s.logger.Warn(switchWords[position.Stopped], zap.Stringer("by", position.By), zap.Time("at", position.Time))
	}
}

var switchWords = map[bool]string{
	true:  "calls are stopped: an operator has asked for it, they are answered code 14 until he starts them again",
	false: "calls are processed: an operator has started them",
}

// readPosition reads what is stored; without a value calls are processed.
func readPosition(stored Shared) (position switchPosition, readable bool) {
	if len(stored.Value) == 0 {
		return position, true
	}
	return position, json.Unmarshal(stored.Value, &position) == nil
}

// sharedWatcher is what a store may offer beside SharedStore.
type sharedWatcher interface {
	// WatchShared reads a value and then tells of every write of it, until the
	// context ends or the watch breaks.
	WatchShared(ctx context.Context, group Group, name string, see func(Shared)) error
}

// Run follows the switch until the context ends. While the store cannot be
// asked the last known position holds.
func (s *Switch) Run(ctx context.Context) error {
	pause := newPause(switchPoll, switchPoll)
	for {
		err := s.follow(ctx)
		if err != nil && ctx.Err() == nil {
			s.logger.Debug("the operator's switch is read again", zap.Error(err))
		}
		if !pause.wait(ctx) {
			return ctx.Err()
		}
	}
}

// follow sees what is stored until that has to be asked again.
func (s *Switch) follow(ctx context.Context) error {
	if watcher, ok := s.store.(sharedWatcher); ok {
		return watcher.WatchShared(ctx, s.group, switchName, s.see)
	}
	stored, err := s.load(ctx)
	if err == nil {
		s.see(stored)
	}
	return err
}
