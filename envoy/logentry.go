package envoy

import (
	"net/http"
	"strings"
	"time"

	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// LogEntry is what Envoy saw of a call that has ended, in neutral words.
//
// Envoy reports two kinds of calls (see the access_log of the bootstrap configuration): those with a charge
// that did not end with OK, and those that ended while Envoy waited for the answer to a Check. The second
// kind has no charge; if one was made it can only be found by the request id. Refusals are not reported.
type LogEntry struct {
	RequestID string // the x-request-id of the CheckRequest
	Path      string
	Charged   *Charged // nil: Envoy never got our reply, or the reply had no charge

	// Status is the grpc-status that the client was sent, or has to conclude from an answer without one.
	// StatusKnown is false when the answer broke off, or never began, without any.
	Status      Code
	StatusKnown bool
	// MessageBytes counts what the client was sent of response messages, framing included.
	MessageBytes uint64
	// ClientGone: the client reset the stream or closed the connection before the call had ended.
	ClientGone bool
	// AuthzFailed: authz could not be reached, was too slow, or answered with an error.
	AuthzFailed bool

	// For people: Envoy's response_code_details and the names of its response flags.
	Details  string
	Flags    []string
	Duration time.Duration
}

// Details of Envoy that mean something to us.
const (
	detailsWhole       = "via_upstream" // the service's answer came to its end
	detailsAuthzFailed = "ext_authz_error"
)

// ReadLogEntry translates an entry of Envoy's access log.
//
// Where the grpc-status is found, tried on Envoy 1.40: in the response trailers; for gRPC-Web, whose trailers
// are part of the body, in the metadata that the bootstrap's lua filter leaves; and in the response headers
// when the service answered without a message (trailers-only) or Envoy answered itself (local reply).
func ReadLogEntry(entry *dataaccesslogv3.HTTPAccessLogEntry) LogEntry {
	common, response := entry.GetCommonProperties(), entry.GetResponse()
	flags := common.GetResponseFlags()
	read := LogEntry{
		RequestID:   entry.GetRequest().GetRequestId(),
		Path:        entry.GetRequest().GetPath(),
		ClientGone:  flags.GetDownstreamConnectionTermination() || flags.GetDownstreamRemoteReset() || flags.GetDownstreamProtocolError(),
		AuthzFailed: response.GetResponseCodeDetails() == detailsAuthzFailed,
		Details:     response.GetResponseCodeDetails(),
		Flags:       flagNames(flags),
		Duration:    common.GetDuration().AsDuration(),
	}
	if charged, ok := ChargedFromLog(entry); ok {
		read.Charged = &charged
	}
	read.Status, read.StatusKnown = statusOf(entry)
	read.MessageBytes = messageBytes(entry)
	return read
}

func statusOf(entry *dataaccesslogv3.HTTPAccessLogEntry) (Code, bool) {
	response := entry.GetResponse()
	web := entry.GetCommonProperties().GetMetadata().GetFilterMetadata()[MetadataWeb].GetFields()
	text, found := response.GetResponseTrailers()["grpc-status"]
	if status, isWeb := web[MetadataWebStatus]; !found && isWeb {
		text, found = status.GetStringValue(), true
	}
	if !found {
		text, found = response.GetResponseHeaders()["grpc-status"]
	}
	if found {
		if code, ok := parseCode(text); ok {
			return code, true
		}
		return CodeUnknown, true // as every client takes a status that is no number
	}
	if response.GetResponseCodeDetails() == detailsWhole {
		return codeFromHTTP(response.GetResponseCode().GetValue()), true
	}
	return CodeUnknown, false
}

// messageBytes leaves out what is no message: the trailer frame of gRPC-Web, and pages that are not gRPC.
func messageBytes(entry *dataaccesslogv3.HTTPAccessLogEntry) uint64 {
	web := entry.GetCommonProperties().GetMetadata().GetFilterMetadata()[MetadataWeb].GetFields()
	if counted, found := web[MetadataWebBytes]; found {
		return uint64(max(0, counted.GetNumberValue()))
	}
	response := entry.GetResponse()
	if !strings.HasPrefix(response.GetResponseHeaders()["content-type"], "application/grpc") {
		return 0
	}
	return response.GetResponseBodyBytes()
}

// codeFromHTTP is what a gRPC client concludes from an answer without grpc-status (gRPC's
// "HTTP to gRPC Status Code Mapping").
func codeFromHTTP(status uint32) Code {
	switch status {
	case http.StatusBadRequest:
		return CodeInternal
	case http.StatusUnauthorized:
		return CodeUnauthenticated
	case http.StatusForbidden:
		return CodePermissionDenied
	case http.StatusNotFound:
		return CodeUnimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return CodeUnavailable
	default:
		return CodeUnknown
	}
}

// flagNames are the fields that are set.
func flagNames(flags *dataaccesslogv3.ResponseFlags) []string {
	var names []string
	flags.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		names = append(names, string(field.Name()))
		return true
	})
	return names
}
