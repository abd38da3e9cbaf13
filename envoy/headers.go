// Package envoy owns everything about Envoy's wire and configuration: header names, the replies of the
// ext_authz filter, the metadata that comes back in the access log, and running Envoy as a child.
// It knows no payment rules. The bootstrap configuration is in envoy/bootstrap.
package envoy

import (
	"encoding/base64"
	"errors"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// Request headers of the payment protocol. Names that end in -bin carry base64 on the wire (see DecodeBinary).
const (
	HeaderPaymentType         = "snet-payment-type"
	HeaderChannelID           = "snet-payment-channel-id"
	HeaderChannelNonce        = "snet-payment-channel-nonce"
	HeaderChannelAmount       = "snet-payment-channel-amount"
	HeaderChannelSignature    = "snet-payment-channel-signature-bin"
	HeaderMPEAddress          = "snet-payment-mpe-address"
	HeaderPrepaidToken        = "snet-prepaid-auth-token-bin"
	HeaderFreeCallUserAddress = "snet-free-call-user-address"
	HeaderFreeCallUserID      = "snet-free-call-user-id"
	HeaderCurrentBlock        = "snet-current-block-number"
	HeaderFreeCallToken       = "snet-free-call-auth-token-bin"
	HeaderFreeCallTokenExpiry = "snet-free-call-token-expiry-block"
	HeaderTrainModelID        = "snet-train-model-id"
	HeaderClientType          = "snet-client-type"
	HeaderUserInfo            = "snet-user-info"
)

// Headers that the service gets and a client may not choose.
const (
	HeaderUserAddress = "snet-user-address" // who pays, EIP-55 text
	HeaderDaemonDebug = "snet-daemon-debug" // set by the peer daemon for its own use; never passed on here
)

// Other headers that a CheckRequest brings.
const (
	HeaderRequestID   = "x-request-id" // made by Envoy, never the client's
	HeaderContentType = "content-type"
	HeaderGRPCTimeout = "grpc-timeout"
	HeaderUserAgent   = "user-agent"
	HeaderClientIP    = "x-envoy-external-address" // set by Envoy, see ClientIP
)

// SpendableHeaders carry what could be spent again by whoever reads it. They never reach the service.
var SpendableHeaders = []string{HeaderChannelSignature, HeaderPrepaidToken, HeaderFreeCallToken}

// PaymentHeaders are all request headers of the payment protocol, the spendable ones included.
var PaymentHeaders = []string{
	HeaderPaymentType, HeaderChannelID, HeaderChannelNonce, HeaderChannelAmount, HeaderChannelSignature,
	HeaderMPEAddress, HeaderPrepaidToken, HeaderFreeCallUserAddress, HeaderFreeCallUserID, HeaderCurrentBlock,
	HeaderFreeCallToken, HeaderFreeCallTokenExpiry, HeaderTrainModelID, HeaderClientType, HeaderUserInfo,
}

// CheckHeaders are the request headers that Envoy sends to authz. The rest of a request stays with Envoy,
// so a CheckRequest is small whatever else a client sends.
var CheckHeaders = append([]string{
	HeaderContentType, HeaderGRPCTimeout, HeaderRequestID, HeaderUserAgent, HeaderClientIP,
}, PaymentHeaders...)

// ClientIP is the address of the client that a CheckRequest is about, as text; empty when it is not known.
// The source of the request is only the nearest hop; behind trusted proxies the client is the one that Envoy
// has read from X-Forwarded-For.
func ClientIP(request *authv3.CheckRequest) string {
	attributes := request.GetAttributes()
	if ip := attributes.GetRequest().GetHttp().GetHeaders()[HeaderClientIP]; ip != "" {
		return ip
	}
	return attributes.GetSource().GetAddress().GetSocketAddress().GetAddress()
}

// Errors of DecodeBinary.
var (
	ErrTwoValues = errors.New("the header is given more than once")
	ErrNotBase64 = errors.New("the header is not base64")
)

// DecodeBinary decodes the value of a -bin header as Envoy hands it over: base64 with or without padding
// (gRPC over HTTP/2, "Requests"). Envoy joins repeated headers with a comma, so a comma means two values.
func DecodeBinary(value string) ([]byte, error) {
	if strings.Contains(value, ",") {
		return nil, ErrTwoValues
	}
	// The decoder would skip line breaks; a header value has none.
	if strings.ContainsAny(value, "\r\n") {
		return nil, ErrNotBase64
	}
	encoding := base64.RawStdEncoding
	if strings.HasSuffix(value, "=") {
		encoding = base64.StdEncoding
	}
	data, err := encoding.DecodeString(value)
	if err != nil {
		return nil, ErrNotBase64 // without the value: it may be a signature
	}
	return data, nil
}
