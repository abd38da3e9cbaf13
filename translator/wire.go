package translator

import (
	"encoding/base64"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/mpegate/mpegate/envoy"
)

// chunkSize is how much of a body goes into one message to Envoy, which advises at most 64 KiB.
const chunkSize = 64 << 10

const (
	contentTypeGRPC = "application/grpc"
	contentTypeJSON = "application/json"
)

// setHeader replaces whatever the header was.
func setHeader(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, RawValue: []byte(value)},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// Headers that every call has; they are only ever read.
var (
	setTypeJSON   = setHeader("content-type", contentTypeJSON)
	setAcceptJSON = setHeader("accept", contentTypeJSON)
	setTypeGRPC   = setHeader("content-type", contentTypeGRPC)
	setStatusOK   = setHeader(":status", "200")

	answerHeaders  = []*corev3.HeaderValueOption{setStatusOK, setTypeGRPC}
	plainStatusOK  = plainHeader(":status", "200")
	goodTrailers   = []*corev3.HeaderValue{plainHeader("grpc-status", "0")}
	httpStatusOK   = &typev3.HttpStatus{Code: typev3.StatusCode_OK}
	headerMetadata = "grpc-status-details-bin"
)

func plainHeader(name, value string) *corev3.HeaderValue {
	return &corev3.HeaderValue{Key: name, RawValue: []byte(value)}
}

// outgoing is a request to the service.
type outgoing struct {
	path    string // with the query
	headers []*corev3.HeaderValueOption
	body    []byte
}

// sendRequest lets Envoy make the request to the service.
func (c *call) sendRequest(request outgoing) error {
	set := make([]*corev3.HeaderValueOption, 0, 4+len(request.headers))
	set = append(set, setHeader(":path", request.path), setTypeJSON, setAcceptJSON,
		setHeader("content-length", strconv.Itoa(len(request.body))))
	err := c.stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{
		RequestHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{
			HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: append(set, request.headers...), RemoveHeaders: c.drop},
		}},
	}})
	if err != nil {
		return err
	}
	return eachChunk(request.body, true, func(chunk *extprocv3.StreamedBodyResponse) error {
		return c.stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{
			RequestBody: bodyResponse(chunk),
		}})
	})
}

// sendAnswer gives the client its answer in place of what the service sent. With trailers, Envoy waits for a word on
// them before the answer ends.
func (c *call) sendAnswer(frame []byte, got *incoming) error {
	err := c.stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{
		ResponseHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{
			HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: answerHeaders, RemoveHeaders: got.drop},
		}},
	}})
	if err == nil {
		err = eachChunk(frame, got.trailers == nil, func(chunk *extprocv3.StreamedBodyResponse) error {
			return c.stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{
				ResponseBody: bodyResponse(chunk),
			}})
		})
	}
	if err != nil || got.trailers == nil {
		return err
	}
	return c.stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseTrailers{
		ResponseTrailers: &extprocv3.TrailersResponse{HeaderMutation: &extprocv3.HeaderMutation{RemoveHeaders: got.trailers}},
	}})
}

func bodyResponse(chunk *extprocv3.StreamedBodyResponse) *extprocv3.BodyResponse {
	return &extprocv3.BodyResponse{Response: &extprocv3.CommonResponse{BodyMutation: &extprocv3.BodyMutation{
		Mutation: &extprocv3.BodyMutation_StreamedResponse{StreamedResponse: chunk},
	}}}
}

// eachChunk cuts a body into pieces; the last one ends the stream if that is what it should do.
func eachChunk(body []byte, ends bool, send func(*extprocv3.StreamedBodyResponse) error) error {
	for {
		size := min(len(body), chunkSize)
		last := size == len(body)
		if err := send(&extprocv3.StreamedBodyResponse{Body: body[:size], EndOfStream: last && ends}); err != nil || last {
			return err
		}
		body = body[size:]
	}
}

// sendFailure ends the call with a status while no byte of an answer is on its way.
func (c *call) sendFailure(failed *failure) error {
	set := []*corev3.HeaderValueOption{
		setTypeGRPC,
		setHeader("grpc-status", strconv.FormatUint(uint64(failed.code), 10)),
		setHeader("grpc-message", envoy.EncodeMessage(failed.message)),
	}
	if failed.details != nil {
		set = append(set, setHeader(headerMetadata, base64.RawStdEncoding.EncodeToString(failed.details)))
	}
	if failed.cause == unsupportedCompression {
		set = append(set, setHeader("grpc-accept-encoding", "identity,gzip"))
	}
	return c.stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{
		ImmediateResponse: &extprocv3.ImmediateResponse{
			Status:     httpStatusOK,
			Headers:    &extprocv3.HeaderMutation{SetHeaders: set},
			GrpcStatus: &extprocv3.GrpcStatus{Status: failed.code},
			Details:    "mpegate_" + failed.cause.String(),
		},
	}})
}

// beginStream begins an answer that has no service of Envoy's behind it, unless it has begun.
func (c *call) beginStream() error {
	if c.streaming {
		return nil
	}
	c.streaming = true
	return c.sendStreamed(&extprocv3.StreamedImmediateResponse{Response: &extprocv3.StreamedImmediateResponse_HeadersResponse{
		HeadersResponse: &extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
			plainStatusOK, plainHeader("content-type", c.contentType),
		}}},
	}})
}

// sendStreamFrame adds a message to it.
func (c *call) sendStreamFrame(frame []byte) error {
	return eachChunk(frame, false, func(chunk *extprocv3.StreamedBodyResponse) error {
		return c.sendStreamed(&extprocv3.StreamedImmediateResponse{Response: &extprocv3.StreamedImmediateResponse_BodyResponse{
			BodyResponse: chunk,
		}})
	})
}

// closeStream ends it, well if failed is nil.
func (c *call) closeStream(failed *failure) error {
	trailers := goodTrailers
	if failed != nil {
		trailers = []*corev3.HeaderValue{
			plainHeader("grpc-status", strconv.FormatUint(uint64(failed.code), 10)),
			plainHeader("grpc-message", envoy.EncodeMessage(failed.message)),
		}
	}
	return c.sendStreamed(&extprocv3.StreamedImmediateResponse{Response: &extprocv3.StreamedImmediateResponse_TrailersResponse{
		TrailersResponse: &corev3.HeaderMap{Headers: trailers},
	}})
}

func (c *call) sendStreamed(part *extprocv3.StreamedImmediateResponse) error {
	return c.stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_StreamedImmediateResponse{
		StreamedImmediateResponse: part,
	}})
}
