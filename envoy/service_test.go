package envoy_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mpegate/mpegate/envoy"
)

// fakeService is a gRPC service over plain HTTP/2 whose method names say what it does. It is written on
// net/http so that it can also do what a gRPC library would not.
type fakeService struct {
	address envoy.Address

	mutex    sync.Mutex
	requests []*http.Request
	arrived  chan string   // method names, as they come in
	hold     chan struct{} // "Held" answers once it is closed
}

func newFakeService(t *testing.T) *fakeService {
	t.Helper()
	s := &fakeService{arrived: make(chan string, 1000)}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	protocols.SetHTTP1(true) // so that a request in the wrong protocol is seen, not refused
	server := &http.Server{Handler: s, Protocols: &protocols}
	s.address = serve(t, func(l net.Listener) error { return server.Serve(l) })
	t.Cleanup(func() { _ = server.Close() })
	return s
}

func (s *fakeService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mutex.Lock()
	s.requests = append(s.requests, r)
	s.mutex.Unlock()
	method := path.Base(r.URL.Path)
	s.arrived <- method
	if method == "Held" {
		<-s.hold
	}
	act, known := methods[method]
	if !known {
		act = methods["OK"]
	}
	act(w, r)
}

// lastRequest is the latest that reached the service.
func (s *fakeService) lastRequest(t *testing.T) *http.Request {
	t.Helper()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.requests) == 0 {
		t.Fatal("nothing reached the service")
	}
	return s.requests[len(s.requests)-1]
}

func (s *fakeService) count() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.requests)
}

// methods are what the service does, by the last part of the path.
var methods = map[string]func(http.ResponseWriter, *http.Request){
	"OK": func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		message(w)
		trailer(w, 0)
	},
	"Fail":           func(w http.ResponseWriter, r *http.Request) { header(w); w.Header().Set("grpc-status", "9") }, // trailers only
	"FailAfter":      func(w http.ResponseWriter, r *http.Request) { message(w); trailer(w, 9) },
	"Custom":         func(w http.ResponseWriter, r *http.Request) { header(w); flush(w); trailer(w, 1000) },
	"Cancelled":      func(w http.ResponseWriter, r *http.Request) { header(w); flush(w); trailer(w, 1) },
	"CancelledAfter": func(w http.ResponseWriter, r *http.Request) { message(w); trailer(w, 1) },
	"NoStatus":       func(w http.ResponseWriter, r *http.Request) { message(w) },
	"BadStatus": func(w http.ResponseWriter, r *http.Request) {
		message(w)
		w.Header().Set(http.TrailerPrefix+"grpc-status", "fine")
	},
	"Page":           func(w http.ResponseWriter, r *http.Request) { http.Error(w, "<html>broken</html>", 500) },
	"Silent":         func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	"SilentHeaders":  func(w http.ResponseWriter, r *http.Request) { header(w); flush(w); <-r.Context().Done() },
	"SilentMessages": func(w http.ResponseWriter, r *http.Request) { message(w); <-r.Context().Done() },
	"Reset":          func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
	"ResetAfter":     func(w http.ResponseWriter, r *http.Request) { message(w); panic(http.ErrAbortHandler) },
}

func header(w http.ResponseWriter) { w.Header().Set("content-type", "application/grpc") }

func flush(w http.ResponseWriter) { w.(http.Flusher).Flush() }

func message(w http.ResponseWriter) {
	header(w)
	_, _ = w.Write(frame([]byte("answer")))
	flush(w)
}

func trailer(w http.ResponseWriter, code int) {
	w.Header().Set(http.TrailerPrefix+"grpc-status", fmt.Sprint(code))
}

func frame(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
}

// reply is a message as the client reads it: plain bytes.
type reply struct{ text string }

// codec lets a client and a server of gRPC exchange plain bytes.
type codec struct{}

func (codec) Name() string { return "proto" }
func (codec) Marshal(v any) ([]byte, error) {
	return []byte(v.(*reply).text), nil
}
func (codec) Unmarshal(data []byte, v any) error {
	v.(*reply).text = string(data)
	return nil
}

// dial opens a gRPC connection to Envoy.
func (r *rig) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	connection, err := grpc.NewClient("passthrough:///"+r.address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(codec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

// open begins a call of the service and sends one message.
func open(ctx context.Context, connection *grpc.ClientConn, method string) (grpc.ClientStream, error) {
	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(&reply{text: "question"}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return stream, stream.CloseSend()
}

// call makes a whole call and returns the messages with the error at its end.
func call(ctx context.Context, connection *grpc.ClientConn, method string) (messages []string, err error) {
	stream, err := open(ctx, connection, method)
	if err != nil {
		return nil, err
	}
	for {
		var answer reply
		if err := stream.RecvMsg(&answer); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return messages, err
		}
		messages = append(messages, answer.text)
	}
}

// web makes a gRPC-Web call over HTTP/1.1 and returns the whole answer.
func (r *rig) web(t *testing.T, method, contentType string) (*http.Response, []byte) {
	t.Helper()
	body := string(frame([]byte("question")))
	if strings.Contains(contentType, "-text") {
		body = base64.StdEncoding.EncodeToString([]byte(body))
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.address+method, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("content-type", contentType)
	request.Header.Set("x-grpc-web", "1")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, _ := io.ReadAll(response.Body) // an answer that breaks off is one of the cases
	return response, answer
}
