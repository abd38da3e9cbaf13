package translator

import (
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
)

// incoming is the service's answer, as far as it has come in.
type incoming struct {
	status   int
	encoding string   // content-encoding
	drop     []string // its headers: none of them is for the client
	body     []byte
	trailers []string // names; nil means that there are none
}

func (got *incoming) ok() bool { return got.status >= 200 && got.status < 300 }

// badStatus is the failure for an HTTP status that is no success. The body may say more than a client shall read.
func (got *incoming) badStatus() *failure {
	return fail(serviceStatus, nil, "upstream http status %d", got.status)
}

func names(headers *corev3.HeaderMap) []string {
	list := make([]string, 0, len(headers.GetHeaders()))
	for _, header := range headers.GetHeaders() {
		if name := header.GetKey(); !strings.HasPrefix(name, ":") {
			list = append(list, name)
		}
	}
	return list
}

// responseHeaders begins the service's answer, or ends the call if they are Envoy's own.
func (c *call) responseHeaders(headers *extprocv3.HttpHeaders) error {
	var grpcStatus, grpcMessage string
	isGRPC := false
	for _, header := range headers.GetHeaders().GetHeaders() {
		switch header.GetKey() {
		case ":status":
			c.got.status, _ = strconv.Atoi(string(header.GetRawValue()))
		case "content-encoding":
			c.got.encoding = string(header.GetRawValue())
		case "content-type":
			isGRPC = string(header.GetRawValue()) == contentTypeGRPC
		case "grpc-status":
			grpcStatus = string(header.GetRawValue())
		case "grpc-message":
			grpcMessage = string(header.GetRawValue())
		}
	}
	c.got.drop = names(headers.GetHeaders())
	if !headers.GetEndOfStream() {
		return nil
	}
	if isGRPC && grpcStatus != "" && grpcStatus != "0" {
		return fromEnvoy(grpcStatus, grpcMessage)
	}
	if !c.got.ok() {
		return c.got.badStatus()
	}
	return badAnswer(nil, "it is empty")
}

// fromEnvoy is the failure for a request that Envoy could not get answered. Its own words could name addresses and
// certificates, so the client gets ours.
func fromEnvoy(grpcStatus, message string) *failure {
	said := func(phrases ...string) bool {
		for _, phrase := range phrases {
			if strings.Contains(message, phrase) {
				return true
			}
		}
		return false
	}
	reason := &envoySaid{status: grpcStatus, message: message}
	switch {
	case grpcStatus == "4":
		return fail(serviceTimeout, reason, "the service did not answer in time")
	case said("overflow"):
		return fail(serviceOverloaded, reason, "the service has too many calls under way: try again later")
	case said("connection termination", "protocol error", "remote reset"):
		return fail(serviceReset, reason, "the service broke off before it answered")
	default:
		return fail(serviceUnreachable, reason, "the service cannot be reached")
	}
}

// envoySaid is Envoy's own account of a failure, for the log.
type envoySaid struct{ status, message string }

func (e *envoySaid) Error() string { return "Envoy answers " + e.status + ": " + e.message }

func (c *call) responseBody(body *extprocv3.HttpBody) error {
	piece := body.GetBody()
	limit := c.server.settings.bodyLimit()
	switch {
	case int64(len(c.got.body)+len(piece)) > limit:
		return answerTooLarge(limit)
	case len(c.got.body) == 0:
		c.got.body = piece
	default:
		c.got.body = append(c.got.body, piece...)
	}
	if !body.GetEndOfStream() {
		return nil
	}
	return c.finish()
}

// complete undoes a compression that nobody asked for but some servers use all the same.
func (got *incoming) complete(limit int64) error {
	switch got.encoding {
	case "", "identity":
		return nil
	case "gzip":
		plain, err := gunzip(got.body, limit)
		if err == errTooLong {
			return answerTooLarge(limit)
		}
		if err != nil {
			return badAnswer(err, "it is no gzip data")
		}
		got.body = plain
		return nil
	default:
		return badAnswer(nil, "it is compressed in a way that was not asked for")
	}
}
