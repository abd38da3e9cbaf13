package translator_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/translator"
)

// rpcRequest is a request as a JSON-RPC server reads it.
type rpcRequest struct {
	Version string          `json:"jsonrpc"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
	ID      json.Number     `json:"id"`
}

// rpc answers with a JSON-RPC response; ID stands for the request's id.
func rpc(httpStatus int, response string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request rpcRequest
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &request); err != nil {
			httpStatus, response = 418, err.Error()
		}
		w.Header().Set("content-type", "application/json")
		w.WriteHeader(httpStatus)
		_, _ = io.WriteString(w, strings.NewReplacer("ID", request.ID.String(), "PARAMS", string(request.Params)).Replace(response))
	}
}

func TestJSONRPCCall(t *testing.T) {
	r := newRig(t, blockchain.ServiceTypeJSONRPC, rigOptions{})
	cases := []struct {
		name, path, request, method, params, response, reply string
	}{
		{
			"numbers", pathAdd, `{"first_number": "9007199254740993", "second_number": 1}`, "Add",
			`{"first_number":"9007199254740993","second_number":"1"}`,
			`{"jsonrpc":"2.0","id":ID,"result":{"sum_of_both":9007199254740995}}`, `{"sum_of_both":"9007199254740995"}`,
		},
		{"members in another order", pathAdd, `{}`, "Add", `{}`, `{"result":{"note":"a"},"id":ID,"extra":1,"jsonrpc":"2.0"}`, `{"note":"a"}`},
		{"error null beside a result", pathAdd, `{}`, "Add", `{}`, `{"jsonrpc":"2.0","id":ID,"error":null,"result":{}}`, `{}`},
		{"the id as a float", pathAdd, `{}`, "Add", `{}`, `{"jsonrpc":"2.0","id":ID.0,"result":{}}`, `{}`},
		{"null where nothing is expected", pathForget, `{}`, "Forget", `{}`, `{"jsonrpc":"2.0","id":ID,"result":null}`, `{}`},
		{"any JSON", pathFree, `{"a":1}`, "Free", `{"a":1}`, `{"jsonrpc":"2.0","id":ID,"result":[1,"x"]}`, `[1,"x"]`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, web bool) {
				r.service.will(rpc(200, c.response))
				reply, _, err := r.call(t.Context(), web, c.path, c.request)
				if err != nil || reply != c.reply {
					t.Fatalf("the client got %s, %v; want %s", reply, err, c.reply)
				}
				got := r.service.last(t)
				var request rpcRequest
				if err := json.Unmarshal([]byte(got.body), &request); err != nil {
					t.Fatal(err)
				}
				if got.method != http.MethodPost || got.url != "/base/path?fixed=1" || got.headers.Get("content-type") != "application/json" {
					t.Errorf("the service was asked %+v", got)
				}
				if request.Version != "2.0" || request.Method != c.method || compact(t, string(request.Params)) != c.params {
					t.Errorf("the service was asked %s", got.body)
				}
				if id, err := request.ID.Int64(); err != nil || id < 0 || id >= 1<<53 {
					t.Errorf("the id is %s", request.ID)
				}
			})
		})
	}
}

func TestJSONRPCHostileService(t *testing.T) {
	r := newRig(t, blockchain.ServiceTypeJSONRPC, rigOptions{})
	cases := []struct {
		name   string
		answer http.HandlerFunc
		code   codes.Code
		phrase string
	}{
		{"another id", rpc(200, `{"jsonrpc":"2.0","id":-1,"result":{}}`), codes.Internal, "no JSON-RPC 2.0 response"},
		{"the id as text", rpc(200, `{"jsonrpc":"2.0","id":"ID","result":{}}`), codes.Internal, "no JSON-RPC 2.0 response"},
		{"no id", rpc(200, `{"jsonrpc":"2.0","result":{}}`), codes.Internal, "no JSON-RPC 2.0 response"},
		{"an error without an id", rpc(200, `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse"}}`), codes.Internal, "parse"},
		{"another version", rpc(200, `{"jsonrpc":"1.0","id":ID,"result":{}}`), codes.Internal, "no JSON-RPC 2.0 response"},
		{"no version", rpc(200, `{"id":ID,"result":{}}`), codes.Internal, "no JSON-RPC 2.0 response"},
		{"no result", rpc(200, `{"jsonrpc":"2.0","id":ID}`), codes.Internal, "neither a result nor an error"},
		{"result null", rpc(200, `{"jsonrpc":"2.0","id":ID,"result":null}`), codes.Internal, "result is null"},
		{"another type", rpc(200, `{"jsonrpc":"2.0","id":ID,"result":{"sum_of_both":"x"}}`), codes.Internal, "no JSON of a calc.v1.AddReply"},
		{"a batch", rpc(200, `[{"jsonrpc":"2.0","id":ID,"result":{}}]`), codes.Internal, "no JSON-RPC 2.0 response"},
		{"text after it", rpc(200, `{"jsonrpc":"2.0","id":ID,"result":{}} x`), codes.Internal, "no JSON-RPC 2.0 response"},
		{"an error that is text", rpc(200, `{"jsonrpc":"2.0","id":ID,"error":"x"}`), codes.Internal, "no error object"},
		{"an error with a code that is text", rpc(200, `{"jsonrpc":"2.0","id":ID,"error":{"code":"E1","message":"x"}}`), codes.Internal, "no error object"},
		{"HTML", say(200, "text/html", "<html>"), codes.Internal, "no JSON-RPC 2.0 response"},
		{"nothing", say(200, "", ""), codes.Internal, "empty"},
		{"204", say(204, "", ""), codes.Internal, "empty"},
		{"500", say(500, "text/plain", "stack trace"), codes.Unavailable, "upstream http status 500"},
		{"500 with a result", rpc(500, `{"jsonrpc":"2.0","id":ID,"result":{}}`), codes.Unavailable, "upstream http status 500"},
		{"500 with an error object", rpc(500, `{"jsonrpc":"2.0","id":ID,"error":{"code":-32602,"message":"a is missing"}}`), codes.InvalidArgument, "a is missing"},
		{"reset", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, codes.Unavailable, "broke off"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, web bool) {
				r.service.will(c.answer)
				_, id, err := r.call(t.Context(), web, pathAdd, `{}`)
				if status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.phrase) {
					t.Fatalf("the client got %v, want %s with %q", err, c.code, c.phrase)
				}
				if entry := r.entry(id); entry.GRPCStatus == nil || codes.Code(*entry.GRPCStatus) != c.code {
					t.Errorf("the access log has %+v", entry)
				}
			})
		})
	}
}

func TestJSONRPCErrors(t *testing.T) {
	r := newRig(t, blockchain.ServiceTypeJSONRPC, rigOptions{settings: func(s *translator.Settings) {
		s.JSONRPC.ErrorCodes = map[string]string{"-32001": "NOT_FOUND", "7": "9"}
	}})
	for number, want := range map[string]codes.Code{
		"-32700": codes.Internal, "-32600": codes.Internal, "-32601": codes.Unimplemented, "-32602": codes.InvalidArgument,
		"-32603": codes.Internal, "-32000": codes.Internal, "-32099": codes.Internal, "1": codes.Unknown, "-1": codes.Unknown,
		"-32001": codes.NotFound, "7": codes.FailedPrecondition, "9223372036854775807": codes.Unknown,
	} {
		r.service.will(rpc(200, `{"jsonrpc":"2.0","id":ID,"error":{"code":`+number+`,"message":"ünlucky 100%","data":{"why":[9007199254740993]}}}`))
		_, _, err := r.call(t.Context(), false, pathAdd, `{}`)
		got := status.Convert(err)
		if got.Code() != want || got.Message() != "ünlucky 100%" {
			t.Errorf("%s: the client got %v, want %s", number, err, want)
		}
		if len(got.Details()) != 1 {
			t.Fatalf("%s: details are %v", number, got.Details())
		}
		info, ok := got.Details()[0].(*errdetails.ErrorInfo)
		if !ok || info.GetMetadata()["code"] != number || info.GetMetadata()["data"] != `{"why":[9007199254740993]}` {
			t.Errorf("%s: the detail is %v", number, info)
		}
	}
	t.Run("data that is too large for a header", func(t *testing.T) {
		r.service.will(rpc(200, `{"jsonrpc":"2.0","id":ID,"error":{"code":1,"message":"`+strings.Repeat("long ", 1000)+`","data":"`+strings.Repeat("x", 1<<16)+`"}}`))
		_, _, err := r.call(t.Context(), false, pathAdd, `{}`)
		got := status.Convert(err)
		if got.Code() != codes.Unknown || !strings.HasPrefix(got.Message(), "long long") || len(got.Details()) != 1 {
			t.Fatalf("the client got %v", err)
		}
		if info := got.Details()[0].(*errdetails.ErrorInfo); info.GetMetadata()["data"] != "" || info.GetMetadata()["data_omitted"] == "" {
			t.Errorf("the detail is %v", info)
		}
	})
	t.Run("no message", func(t *testing.T) {
		r.service.will(rpc(200, `{"jsonrpc":"2.0","id":ID,"error":{"code":1}}`))
		if _, _, err := r.call(t.Context(), true, pathAdd, `{}`); !strings.Contains(fmt.Sprint(err), "error 1") {
			t.Errorf("the client got %v", err)
		}
	})
}

// Clients that send JSON text in place of messages, as snet-cli does where the metadata says so, and those that send
// protobuf to the same service, as all SDKs do.
func TestJSONFrames(t *testing.T) {
	const request = `{"first_number": 9007199254740993, "note": "a", "second_number": 0.10000000000000000001, "note": "b"}`
	for _, withDefinition := range []bool{true, false} {
		r := newRig(t, blockchain.ServiceTypeJSONRPC, rigOptions{settings: func(s *translator.Settings) {
			s.Encoding = blockchain.EncodingJSON
			if !withDefinition {
				s.Definition = ""
			}
		}})
		r.service.will(rpc(200, `{"jsonrpc":"2.0","id":ID,"result":{"sum_of_both":12345678901234567890123,"x":1.50}}`))
		answer := r.raw(t, pathAdd, frame(0, []byte(request)), nil)
		if want := frame(0, []byte(`{"sum_of_both":12345678901234567890123,"x":1.50}`)); answer.code != codes.OK || string(answer.body) != string(want) {
			t.Errorf("the client got %s %q %q", answer.code, answer.message, answer.body)
		}
		if body := r.service.last(t).body; !strings.Contains(body, `"params":`+request+`,`) {
			t.Errorf("the service got %s", body)
		}

		r.service.will(rpc(200, `{"jsonrpc":"2.0","id":ID,"result":{"sum_of_both":3}}`))
		answer = r.raw(t, pathAdd, frame(0, []byte("\x08\x01\x10\x02")), nil)
		switch {
		case withDefinition && (answer.code != codes.OK || string(answer.body) != string(frame(0, []byte("\x08\x03")))):
			t.Errorf("a client with protobuf got %s %q %q", answer.code, answer.message, answer.body)
		case !withDefinition && answer.code != codes.InvalidArgument:
			t.Errorf("a message that is no JSON is answered %s %q", answer.code, answer.message)
		}
		for _, broken := range []string{`{"a":`, `{"a":1}}`, "{"} {
			if answer := r.raw(t, pathAdd, frame(0, []byte(broken)), nil); answer.code != codes.InvalidArgument {
				t.Errorf("%s is answered %s %q", broken, answer.code, answer.message)
			}
		}
	}
	t.Run("http", func(t *testing.T) {
		r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{settings: func(s *translator.Settings) { s.Encoding = blockchain.EncodingJSON }})
		r.service.willSay(200, "", `{"sum_of_both": 1.0}`)
		answer := r.raw(t, pathAdd, frame(0, []byte(request)), nil)
		if answer.code != codes.OK || string(answer.body) != string(frame(0, []byte(`{"sum_of_both": 1.0}`))) || r.service.last(t).body != request {
			t.Errorf("%s %q", answer.code, answer.body)
		}
		r.service.willSay(200, "", `<html>`)
		if answer := r.raw(t, pathAdd, frame(0, []byte(request)), nil); answer.code != codes.Internal {
			t.Errorf("HTML is answered %s %q", answer.code, answer.message)
		}
	})
}
