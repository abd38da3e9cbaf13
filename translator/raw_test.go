package translator_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
)

// rawAnswer is what a gRPC client gets, before a library has looked at it.
type rawAnswer struct {
	http    int
	code    codes.Code
	message string
	headers http.Header
	body    []byte
}

var rawClient = func() *http.Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: &protocols, DisableCompression: true}}
}()

// raw sends any body as a gRPC call.
func (r *rig) raw(t *testing.T, path string, body []byte, headers map[string]string) rawAnswer {
	t.Helper()
	answer, err := r.rawIn(t.Context(), path, bytes.NewReader(body), headers, nil)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func (r *rig) rawIn(ctx context.Context, path string, body io.Reader, headers map[string]string, trailers http.Header) (rawAnswer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.address+path, body)
	if err != nil {
		return rawAnswer{}, err
	}
	request.Trailer = trailers
	request.Header.Set("content-type", "application/grpc+proto")
	request.Header.Set("te", "trailers")
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := rawClient.Do(request)
	if err != nil {
		return rawAnswer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return rawAnswer{}, err
	}
	answer := rawAnswer{http: response.StatusCode, headers: response.Header, body: content, code: codes.Code(9999)}
	status := response.Trailer
	if response.Header.Get("grpc-status") != "" {
		status = response.Header
	}
	if number, err := strconv.Atoi(status.Get("grpc-status")); err == nil {
		answer.code = codes.Code(number)
	}
	answer.message, _ = url.PathUnescape(status.Get("grpc-message"))
	return answer, nil
}

func frame(flag byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message))), message...)
}

// tagged begins a field of bytes.
func tagged(number protowire.Number, length int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.BytesType), uint64(length))
}

func compact(t *testing.T, text string) string {
	t.Helper()
	var buffer bytes.Buffer
	if err := json.Compact(&buffer, []byte(text)); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return buffer.String()
}
