package channelstate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Charges of different channels that come while one is being written are sent together, as independent transactions
// inside one request: etcd then writes them to its log with one sync of the disk. Each has its own If, Then and Else;
// none depends on another. On two cores with embedded etcd, syncs cost more processor time than all else about a
// charge, so with many clients the next request is also held back for a moment, in which more calls join it.
const (
	groupSize  = 32 // etcd allows 128 operations a request
	gatherFrom = 3  // charges in the last request that make it worth waiting for more
	gatherTime = time.Millisecond
)

// commitGroup sends transactions, one request at a time.
type commitGroup struct {
	client  *clientv3.Client
	timeout time.Duration // of a request

	mutex   sync.Mutex
	waiting []*groupedCommit // in the order in which they came
	leading bool             // one of the callers runs a request, or is about to
	last    int              // transactions in the last request
}

// groupedCommit is one transaction that waits for its request.
type groupedCommit struct {
	path    string
	compare clientv3.Cmp
	put     clientv3.Op
	get     clientv3.Op

	lead chan struct{} // closed to make its caller the next leader
	done chan groupedReply
}

// groupedReply is what became of one transaction. With applied false, found is the answer of its Get.
type groupedReply struct {
	applied  bool
	revision int64
	found    *etcdserverpb.RangeResponse
	err      error
	unsent   bool // with err: nothing was written, nor will be
}

// commit returns when the transaction was answered. Nothing was written when ctx ends before its request is sent;
// when it ends later nobody knows.
func (g *commitGroup) commit(ctx context.Context, path string, compare clientv3.Cmp, put, get clientv3.Op) groupedReply {
	own := &groupedCommit{
		path: path, compare: compare, put: put, get: get,
		lead: make(chan struct{}), done: make(chan groupedReply, 1),
	}
	g.mutex.Lock()
	g.waiting = append(g.waiting, own)
	follow := g.leading
	g.leading = true
	g.mutex.Unlock()
	if follow {
		select {
		case reply := <-own.done:
			return reply
		case <-own.lead:
		case <-ctx.Done():
			return g.leave(ctx, own)
		}
	}
	g.gather()
	g.run()
	g.handOver()
	return <-own.done
}

// leave takes a transaction back whose caller no longer waits.
func (g *commitGroup) leave(ctx context.Context, own *groupedCommit) groupedReply {
	g.mutex.Lock()
	at := slices.Index(g.waiting, own)
	if at >= 0 {
		g.waiting = slices.Delete(g.waiting, at, at+1)
	}
	g.mutex.Unlock()
	if at < 0 { // on its way
		return groupedReply{err: ctx.Err()}
	}
	select {
	case <-own.lead: // made the leader meanwhile
		g.handOver()
	default:
	}
	return groupedReply{err: ctx.Err(), unsent: true}
}

// gather gives other calls the time to join, where there are likely to be some.
func (g *commitGroup) gather() {
	g.mutex.Lock()
	busy := g.last >= gatherFrom
	g.mutex.Unlock()
	if busy {
		time.Sleep(gatherTime)
	}
}

// run sends what waits, the leader's own transaction first. It does so in a time of its own: the leader's could be
// over, and the others' is not.
func (g *commitGroup) run() {
	ctx, cancel := context.WithTimeout(context.Background(), g.timeout)
	defer cancel()
	batch := g.take()
	replies, err := g.send(ctx, batch)
	if err == nil && len(replies) != len(batch) {
		err = errors.New("etcd answered another number of transactions than it was sent")
	}
	for i, member := range batch {
		if err != nil {
			member.done <- groupedReply{err: err}
			continue
		}
		member.done <- replies[i]
	}
}

// take removes the transactions of the next request from the queue: the oldest ones, each record once.
func (g *commitGroup) take() []*groupedCommit {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	paths := make(map[string]bool, len(g.waiting))
	var batch, rest []*groupedCommit
	for _, member := range g.waiting {
		if paths[member.path] || len(batch) == groupSize {
			rest = append(rest, member)
			continue
		}
		paths[member.path] = true
		batch = append(batch, member)
	}
	g.waiting, g.last = rest, len(batch)
	return batch
}

func (g *commitGroup) send(ctx context.Context, batch []*groupedCommit) ([]groupedReply, error) {
	if len(batch) == 1 {
		only := batch[0]
		response, err := g.client.Txn(ctx).If(only.compare).Then(only.put).Else(only.get).Commit()
		if err != nil {
			return nil, err
		}
		reply := groupedReply{applied: response.Succeeded, revision: response.Header.Revision}
		if !reply.applied {
			reply.found = response.Responses[0].GetResponseRange()
		}
		return []groupedReply{reply}, nil
	}
	operations := make([]clientv3.Op, len(batch))
	for i, member := range batch {
		operations[i] = clientv3.OpTxn([]clientv3.Cmp{member.compare}, []clientv3.Op{member.put}, []clientv3.Op{member.get})
	}
	response, err := g.client.Txn(ctx).Then(operations...).Commit()
	if err != nil {
		return nil, err
	}
	replies := make([]groupedReply, len(response.Responses))
	for i, inner := range response.Responses {
		answer := inner.GetResponseTxn()
		replies[i] = groupedReply{applied: answer.GetSucceeded(), revision: response.Header.Revision}
		if !replies[i].applied {
			replies[i].found = answer.GetResponses()[0].GetResponseRange()
		}
	}
	return replies, nil
}

// handOver makes the longest waiting caller the leader.
func (g *commitGroup) handOver() {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if len(g.waiting) == 0 {
		g.leading = false
		return
	}
	close(g.waiting[0].lead)
}
