package channelstate

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/ethereum/go-ethereum/common"
)

// FreeCallUser names a counter of free calls: one user of one service. The
// address is canonical, so no way of writing it gives a fresh counter.
type FreeCallUser struct {
	Group                     Group
	OrganizationID, ServiceID string
	Address                   common.Address
	UserID                    string
}

// Quota is how many free calls a user has in all. The zero value is none.
type Quota struct {
	Calls     uint64
	Unlimited bool
}

// UnlimitedFreeCalls is how clients are told that a quota has no end.
const UnlimitedFreeCalls = 99999999

// ParseQuota reads a number of calls, or unlimited.
func ParseQuota(text string) (Quota, error) {
	text = strings.TrimSpace(text)
	if strings.EqualFold(text, "unlimited") || strings.EqualFold(text, "infinity") {
		return Quota{Unlimited: true}, nil
	}
	calls, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return Quota{}, errors.New("is neither a number of calls (0 for none) nor unlimited")
	}
	return Quota{Calls: calls}, nil
}

// String is what ParseQuota reads.
func (q Quota) String() string {
	if q.Unlimited {
		return "unlimited"
	}
	return strconv.FormatUint(q.Calls, 10)
}

func (q Quota) isNone() bool { return q == Quota{} }

// left is how many calls may still be made, as clients are told.
func (q Quota) left(used uint64) uint64 {
	switch {
	case q.Unlimited:
		return UnlimitedFreeCalls
	case used >= q.Calls:
		return 0
	}
	return q.Calls - used
}

// keptWrites is how many versions back a counter knows who wrote them.
const keptWrites = 8

// FreeCallCount is what one user has used. It is never changed.
type FreeCallCount struct {
	Used   uint64
	Writes []BatchID // of the last versions, the newest last, at most keptWrites
}

func (c *FreeCallCount) used() uint64 {
	if c == nil {
		return 0
	}
	return c.Used
}

// with is the next version, with another number of used calls.
func (c *FreeCallCount) with(used uint64) *FreeCallCount {
	next := &FreeCallCount{Used: used}
	if c != nil {
		next.Writes = slices.Clone(c.Writes[max(0, len(c.Writes)-keptWrites+1):])
	}
	next.Writes = append(next.Writes, newBatchID())
	return next
}

// take counts one call.
func (c *FreeCallCount) take(quota Quota) (*FreeCallCount, error) {
	used := c.used()
	if quota.left(used) == 0 {
		return nil, refuseLimit(used, quota)
	}
	return c.with(used + 1), nil
}

func refuseLimit(used uint64, quota Quota) *FreeCallRefusal {
	return refuseFreeCall(FreeCallLimit, "free call limit has been exceeded, calls made = %d, total free calls eligible = %s", used, quota)
}

// wrote tells whether one of the last versions is of this write. It is not
// known when the counter no longer knows who wrote so far back.
func (s *StoredFreeCalls) wrote(transaction *FreeCallTransaction) (wrote, known bool) {
	if s.Count != nil && slices.Contains(s.Count.Writes, transaction.batch()) {
		return true, true
	}
	return false, s.Version-transaction.Base.Version <= keptWrites
}
