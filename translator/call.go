package translator

import (
	"context"
	"errors"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
)

// call is one call of a client, which Envoy tells us about in pieces over one stream: the request's headers and body,
// then, where Envoy asks a service, the response's headers, body and trailers. One goroutine has it.
type call struct {
	server  *Server
	stream  extprocv3.ExternalProcessor_ProcessServer
	ctx     context.Context // ends when the client goes away or its deadline passes
	runtime *runtime        // what was in force when the call came

	path, name  string
	contentType string  // of the request; where the bridge stands, it has put its own in place
	method      *method // nil where the service publishes no definition
	timeout     time.Duration
	drop        []string // request headers that are not for the service
	frames      frameReader
	jsonFrames  bool // messages are JSON text
	rpcID       uint64
	got         incoming
	requested   bool // the service was asked
	streaming   bool // an answer is on its way
}

// errDone ends a call that got all it can get.
var errDone = errors.New("done")

// run follows the call to its end and says how it ended.
func (c *call) run() error {
	var event extprocv3.ProcessingRequest
	for {
		if err := c.stream.RecvMsg(&event); err != nil {
			return fail(clientGone, err, "the client has gone away")
		}
		if err := c.step(&event); err != nil {
			return err
		}
	}
}

// step handles one piece. errDone means that the client has its answer.
func (c *call) step(event *extprocv3.ProcessingRequest) error {
	switch piece := event.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		return c.requestHeaders(piece.RequestHeaders)
	case *extprocv3.ProcessingRequest_RequestBody:
		return c.requestBody(piece.RequestBody)
	case *extprocv3.ProcessingRequest_RequestTrailers:
		return badFrame("a gRPC request has no trailers")
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		return c.responseHeaders(piece.ResponseHeaders)
	case *extprocv3.ProcessingRequest_ResponseBody:
		return c.responseBody(piece.ResponseBody)
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		c.got.trailers = names(piece.ResponseTrailers.GetTrailers())
		return c.finish()
	}
	return nil // something newer than we are
}

func (c *call) requestHeaders(headers *extprocv3.HttpHeaders) error {
	c.readHeaders(headers.GetHeaders())
	if c.runtime = c.server.runtime.Load(); c.runtime == nil {
		return definitionMissing()
	}
	var err error
	if c.name, err = methodName(c.path); err != nil {
		return err
	}
	if c.method, err = c.server.find(c.runtime, c.path); err != nil {
		return err
	}
	if headers.GetEndOfStream() {
		return noMessage()
	}
	return nil
}

func (c *call) readHeaders(headers *corev3.HeaderMap) {
	c.frames.limit = c.server.settings.MaxMessageSize
	for _, header := range headers.GetHeaders() {
		switch name := header.GetKey(); name {
		case ":path":
			c.path = string(header.GetRawValue())
		case "content-type":
			c.contentType = string(header.GetRawValue())
		case "grpc-encoding":
			c.frames.encoding = string(header.GetRawValue())
			c.drop = append(c.drop, name)
		case "grpc-timeout":
			c.timeout = parseTimeout(string(header.GetRawValue()))
			c.drop = append(c.drop, name)
		default:
			if !passes(name) {
				c.drop = append(c.drop, name)
			}
		}
	}
}

// passes says whether a request header is for the service: only what we or Envoy answer for, and what the payment
// protocol promises it. The client's own metadata could steer frameworks behind (X-HTTP-Method-Override and such).
func passes(name string) bool {
	switch name {
	case "accept", "content-type", "content-length", "host", // replaced or needed by HTTP itself
		"user-agent", "x-request-id", "x-forwarded-for", "x-forwarded-proto", "traceparent", "tracestate":
		return true
	}
	return strings.HasPrefix(name, ":") || strings.HasPrefix(name, "snet-")
}

// methodName is the last part of /package.Service/Method. What is no name could be taken for an option by a program
// or for a part of a path by a server.
func methodName(path string) (string, error) {
	service, name, found := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !found || !strings.HasPrefix(path, "/") || service == "" || !isIdentifier(name) {
		return "", noMethodPath()
	}
	return name, nil
}

func isIdentifier(text string) bool {
	for i := range len(text) {
		b := text[i]
		letter := b == '_' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
		if !letter && (i == 0 || b < '0' || b > '9') {
			return false
		}
	}
	return text != ""
}

// parseTimeout reads a grpc-timeout, such as 2000m; 0 where there is none that can be read.
func parseTimeout(text string) time.Duration {
	if len(text) < 2 || len(text) > 9 {
		return 0
	}
	unit := timeoutUnit(text[len(text)-1])
	var count time.Duration
	for _, digit := range []byte(text[:len(text)-1]) {
		if digit < '0' || digit > '9' {
			return 0
		}
		count = 10*count + time.Duration(digit-'0')
	}
	const most = 24 * time.Hour
	if unit > 0 && count > most/unit {
		return most
	}
	return count * unit
}

func timeoutUnit(letter byte) time.Duration {
	switch letter {
	case 'H':
		return time.Hour
	case 'M':
		return time.Minute
	case 'S':
		return time.Second
	case 'm':
		return time.Millisecond
	case 'u':
		return time.Microsecond
	case 'n':
		return time.Nanosecond
	}
	return 0
}

func (c *call) requestBody(body *extprocv3.HttpBody) error {
	if c.requested || c.runtime == nil {
		return nil
	}
	if err := c.frames.add(body.GetBody()); err != nil {
		return err
	}
	if !body.GetEndOfStream() {
		return nil
	}
	c.requested = true
	message, err := c.frames.message()
	if err != nil {
		return err
	}
	c.jsonFrames = c.runtime.json && (c.method == nil || looksLikeJSON(message))
	if c.server.local != nil {
		return c.server.local.serve(c, message)
	}
	body.Body = nil
	buffer := getBuffer()
	defer putBuffer(buffer)
	request, err := c.server.upstream.request(c, message, (*buffer)[:0])
	if err != nil {
		return err
	}
	*buffer = request.body
	c.frames.data = nil
	return c.sendRequest(request)
}

// appendJSON appends the client's message as JSON.
func (c *call) appendJSON(target, message []byte) ([]byte, error) {
	if c.jsonFrames {
		if err := checkJSON(message); err != nil {
			return target, err
		}
		return append(target, message...), nil
	}
	if c.method == nil {
		return target, definitionMissing()
	}
	return c.runtime.definition.appendJSON(target, c.method, message)
}

// appendMessage appends JSON of the service as the message that the client expects.
func (c *call) appendMessage(target, text []byte) ([]byte, error) {
	if c.jsonFrames {
		if checkJSON(text) != nil {
			return target, badAnswer(nil, "it is no JSON")
		}
		return append(target, text...), nil
	}
	return c.runtime.definition.appendMessage(target, c.method, text)
}

// takesNull says whether nothing is a good answer of this method.
func (c *call) takesNull() bool {
	return c.jsonFrames && c.method == nil || c.method != nil && c.method.noOutput
}

// finish makes the client's answer of what the service sent.
func (c *call) finish() error {
	if err := c.got.complete(c.server.settings.bodyLimit()); err != nil {
		return err
	}
	buffer := getBuffer()
	defer putBuffer(buffer)
	frame := append((*buffer)[:0], make([]byte, frameHeader)...)
	frame, err := c.server.upstream.answer(c, &c.got, frame)
	if frame != nil {
		*buffer = frame
	}
	if err != nil {
		return err
	}
	if frame, err = finishFrame(frame, c.server.settings.MaxMessageSize); err != nil {
		return err
	}
	if err := c.sendAnswer(frame, &c.got); err != nil {
		return err
	}
	return errDone
}

// ended tells the client how the call ended, where it can still hear it, and gives the cause for the books.
func (c *call) ended(err error) *failure {
	if errors.Is(err, errDone) {
		return nil
	}
	// Envoy ends the stream when its client is gone; whatever fails after that is a consequence.
	if c.ctx.Err() != nil {
		return fail(clientGone, err, "the client has gone away")
	}
	failed := asFailure(err)
	if failed.cause == clientGone {
		return failed
	}
	var sent error
	if c.streaming {
		sent = c.closeStream(failed)
	} else {
		sent = c.sendFailure(failed)
	}
	if sent != nil {
		return fail(clientGone, sent, "the client has gone away")
	}
	return failed
}
