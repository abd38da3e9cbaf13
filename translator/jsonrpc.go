package translator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/mpegate/mpegate/envoy"
)

// jsonrpc is a service that speaks JSON-RPC 2.0 over HTTP (https://www.jsonrpc.org/specification).
type jsonrpc struct {
	server *Server
	path   string // with the query
	codes  map[int64]envoy.Code
	lastID atomic.Uint64 // an id is a number below 2^53, which every JSON library keeps
}

func newJSONRPC(server *Server) (*jsonrpc, error) {
	endpoint, err := ParseEndpoint(server.settings.Endpoint)
	if err != nil {
		return nil, err
	}
	codes, err := compileErrorCodes(server.settings.JSONRPC.ErrorCodes)
	if err != nil {
		return nil, err
	}
	a := &jsonrpc{server: server, path: endpoint.Path, codes: codes}
	if endpoint.Query != "" {
		a.path += "?" + endpoint.Query
	}
	return a, nil
}

func (a *jsonrpc) request(c *call, message, body []byte) (outgoing, error) {
	c.rpcID = a.lastID.Add(1)
	body = append(body, `{"jsonrpc":"2.0","method":"`...)
	body = append(body, c.name...) // an identifier, so nothing in it needs escaping
	body = append(body, `","params":`...)
	body, err := c.appendJSON(body, message)
	if err != nil {
		return outgoing{}, err
	}
	body = append(body, `,"id":`...)
	body = strconv.AppendUint(body, c.rpcID, 10)
	return outgoing{path: a.path, body: append(body, '}')}, nil
}

// rpcReply is a response object. Values stay text, so that numbers keep every digit.
type rpcReply struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  json.RawMessage `json:"result"`
	Error   json.RawMessage `json:"error"`
}

type rpcError struct {
	Code    json.Number     `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

func (a *jsonrpc) answer(c *call, got *incoming, frame []byte) ([]byte, error) {
	reply, err := parseReply(got.body, c.rpcID)
	if !got.ok() {
		// Many servers send their error objects with a status of its own.
		if err == nil && reply.hasError() {
			return nil, a.failed(reply.Error)
		}
		return nil, got.badStatus()
	}
	switch {
	case err != nil:
		return nil, badAnswer(err, "it is no JSON-RPC 2.0 response to the call")
	case reply.hasError():
		return nil, a.failed(reply.Error)
	case len(reply.Result) == 0:
		return nil, badAnswer(nil, "it has neither a result nor an error")
	case bytes.Equal(reply.Result, jsonNull) && !c.takesNull():
		return nil, badAnswer(nil, "its result is null")
	}
	return c.appendMessage(frame, reply.Result)
}

// parseReply reads a response object and checks that it is one, and that it is for the request with this id.
func parseReply(body []byte, id uint64) (rpcReply, error) {
	var reply rpcReply
	if err := json.Unmarshal(body, &reply); err != nil {
		return reply, err
	}
	switch {
	case reply.Version != "2.0":
		return reply, errors.New("its member jsonrpc is not \"2.0\"")
	case !sameID(reply.ID, id):
		// A server that could not make out the id says null, and then only an error can follow.
		if !reply.hasError() || !bytes.Equal(reply.ID, jsonNull) {
			return reply, errors.New("its id is not that of the request")
		}
	}
	return reply, nil
}

func sameID(got json.RawMessage, id uint64) bool {
	var buffer [24]byte
	if bytes.Equal(got, strconv.AppendUint(buffer[:0], id, 10)) {
		return true
	}
	// Some libraries write every number as 7.0 or 7e0.
	number, err := strconv.ParseFloat(string(got), 64)
	return err == nil && number == float64(id)
}

func (r *rpcReply) hasError() bool { return len(r.Error) > 0 && !bytes.Equal(r.Error, jsonNull) }

// rpcCodes are the codes that JSON-RPC 2.0 itself defines (section 5.1). The request was made by us, so that a service
// that finds it malformed is no fault of the client.
var rpcCodes = map[int64]envoy.Code{
	-32700: envoy.CodeInternal,        // parse error
	-32600: envoy.CodeInternal,        // invalid request
	-32601: envoy.CodeUnimplemented,   // method not found
	-32602: envoy.CodeInvalidArgument, // invalid params
	-32603: envoy.CodeInternal,        // internal error
}

// code maps an error code of the service. The range of server errors, reserved by JSON-RPC, is INTERNAL; any other
// number is the service's own and UNKNOWN, as gRPC calls errors of another error space.
func (a *jsonrpc) code(number int64) envoy.Code {
	if code, known := a.codes[number]; known {
		return code
	}
	if code, known := rpcCodes[number]; known {
		return code
	}
	if number >= -32768 && number <= -32000 {
		return envoy.CodeInternal
	}
	return envoy.CodeUnknown
}

// failed is the status of an error object.
func (a *jsonrpc) failed(object json.RawMessage) error {
	var said rpcError
	number := int64(0)
	err := json.Unmarshal(object, &said)
	if err == nil {
		number, err = said.Code.Int64()
	}
	if err != nil {
		return badAnswer(err, "its error is no error object of JSON-RPC")
	}
	message := a.server.redact(said.Message)
	if message == "" {
		message = "the service answered with error " + said.Code.String()
	}
	failed := fail(serviceError, nil, "%s", message)
	failed.code = a.code(number)
	failed.details = a.details(failed, said)
	return failed
}

// maxErrorData bounds what of an error's data is passed on: response headers have limits at every hop.
const maxErrorData = 2 << 10

// details is the google.rpc.Status that gRPC clients find in grpc-status-details-bin.
func (a *jsonrpc) details(failed *failure, said rpcError) []byte {
	info := &errdetails.ErrorInfo{Reason: "JSON_RPC_ERROR", Domain: "jsonrpc.org", Metadata: map[string]string{"code": said.Code.String()}}
	switch data := a.server.redact(string(said.Data)); {
	case data == "" || data == "null":
	case len(data) > maxErrorData:
		info.Metadata["data_omitted"] = fmt.Sprintf("%d bytes", len(data))
	default:
		info.Metadata["data"] = strings.ToValidUTF8(data, "")
	}
	detail, err := anypb.New(info)
	if err != nil {
		return nil
	}
	message := strings.ToValidUTF8(failed.message[:min(len(failed.message), maxErrorData)], "")
	details, err := proto.Marshal(&rpcstatus.Status{Code: int32(failed.code), Message: message, Details: []*anypb.Any{detail}})
	if err != nil {
		return nil
	}
	return details
}

// compileErrorCodes reads the setting jsonrpc.error_codes.
func compileErrorCodes(list map[string]string) (map[int64]envoy.Code, error) {
	var f faults
	compiled := map[int64]envoy.Code{}
	for number, name := range list {
		parsed, err := strconv.ParseInt(number, 10, 64)
		f.check(err == nil, "jsonrpc.error_codes has the key %q: write an error code of the service, such as -32001", number)
		code, known := parseGRPCCode(name)
		f.check(known, "jsonrpc.error_codes, %s, is %q: write a gRPC code other than OK, such as NOT_FOUND", number, name)
		compiled[parsed] = code
	}
	return compiled, errors.Join(f...)
}
