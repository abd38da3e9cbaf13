package service

import (
	"net/netip"
	"sync"

	"github.com/ethereum/go-ethereum/common/lru"
	"golang.org/x/time/rate"
)

// What strangers may make us read.
const (
	strangersEverySecond = 200
	strangersAtOnce      = 500
	strangersReading     = 64 // at the same time
	callerEverySecond    = 10
	callerAtOnce         = 50
	callersRemembered    = 10_000
)

// strangers bounds what is read for callers before it is known who they are:
// for each address, and for all together. Who turns out to be the provider has
// used nothing up.
type strangers struct {
	mu      sync.Mutex
	reading int
	all     *rate.Limiter
	callers lru.BasicLRU[string, *rate.Limiter]
}

func newStrangers() *strangers {
	return &strangers{
		all:     rate.NewLimiter(strangersEverySecond, strangersAtOnce),
		callers: lru.NewBasicLRU[string, *rate.Limiter](callersRemembered),
	}
}

// admit tells whether something may be read for the caller, who has to leave then.
func (s *strangers) admit(caller string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reading == strangersReading || s.all.Tokens() < 1 || s.limiter(caller).Tokens() < 1 {
		return false
	}
	s.reading++
	return true
}

// leave counts the read, unless the caller was recognised.
func (s *strangers) leave(caller string, recognised bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading--
	if !recognised {
		s.all.Reserve()
		s.limiter(caller).Reserve()
	}
}

func (s *strangers) limiter(caller string) *rate.Limiter {
	name := network(caller)
	limiter, known := s.callers.Get(name)
	if !known {
		limiter = rate.NewLimiter(callerEverySecond, callerAtOnce)
		s.callers.Add(name, limiter)
	}
	return limiter
}

// network is what counts as one caller: a user of IPv6 commonly has a whole /64.
func network(caller string) string {
	address, err := netip.ParseAddr(caller)
	if err != nil || address.Unmap().Is4() {
		return caller
	}
	prefix, err := address.WithZone("").Prefix(64)
	if err != nil {
		return caller
	}
	return prefix.String()
}
