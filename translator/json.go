package translator

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// buffers hold bodies while they are put together. Large ones are left to the garbage collector.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const keptBuffer = 64 << 10

func getBuffer() *[]byte { return buffers.Get().(*[]byte) }

func putBuffer(buffer *[]byte) {
	if cap(*buffer) <= keptBuffer {
		*buffer = (*buffer)[:0]
		buffers.Put(buffer)
	}
}

// appendJSON appends a message of a method in protobuf's JSON form: names as in the .proto file, default values left
// out, 64-bit integers exact (as text).
func (d *definition) appendJSON(target []byte, m *method, message []byte) ([]byte, error) {
	value := m.input.New().Interface()
	err := proto.UnmarshalOptions{DiscardUnknown: true, AllowPartial: true, Resolver: d.types}.Unmarshal(message, value)
	if err == nil {
		target, err = protojson.MarshalOptions{UseProtoNames: true, AllowPartial: true, Resolver: d.types}.MarshalAppend(target, value)
	}
	if err != nil {
		return target, fail(notTheMethodsMessage, err, "the message is no %s", m.input.Descriptor().FullName())
	}
	return target, nil
}

// appendMessage appends the message of a method's answer that is given as JSON. Names may be those of the .proto
// file or lowerCamelCase; unknown ones are dropped.
func (d *definition) appendMessage(target []byte, m *method, text []byte) ([]byte, error) {
	if m.noOutput && bytes.Equal(bytes.TrimSpace(text), jsonNull) {
		return target, nil
	}
	value := m.output.New().Interface()
	err := protojson.UnmarshalOptions{DiscardUnknown: true, AllowPartial: true, Resolver: d.types}.Unmarshal(text, value)
	if err == nil {
		target, err = proto.MarshalOptions{AllowPartial: true}.MarshalAppend(target, value)
	}
	if err != nil {
		return target, badAnswer(placeOf(err), "it is no JSON of a %s", m.output.Descriptor().FullName())
	}
	return target, nil
}

var (
	errorLine  = regexp.MustCompile(`\(line \d+:\d+\)`)
	errorField = regexp.MustCompile(`\bfield [\w.]+`)
)

// placeOf says where protojson found a fault. The rest of its words repeats what the service answered, which is no
// business of the log.
func placeOf(err error) error {
	text := err.Error()
	place := strings.TrimSpace(errorLine.FindString(text) + " " + errorField.FindString(text))
	if place == "" {
		return errors.New("it cannot be decoded")
	}
	return errors.New("fault at " + place)
}

var jsonNull = []byte("null")

// checkJSON is for clients that send JSON text in place of messages (encoding json in the metadata).
func checkJSON(message []byte) error {
	if !json.Valid(message) {
		return fail(notJSON, nil, "the message is not JSON, which the service's metadata asks for (encoding json)")
	}
	return nil
}

// looksLikeJSON tells an object in JSON from a message in protobuf: as protobuf, "{" would begin a group with number
// 15, and groups went out of use before gRPC came.
func looksLikeJSON(message []byte) bool {
	text := bytes.TrimLeft(message, " \t\r\n")
	return len(text) > 0 && text[0] == '{' && json.Valid(text)
}
