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
	callerEverySecond    = 10
	callerAtOnce         = 50
	callersRemembered    = 10_000
)

// strangers bounds what is read for callers before it is known who they are:
// for each address, and for all together.
type strangers struct {
	mu      sync.Mutex
	all     *rate.Limiter
	callers lru.BasicLRU[string, *rate.Limiter]
}

func newStrangers() *strangers {
	return &strangers{
		all:     rate.NewLimiter(strangersEverySecond, strangersAtOnce),
		callers: lru.NewBasicLRU[string, *rate.Limiter](callersRemembered),
	}
}

func (s *strangers) allow(caller string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := network(caller)
	limiter, known := s.callers.Get(name)
	if !known {
		limiter = rate.NewLimiter(callerEverySecond, callerAtOnce)
		s.callers.Add(name, limiter)
	}
	return limiter.Allow() && s.all.Allow()
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
