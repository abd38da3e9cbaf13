package channelstate

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	recordpb "github.com/mpegate/mpegate/channelstate/proto/record"
)

// Counters of free calls stand under
//
//	<prefix>/<group>/freecalls/<organisation>/<service>/<address>/<user id>
//
// with what is not a letter or digit of a name escaped as in a URL's path.
const kindFreeCall = "freecalls"

const freeCallFormat = 1

// appendName appends the part of the path that names the user within the group.
func (u *FreeCallUser) appendName(path []byte) []byte {
	for _, name := range []string{u.OrganizationID, u.ServiceID} {
		path = append(append(path, url.PathEscape(name)...), '/')
	}
	path = append(path, "0x"...)
	path = append(hex.AppendEncode(path, u.Address[:]), '/')
	return append(path, url.PathEscape(u.UserID)...)
}

func (s *etcdStore) freeCallPath(user *FreeCallUser) string {
	return string(user.appendName(s.path(user.Group, kindFreeCall, nil)))
}

func (s *etcdStore) LoadFreeCalls(ctx context.Context, user FreeCallUser) (StoredFreeCalls, error) {
	response, err := s.client.Get(ctx, s.freeCallPath(&user))
	if err != nil {
		return StoredFreeCalls{}, fmt.Errorf("cannot read the free calls of %s: %w", user.Address, err)
	}
	return storedFreeCalls(response.Kvs)
}

func storedFreeCalls(found []*mvccpb.KeyValue) (StoredFreeCalls, error) {
	if len(found) == 0 {
		return StoredFreeCalls{}, nil
	}
	_, count, err := decodeFreeCalls(found[0].Value)
	if err != nil {
		return StoredFreeCalls{}, fmt.Errorf("%s: %w", found[0].Key, err)
	}
	return StoredFreeCalls{Count: count, Revision: found[0].ModRevision, Version: found[0].Version}, nil
}

func (s *etcdStore) CommitFreeCalls(ctx context.Context, transaction *FreeCallTransaction) (FreeCallResult, error) {
	if err := ctx.Err(); err != nil { // the embedded etcd may write all the same
		return FreeCallResult{}, err
	}
	if transaction.Refund == nil {
		return s.commitFreeCalls(ctx, transaction, clientv3.NoLease)
	}
	lease, err := s.leases.take(ctx, 1)
	if err != nil {
		return FreeCallResult{}, err
	}
	result, err := s.commitFreeCalls(ctx, transaction, lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) { // somebody revoked it; nothing was written
		s.leases.drop(lease)
		if lease, err = s.leases.take(ctx, 1); err != nil {
			return FreeCallResult{}, err
		}
		result, err = s.commitFreeCalls(ctx, transaction, lease)
	}
	return result, err
}

func (s *etcdStore) commitFreeCalls(ctx context.Context, transaction *FreeCallTransaction, lease clientv3.LeaseID) (FreeCallResult, error) {
	value, err := encodeFreeCalls(&transaction.User, transaction.Count)
	if err != nil {
		return FreeCallResult{}, err
	}
	path := s.freeCallPath(&transaction.User)
	compares := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(path), "=", transaction.Base.Revision)}
	puts, gets := []clientv3.Op{clientv3.OpPut(path, string(value))}, []clientv3.Op{clientv3.OpGet(path)}
	if transaction.Refund != nil {
		refund := s.refundPath(Key{ChainID: transaction.User.Group.ChainID, MPE: transaction.User.Group.MPE, GroupID: transaction.User.Group.GroupID},
			*transaction.Refund)
		compares = append(compares, clientv3.Compare(clientv3.CreateRevision(refund), "=", 0))
		puts = append(puts, clientv3.OpPut(refund, "", clientv3.WithLease(lease)))
		gets = append(gets, clientv3.OpGet(refund, clientv3.WithCountOnly()))
	}
	response, err := s.client.Txn(ctx).If(compares...).Then(puts...).Else(gets...).Commit()
	if err != nil {
		return FreeCallResult{}, commitError("the free calls of "+transaction.User.Address.Hex(), err)
	}
	if response.Succeeded {
		return FreeCallResult{Applied: true, Stored: StoredFreeCalls{
			Count: transaction.Count, Revision: response.Header.Revision, Version: transaction.Base.Version + 1,
		}}, nil
	}
	stored, err := storedFreeCalls(response.Responses[0].GetResponseRange().Kvs)
	if err != nil {
		return FreeCallResult{}, err
	}
	refunded := transaction.Refund != nil && response.Responses[1].GetResponseRange().Count > 0
	return FreeCallResult{Stored: stored, Refunded: refunded}, nil
}

func (s *etcdStore) FreeCallUsers(ctx context.Context, group Group, cursor string, limit int) ([]FreeCallEntry, string, error) {
	prefix := string(s.path(group, kindFreeCall, nil))
	return etcdPage(ctx, s.client, prefix, cursor, limit, func(found *mvccpb.KeyValue) (FreeCallEntry, error) {
		user, count, err := decodeFreeCalls(found.Value)
		if err != nil {
			return FreeCallEntry{}, err
		}
		user.Group = group
		return FreeCallEntry{User: user, Used: count.Used}, nil
	})
}

func encodeFreeCalls(user *FreeCallUser, count *FreeCallCount) ([]byte, error) {
	message := &recordpb.FreeCalls{
		Format: freeCallFormat, Used: count.Used, OrganizationId: user.OrganizationID, ServiceId: user.ServiceID,
		Address: user.Address[:], UserId: []byte(user.UserID),
	}
	for i := range count.Writes {
		message.Writes = append(message.Writes, count.Writes[i][:])
	}
	return proto.Marshal(message)
}

// decodeFreeCalls reads a counter and whose it is, without the group.
func decodeFreeCalls(data []byte) (user FreeCallUser, count *FreeCallCount, err error) {
	var message recordpb.FreeCalls
	if err := proto.Unmarshal(data, &message); err != nil {
		return user, nil, fmt.Errorf("%w: free calls: %w", ErrCorrupt, err)
	}
	d := decoder{what: "free calls"}
	d.require(message.GetFormat() == freeCallFormat, "their format is not known here (a newer version of this program wrote them?)")
	d.require(len(message.GetWrites()) <= keptWrites, "more writes are named than are kept")
	user = FreeCallUser{
		OrganizationID: message.GetOrganizationId(), ServiceID: message.GetServiceId(),
		Address: d.address("address", message.GetAddress()), UserID: string(message.GetUserId()),
	}
	count = &FreeCallCount{Used: message.GetUsed()}
	for _, write := range message.GetWrites() {
		var id BatchID
		d.require(copy(id[:], write) == len(write), "the name of a write is longer than 8 bytes")
		count.Writes = append(count.Writes, id)
	}
	if d.err != nil {
		return user, nil, d.err
	}
	return user, count, nil
}
