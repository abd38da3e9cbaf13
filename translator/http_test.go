package translator_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/translator"
)

// bothWays runs a test with a gRPC and with a gRPC-Web client.
func bothWays(t *testing.T, test func(t *testing.T, web bool)) {
	t.Helper()
	t.Run("grpc", func(t *testing.T) { test(t, false) })
	t.Run("web", func(t *testing.T) { test(t, true) })
}

func TestHTTPCall(t *testing.T) {
	r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{})
	cases := []struct {
		name, path, request string
		url, body           string // of the service's request
		answer, reply       string
	}{
		{
			"names and 64-bit integers", pathAdd, `{"first_number": "9007199254740993", "note": "é\u0000\""}`,
			"/base/path/Add?fixed=1", `{"first_number":"9007199254740993","note":"é\u0000\""}`,
			`{"sum_of_both": 9223372036854775807, "unknown": [1], "note": "n"}`, `{"sum_of_both":"9223372036854775807","note":"n"}`,
		},
		{
			"lowerCamelCase in the answer", pathAdd, `{}`, "/base/path/Add?fixed=1", `{}`,
			`{"sumOfBoth": "-9223372036854775808"}`, `{"sum_of_both":"-9223372036854775808"}`,
		},
		{
			"all kinds of fields", pathEcho,
			`{"big": "18446744073709551615", "real": 0.1, "colour": "COLOUR_RED", "list": ["-1"], "counts": {"a": 1},
			  "at": "2026-01-02T03:04:05.000000006Z", "any": {"@type": "type.googleapis.com/calc.types.Number", "digits": "7"},
			  "right": false, "number": {"digits": "123"}, "data": "AP8=", "maybe": 0}`,
			"/base/path/Echo?fixed=1",
			`{"big":"18446744073709551615","real":0.1,"colour":"COLOUR_RED","list":["-1"],"counts":{"a":1},` +
				`"at":"2026-01-02T03:04:05.000000006Z","any":{"@type":"type.googleapis.com/calc.types.Number","digits":"7"},` +
				`"right":false,"number":{"digits":"123"},"data":"AP8=","maybe":0}`,
			"",
			`{"big":"18446744073709551615","real":0.1,"colour":"COLOUR_RED","list":["-1"],"counts":{"a":1},` +
				`"at":"2026-01-02T03:04:05.000000006Z","any":{"@type":"type.googleapis.com/calc.types.Number","digits":"7"},` +
				`"right":false,"number":{"digits":"123"},"data":"AP8=","maybe":0}`,
		},
		{
			"a message that is any JSON", pathFree, `{"a": [1, null]}`, "/base/path/Free?fixed=1", `{"a":[1,null]}`,
			`"text"`, `"text"`,
		},
		{"an answer without fields", pathForget, `{}`, "/base/path/Forget?fixed=1", `{}`, `{"ignored": 1}`, `{}`},
		{"null for an answer without fields", pathForget, `{}`, "/base/path/Forget?fixed=1", `{}`, ` null `, `{}`},
		{"a name that two services have", pathOther, `{"big": "1"}`, "/base/path/Add?fixed=1", `{"big":"1"}`, `{"big": 2}`, `{"big":"2"}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, web bool) {
				r.service.will(func(w http.ResponseWriter, request *http.Request) {
					w.Header().Set("set-cookie", "session=1")
					if c.answer == "" { // echo
						_, _ = io.Copy(w, request.Body)
						return
					}
					_, _ = io.WriteString(w, c.answer)
				})
				reply, id, err := r.call(t.Context(), web, c.path, c.request)
				if err != nil {
					t.Fatal(err)
				}
				if reply != c.reply {
					t.Errorf("the client got\n%s, want\n%s", reply, c.reply)
				}
				got := r.service.last(t)
				if got.method != http.MethodPost || got.url != c.url || got.host != "service.example" {
					t.Errorf("the service was asked %s %s at %s", got.method, got.url, got.host)
				}
				if body := compact(t, got.body); body != c.body {
					t.Errorf("the service got\n%s, want\n%s", body, c.body)
				}
				if got.length != int64(len(got.body)) {
					t.Errorf("content-length is %d for %d bytes", got.length, len(got.body))
				}
				if entry := r.entry(id); entry.GRPCStatus == nil || *entry.GRPCStatus != 0 && !web {
					t.Errorf("the access log has %+v", entry)
				}
			})
		})
	}
}

// What a client sends as metadata is not the service's business, but for what we vouch for.
func TestHTTPHeaders(t *testing.T) {
	r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{})
	r.service.will(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("x-internal", "1")
		w.Header().Set("grpc-status", "13")
		w.Header().Set("content-type", "text/html")
		_, _ = io.WriteString(w, `{}`)
	})
	answer := r.raw(t, pathAdd, frame(0, nil), map[string]string{
		"snet-user-address": "0x1", "cookie": "a=b", "authorization": "Bearer secret", "x-http-method-override": "DELETE",
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "grpc-timeout": "5S",
	})
	if answer.code != codes.OK {
		t.Fatalf("%+v", answer)
	}
	got := r.service.last(t).headers
	for _, name := range []string{"Cookie", "Authorization", "X-Http-Method-Override", "Te", "Grpc-Timeout", "Accept-Encoding", "Origin"} {
		if value, present := got[name]; present {
			t.Errorf("the service got %s: %s", name, value)
		}
	}
	for name, want := range map[string]string{
		"Snet-User-Address": "0x1", "Content-Type": "application/json", "Accept": "application/json",
		"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	} {
		if got.Get(name) != want {
			t.Errorf("the service got %s: %q, want %q", name, got.Get(name), want)
		}
	}
	if answer.headers.Get("x-internal") != "" || answer.headers.Get("content-type") != "application/grpc+proto" {
		t.Errorf("the client got the headers %v", answer.headers)
	}
}

func TestHTTPCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("query secret&1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{settings: func(s *translator.Settings) {
		s.HTTP.Credentials = []translator.Credential{
			{Key: "apiKey", ValueFile: file, Location: "query"},
			{Key: "X-API-Key", Value: "header-secret", Location: "header"},
			{Key: "note", Value: map[string]any{"token": "body-secret"}, Location: "body"},
			{Key: "extra", Value: "body-secret-2", Location: "body"},
		}
	}})
	t.Run("added", func(t *testing.T) {
		r.service.willSay(200, "application/json", `{}`)
		answer := r.raw(t, pathAdd, frame(0, []byte("\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x1a\x01n")), map[string]string{"x-api-key": "mine"})
		if answer.code != codes.OK {
			t.Fatalf("%+v", answer)
		}
		got := r.service.last(t)
		if got.url != "/base/path/Add?fixed=1&apiKey=query+secret%261" || !slices.Equal(got.headers["X-Api-Key"], []string{"header-secret"}) {
			t.Errorf("%s %v", got.url, got.headers)
		}
		want := `{"extra":"body-secret-2","first_number":"9223372036854775807","note":{"token":"body-secret"}}`
		if got.body != want {
			t.Errorf("the service got %s, want %s", got.body, want)
		}
	})
	t.Run("never shown", func(t *testing.T) {
		bothWays(t, func(t *testing.T, web bool) {
			for _, status := range []int{200, 400, 500} {
				// A service that repeats everything it got.
				r.service.will(func(w http.ResponseWriter, request *http.Request) {
					w.Header().Set("location", request.URL.String())
					w.WriteHeader(status)
					body, _ := io.ReadAll(request.Body)
					fmt.Fprintf(w, `{"sum_of_both": "%s %s %s"}`, request.URL, request.Header.Get("x-api-key"), strings.ReplaceAll(string(body), `"`, ""))
				})
				_, id, err := r.call(t.Context(), web, pathAdd, `{}`)
				if err == nil {
					t.Fatal("the call went well")
				}
				text := err.Error() + fmt.Sprint(r.entry(id))
				for _, line := range r.log.All() {
					text += line.Message + fmt.Sprint(line.ContextMap())
				}
				for _, secret := range []string{"query+secret", "query secret", "header-secret", "body-secret"} {
					if strings.Contains(text, secret) {
						t.Errorf("%q is shown in %s", secret, text)
					}
				}
			}
		})
	})
	t.Run("a message that cannot take them", func(t *testing.T) {
		r.service.willSay(200, "application/json", `{}`)
		if answer := r.raw(t, pathFree, frame(0, []byte("garbage")), nil); answer.code != codes.InvalidArgument {
			t.Errorf("%+v", answer)
		}
	})
}

// What a service can do wrong, and what the client is told. The second column of phrases must not be told.
func TestHTTPHostileService(t *testing.T) {
	const bodySecret = "stack trace of the service"
	cases := []struct {
		name   string
		answer http.HandlerFunc
		code   codes.Code
		phrase string
	}{
		{"HTML with 200", say(200, "text/html", "<html>"+bodySecret), codes.Internal, "no JSON of a calc.v1.AddReply"},
		{"HTML with 500", say(500, "text/html", "<html>"+bodySecret), codes.Unavailable, "upstream http status 500"},
		{"JSON with 400", say(400, "application/json", `{"error":"`+bodySecret+`"}`), codes.Unavailable, "upstream http status 400"},
		{"JSON with 401", say(401, "application/json", `{}`), codes.Unavailable, "upstream http status 401"},
		{"a redirection", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, codes.Unavailable, "upstream http status 302"},
		{"204", say(204, "", ""), codes.Internal, "empty"},
		{"nothing with 200", say(200, "application/json", ""), codes.Internal, "empty"},
		{"nothing with 500", say(500, "application/json", ""), codes.Unavailable, "upstream http status 500"},
		{"half a JSON", say(200, "application/json", `{"sum_of_both": `), codes.Internal, "no JSON"},
		{"two JSONs", say(200, "application/json", `{}{}`), codes.Internal, "no JSON"},
		{"another type", say(200, "application/json", `{"sum_of_both": "`+bodySecret+`"}`), codes.Internal, "no JSON"},
		{"a number that is too large", say(200, "application/json", `{"sum_of_both": 9223372036854775808}`), codes.Internal, "no JSON"},
		{"an array", say(200, "application/json", `[]`), codes.Internal, "no JSON"},
		{"null", say(200, "application/json", `null`), codes.Internal, "no JSON"},
		{"reset before an answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, codes.Unavailable, "broke off"},
		{"reset in the middle", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("content-length", "100")
			_, _ = io.WriteString(w, `{"sum`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, codes.Unavailable, ""},
		{"gzip without being asked", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("content-encoding", "gzip")
			_, _ = w.Write(zipped([]byte(`{"note": "x"}`)))
		}, codes.OK, ""},
		{"garbage for gzip", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("content-encoding", "gzip")
			_, _ = io.WriteString(w, "garbage")
		}, codes.Internal, "no gzip"},
		{"a gzip bomb", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("content-encoding", "gzip")
			_, _ = w.Write(zipped(make([]byte, 8<<20)))
		}, codes.ResourceExhausted, "larger"},
		{"another compression", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("content-encoding", "br")
			_, _ = io.WriteString(w, "garbage")
		}, codes.Internal, "compressed"},
		{"a huge body", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"note":"`)
			for range 100 {
				_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<16))
			}
			_, _ = io.WriteString(w, `"}`)
		}, codes.ResourceExhausted, "larger"},
		{"a message that is too large", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"note":"`+strings.Repeat("x", 2<<20)+`"}`)
		}, codes.ResourceExhausted, "larger"},
		{"headers of gRPC", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("content-type", "application/grpc")
			w.Header().Set("grpc-status", "0")
			w.WriteHeader(200)
		}, codes.Internal, "empty"},
		{"trailers", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("trailer", "Grpc-Status, X-Sum")
			_, _ = io.WriteString(w, `{}`)
			w.(http.Flusher).Flush()
			w.Header().Set("Grpc-Status", "5")
			w.Header().Set("X-Sum", "1")
		}, codes.OK, ""},
		{"headers that are too large", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("x-large", strings.Repeat("x", 100<<10))
			_, _ = io.WriteString(w, `{}`)
		}, codes.Unavailable, ""},
	}
	r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, web bool) {
				r.service.will(c.answer)
				_, id, err := r.call(t.Context(), web, pathAdd, `{"note": "mine"}`)
				if status.Code(err) != c.code {
					t.Fatalf("the client got %v, want code %s", err, c.code)
				}
				if text := status.Convert(err).Message(); !strings.Contains(text, c.phrase) || strings.Contains(text, "stack trace") || strings.Contains(text, "127.0.0.1") {
					t.Errorf("the client is told %q, want %q", text, c.phrase)
				}
				entry := r.entry(id)
				if entry.GRPCStatus == nil || codes.Code(*entry.GRPCStatus) != c.code && !(web && c.code == codes.OK) {
					t.Errorf("the access log, which settlement goes by, has %+v", entry)
				}
				if entry.Path != pathAdd {
					t.Errorf("the access log has the path %s", entry.Path)
				}
			})
		})
	}
}

func TestHTTPServiceAway(t *testing.T) {
	r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{timeout: "1s", connections: 1})
	t.Run("silent", func(t *testing.T) {
		bothWays(t, func(t *testing.T, web bool) {
			gone := make(chan struct{}, 1)
			r.service.will(func(_ http.ResponseWriter, request *http.Request) {
				<-request.Context().Done()
				gone <- struct{}{}
			})
			_, _, err := r.call(t.Context(), web, pathAdd, `{}`)
			// Envoy's deadline for gRPC-Web is turned into 4 by the public listener's local_reply_config.
			if code := status.Code(err); code != codes.DeadlineExceeded && !web {
				t.Errorf("the client got %v", err)
			}
			<-gone
		})
	})
	t.Run("not there", func(t *testing.T) {
		r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{noService: true})
		bothWays(t, func(t *testing.T, web bool) {
			_, id, err := r.call(t.Context(), web, pathAdd, `{}`)
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "cannot be reached") {
				t.Errorf("the client got %v", err)
			}
			if entry := r.entry(id); entry.GRPCStatus == nil || *entry.GRPCStatus != int(codes.Unavailable) {
				t.Errorf("%+v", entry)
			}
		})
	})
	t.Run("no translator", func(t *testing.T) {
		r.stop()
		_, _, err := r.call(t.Context(), false, pathAdd, `{}`)
		if status.Code(err) != codes.Unavailable {
			t.Errorf("the client got %v", err)
		}
	})
}

func TestHTTPLargeMessages(t *testing.T) {
	const size = 16 << 20
	r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{settings: func(s *translator.Settings) { s.MaxMessageSize = size + 1024 }})
	r.service.will(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		_, _ = w.Write(body) // padding is a field of both messages
	})
	for _, length := range []int{1, size} {
		padding := bytes.Repeat([]byte{0xa5}, length)
		answer := r.raw(t, pathAdd, frame(0, append(tagged(4, length), padding...)), nil)
		want := frame(0, append(tagged(3, length), padding...))
		if answer.code != codes.OK || !bytes.Equal(answer.body, want) {
			t.Errorf("%d bytes: %s %q, %d bytes came back, want %d", length, answer.code, answer.message, len(answer.body), len(want))
		}
	}
	if answer := r.raw(t, pathAdd, frame(0, append(tagged(4, size+2048), make([]byte, size+2048)...)), nil); answer.code != codes.ResourceExhausted {
		t.Errorf("%+v", answer.code)
	}
}

func say(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if contentType != "" {
			w.Header().Set("content-type", contentType)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func zipped(data []byte) []byte {
	var buffer bytes.Buffer
	writer := gzip.NewWriter(&buffer)
	_, _ = writer.Write(data)
	_ = writer.Close()
	return buffer.Bytes()
}
