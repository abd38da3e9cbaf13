package envoy

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
)

// maxMessage bounds the bytes of a grpc-message before encoding: response headers have limits at every hop.
const maxMessage = 1024

// Header is one HTTP header.
type Header struct{ Name, Value string }

// Allow lets a request through to the service. The headers in set replace whatever the client sent under
// these names; those in remove are taken away, and with them always what could be spent again and every name
// that only we may set. charged travels with the request as dynamic metadata and comes back in the access
// log when the call ends badly; nil means that there is nothing to refund.
func Allow(set []Header, remove []string, charged *Charged) *authv3.CheckResponse {
	ok := &authv3.OkHttpResponse{HeadersToRemove: removedHeaders(set, remove)}
	for _, header := range set {
		ok.Headers = append(ok.Headers, overwrite(header.Name, header.Value))
	}
	response := &authv3.CheckResponse{
		Status:       &status.Status{Code: int32(CodeOK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok},
	}
	if charged != nil {
		response.DynamicMetadata = charged.Struct()
	}
	return response
}

// Lists for the calls that nearly all are; they are shared and never changed.
var (
	neverPassed        = append(slices.Clone(SpendableHeaders), HeaderDaemonDebug, HeaderUserAddress)
	neverPassedWithout = append(slices.Clone(SpendableHeaders), HeaderDaemonDebug) // with a payer's address of ours
)

// removedHeaders are the names to take away. Envoy removes after it sets, so a name that is set is none of them.
func removedHeaders(set []Header, remove []string) []string {
	if len(remove) == 0 && len(set) == 0 {
		return neverPassed
	}
	if len(remove) == 0 && len(set) == 1 && set[0].Name == HeaderUserAddress {
		return neverPassedWithout
	}
	var removed []string
	for _, name := range slices.Concat(neverPassed, remove) {
		isSet := slices.ContainsFunc(set, func(h Header) bool { return strings.EqualFold(h.Name, name) })
		if !isSet && !slices.Contains(removed, name) {
			removed = append(removed, name)
		}
	}
	return removed
}

// Deny answers the client itself: HTTP 200 with grpc-status and grpc-message, which is how a gRPC client
// gets any code, also one outside of gRPC's list. CodeOK is no refusal and is answered as CodeInternal.
func Deny(code Code, message string) *authv3.CheckResponse {
	if code == CodeOK {
		code, message = CodeInternal, "the call was refused without a reason"
	}
	return &authv3.CheckResponse{
		// Envoy only asks whether this is OK; what the client sees are the headers below.
		Status: &status.Status{Code: int32(CodePermissionDenied)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_OK},
			Headers: []*corev3.HeaderValueOption{
				overwrite("content-type", "application/grpc"),
				overwrite("grpc-status", strconv.FormatUint(uint64(code), 10)),
				overwrite("grpc-message", EncodeMessage(message)),
			},
		}},
	}
}

// OrDeny passes on a reply that decides something, and denies otherwise. Envoy takes an empty CheckResponse
// for a yes, since status code zero means OK, so every reply must go through here last.
func OrDeny(reply *authv3.CheckResponse) *authv3.CheckResponse {
	allowed := reply.GetStatus() != nil && reply.GetStatus().GetCode() == int32(CodeOK) && reply.GetOkResponse() != nil
	denied := reply.GetStatus().GetCode() != int32(CodeOK) && reply.GetDeniedResponse() != nil
	if allowed || denied {
		return reply
	}
	return Deny(CodeInternal, "the call was not decided")
}

func overwrite(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// EncodeMessage percent-encodes a grpc-message (gRPC over HTTP/2, "Status-Message"): bytes outside of space
// to tilde, and the percent sign. Text beyond 1 KiB is cut.
func EncodeMessage(message string) string {
	if len(message) > maxMessage {
		cut := maxMessage
		for cut > 0 && !utf8.RuneStart(message[cut]) {
			cut--
		}
		message = message[:cut]
	}
	const digits = "0123456789ABCDEF"
	var encoded strings.Builder
	encoded.Grow(len(message))
	for i := range len(message) {
		if b := message[i]; b >= ' ' && b <= '~' && b != '%' {
			encoded.WriteByte(b)
		} else {
			encoded.WriteByte('%')
			encoded.WriteByte(digits[b>>4])
			encoded.WriteByte(digits[b&15])
		}
	}
	return encoded.String()
}
