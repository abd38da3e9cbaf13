package channelstate

import (
	"context"
	"fmt"
)

func (s *memoryStore) CommitAll(ctx context.Context, transactions []*Transaction) (bool, []Stored, error) {
	if err := ctx.Err(); err != nil {
		return false, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	applied := true
	for _, transaction := range transactions {
		if len(transaction.Refunds) > 0 {
			return false, nil, fmt.Errorf("channel %s: refunds are not written together with other channels", transaction.Key.Channel.Dec())
		}
		applied = applied && s.stored(transaction.Key).Revision == transaction.Base.Revision
	}
	if applied {
		s.revision++
	}
	stored := make([]Stored, len(transactions))
	for i, transaction := range transactions {
		if applied {
			s.apply(transaction, s.now())
		}
		stored[i] = s.stored(transaction.Key)
	}
	return applied, stored, nil
}
