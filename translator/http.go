package translator

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// httpJSON is a service that takes a POST of JSON for each method and answers with JSON.
type httpJSON struct {
	base        string // of the path, ends with a slash
	query       string // with its question mark, "" for none
	credentials credentials
	headers     []*corev3.HeaderValueOption
}

func newHTTPJSON(server *Server) (*httpJSON, error) {
	endpoint, err := ParseEndpoint(server.settings.Endpoint)
	if err != nil {
		return nil, err
	}
	compiled, err := compileCredentials(server.settings.HTTP.Credentials)
	if err != nil {
		return nil, err
	}
	a := &httpJSON{base: strings.TrimSuffix(endpoint.Path, "/") + "/", credentials: compiled}
	for _, part := range []string{endpoint.Query, compiled.query} {
		switch {
		case part == "":
		case a.query == "":
			a.query = "?" + part
		default:
			a.query += "&" + part
		}
	}
	for _, header := range compiled.headers {
		a.headers = append(a.headers, setHeader(header[0], header[1]))
	}
	return a, nil
}

func (a *httpJSON) request(c *call, message, body []byte) (outgoing, error) {
	body, err := c.appendJSON(body, message)
	if err != nil {
		return outgoing{}, err
	}
	if body, err = a.credentials.merge(body); err != nil {
		return outgoing{}, fail(notTheMethodsMessage, err, "the message is no object in JSON, which this service needs")
	}
	return outgoing{path: a.base + c.name + a.query, headers: a.headers, body: body}, nil
}

func (a *httpJSON) answer(c *call, got *incoming, frame []byte) ([]byte, error) {
	switch {
	case !got.ok():
		return nil, got.badStatus()
	case len(got.body) == 0:
		return nil, badAnswer(nil, "it is empty")
	}
	return c.appendMessage(frame, got.body)
}
