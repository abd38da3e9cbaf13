package authz

import (
	"context"
	"io"
	"strconv"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

// Every row of the table of DESIGN.md section 2.
func TestSettlementRule(t *testing.T) {
	status := func(code envoy.Code, bytes uint64) envoy.LogEntry {
		return envoy.LogEntry{Status: code, StatusKnown: true, MessageBytes: bytes}
	}
	gone := func(entry envoy.LogEntry) envoy.LogEntry { entry.ClientGone = true; return entry }
	cases := []struct {
		name  string
		ended envoy.LogEntry
		want  settlement
		never settlement // with refund_on_client_cancel off
	}{
		{"OK", status(0, 100), keepCharge, keepCharge},
		{"OK without a message", status(0, 0), keepCharge, keepCharge},
		{"OK, client gone after it", gone(status(0, 0)), keepCharge, keepCharge},

		{"service gives up with an empty frame before the status", status(1, 5), refundCharge, refundCharge},
		{"service error before messages", status(5, 0), refundCharge, refundCharge},
		{"service error after messages", status(13, 100), refundCharge, refundCharge},
		{"service error of a code of its own", status(4711, 100), refundCharge, refundCharge},
		{"service error, client gone at the same time", gone(status(2, 100)), refundCharge, refundCharge},
		{"CANCELLED by the service before messages", status(1, 0), refundCharge, refundCharge},
		{"CANCELLED by the service after messages", status(1, 6), keepCharge, keepCharge},
		{"DEADLINE_EXCEEDED before messages", status(4, 0), refundCharge, refundCharge},
		{"DEADLINE_EXCEEDED after messages", status(4, 6), keepCharge, keepCharge},

		{"unreachable, answered by Envoy", status(14, 0), refundCharge, refundCharge},
		{"reset before any byte, no status", envoy.LogEntry{}, refundCharge, refundCharge},

		{"client gone before any byte", gone(envoy.LogEntry{}), refundCharge, keepCharge},
		{"client gone before any byte, CANCELLED", gone(status(1, 0)), refundCharge, keepCharge},

		{"client gone after bytes", gone(envoy.LogEntry{MessageBytes: 1}), keepCharge, keepCharge},
		{"reset after bytes, no status", envoy.LogEntry{MessageBytes: 1}, keepCharge, keepCharge},
	}
	for _, test := range cases {
		if got := settle(&test.ended, true); got != test.want {
			t.Errorf("%s: got %d", test.name, got)
		}
		if got := settle(&test.ended, false); got != test.never {
			t.Errorf("%s, refund_on_client_cancel off: got %d", test.name, got)
		}
	}
}

// logged is an entry as Envoy sends it.
type logged struct {
	requestID string
	charged   *envoy.Charged
	status    string // grpc-status in the trailers; "" when the stream broke
	bytes     uint64
	flags     *dataaccesslogv3.ResponseFlags
	code      uint32
}

func (l logged) entry() *dataaccesslogv3.HTTPAccessLogEntry {
	entry := &dataaccesslogv3.HTTPAccessLogEntry{
		CommonProperties: &dataaccesslogv3.AccessLogCommon{ResponseFlags: l.flags},
		Request:          &dataaccesslogv3.HTTPRequestProperties{RequestId: l.requestID, Path: testMethod},
		Response: &dataaccesslogv3.HTTPResponseProperties{
			ResponseBodyBytes: l.bytes, ResponseHeaders: map[string]string{"content-type": "application/grpc"},
		},
	}
	if l.code != 0 {
		entry.Response.ResponseCode = wrapperspb.UInt32(l.code)
	}
	if l.status != "" {
		entry.Response.ResponseTrailers = map[string]string{"grpc-status": l.status}
	}
	if l.charged != nil {
		entry.CommonProperties.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			envoy.MetadataNamespace: l.charged.Struct(),
		}}
	}
	return entry
}

var clientGoneFlags = &dataaccesslogv3.ResponseFlags{DownstreamConnectionTermination: true}

// logStream is Envoy's side of the access log.
type logStream struct {
	grpc.ServerStream
	messages []*accesslogv3.StreamAccessLogsMessage
	err      error // after the messages; nil for a proper end
	closed   bool
}

func (s *logStream) Recv() (*accesslogv3.StreamAccessLogsMessage, error) {
	if len(s.messages) == 0 {
		if s.err != nil {
			return nil, s.err
		}
		return nil, io.EOF
	}
	next := s.messages[0]
	s.messages = s.messages[1:]
	return next, nil
}

func (s *logStream) SendAndClose(*accesslogv3.StreamAccessLogsResponse) error {
	s.closed = true
	return nil
}

func (s *logStream) Context() context.Context { return context.Background() }

func logMessage(entries ...*dataaccesslogv3.HTTPAccessLogEntry) *accesslogv3.StreamAccessLogsMessage {
	return &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries},
	}}
}

func (w *world) report(entries ...*dataaccesslogv3.HTTPAccessLogEntry) {
	w.t.Helper()
	stream := &logStream{}
	for _, entry := range entries {
		stream.messages = append(stream.messages, logMessage(entry))
	}
	if err := w.server.StreamAccessLogs(stream); err != nil || !stream.closed {
		w.t.Fatalf("the stream of logs ended with %v", err)
	}
}

func TestFailedCallIsRefundedOnce(t *testing.T) {
	w := newWorld(t)
	headers := w.headers(testPrice)
	paid := w.check(headers)
	failed := logged{requestID: headers[envoy.HeaderRequestID], charged: paid.charged, status: "13", code: 200}.entry()
	w.report(failed, failed)
	w.report(failed)
	w.close()
	charges, refunds := w.ledger.counts()
	if charges != 1 || refunds != 1 {
		t.Fatalf("%d charges, %d refunds", charges, refunds)
	}
	charge, refund := w.ledger.charges[0], w.ledger.refunds[0]
	if refund != (channelstate.Refund{ID: charge.ID, Nonce: charge.Nonce, Amount: charge.Amount, Price: charge.Price, Sender: w.sender}) {
		t.Errorf("charged %+v, refunded %+v", charge, refund)
	}
}

func TestKeptCharges(t *testing.T) {
	w := newWorld(t)
	paid := w.check(w.headers(testPrice))
	w.report(
		logged{charged: paid.charged, status: "0", code: 200, bytes: 9}.entry(),
		logged{charged: paid.charged, code: 200, bytes: 9, flags: clientGoneFlags}.entry(),
		logged{charged: paid.charged, status: "4", code: 200, bytes: 9}.entry(),
	)
	w.close()
	if _, refunds := w.ledger.counts(); refunds != 0 {
		t.Errorf("%d refunds", refunds)
	}
	if kept := counterValue(t, w.server.metrics.settled[settledKept]); kept != 3 {
		t.Errorf("%v kept", kept)
	}
}

func TestClientCancelSetting(t *testing.T) {
	for _, refund := range []bool{true, false} {
		w := newWorld(t, func(w *world) { w.settings.Settlement.RefundOnClientCancel = refund })
		paid := w.check(w.headers(testPrice))
		w.report(logged{charged: paid.charged, flags: clientGoneFlags}.entry())
		w.close()
		if _, refunds := w.ledger.counts(); (refunds == 1) != refund {
			t.Errorf("refund_on_client_cancel %t: %d refunds", refund, refunds)
		}
	}
}

// Envoy ended the call while it waited for us: the charge is in no metadata, only the request id tells.
func TestUnheardAnswer(t *testing.T) {
	t.Run("reported after the answer", func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.settings.Settlement.RefundOnClientCancel = false })
		headers := w.headers(testPrice)
		w.check(headers)
		gone := logged{requestID: headers[envoy.HeaderRequestID], flags: clientGoneFlags}.entry()
		w.report(gone, gone)
		w.close()
		// The service never saw the call, so the setting for cancelled calls does not matter.
		if charges, refunds := w.ledger.counts(); charges != 1 || refunds != 1 {
			t.Errorf("%d charges, %d refunds", charges, refunds)
		}
	})
	t.Run("reported before the charge was done", func(t *testing.T) {
		w := newWorld(t)
		headers := w.headers(testPrice)
		w.ledger.charge = func(context.Context, *blockchain.Channel, *channelstate.Charge) error {
			w.report(logged{requestID: headers[envoy.HeaderRequestID], flags: clientGoneFlags}.entry())
			return nil
		}
		if got := w.check(headers); got.code != 1 {
			t.Errorf("got %d %q", got.code, got.message)
		}
		w.close()
		if charges, refunds := w.ledger.counts(); charges != 1 || refunds != 1 {
			t.Errorf("%d charges, %d refunds", charges, refunds)
		}
	})
	t.Run("ext_authz gave up", func(t *testing.T) {
		w := newWorld(t)
		headers := w.headers(testPrice)
		w.check(headers)
		entry := logged{requestID: headers[envoy.HeaderRequestID], code: 503, flags: &dataaccesslogv3.ResponseFlags{
			UnauthorizedDetails: &dataaccesslogv3.ResponseFlags_Unauthorized{
				Reason: dataaccesslogv3.ResponseFlags_Unauthorized_EXTERNAL_SERVICE,
			},
		}}.entry()
		entry.Response.ResponseCodeDetails = "ext_authz_error"
		w.report(entry)
		w.close()
		if charges, refunds := w.ledger.counts(); charges != 1 || refunds != 1 {
			t.Errorf("%d charges, %d refunds", charges, refunds)
		}
	})
	t.Run("another call", func(t *testing.T) {
		w := newWorld(t)
		w.check(w.headers(testPrice))
		w.report(
			logged{requestID: "another", flags: clientGoneFlags}.entry(),
			logged{requestID: "", flags: clientGoneFlags}.entry(),
		)
		w.close()
		if _, refunds := w.ledger.counts(); refunds != 0 {
			t.Errorf("%d refunds", refunds)
		}
	})
}

func TestMalformedEntries(t *testing.T) {
	w := newWorld(t)
	good := w.check(w.headers(testPrice)).charged
	change := func(change func(*envoy.Charged)) *dataaccesslogv3.HTTPAccessLogEntry {
		broken := *good
		change(&broken)
		return logged{charged: &broken, status: "13", code: 200}.entry()
	}
	broken := []*dataaccesslogv3.HTTPAccessLogEntry{
		change(func(c *envoy.Charged) { c.ID = "42" }),
		change(func(c *envoy.Charged) { c.Channel = "-1" }),
		change(func(c *envoy.Charged) { c.Nonce = "" }),
		change(func(c *envoy.Charged) { c.Amount = "1e9" }),
		change(func(c *envoy.Charged) { c.Price = "ten" }),
		change(func(c *envoy.Charged) { c.ChainID = "mainnet" }),
		change(func(c *envoy.Charged) { c.MPE = "0x12" }),
		change(func(c *envoy.Charged) { c.Group = "default" }),
		change(func(c *envoy.Charged) { c.PaymentType = "barter" }),
	}
	w.report(append([]*dataaccesslogv3.HTTPAccessLogEntry{nil, {}}, append(broken,
		logged{charged: good, status: "13", code: 200}.entry())...)...)
	w.close()
	if _, refunds := w.ledger.counts(); refunds != 1 {
		t.Errorf("%d refunds, the good entry after the broken ones was lost", refunds)
	}
	if lost := counterValue(t, w.server.metrics.refundsLost.WithLabelValues(lostMalformed)); lost != float64(len(broken)) {
		t.Errorf("%v of %d broken entries counted", lost, len(broken))
	}
}

func TestStreamEndsWithItsError(t *testing.T) {
	w := newWorld(t)
	stream := &logStream{messages: []*accesslogv3.StreamAccessLogsMessage{nil, {}, logMessage()}, err: errTest}
	if err := w.server.StreamAccessLogs(stream); err != errTest || stream.closed {
		t.Errorf("got %v", err)
	}
}

func TestRecentCharges(t *testing.T) {
	now := time.Now()
	charge := func(id string) *envoy.Charged { return &envoy.Charged{ID: id} }

	recent := newRecentCharges()
	if recent.answered("a", charge("1"), now) || recent.ended("a", now).ID != "1" || recent.ended("a", now) != nil {
		t.Error("a charge is found once")
	}
	recent = newRecentCharges()
	if recent.ended("b", now) != nil || !recent.answered("b", charge("2"), now) || recent.answered("b", charge("3"), now) {
		t.Error("an early end is told once")
	}
	recent = newRecentCharges()
	recent.answered("c", charge("4"), now)
	if recent.ended("c", now.Add(recentLifetime+1)) != nil {
		t.Error("an old charge was found")
	}
	recent = newRecentCharges()
	recent.answered("d", charge("5"), now)
	recent.answered("d", charge("6"), now)
	if got := recent.ended("d", now); got.ID != "6" {
		t.Errorf("the latest of two is %v", got)
	}

	// The oldest make room, and nothing else does.
	recent = newRecentCharges()
	const more = 100
	for i := range recentAnswered + more {
		recent.answered(strconv.Itoa(i), charge(strconv.Itoa(i)), now)
	}
	if len(recent.charges.entries) != recentAnswered || len(recent.charges.index) != recentAnswered {
		t.Errorf("%d entries, %d indexed", len(recent.charges.entries), len(recent.charges.index))
	}
	for i := range recentAnswered + more {
		if found := recent.ended(strconv.Itoa(i), now) != nil; found != (i >= more) {
			t.Fatalf("charge %d: found %t", i, found)
		}
	}
	if len(recent.unanswered.entries) > recentUnanswered {
		t.Error("ends without a charge grow without bound")
	}
}

func TestRecentChargesAtOnce(t *testing.T) {
	recent := newRecentCharges()
	var found sync.WaitGroup
	for worker := range 4 {
		found.Go(func() {
			for i := range 5000 {
				id := strconv.Itoa(worker) + "/" + strconv.Itoa(i)
				recent.answered(id, &envoy.Charged{ID: id}, time.Now())
				if got := recent.ended(id, time.Now()); got == nil || got.ID != id {
					t.Errorf("%s: %v", id, got)
				}
			}
		})
	}
	found.Wait()
}
