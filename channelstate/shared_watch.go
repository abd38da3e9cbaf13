package channelstate

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// WatchShared reads a value and then tells of every write of it, until the
// context ends or the watch breaks. A value somebody has deleted is empty.
func (s *etcdStore) WatchShared(ctx context.Context, group Group, name string, see func(Shared)) error {
	path := s.sharedPath(group, name)
	current, err := s.client.Get(ctx, path)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	see(sharedOf(current.Kvs))
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for response := range s.client.Watch(ctx, path, clientv3.WithRev(current.Header.Revision+1)) {
		if err := response.Err(); err != nil {
			return fmt.Errorf("cannot watch %s: %w", name, err)
		}
		for _, event := range response.Events {
			see(Shared{Value: event.Kv.Value, Revision: event.Kv.ModRevision})
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.New("the watch has ended")
}
