package channelstate

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// historyStep is how many versions are walked back one by one; beyond, the
// revisions between are halved.
const historyStep = 8

// BatchAfter looks for one version of a record in etcd's history: revisions
// count the writes of all keys, so the one that wrote it has to be searched.
func (s *etcdStore) BatchAfter(ctx context.Context, key Key, base Stored) (BatchID, error) {
	path, wanted := s.recordPath(key), base.Version+1
	late, err := s.at(ctx, path, 0)
	if err != nil {
		return BatchID{}, err
	}
	switch {
	case late == nil || late.Version < wanted:
		return BatchID{}, ErrHistoryGone
	case base.Version == 0: // the version that created the key
		if late, err = s.at(ctx, path, late.CreateRevision); err != nil {
			return BatchID{}, err
		}
	case late.CreateRevision > base.Revision: // not the same key, somebody deleted one
		return BatchID{}, ErrHistoryGone
	}
	early := base.Revision // at this revision the version was below the one wanted, or is gone
	for late != nil && late.Version > wanted && late.ModRevision-early > 1 {
		middle := late.ModRevision - 1
		if late.Version-wanted > historyStep {
			middle = early + (late.ModRevision-early)/2
		}
		found, err := s.at(ctx, path, middle)
		switch {
		case errors.Is(err, ErrHistoryGone):
			early = middle // compacted up to there, what is wanted may still be above
		case err != nil:
			return BatchID{}, err
		case found == nil || found.Version < wanted:
			early = middle
		default:
			late = found
		}
	}
	if late == nil || late.Version != wanted {
		return BatchID{}, ErrHistoryGone
	}
	record, err := decodeRecord(late.Value)
	if err != nil {
		return BatchID{}, fmt.Errorf("%s: %w", path, err)
	}
	return record.Batch, nil
}

// at reads a key as it was at a revision, 0 for now; nil when it was not there.
func (s *etcdStore) at(ctx context.Context, path string, revision int64) (*mvccpb.KeyValue, error) {
	response, err := s.client.Get(ctx, path, clientv3.WithRev(revision))
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil, ErrHistoryGone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the history of %s: %w", path, err)
	}
	if len(response.Kvs) == 0 {
		return nil, nil
	}
	return response.Kvs[0], nil
}
