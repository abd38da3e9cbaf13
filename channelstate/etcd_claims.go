package channelstate

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/holiman/uint256"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func (s *etcdStore) claimPath(kind string, key Key, claim *Claim) string {
	return string(hex.AppendEncode(s.claimsPath(kind, key, &claim.Nonce), claim.ID[:]))
}

// settle appends what puts claims away.
func (s *etcdStore) settle(puts []clientv3.Op, transaction *Transaction) ([]clientv3.Op, error) {
	for i := range transaction.Settled {
		claim := &transaction.Settled[i]
		value, err := encodeClaim(claim)
		if err != nil {
			return nil, err
		}
		puts = append(puts,
			clientv3.OpPut(s.claimPath(kindSettled, transaction.Key, claim), string(value)),
			clientv3.OpDelete(s.claimPath(kindClaim, transaction.Key, claim)))
	}
	return puts, nil
}

// Claim reads both places at one revision: between two reads a claim could move.
func (s *etcdStore) Claim(ctx context.Context, key Key, nonce *uint256.Int) (Claim, bool, error) {
	last := func(kind string) clientv3.Op {
		return clientv3.OpGet(string(s.claimsPath(kind, key, nonce)), clientv3.WithLastCreate()...)
	}
	response, err := s.client.Txn(ctx).Then(last(kindClaim), last(kindSettled)).Commit()
	if err != nil {
		return Claim{}, false, fmt.Errorf("cannot read the claim of channel %s, nonce %s: %w", key.Channel.Dec(), nonce.Dec(), err)
	}
	var found []*mvccpb.KeyValue
	for _, place := range response.Responses {
		found = append(found, place.GetResponseRange().Kvs...)
	}
	if len(found) == 0 {
		return Claim{}, false, nil
	}
	claim, err := decodeClaim(found[0].Value)
	if err != nil {
		return Claim{}, false, fmt.Errorf("%s: %w", found[0].Key, err)
	}
	return claim, true, nil
}

func (s *etcdStore) CommitAll(ctx context.Context, transactions []*Transaction) (bool, []Stored, error) {
	var compares []clientv3.Cmp
	var puts, gets []clientv3.Op
	for _, transaction := range transactions {
		if len(transaction.Refunds) > 0 {
			return false, nil, fmt.Errorf("channel %s: refunds are not written together with other channels", transaction.Key.Channel.Dec())
		}
		compare, put, get, err := s.operations(transaction, clientv3.NoLease)
		if err != nil {
			return false, nil, err
		}
		compares, puts, gets = append(compares, compare...), append(puts, put...), append(gets, get...)
	}
	response, err := s.client.Txn(ctx).If(compares...).Then(puts...).Else(gets...).Commit()
	if err != nil {
		return false, nil, commitError(fmt.Sprintf("the transaction of %d channels", len(transactions)), err)
	}
	stored := make([]Stored, len(transactions))
	for i, transaction := range transactions {
		if response.Succeeded {
			stored[i] = Stored{Record: transaction.Record, Revision: response.Header.Revision, Version: transaction.Base.Version + 1}
		} else if stored[i], err = storedOf(response.Responses[i].GetResponseRange().Kvs); err != nil {
			return false, nil, err
		}
	}
	return response.Succeeded, stored, nil
}
