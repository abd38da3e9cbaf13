package channelstate

import "context"

func (s *memoryStore) LoadFreeCalls(ctx context.Context, user FreeCallUser) (StoredFreeCalls, error) {
	if err := ctx.Err(); err != nil {
		return StoredFreeCalls{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.freeCalls[user], nil
}

func (s *memoryStore) CommitFreeCalls(ctx context.Context, transaction *FreeCallTransaction) (FreeCallResult, error) {
	if err := ctx.Err(); err != nil {
		return FreeCallResult{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now, stored := s.now(), s.freeCalls[transaction.User]
	var refund memoryRefund
	if transaction.Refund != nil {
		refund = memoryRefund{transaction.User.Group, *transaction.Refund}
	}
	refunded := transaction.Refund != nil && s.remembers(refund, now)
	if refunded || stored.Revision != transaction.Base.Revision {
		return FreeCallResult{Stored: stored, Refunded: refunded}, nil
	}
	s.revision++
	stored = StoredFreeCalls{Count: transaction.Count, Revision: s.revision, Version: stored.Version + 1}
	s.freeCalls[transaction.User] = stored
	if transaction.Refund != nil {
		s.refunds[refund] = now.Add(s.retention)
		s.sweep(now)
	}
	return FreeCallResult{Applied: true, Stored: stored}, nil
}

func (s *memoryStore) FreeCallUsers(ctx context.Context, group Group, cursor string, limit int) ([]FreeCallEntry, string, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := map[string]FreeCallEntry{}
	for user, stored := range s.freeCalls {
		if user.Group == group {
			entries[string(user.appendName(nil))] = FreeCallEntry{User: user, Used: stored.Count.Used}
		}
	}
	page, next := pageOf(entries, cursor, limit)
	return page, next, nil
}
