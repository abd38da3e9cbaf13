package authz

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/envoy"
)

// Payment types of payment-protocol.md section 2. A type without a handler is refused like an unknown one.
const (
	typeEscrow  = "escrow"
	typePrepaid = "prepaid-call"
	typeFree    = "free-call"
)

// call is one request as Envoy describes it; nothing in it is trusted.
type call struct {
	headers   map[string]string
	verb      string
	path      string // verified to be /package.Service/Method once decide goes on
	requestID string
	client    string // IP address
	started   time.Time

	paymentType string         // once it is known to have a handler
	channel     string         // decimal, once parsed
	price       string         // decimal, once known
	charged     *envoy.Charged // set as soon as money was taken, so that every path can give it back

	clientDeadline bool // the client's own timeout is the one that ends the check
}

func newCall(request *authv3.CheckRequest) call {
	attributes := request.GetAttributes()
	http := attributes.GetRequest().GetHttp()
	headers := http.GetHeaders()
	return call{
		headers:   headers,
		verb:      http.GetMethod(),
		path:      http.GetPath(),
		requestID: headers[envoy.HeaderRequestID],
		client:    attributes.GetSource().GetAddress().GetSocketAddress().GetAddress(),
		started:   time.Now(),
	}
}

// checkRequest refuses what no gRPC service takes, whatever is paid.
func (c *call) checkRequest() *verdict {
	if c.verb != "POST" || !isMethodPath(c.path) {
		return deny(notAMethod, "this is not a gRPC method: call it by POST to /package.Service/Method")
	}
	if contentType, given := c.headers[envoy.HeaderContentType]; given && !isContentType(contentType) {
		return deny(notAMethod, "this is not a gRPC call: its content-type must be application/grpc")
	}
	return nil
}

// limit ends the check early enough for our answer to be heard: before Envoy's own patience and the client's end.
func (c *call) limit(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if client := clientTimeout(c.headers[envoy.HeaderGRPCTimeout]); client > 0 && client < timeout/2*3 {
		c.clientDeadline = true
		timeout = client * 2 / 3
	}
	return context.WithDeadline(ctx, c.started.Add(timeout))
}

// outOfTime answers a call whose check did not end in time. Hardly anybody hears it.
func (c *call) outOfTime(ctx context.Context) *verdict {
	switch {
	case ctx.Err() == nil || errors.Is(ctx.Err(), context.Canceled):
		return deny(clientGone, "the call was cancelled before its payment was accepted")
	case c.clientDeadline:
		return deny(deadlinePassed, "the deadline of the call passed before its payment was accepted")
	}
	return deny(timedOut, "the payment could not be checked in time, try again later")
}

// isMethodPath says whether the path is exactly /package.Service/Method. The alphabet is that of names in proto
// files and a hyphen, so that no escape, dot segment or query can name one method to us and another to the service.
func isMethodPath(path string) bool {
	if len(path) < 4 || len(path) > 1024 || path[0] != '/' {
		return false
	}
	service, method, found := strings.Cut(path[1:], "/")
	return found && isName(service) && isName(method)
}

func isName(name string) bool {
	if name == "" || name[0] == '.' || name[len(name)-1] == '.' {
		return false
	}
	for i := range len(name) {
		switch character := name[i]; {
		case 'a' <= character && character <= 'z', 'A' <= character && character <= 'Z':
		case '0' <= character && character <= '9', character == '_', character == '-':
		case character == '.' && name[i-1] != '.':
		default:
			return false
		}
	}
	return true
}

// isContentType says whether a gRPC service would take the call at all. gRPC-Web has become plain gRPC before us.
func isContentType(value string) bool {
	const prefix = "application/grpc"
	return len(value) >= len(prefix) && strings.EqualFold(value[:len(prefix)], prefix)
}

// single gives the one value of a required header. Envoy joins repeated headers with a comma.
func single(headers map[string]string, name string) (string, *verdict) {
	value, present := headers[name]
	if !present {
		return "", denyf(missingHeader, "missing %q", name)
	}
	if strings.IndexByte(value, ',') >= 0 {
		return "", repeated(name, value)
	}
	return value, nil
}

// repeated refuses a header given twice. Values of binary headers can be spent, so they are not repeated to anyone.
func repeated(name, value string) *verdict {
	values := "not shown"
	if !strings.HasSuffix(name, "-bin") {
		values = shown(strings.ReplaceAll(value, ",", " "))
	}
	return denyf(repeatedHeader, "too many values for key %q: [%s]", name, values)
}

func malformed(name, value string) *verdict {
	return denyf(malformedHeader, "incorrect format %q: \"%s\"", name, shown(value))
}

const maxDigits = 78 // of 2^256 - 1

// readNumber reads a header of decimal digits below 2^256 (payment-protocol.md section 1.1) and gives its text without
// leading zeros too.
func readNumber(headers map[string]string, name string, into *uint256.Int) (string, *verdict) {
	text, denied := single(headers, name)
	if denied != nil {
		return "", denied
	}
	if !parseDecimal(text, into) {
		return "", malformed(name, text)
	}
	canonical := strings.TrimLeft(text, "0")
	if canonical == "" {
		canonical = "0"
	}
	return canonical, nil
}

// parseDecimal takes 1 to 78 digits and nothing else: no sign, no base prefix, no space.
func parseDecimal(text string, into *uint256.Int) bool {
	if len(text) == 0 || len(text) > maxDigits {
		return false
	}
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return into.SetFromDecimal(text) == nil
}

// parseAddress takes 40 hex digits with or without 0x.
func parseAddress(text string) (common.Address, bool) {
	if strings.HasPrefix(text, "0x") || strings.HasPrefix(text, "0X") {
		text = text[2:]
	}
	var address common.Address
	if len(text) != 2*common.AddressLength {
		return address, false
	}
	_, err := hex.Decode(address[:], []byte(text))
	return address, err == nil
}

// maxSignatureText is the base64 of a signature with its padding.
var maxSignatureText = base64.StdEncoding.EncodedLen(blockchain.SignatureLength)

// signature reads a signature header, base64 padded or not. Its value is never part of an answer.
func signature(headers map[string]string, name string) ([]byte, *verdict) {
	text, denied := single(headers, name)
	if denied != nil {
		return nil, denied
	}
	if len(text) > maxSignatureText {
		return nil, deny(invalidSignature, textInvalidSignature)
	}
	decoded, err := envoy.DecodeBinary(text)
	if err != nil {
		return nil, denyf(malformedHeader, "incorrect format %q: it is not base64", name)
	}
	return decoded, nil
}

const textInvalidSignature = "payment signature is not valid"

// escrowPayment is what the headers of an escrow call claim; nothing about it is verified yet.
type escrowPayment struct {
	channel, nonce, amount             uint256.Int
	channelText, nonceText, amountText string
	signature                          []byte
}

// parse reads the headers in the order in which the network's clients expect the first fault to be named.
func (p *escrowPayment) parse(headers map[string]string) *verdict {
	var denied *verdict
	if p.channelText, denied = readNumber(headers, envoy.HeaderChannelID, &p.channel); denied != nil {
		return denied
	}
	if p.nonceText, denied = readNumber(headers, envoy.HeaderChannelNonce, &p.nonce); denied != nil {
		return denied
	}
	if p.amountText, denied = readNumber(headers, envoy.HeaderChannelAmount, &p.amount); denied != nil {
		return denied
	}
	p.signature, denied = signature(headers, envoy.HeaderChannelSignature)
	return denied
}

// clientTimeout reads grpc-timeout: at most 8 digits and a unit (gRPC over HTTP/2). Zero means none was sent.
func clientTimeout(text string) time.Duration {
	if len(text) < 2 || len(text) > 9 {
		return 0
	}
	var unit time.Duration
	switch text[len(text)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0
	}
	var value time.Duration
	for _, digit := range []byte(text[:len(text)-1]) {
		if digit < '0' || digit > '9' {
			return 0
		}
		value = value*10 + time.Duration(digit-'0')
	}
	if value > time.Duration(math.MaxInt64)/unit { // 99999999H
		return math.MaxInt64
	}
	return value * unit
}
