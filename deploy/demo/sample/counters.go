package sample

import (
	"context"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
)

// maxPaths bounds what unknown paths can make the service remember; the rest
// is counted under otherPaths.
const (
	maxPaths   = 1000
	otherPaths = "(other paths)"
)

// counters count calls by path.
type counters struct {
	mutex  sync.Mutex
	byPath map[string]*samplev1.PathCalls
}

// CallsOf tells what has become of the calls of a path such as
// "/sample.v1.Sample/Echo", which may be one that the service does not have.
func (s *Server) CallsOf(path string) *samplev1.PathCalls {
	s.counters.mutex.Lock()
	defer s.counters.mutex.Unlock()
	if calls, ok := s.counters.byPath[path]; ok {
		return proto.CloneOf(calls)
	}
	return &samplev1.PathCalls{Path: path}
}

// received counts the start of a call and returns what counts its end.
func (c *counters) received(path string) (ended func(error)) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if _, known := c.byPath[path]; !known && len(c.byPath) >= maxPaths {
		path = otherPaths
	}
	if c.byPath == nil {
		c.byPath = map[string]*samplev1.PathCalls{}
	}
	calls := c.byPath[path]
	if calls == nil {
		calls = &samplev1.PathCalls{Path: path}
		c.byPath[path] = calls
	}
	calls.Received++
	return func(err error) {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		if err == nil {
			calls.Answered++
		} else {
			calls.Failed++
		}
	}
}

func (c *counters) snapshot() []*samplev1.PathCalls {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	var list []*samplev1.PathCalls
	for _, path := range slices.Sorted(maps.Keys(c.byPath)) {
		list = append(list, proto.CloneOf(c.byPath[path]))
	}
	return list
}

func (s *Server) countUnary(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
) (any, error) {
	ended := s.counters.received(info.FullMethod)
	reply, err := handle(ctx, request)
	ended(err)
	return reply, err
}

func (s *Server) countStream(
	server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler,
) error {
	ended := s.counters.received(info.FullMethod)
	err := handle(server, stream)
	ended(err)
	return err
}
