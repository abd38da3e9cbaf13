package channelstate

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/holiman/uint256"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// etcdStore keeps each record under one key (key.go says which), as record.proto has it:
//
//	<prefix>/<group>/channels/<channel>        Record
//	<prefix>/<group>/claims/<channel>/<nonce>/<id>  Claim
//	<prefix>/<group>/settled/<channel>/<nonce>/<id>  Claim, put away
//	<prefix>/<group>/aside/<channel>/<batch>-<number>  Aside
//	<prefix>/<group>/refunds/<charge id>       empty, under a lease
type etcdStore struct {
	client *clientv3.Client
	prefix string
	leases *leases
	group  commitGroup // of charges
}

// NewEtcdStore keeps channel state in etcd, through a client of a cluster or
// of a server in this process. Of the settings it needs the key prefix and how
// long refunds are remembered.
func NewEtcdStore(client *clientv3.Client, settings Settings) Store {
	return &etcdStore{
		client: client,
		prefix: settings.Etcd.KeyPrefix + "/",
		leases: newLeases(client, settings.RefundRetention),
		group:  commitGroup{client: client, timeout: settings.Etcd.RequestTimeout},
	}
}

func (s *etcdStore) path(group Group, kind string, channel *uint256.Int) []byte {
	path := make([]byte, 0, len(s.prefix)+192)
	return group.appendPath(append(path, s.prefix...), kind, channel)
}

func (s *etcdStore) recordPath(key Key) string {
	return string(s.path(key.Group(), kindChannel, &key.Channel))
}

func (s *etcdStore) refundPath(key Key, id ChargeID) string {
	return string(hex.AppendEncode(s.path(key.Group(), kindRefund, nil), id[:]))
}

// claimsPath is what the paths of all claims of a nonce begin with.
func (s *etcdStore) claimsPath(kind string, key Key, nonce *uint256.Int) []byte {
	return append(appendClaim(s.path(key.Group(), kind, nil), &key.Channel, nonce), '/')
}

func (s *etcdStore) Load(ctx context.Context, key Key) (Stored, error) {
	response, err := s.client.Get(ctx, s.recordPath(key))
	if err != nil {
		return Stored{}, fmt.Errorf("cannot read the record of channel %s: %w", key.Channel.Dec(), err)
	}
	return storedOf(response.Kvs)
}

// storedOf reads the answer to a Get of one record.
func storedOf(found []*mvccpb.KeyValue) (Stored, error) {
	if len(found) == 0 {
		return Stored{}, nil
	}
	record, err := decodeRecord(found[0].Value)
	if err != nil {
		return Stored{}, fmt.Errorf("%s: %w", found[0].Key, err)
	}
	return Stored{Record: record, Revision: found[0].ModRevision, Version: found[0].Version}, nil
}

func (s *etcdStore) Commit(ctx context.Context, transaction *Transaction) (Result, error) {
	if err := ctx.Err(); err != nil { // an in-process server may write all the same
		return Result{}, err
	}
	result, err := s.commitWithLease(ctx, transaction)
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return s.afterNoSpace(ctx, transaction, err)
	}
	return result, err
}

func (s *etcdStore) commitWithLease(ctx context.Context, transaction *Transaction) (Result, error) {
	if len(transaction.Refunds) == 0 {
		return s.commit(ctx, transaction, clientv3.NoLease)
	}
	lease, err := s.leases.take(ctx, len(transaction.Refunds))
	if err != nil {
		return Result{}, err
	}
	result, err := s.commit(ctx, transaction, lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) { // somebody revoked it; nothing was written
		s.leases.drop(lease)
		if lease, err = s.leases.take(ctx, len(transaction.Refunds)); err != nil {
			return Result{}, err
		}
		result, err = s.commit(ctx, transaction, lease)
	}
	return result, err
}

func (s *etcdStore) commit(ctx context.Context, transaction *Transaction, lease clientv3.LeaseID) (Result, error) {
	compares, puts, gets, err := s.operations(transaction, lease)
	if err != nil {
		return Result{}, err
	}
	if len(compares) == 1 && len(puts) == 1 {
		return s.commitCharge(ctx, transaction, compares[0], puts[0], gets[0])
	}
	response, err := s.client.Txn(ctx).If(compares...).Then(puts...).Else(gets...).Commit()
	if err != nil {
		return Result{}, commitError("the record of channel "+transaction.Key.Channel.Dec(), err)
	}
	if response.Succeeded {
		return Result{Applied: true, Stored: Stored{
			Record: transaction.Record, Revision: response.Header.Revision, Version: transaction.Base.Version + 1,
		}}, nil
	}
	stored, err := storedOf(response.Responses[0].GetResponseRange().Kvs)
	if err != nil {
		return Result{}, err
	}
	result := Result{Stored: stored}
	for i, id := range transaction.Refunds {
		if response.Responses[i+1].GetResponseRange().Count > 0 {
			result.Refunded = append(result.Refunded, id)
		}
	}
	return result, nil
}

// commitCharge writes a record and nothing else.
func (s *etcdStore) commitCharge(ctx context.Context, transaction *Transaction, compare clientv3.Cmp, put, get clientv3.Op) (Result, error) {
	reply := s.group.commit(ctx, s.recordPath(transaction.Key), compare, put, get)
	if err := reply.err; err != nil {
		if reply.unsent {
			return Result{}, err
		}
		return Result{}, commitError("the record of channel "+transaction.Key.Channel.Dec(), err)
	}
	if reply.applied {
		return Result{Applied: true, Stored: Stored{
			Record: transaction.Record, Revision: reply.revision, Version: transaction.Base.Version + 1,
		}}, nil
	}
	stored, err := storedOf(reply.found.GetKvs())
	return Result{Stored: stored}, err
}

// operations are the If, the Then and the Else of a transaction.
func (s *etcdStore) operations(transaction *Transaction, lease clientv3.LeaseID) ([]clientv3.Cmp, []clientv3.Op, []clientv3.Op, error) {
	value, err := encodeRecord(transaction.Record)
	if err != nil {
		return nil, nil, nil, err
	}
	key, path := transaction.Key, s.recordPath(transaction.Key)
	refunds := len(transaction.Refunds)
	compares := make([]clientv3.Cmp, 0, 1+refunds)
	puts := make([]clientv3.Op, 0, 1+refunds+len(transaction.Claims)+len(transaction.Asides))
	gets := make([]clientv3.Op, 0, 1+refunds)

	compares = append(compares, clientv3.Compare(clientv3.ModRevision(path), "=", transaction.Base.Revision))
	puts = append(puts, clientv3.OpPut(path, string(value)))
	gets = append(gets, clientv3.OpGet(path))
	for _, id := range transaction.Refunds {
		refund := s.refundPath(key, id)
		compares = append(compares, clientv3.Compare(clientv3.CreateRevision(refund), "=", 0))
		puts = append(puts, clientv3.OpPut(refund, "", clientv3.WithLease(lease)))
		gets = append(gets, clientv3.OpGet(refund, clientv3.WithCountOnly()))
	}
	for i := range transaction.Claims {
		value, err := encodeClaim(&transaction.Claims[i])
		if err != nil {
			return nil, nil, nil, err
		}
		puts = append(puts, clientv3.OpPut(s.claimPath(kindClaim, key, &transaction.Claims[i]), string(value)))
	}
	if puts, err = s.settle(puts, transaction); err != nil {
		return nil, nil, nil, err
	}
	for i := range transaction.Asides {
		value, err := encodeAside(&transaction.Asides[i])
		if err != nil {
			return nil, nil, nil, err
		}
		path := append(s.path(key.Group(), kindAside, &key.Channel), '/')
		path = hex.AppendEncode(path, transaction.Record.Batch[:])
		path = strconv.AppendInt(append(path, '-'), int64(i), 10)
		puts = append(puts, clientv3.OpPut(string(path), string(value)))
	}
	return compares, puts, gets, nil
}

// commitError tells a transaction that etcd turned away from one of which
// nobody knows. Only these codes are given before anything is written.
func commitError(what string, err error) error {
	code := status.Code(err)
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		code = known.Code()
	}
	turnedAway := errors.Is(err, rpctypes.ErrTooManyRequests)
	switch code {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unauthenticated:
		turnedAway = true
	}
	if turnedAway {
		return fmt.Errorf("%s was not written: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, ErrOutcomeUnknown, err)
}

// afterNoSpace decides by what is stored: etcd says that its database is full
// both for writes it turns away and for the very write that has filled it.
func (s *etcdStore) afterNoSpace(ctx context.Context, transaction *Transaction, full error) (Result, error) {
	stored, err := s.Load(ctx, transaction.Key)
	if err != nil {
		return Result{}, full // which wraps ErrOutcomeUnknown
	}
	following := transaction.Base.Version + 1
	if stored.Version < following {
		return Result{}, fmt.Errorf("the record of channel %s was not written: %w", transaction.Key.Channel.Dec(), rpctypes.ErrNoSpace)
	}
	batch := stored.Record.Batch
	if stored.Version > following {
		if batch, err = s.BatchAfter(ctx, transaction.Key, transaction.Base); err != nil {
			return Result{}, full
		}
	}
	return Result{Applied: batch == transaction.Record.Batch, Stored: stored}, nil
}

func (s *etcdStore) Refunded(ctx context.Context, key Key, id ChargeID) (bool, error) {
	response, err := s.client.Get(ctx, s.refundPath(key, id), clientv3.WithCountOnly())
	if err != nil {
		return false, fmt.Errorf("cannot read refund %s: %w", id, err)
	}
	return response.Count > 0, nil
}
