package envoy

import (
	"strconv"

	"google.golang.org/grpc/codes"
)

// Code is a gRPC status code. It is a plain number because the payment protocol uses one outside of gRPC's list.
type Code = uint32

// CodeIncorrectNonce answers a call whose nonce is not the channel's current one. Clients match on the number.
const CodeIncorrectNonce Code = 1000

// Codes of gRPC that the filter answers with.
const (
	CodeOK                 = Code(codes.OK)
	CodeCancelled          = Code(codes.Canceled)
	CodeUnknown            = Code(codes.Unknown)
	CodeInvalidArgument    = Code(codes.InvalidArgument)
	CodeDeadlineExceeded   = Code(codes.DeadlineExceeded)
	CodePermissionDenied   = Code(codes.PermissionDenied)
	CodeResourceExhausted  = Code(codes.ResourceExhausted)
	CodeFailedPrecondition = Code(codes.FailedPrecondition)
	CodeUnimplemented      = Code(codes.Unimplemented)
	CodeInternal           = Code(codes.Internal)
	CodeUnavailable        = Code(codes.Unavailable)
	CodeUnauthenticated    = Code(codes.Unauthenticated)
)

// parseCode reads a grpc-status value.
func parseCode(text string) (Code, bool) {
	code, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, false
	}
	return Code(code), true
}
