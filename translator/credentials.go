package translator

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Credential is one thing that an HTTP service wants to know us by (service_credentials of service-types.md section
// 3). It prints without its value.
type Credential struct {
	Key       string `koanf:"key"`
	Value     any    `koanf:"value"`      // text; in the body any JSON value
	ValueFile string `koanf:"value_file"` // file that holds the text instead
	Location  string `koanf:"location"`   // query, header or body
}

// Values of Credential.Location.
const (
	LocationQuery  = "query"
	LocationHeader = "header"
	LocationBody   = "body"
)

// String describes the credential without its value.
func (c Credential) String() string { return fmt.Sprintf("%s in the %s", c.Key, c.Location) }

// GoString is String, for %#v.
func (c Credential) GoString() string { return c.String() }

// MarshalJSON is String, for logs and dumps of settings.
func (c Credential) MarshalJSON() ([]byte, error) { return json.Marshal(c.String()) }

// credentials are what is added to every request, compiled.
type credentials struct {
	query   string      // encoded; "" for none
	headers [][2]string // name, value
	body    map[string]json.RawMessage
	secrets []string // as they could appear in text
}

// reservedHeaders are set by us or by HTTP itself.
var reservedHeaders = []string{
	"accept", "connection", "content-encoding", "content-length", "content-type", "expect", "host", "keep-alive",
	"proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
}

func compileCredentials(list []Credential) (credentials, error) {
	var compiled credentials
	var f faults
	query := url.Values{}
	for i, credential := range list {
		if err := compiled.add(credential, query); err != nil {
			f.add(fmt.Errorf("http.credentials[%d]%w", i, err))
		}
	}
	compiled.query = query.Encode()
	return compiled, errors.Join(f...)
}

func (c *credentials) add(credential Credential, query url.Values) error {
	if credential.Key == "" {
		return errors.New(".key is missing: name the parameter, header or member that carries the value")
	}
	value, err := credential.value()
	if err != nil {
		return err
	}
	c.keepSecret(value)
	text, isText := value.(string)
	if !isText && credential.Location != LocationBody {
		return fmt.Errorf(".value of %s is not text, which only location body allows: put it in quotes", credential)
	}
	switch credential.Location {
	case LocationQuery:
		query.Add(credential.Key, text)
	case LocationHeader:
		return c.addHeader(strings.ToLower(credential.Key), text)
	case LocationBody:
		encoded, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf(".value of %s is no JSON value", credential)
		}
		if c.body == nil {
			c.body = map[string]json.RawMessage{}
		}
		c.body[credential.Key] = encoded
	default:
		return fmt.Errorf(".location is %q: write query, header or body", credential.Location)
	}
	return nil
}

// keepSecret remembers all texts in a value, in the forms that they take in URLs and in JSON.
func (c *credentials) keepSecret(value any) {
	switch value := value.(type) {
	case string:
		escaped, err := json.Marshal(value)
		if err == nil && value != "" {
			c.secrets = append(c.secrets, value, url.QueryEscape(value), url.PathEscape(value), string(escaped[1:len(escaped)-1]))
		}
	case map[string]any:
		for _, part := range value {
			c.keepSecret(part)
		}
	case []any:
		for _, part := range value {
			c.keepSecret(part)
		}
	}
}

func (c *credentials) addHeader(name, value string) error {
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return fmt.Errorf(".key is %q: it is no name of a header", name)
	case slices.Contains(reservedHeaders, name) || strings.HasPrefix(name, "x-envoy-"):
		return fmt.Errorf(".key is %q: this header cannot be chosen", name)
	case !httpguts.ValidHeaderFieldValue(value):
		return fmt.Errorf(".value of the header %s (not shown) has characters that a header cannot have", name)
	}
	c.headers = append(c.headers, [2]string{name, value})
	return nil
}

// value is the value in force, from the settings or the file. Errors never show it.
func (c Credential) value() (any, error) {
	switch {
	case c.ValueFile != "" && c.Value != nil:
		return nil, errors.New(" has both value and value_file: set one of them")
	case c.ValueFile != "":
		text, err := readSecret(c.ValueFile)
		if err != nil {
			return nil, fmt.Errorf(".value_file: %w", err)
		}
		return text, nil
	case c.Value == nil && c.Location != LocationBody:
		return nil, errors.New(".value is missing: set it, or value_file")
	}
	return c.Value, nil
}

// merge adds the credentials to a JSON object, in place of its own members of these names.
func (c *credentials) merge(object []byte) ([]byte, error) {
	if len(c.body) == 0 {
		return object, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil || members == nil {
		return nil, errors.New("credentials of location body need a message that is an object in JSON")
	}
	for key, value := range c.body {
		members[key] = value
	}
	return json.Marshal(members)
}
