package channelstate

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func (s *etcdStore) Channels(ctx context.Context, group Group, cursor string, limit int) ([]ChannelRecord, string, error) {
	prefix := string(s.path(group, kindChannel, nil))
	return etcdPage(ctx, s.client, prefix, cursor, limit, func(found *mvccpb.KeyValue) (ChannelRecord, error) {
		channel, valid := parseNumber(string(found.Key[len(prefix):]))
		if !valid {
			return ChannelRecord{}, fmt.Errorf("%w: the key does not end with a channel id", ErrCorrupt)
		}
		record, err := decodeRecord(found.Value)
		return ChannelRecord{Channel: channel, Record: record}, err
	})
}

func (s *etcdStore) Claims(ctx context.Context, group Group, cursor string, limit int) ([]Claim, string, error) {
	prefix := string(s.path(group, kindClaim, nil))
	return etcdPage(ctx, s.client, prefix, cursor, limit, func(found *mvccpb.KeyValue) (Claim, error) {
		return decodeClaim(found.Value)
	})
}

func (s *etcdStore) Asides(ctx context.Context, group Group, cursor string, limit int) ([]Aside, string, error) {
	prefix := string(s.path(group, kindAside, nil))
	return etcdPage(ctx, s.client, prefix, cursor, limit, func(found *mvccpb.KeyValue) (Aside, error) {
		return decodeAside(found.Value)
	})
}

// etcdPage reads one page of the keys below prefix; cursors are what follows
// the prefix in the first key of a page.
func etcdPage[T any](
	ctx context.Context, client *clientv3.Client, prefix, cursor string, limit int, decode func(*mvccpb.KeyValue) (T, error),
) (page []T, next string, err error) {
	limit = clampPage(limit)
	response, err := client.Get(ctx, prefix+cursor,
		clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(int64(limit)+1))
	if err != nil {
		return nil, "", fmt.Errorf("cannot list %s: %w", prefix, err)
	}
	for i, found := range response.Kvs {
		if i == limit {
			return page, string(found.Key[len(prefix):]), nil
		}
		entry, err := decode(found)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", found.Key, err)
		}
		page = append(page, entry)
	}
	return page, "", nil
}
