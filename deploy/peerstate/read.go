package peerstate

import (
	"context"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mpegate/mpegate/channelstate"
)

// Place says whose state is taken over.
type Place struct {
	Network      string // as the peer names it, such as mainnet or sepolia
	Organization string
	GroupText    string // the group's id in base64, as published
	Group        channelstate.Group
}

// base is what all keys of the peer begin with.
func (p *Place) base() string { return p.Network + "/" + p.Organization + "/" + p.GroupText + "/" }

// Entry is one key of the peer's store and its value.
type Entry struct {
	Key   string
	Value []byte
}

const (
	readPage    = 500
	readTimeout = 30 * time.Second // of a page
)

// Read reads all that the peer keeps for the place, as it is at one moment.
func Read(ctx context.Context, client *clientv3.Client, place *Place) ([]Entry, error) {
	var entries []Entry
	from, end, revision := place.base(), clientv3.GetPrefixRangeEnd(place.base()), int64(0)
	for {
		response, err := readOnce(ctx, client, from, clientv3.WithRange(end), clientv3.WithLimit(readPage), clientv3.WithRev(revision))
		if err != nil {
			return nil, fmt.Errorf("cannot read the etcd of snetd at %s: %w", strings.Join(client.Endpoints(), ", "), err)
		}
		for _, found := range response.Kvs {
			entries = append(entries, Entry{Key: string(found.Key), Value: found.Value})
		}
		if !response.More || len(response.Kvs) == 0 {
			return entries, nil
		}
		if revision == 0 { // later answers carry the newest revision, not the one asked for
			revision = response.Header.Revision
		}
		from = entries[len(entries)-1].Key + "\x00"
	}
}

func readOnce(ctx context.Context, client *clientv3.Client, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return client.Get(ctx, key, options...)
}
