package translator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func calcDefinition(t testing.TB) *definition {
	t.Helper()
	d, err := loadLocal(t.Context(), "testdata/calc")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What a service answers becomes a message or a failure that blames it; what became a message survives the way back.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"big": "1", "real": "NaN", "at": "2026-01-02T03:04:05Z", "any": {"@type": "x/calc.types.Number"}}`))
	f.Add([]byte(`{"list": [1e3, "2"], "counts": {"a": 1}, "colour": 7, "unknown": {"deep": [[[]]]}}`))
	f.Add([]byte(strings.Repeat(`{"number":`, 100)))
	d := calcDefinition(f)
	echo := d.methods["/calc.v1.Calculator/Echo"]
	f.Fuzz(func(t *testing.T, text []byte) {
		message, err := d.appendMessage(nil, echo, text)
		if err != nil {
			if failed := asFailure(err); failed.cause != serviceAnswerInvalid || len(failed.message) > 200 {
				t.Fatal(err)
			}
			return
		}
		again, err := d.appendJSON(nil, echo, message)
		if err != nil || !json.Valid(again) {
			t.Fatalf("%q became %q, then %q, %v", text, message, again, err)
		}
		second, err := d.appendMessage(nil, echo, again)
		if err != nil || !same(t, echo.output, message, second) {
			t.Fatalf("%q became %q, then %q, then %q, %v", text, message, again, second, err)
		}
	})
}

// A client's message becomes JSON or a failure that blames the client.
func FuzzMessage(f *testing.F) {
	f.Add([]byte("\x08\x01\x3a\x05\x0a\x03a/b"))
	f.Add([]byte("\x52\x03\x0a\x01x\x5a\x02\xff\xfe"))
	d := calcDefinition(f)
	echo := d.methods["/calc.v1.Calculator/Echo"]
	f.Fuzz(func(t *testing.T, message []byte) {
		text, err := d.appendJSON(nil, echo, message)
		if err != nil {
			if asFailure(err).cause != notTheMethodsMessage {
				t.Fatal(err)
			}
			return
		}
		if !json.Valid(text) {
			t.Fatalf("%q became %q", message, text)
		}
	})
}

func same(t *testing.T, kind protoreflect.MessageType, first, second []byte) bool {
	t.Helper()
	a, b := kind.New().Interface(), kind.New().Interface()
	if proto.Unmarshal(first, a) != nil || proto.Unmarshal(second, b) != nil {
		return false
	}
	return proto.Equal(a, b)
}

func FuzzRPCReply(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":7,"result":{"a":1}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x","data":[1]}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":7.0,"result":null,"error":null}`))
	a := &jsonrpc{server: new(Server)}
	f.Fuzz(func(t *testing.T, body []byte) {
		reply, err := parseReply(body, 7)
		if err != nil {
			return
		}
		if !json.Valid(body) {
			t.Fatalf("%q was taken", body)
		}
		if reply.hasError() {
			if failed := asFailure(a.failed(reply.Error)); failed.code == 0 || failed.message == "" {
				t.Fatalf("%q became %+v", body, failed)
			}
		}
	})
}

func FuzzPath(f *testing.F) {
	f.Add("/package.Service/Method", "2000m")
	f.Add("/a/b/c", "99999999H")
	f.Fuzz(func(t *testing.T, path, timeout string) {
		name, err := methodName(path)
		if err == nil && (!strings.HasSuffix(path, "/"+name) || strings.ContainsAny(name, "/-.?% ")) {
			t.Fatalf("%q has the name %q", path, name)
		}
		if parseTimeout(timeout) < 0 {
			t.Fatalf("%q is %s", timeout, parseTimeout(timeout))
		}
	})
}

// However the output of a program comes in, the same answers come of it.
func FuzzAnswerCutter(f *testing.F) {
	f.Add([]byte("one\n\ntwo\r\nthree"), false)
	f.Add([]byte("\x00\x00\x00\x03one\x00\x00\x00\x00\x00\x00\x00\x03two"), true)
	f.Add(bytes.Repeat([]byte("line\n"), 50_000), false)
	f.Fuzz(func(t *testing.T, output []byte, prefixed bool) {
		whole, wholeErr := cut(bytes.NewReader(output), prefixed)
		pieces, piecesErr := cut(iotest.OneByteReader(bytes.NewReader(output)), prefixed)
		if (wholeErr == nil) != (piecesErr == nil) || fmt.Sprintf("%q", whole) != fmt.Sprintf("%q", pieces) {
			t.Fatalf("whole: %q, %v; in pieces: %q, %v", whole, wholeErr, pieces, piecesErr)
		}
		if wholeErr == nil && !prefixed {
			if rest := strings.NewReplacer("\n", "", "\r", ""); rest.Replace(strings.Join(whole, "")) != rest.Replace(string(output)) {
				t.Fatalf("%q became %q", output, whole)
			}
		}
	})
}

func cut(source io.Reader, prefixed bool) (answers []string, err error) {
	cutter := answerCutter{prefixed: prefixed, limit: testLimit}
	for {
		err := cutter.read(source)
		for {
			answer, found, cut := cutter.next(err == io.EOF)
			if cut != nil {
				return answers, cut
			}
			if !found {
				break
			}
			answers = append(answers, string(answer))
		}
		if err != nil {
			return answers, nil
		}
	}
}
