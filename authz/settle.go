package authz

import (
	"errors"
	"io"
	"runtime/debug"
	"time"

	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/envoy"
)

// settlement says what becomes of a charge when its call has ended.
type settlement uint8

const (
	keepCharge settlement = iota
	refundCharge
)

// emptyFrame is the size in bytes of a frame without a message. Some servers send one before a status that is an error;
// it tells a client nothing.
const emptyFrame = 5

// settle is the settlement rule of DESIGN.md section 2. It needs nothing but what Envoy saw.
func settle(ended *envoy.LogEntry, refundOnClientCancel bool) settlement {
	delivered := ended.MessageBytes > 0
	if ended.StatusKnown {
		delivered = ended.MessageBytes > emptyFrame
	}
	switch {
	case ended.StatusKnown && ended.Status == envoy.CodeOK:
		return keepCharge
	case ended.StatusKnown && ended.Status != envoy.CodeCancelled && ended.Status != envoy.CodeDeadlineExceeded:
		return refundCharge
	case delivered:
		// Cancelled, out of time or broken off after messages: reading a stream and cancelling it is not free.
		return keepCharge
	case ended.ClientGone && !refundOnClientCancel:
		return keepCharge
	}
	return refundCharge
}

// StreamAccessLogs takes Envoy's reports of calls that did not end well. Nothing in a report ends the stream: Envoy
// would drop what it had buffered.
func (s *Server) StreamAccessLogs(stream accesslogv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&accesslogv3.StreamAccessLogsResponse{})
		}
		if err != nil {
			return err
		}
		for _, entry := range message.GetHttpLogs().GetLogEntry() {
			s.settleEntry(entry)
		}
	}
}

func (s *Server) settleEntry(entry *dataaccesslogv3.HTTPAccessLogEntry) {
	defer func() {
		if fault := recover(); fault != nil {
			s.metrics.panics.Inc()
			s.logger.Error("an access log entry could not be settled", zap.String("fault", faultText(fault)),
				zap.ByteString("stack", debug.Stack()))
		}
	}()
	ended := envoy.ReadLogEntry(entry)
	if ended.Charged == nil {
		s.settleUnanswered(&ended)
		return
	}
	kept := settle(&ended, s.settings.Settlement.RefundOnClientCancel) == keepCharge
	s.logSettled(&ended, ended.Charged, !kept)
	if kept {
		s.metrics.settled[settledKept].Inc()
		return
	}
	s.metrics.settled[settledRefund].Inc()
	s.refunds.add(ended.Charged)
}

// settleUnanswered refunds a call that ended before our answer reached Envoy. The service has never seen it, whatever
// the reason, so there is nothing to weigh.
func (s *Server) settleUnanswered(ended *envoy.LogEntry) {
	var charged *envoy.Charged
	if ended.ClientGone || ended.AuthzFailed { // else Envoy reports a refusal that it did get
		charged = s.recent.ended(ended.RequestID, time.Now())
	}
	if charged == nil {
		s.metrics.settled[settledNoCharge].Inc()
		return
	}
	s.logSettled(ended, charged, true)
	s.giveBack(charged)
}

func (s *Server) logSettled(ended *envoy.LogEntry, charged *envoy.Charged, refunded bool) {
	if entry := s.logger.Check(zap.DebugLevel, "call settled"); entry != nil {
		entry.Write(zap.String("request_id", shown(ended.RequestID)), zap.String("charge", charged.ID),
			zap.String("channel", charged.Channel), zap.String("price", charged.Price), zap.Bool("refund", refunded),
			zap.Bool("status_known", ended.StatusKnown), zap.Uint32("status", ended.Status),
			zap.Uint64("message_bytes", ended.MessageBytes), zap.Bool("client_gone", ended.ClientGone),
			zap.Strings("flags", ended.Flags), zap.String("details", shown(ended.Details)))
	}
}
