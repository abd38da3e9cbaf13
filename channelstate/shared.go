package channelstate

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// SharedStore keeps small values on which all replicas of a group agree, such
// as the keys of tokens. The stores of this package are shared stores too.
//
// A value is replaced only by one made from it: Swap writes if the value still
// has the revision it was based on, in one transaction. After ErrOutcomeUnknown
// it may have been written; reading shows it.
type SharedStore interface {
	// LoadShared reads a value; its revision is 0 when there is none.
	LoadShared(ctx context.Context, group Group, name string) (Shared, error)
	// SwapShared writes a value if the one stored has the revision of base, 0
	// for none. It returns what is stored then, and whether that is the new one.
	SwapShared(ctx context.Context, group Group, name string, base int64, value []byte) (stored Shared, swapped bool, err error)
}

// Shared is a value as a store has it. It must not be changed.
type Shared struct {
	Value    []byte
	Revision int64
}

var (
	_ SharedStore = (*etcdStore)(nil)
	_ SharedStore = (*memoryStore)(nil)
)

// Shared is the store of what the replicas of a group agree on.
func (o *Opened) Shared() SharedStore { return o.Store.(SharedStore) } // both kinds of stores are one, see above

const kindShared = "shared"

func (s *etcdStore) sharedPath(group Group, name string) string {
	return string(append(s.path(group, kindShared, nil), name...))
}

func (s *etcdStore) LoadShared(ctx context.Context, group Group, name string) (Shared, error) {
	response, err := s.client.Get(ctx, s.sharedPath(group, name))
	if err != nil {
		return Shared{}, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return sharedOf(response.Kvs), nil
}

func (s *etcdStore) SwapShared(ctx context.Context, group Group, name string, base int64, value []byte) (Shared, bool, error) {
	if err := ctx.Err(); err != nil { // the embedded etcd may write all the same
		return Shared{}, false, err
	}
	path := s.sharedPath(group, name)
	response, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(path), "=", base)).
		Then(clientv3.OpPut(path, string(value))).
		Else(clientv3.OpGet(path)).Commit()
	if err != nil {
		return Shared{}, false, commitError(name, err)
	}
	if response.Succeeded {
		return Shared{Value: value, Revision: response.Header.Revision}, true, nil
	}
	return sharedOf(response.Responses[0].GetResponseRange().Kvs), false, nil
}

func sharedOf(found []*mvccpb.KeyValue) Shared {
	if len(found) == 0 {
		return Shared{}
	}
	return Shared{Value: found[0].Value, Revision: found[0].ModRevision}
}

type memoryShared struct {
	group Group
	name  string
}

func (s *memoryStore) LoadShared(ctx context.Context, group Group, name string) (Shared, error) {
	if err := ctx.Err(); err != nil {
		return Shared{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shared[memoryShared{group, name}], nil
}

func (s *memoryStore) SwapShared(ctx context.Context, group Group, name string, base int64, value []byte) (Shared, bool, error) {
	if err := ctx.Err(); err != nil {
		return Shared{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := memoryShared{group, name}
	if stored := s.shared[key]; stored.Revision != base {
		return stored, false, nil
	}
	s.revision++
	written := Shared{Value: bytes.Clone(value), Revision: s.revision}
	s.shared[key] = written
	return written, true, nil
}
