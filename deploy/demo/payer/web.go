package payer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// maxWebReply bounds what CallWeb reads, in bytes.
const maxWebReply = 64 << 20

// A frame of gRPC-Web is a flag byte, four bytes of length and the message; this flag marks the trailers
// (the protocol's description in the grpc repository, PROTOCOL-WEB.md).
const (
	frameHeader  = 5
	trailersFlag = 0x80
)

// CallWeb makes a unary call by gRPC-Web in its binary form over HTTP/1.1, as a browser would. method is
// "/package.Service/Method". A status other than OK is returned as a gRPC status error.
func CallWeb(ctx context.Context, baseURL, method string, headers metadata.MD, request, reply proto.Message) error {
	message, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	httpRequest, err := http.NewRequestWithContext(ctx, http.MethodPost, baseURL+method, bytes.NewReader(append(body, message...)))
	if err != nil {
		return err
	}
	httpRequest.Header.Set("Content-Type", "application/grpc-web+proto")
	httpRequest.Header.Set("X-Grpc-Web", "1")
	for name, values := range headers {
		for _, value := range values {
			if strings.HasSuffix(name, "-bin") {
				value = base64.StdEncoding.EncodeToString([]byte(value)) // browsers pad
			}
			httpRequest.Header.Add(name, value)
		}
	}
	response, err := http.DefaultClient.Do(httpRequest)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("gRPC-Web call got HTTP status %s", response.Status)
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, maxWebReply))
	if err != nil {
		return err
	}
	return readWebReply(http.Header(response.Header), content, reply)
}

func readWebReply(headers http.Header, content []byte, reply proto.Message) error {
	trailers := textproto.MIMEHeader(headers) // a call that failed at once has its status here
	for len(content) > 0 {
		if len(content) < frameHeader {
			return errors.New("the gRPC-Web reply ends within a frame's header")
		}
		flags, length := content[0], int(binary.BigEndian.Uint32(content[1:frameHeader]))
		if len(content)-frameHeader < length {
			return errors.New("the gRPC-Web reply ends within a frame")
		}
		frame := content[frameHeader : frameHeader+length]
		content = content[frameHeader+length:]
		if flags&trailersFlag == 0 {
			if err := proto.Unmarshal(frame, reply); err != nil {
				return err
			}
			continue
		}
		var err error
		lines := io.MultiReader(bytes.NewReader(frame), strings.NewReader("\r\n"))
		if trailers, err = textproto.NewReader(bufio.NewReader(lines)).ReadMIMEHeader(); err != nil {
			return fmt.Errorf("trailers of the gRPC-Web reply: %w", err)
		}
	}
	code, err := strconv.ParseUint(trailers.Get("Grpc-Status"), 10, 32)
	if err != nil {
		return errors.New("the gRPC-Web reply has no grpc-status")
	}
	text, err := url.PathUnescape(trailers.Get("Grpc-Message"))
	if err != nil {
		text = trailers.Get("Grpc-Message")
	}
	return status.Error(codes.Code(code), text)
}
