package translator

import (
	"errors"
	"fmt"

	"github.com/mpegate/mpegate/envoy"
)

// cause says why a call ended; each has one stable word for logs and metrics and one gRPC code.
type cause uint8

// The zero cause is a failure, so a call that nobody decided cannot count as a good one.
const (
	undecided cause = iota
	answered
	clientGone
	panicked
	stopping
	busy
	notReady
	notAMethod
	unknownMethod
	unsupportedStreaming
	wrongMessageCount
	malformedFrame
	unsupportedCompression
	messageTooLarge
	notTheMethodsMessage
	notJSON
	deadlinePassed
	serviceUnreachable
	serviceOverloaded
	serviceTimeout
	serviceReset
	serviceStatus
	serviceAnswerInvalid
	serviceAnswerTooLarge
	serviceError
	processesBusy
	processNotStarted
	processFailed
	causeCount
)

// causes is the one table of words and codes. Codes follow gRPC's own list of what its libraries answer with
// (doc/statuscodes.md of the grpc repository), then service-types.md. serviceError carries the code of the JSON-RPC
// error instead of its own.
var causes = [causeCount]struct {
	word string
	code envoy.Code
}{
	undecided:              {"undecided", envoy.CodeInternal},
	answered:               {"answered", envoy.CodeOK},
	clientGone:             {"client_gone", envoy.CodeCancelled},
	panicked:               {"panicked", envoy.CodeInternal},
	stopping:               {"stopping", envoy.CodeUnavailable},
	busy:                   {"busy", envoy.CodeResourceExhausted},
	notReady:               {"not_ready", envoy.CodeUnavailable},
	notAMethod:             {"not_a_method", envoy.CodeUnimplemented},
	unknownMethod:          {"unknown_method", envoy.CodeUnimplemented},
	unsupportedStreaming:   {"unsupported_streaming", envoy.CodeUnimplemented},
	wrongMessageCount:      {"wrong_message_count", envoy.CodeUnimplemented},
	malformedFrame:         {"malformed_frame", envoy.CodeInternal},
	unsupportedCompression: {"unsupported_compression", envoy.CodeUnimplemented},
	messageTooLarge:        {"message_too_large", envoy.CodeResourceExhausted},
	notTheMethodsMessage:   {"not_the_methods_message", envoy.CodeInvalidArgument},
	notJSON:                {"not_json", envoy.CodeInvalidArgument},
	deadlinePassed:         {"deadline_passed", envoy.CodeDeadlineExceeded},
	serviceUnreachable:     {"service_unreachable", envoy.CodeUnavailable},
	serviceOverloaded:      {"service_overloaded", envoy.CodeUnavailable},
	serviceTimeout:         {"service_timeout", envoy.CodeDeadlineExceeded},
	serviceReset:           {"service_reset", envoy.CodeUnavailable},
	serviceStatus:          {"service_status", envoy.CodeUnavailable},
	serviceAnswerInvalid:   {"service_answer_invalid", envoy.CodeInternal},
	serviceAnswerTooLarge:  {"service_answer_too_large", envoy.CodeResourceExhausted},
	serviceError:           {"service_error", envoy.CodeInternal},
	processesBusy:          {"processes_busy", envoy.CodeResourceExhausted},
	processNotStarted:      {"process_not_started", envoy.CodeUnavailable},
	processFailed:          {"process_failed", envoy.CodeInternal},
}

func (c cause) String() string { return causes[c].word }

// blamesService says whether the operator has to look at the service rather than the client at its call.
func (c cause) blamesService() bool {
	return c >= serviceUnreachable && c != serviceError || c == panicked || c == undecided || c == notReady
}

// failure is why a call has no answer. The message goes to the client and must hold nothing that only the operator may
// see; reason is for the log.
type failure struct {
	cause   cause
	code    envoy.Code
	message string
	details []byte // google.rpc.Status, serialised; nil for none
	reason  error
}

func (f *failure) Error() string {
	if f.reason != nil {
		return fmt.Sprintf("%s: %s (%v)", f.cause, f.message, f.reason)
	}
	return fmt.Sprintf("%s: %s", f.cause, f.message)
}

func (f *failure) Unwrap() error { return f.reason }

func fail(why cause, reason error, format string, values ...any) *failure {
	return &failure{cause: why, code: causes[why].code, message: fmt.Sprintf(format, values...), reason: reason}
}

// asFailure finds the failure in an error. One that nobody named must not tell the client what it says.
func asFailure(err error) *failure {
	var known *failure
	if errors.As(err, &known) {
		return known
	}
	return fail(undecided, err, "internal error: the call could not be translated")
}

func isStopping() *failure { return fail(stopping, nil, "the service is shutting down: try again") }

func tooManyCalls() *failure {
	return fail(busy, nil, "too many calls are under way: try again later")
}

func definitionMissing() *failure {
	return fail(notReady, nil, "the definition of the service is not loaded yet: try again later")
}

func noMethodPath() *failure {
	return fail(notAMethod, nil, "the path of the call is not /package.Service/Method")
}

func noSuchMethod(path string) *failure {
	return fail(unknownMethod, nil, "unknown method %s", shown(path))
}

func cannotStream(path, kind, service string) *failure {
	return fail(unsupportedStreaming, nil, "%s is a %s method, which a service of type %s cannot offer", shown(path), kind, service)
}

func noMessage() *failure {
	return fail(wrongMessageCount, nil, "the call carries no message: send exactly one")
}

func severalMessages() *failure {
	return fail(wrongMessageCount, nil, "the call carries more than one message: send exactly one")
}

func badFrame(format string, values ...any) *failure {
	return fail(malformedFrame, nil, "malformed gRPC frame: "+format, values...)
}

func tooLarge(limit int64) *failure {
	return fail(messageTooLarge, nil, "the message is larger than the %d bytes that this service takes", limit)
}

func answerTooLarge(limit int64) *failure {
	return fail(serviceAnswerTooLarge, nil, "the service's answer is larger than the %d bytes that are passed on", limit)
}

func badAnswer(reason error, format string, values ...any) *failure {
	return fail(serviceAnswerInvalid, reason, "the service's answer cannot be used: "+format, values...)
}
