package envoy_test

import (
	"encoding/base64"
	"errors"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/mpegate/mpegate/envoy"
)

func TestDecodeBinary(t *testing.T) {
	for value, want := range map[string]struct {
		data string
		err  error
	}{
		"":             {"", nil},
		"YQ":           {"a", nil},
		"YQ==":         {"a", nil},
		"YWI":          {"ab", nil},
		"YWI=":         {"ab", nil},
		"YWJj":         {"abc", nil},
		"//79":         {"\xff\xfe\xfd", nil},
		"YQ=":          {"", envoy.ErrNotBase64},
		"YQ===":        {"", envoy.ErrNotBase64},
		"Y":            {"", envoy.ErrNotBase64},
		"=":            {"", envoy.ErrNotBase64},
		"__79":         {"", envoy.ErrNotBase64}, // the alphabet of URLs is not gRPC's
		"YW Jj":        {"", envoy.ErrNotBase64},
		"YW\nJj":       {"", envoy.ErrNotBase64},
		"YWJj\r\n":     {"", envoy.ErrNotBase64},
		"YQ==,YQ==":    {"", envoy.ErrTwoValues},
		"YWJj,":        {"", envoy.ErrTwoValues},
		",":            {"", envoy.ErrTwoValues},
		"YQ==YQ==":     {"", envoy.ErrNotBase64},
		"\xff\xff\xff": {"", envoy.ErrNotBase64},
	} {
		data, err := envoy.DecodeBinary(value)
		if string(data) != want.data || !errors.Is(err, want.err) {
			t.Errorf("DecodeBinary(%q) = %q, %v; want %q, %v", value, data, err, want.data, want.err)
		}
	}
}

func FuzzDecodeBinary(f *testing.F) {
	for _, seed := range []string{"", "YQ", "YQ==", "YWJj", "YQ==,YQ==", "\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		data, err := envoy.DecodeBinary(value)
		if err != nil {
			if data != nil || (value != "" && strings.Contains(err.Error(), value) && len(value) > 8) {
				t.Fatalf("%q gave %q with %v", value, data, err)
			}
			return
		}
		// What is accepted means the same to every decoder, and one byte string has at most two forms.
		plain := base64.RawStdEncoding.EncodeToString(data)
		if stripped := strings.TrimRight(value, "="); len(stripped) != len(plain) || len(value) > len(plain)+2 {
			t.Fatalf("%q decodes to %q, which is written %q", value, data, plain)
		}
	})
}

func FuzzEncodeMessage(f *testing.F) {
	f.Add("plain")
	f.Add("100% é\r\n\x00")
	f.Add(strings.Repeat("é", 1000))
	f.Fuzz(func(t *testing.T, message string) {
		encoded := envoy.EncodeMessage(message)
		if strings.Trim(encoded, " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~") != "" {
			t.Fatalf("%q is no header value", encoded)
		}
		decoded, err := url.PathUnescape(encoded)
		if err != nil || !strings.HasPrefix(message, decoded) || (len(message) <= 1024 && decoded != message) || len(decoded) > 1024 {
			t.Fatalf("%q came back as %q, %v", message, decoded, err)
		}
	})
}

func TestEncodeMessage(t *testing.T) {
	for message, want := range map[string]string{
		"":              "",
		"plain ~ text!": "plain ~ text!",
		"50%":           "50%25",
		"é":             "%C3%A9",
		"a\r\nb\x7f":    "a%0D%0Ab%7F",
	} {
		if got := envoy.EncodeMessage(message); got != want {
			t.Errorf("EncodeMessage(%q) = %q, want %q", message, got, want)
		}
	}
	// Cut between runes, not inside one.
	if got := envoy.EncodeMessage(strings.Repeat("x", 1023) + "é"); got != strings.Repeat("x", 1023) {
		t.Errorf("a long message ends with %q", got[len(got)-10:])
	}
}

func TestAllow(t *testing.T) {
	charged := &envoy.Charged{ID: "1"}
	reply := envoy.Allow([]envoy.Header{{Name: "Snet-User-Address", Value: "0xPayer"}}, []string{"my-header", envoy.HeaderChannelSignature}, charged)
	ok := reply.GetOkResponse()
	if len(ok.GetHeaders()) != 1 || ok.GetHeaders()[0].GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
		t.Errorf("sets %v", ok.GetHeaders())
	}
	want := []string{envoy.HeaderChannelSignature, envoy.HeaderPrepaidToken, envoy.HeaderFreeCallToken, envoy.HeaderDaemonDebug, "my-header"}
	if !reflect.DeepEqual(ok.GetHeadersToRemove(), want) {
		t.Errorf("removes %q, want %q", ok.GetHeadersToRemove(), want)
	}
	if !proto.Equal(reply.GetDynamicMetadata(), charged.Struct()) {
		t.Errorf("metadata %v", reply.GetDynamicMetadata())
	}
	if got := envoy.Allow(nil, nil, nil); got.GetDynamicMetadata() != nil || got.GetOkResponse().GetHeadersToRemove()[4] != envoy.HeaderUserAddress {
		t.Errorf("without a charge: %v", got)
	}
}

func TestOrDeny(t *testing.T) {
	allow, deny := envoy.Allow(nil, nil, nil), envoy.Deny(envoy.CodeIncorrectNonce, "x")
	for _, reply := range []*authv3.CheckResponse{allow, deny} {
		if envoy.OrDeny(reply) != reply {
			t.Errorf("a decision was changed: %v", reply)
		}
	}
	for name, reply := range map[string]*authv3.CheckResponse{
		"nil":                 nil,
		"empty":               {},
		"empty status":        {Status: &status.Status{}},
		"refusal without how": {Status: &status.Status{Code: 7}},
		"yes with a refusal":  {Status: &status.Status{}, HttpResponse: deny.GetHttpResponse()},
		"no with a yes":       {Status: &status.Status{Code: 7}, HttpResponse: allow.GetHttpResponse()},
		"no status":           {HttpResponse: allow.GetHttpResponse()},
		"OK as a refusal":     envoy.Deny(envoy.CodeOK, "fine"),
	} {
		got := envoy.OrDeny(reply)
		if got.GetStatus().GetCode() == 0 || got.GetDeniedResponse().GetHeaders()[1].GetHeader().GetValue() != "13" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestChargedThereAndBack(t *testing.T) {
	full := envoy.Charged{ID: "a", Channel: "b", Nonce: "c", Amount: "d", Price: "e", ChainID: "f", MPE: "g", Group: "h", PaymentType: "i", Sender: "j"}
	entry := func(metadata *structpb.Struct) *dataaccesslogv3.HTTPAccessLogEntry {
		return &dataaccesslogv3.HTTPAccessLogEntry{CommonProperties: &dataaccesslogv3.AccessLogCommon{
			Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{envoy.MetadataNamespace: metadata}},
		}}
	}
	if got, ok := envoy.ChargedFromLog(entry(full.Struct())); !ok || got != full {
		t.Errorf("came back as %+v, %t", got, ok)
	}
	numbers, err := structpb.NewStruct(map[string]any{"charge": map[string]any{"id": 7, "channel": nil}})
	if err != nil {
		t.Fatal(err)
	}
	for name, none := range map[string]*dataaccesslogv3.HTTPAccessLogEntry{
		"nil": nil, "empty": {}, "no metadata": entry(nil), "no id": entry((&envoy.Charged{Channel: "1"}).Struct()), "other types": entry(numbers),
	} {
		if got, ok := envoy.ChargedFromLog(none); ok {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// The cases with a real Envoy are in settlement_test.go; these are what it could send besides.
func TestReadLogEntry(t *testing.T) {
	web := func(fields map[string]any) *dataaccesslogv3.AccessLogCommon {
		metadata, err := structpb.NewStruct(fields)
		if err != nil {
			t.Fatal(err)
		}
		return &dataaccesslogv3.AccessLogCommon{Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{envoy.MetadataWeb: metadata}}}
	}
	http := func(code uint32) *dataaccesslogv3.HTTPResponseProperties {
		return &dataaccesslogv3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(code), ResponseCodeDetails: "via_upstream"}
	}
	type want struct {
		status envoy.Code
		known  bool
		bytes  uint64
	}
	for name, c := range map[string]struct {
		entry *dataaccesslogv3.HTTPAccessLogEntry
		want  want
	}{
		"nil": {nil, want{status: envoy.CodeUnknown}},
		"trailers before headers": {&dataaccesslogv3.HTTPAccessLogEntry{Response: &dataaccesslogv3.HTTPResponseProperties{
			ResponseTrailers: map[string]string{"grpc-status": "9"}, ResponseHeaders: map[string]string{"grpc-status": "0"},
		}}, want{status: 9, known: true}},
		"gRPC-Web":                  {&dataaccesslogv3.HTTPAccessLogEntry{CommonProperties: web(map[string]any{"grpc_status": "5", "message_bytes": 11})}, want{5, true, 11}},
		"gRPC-Web, no status":       {&dataaccesslogv3.HTTPAccessLogEntry{CommonProperties: web(map[string]any{"grpc_status": "", "message_bytes": -1})}, want{2, true, 0}},
		"beyond a code":             {&dataaccesslogv3.HTTPAccessLogEntry{Response: &dataaccesslogv3.HTTPResponseProperties{ResponseTrailers: map[string]string{"grpc-status": "4294967296"}}}, want{2, true, 0}},
		"negative":                  {&dataaccesslogv3.HTTPAccessLogEntry{Response: &dataaccesslogv3.HTTPResponseProperties{ResponseTrailers: map[string]string{"grpc-status": "-1"}}}, want{2, true, 0}},
		"page 200 without a status": {&dataaccesslogv3.HTTPAccessLogEntry{Response: http(200)}, want{2, true, 0}},
		"page 400":                  {&dataaccesslogv3.HTTPAccessLogEntry{Response: http(400)}, want{13, true, 0}},
		"page 401":                  {&dataaccesslogv3.HTTPAccessLogEntry{Response: http(401)}, want{16, true, 0}},
		"page 403":                  {&dataaccesslogv3.HTTPAccessLogEntry{Response: http(403)}, want{7, true, 0}},
		"page 404":                  {&dataaccesslogv3.HTTPAccessLogEntry{Response: http(404)}, want{12, true, 0}},
		"page 503":                  {&dataaccesslogv3.HTTPAccessLogEntry{Response: http(503)}, want{14, true, 0}},
	} {
		read := envoy.ReadLogEntry(c.entry)
		if got := (want{read.Status, read.StatusKnown, read.MessageBytes}); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	flags := &dataaccesslogv3.ResponseFlags{DownstreamRemoteReset: true, UpstreamOverflow: true}
	read := envoy.ReadLogEntry(&dataaccesslogv3.HTTPAccessLogEntry{CommonProperties: &dataaccesslogv3.AccessLogCommon{ResponseFlags: flags}})
	if !read.ClientGone || len(read.Flags) != 2 {
		t.Errorf("%+v", read)
	}
}

func FuzzReadLogEntry(f *testing.F) {
	whole, err := proto.Marshal(&dataaccesslogv3.HTTPAccessLogEntry{
		CommonProperties: &dataaccesslogv3.AccessLogCommon{
			ResponseFlags: &dataaccesslogv3.ResponseFlags{DownstreamConnectionTermination: true},
			Metadata:      &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{envoy.MetadataNamespace: (&envoy.Charged{ID: "1"}).Struct()}},
		},
		Response: &dataaccesslogv3.HTTPResponseProperties{ResponseTrailers: map[string]string{"grpc-status": "9"}, ResponseBodyBytes: 7},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, data []byte) {
		var entry dataaccesslogv3.HTTPAccessLogEntry
		if proto.Unmarshal(data, &entry) != nil {
			return
		}
		read := envoy.ReadLogEntry(&entry)
		if read.Charged != nil && read.Charged.ID == "" {
			t.Fatal("a charge without an id")
		}
		if !read.StatusKnown && read.Status != envoy.CodeUnknown {
			t.Fatalf("an unknown status is %d", read.Status)
		}
	})
}

func TestAddress(t *testing.T) {
	for text, want := range map[string]struct {
		address     envoy.Address
		name, local bool
	}{
		"127.0.0.1:80": {envoy.Address{Host: "127.0.0.1", Port: 80}, false, true},
		"[::1]:80":     {envoy.Address{Host: "::1", Port: 80}, false, true},
		"0.0.0.0:0":    {envoy.Address{Host: "0.0.0.0"}, false, false},
		"localhost:80": {envoy.Address{Host: "localhost", Port: 80}, true, true},
		"authz:80":     {envoy.Address{Host: "authz", Port: 80}, true, false},
		"unix:/a/b":    {envoy.Address{Path: "/a/b"}, false, true},
	} {
		got, err := envoy.ParseAddress(text)
		if err != nil || got != want.address || got.String() != text || got.IsName() != want.name || got.Local() != want.local {
			t.Errorf("%s: %+v, %v, name %t, local %t", text, got, err, got.IsName(), got.Local())
		}
	}
	for _, text := range []string{"", "host", ":80", "host:", "host:port", "host:65536", "host:-1", "::1:80", "unix:", "unix:relative", "unix:/" + strings.Repeat("x", 103)} {
		if got, err := envoy.ParseAddress(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func TestDefaultsAreValid(t *testing.T) {
	settings := envoy.Defaults()
	if err := settings.Validate(); err != nil {
		t.Error(err)
	}
	settings.Limits.IdleTimeout = 48 * time.Hour
	if err := settings.Validate(); err == nil || !strings.Contains(err.Error(), "envoy.limits.idle_timeout is 48h0m0s") {
		t.Errorf("got %v", err)
	}
}
