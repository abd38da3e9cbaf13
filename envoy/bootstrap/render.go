package bootstrap

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/mpegate/mpegate/envoy"
)

//go:embed envoy.yaml.tmpl
var source string

var bootstrap = template.Must(template.New("envoy.yaml").Funcs(template.FuncMap{
	"text":      text,
	"list":      func(items []string) string { return text(strings.Join(items, ", ")) },
	"seconds":   seconds,
	"kibibytes": func(bytes int) int { return (bytes + 1023) / 1024 },
	"listen":    func(a envoy.Address) string { return address(a, true) },
}).Option("missingkey=error").Parse(source))

// values are what the template reads.
type values struct {
	Settings
	envoy.Limits // of Settings.Envoy, for short names

	ListenerName, MetadataNamespace, MetadataCharge, MetadataChargeID string

	TrustedProxies    int
	AccessLog         string
	StreamIdleTimeout time.Duration

	OwnHeaders   []string // set by us or by nobody
	CheckHeaders []string // what authz is asked with
	OwnServices  []ownService

	AllowOrigins                []string // string matchers
	AllowHeaders, ExposeHeaders []string
	CORSMaxAge                  string

	GRPC     string // header matchers of a gRPC or gRPC-Web call
	TooLarge []tooLarge
	Paid     []paid

	WebNamespace, WebOK, WebStatus, WebBytes string

	ServiceEndpoint, AuthzEndpoint endpoint
	ServiceAuthority, SANType      string
}

type endpoint struct{ Cluster, Discovery, Address string }

// Render returns the bootstrap configuration as YAML.
func Render(settings Settings) ([]byte, error) {
	if err := settings.Validate(); err != nil {
		return nil, err
	}
	var config bytes.Buffer
	if err := bootstrap.Execute(&config, newValues(settings)); err != nil {
		return nil, fmt.Errorf("render the Envoy configuration: %w", err)
	}
	return config.Bytes(), nil
}

// paid is a route to the service.
type paid struct {
	Name, Headers string
	Web           bool // gRPC-Web
}

// tooLarge is a route that refuses by content-length.
type tooLarge struct{ Headers, Message string }

func newValues(settings Settings) values {
	if settings.NodeID == "" {
		settings.NodeID = "mpegate"
	}
	if settings.Service.TLS && settings.Service.CAFile == "" {
		settings.Service.CAFile = systemCAFile()
	}
	chosen := settings.Envoy
	v := values{
		Settings: settings, Limits: chosen.Limits,
		ListenerName:      ListenerName,
		MetadataNamespace: envoy.MetadataNamespace, MetadataCharge: envoy.MetadataCharge, MetadataChargeID: envoy.MetadataChargeID,
		TrustedProxies: chosen.TrustedProxies, AccessLog: chosen.AccessLog,
		StreamIdleTimeout: chosen.Limits.StreamIdleTimeout,
		OwnHeaders:        []string{envoy.HeaderUserAddress, envoy.HeaderDaemonDebug},
		CheckHeaders:      envoy.CheckHeaders,
		OwnServices:       ownServices,
		AllowHeaders:      slices.Concat(webRequestHeaders, envoy.PaymentHeaders, chosen.CORS.AllowHeaders),
		ExposeHeaders:     slices.Concat(webResponseHeaders, chosen.CORS.ExposeHeaders),
		CORSMaxAge:        strconv.Itoa(int(chosen.CORS.MaxAge.Seconds())),
		GRPC:              matchers(post, contentType(anyGRPC)),
		TooLarge:          refuseLarge(settings.MaxMessageSize),
		ServiceAuthority:  envoy.Address{Host: settings.Service.Host, Port: settings.Service.Port}.String(),
		SANType:           "DNS",
		Paid: []paid{
			{"paid", matchers(post, contentType(nativeGRPC)), false},
			{"paid-web", matchers(post, contentType(webGRPC)), true},
		},
		WebNamespace: envoy.MetadataWeb, WebOK: envoy.MetadataWebOK, WebStatus: envoy.MetadataWebStatus, WebBytes: envoy.MetadataWebBytes,
	}
	if v.StreamIdleTimeout == 0 {
		// A little more, so that a silent call ends by the timeout that was set for calls.
		v.StreamIdleTimeout = settings.ServiceTimeout + 5*time.Second
	}
	for _, origin := range chosen.CORS.AllowOrigins {
		v.AllowOrigins = append(v.AllowOrigins, originMatcher(origin))
	}
	v.ServiceEndpoint = newEndpoint("service", envoy.Address{Host: settings.Service.Host, Port: settings.Service.Port})
	v.AuthzEndpoint = newEndpoint("authz", settings.Authz)
	if v.ServiceEndpoint.Discovery == "STATIC" {
		v.SANType = "IP_ADDRESS"
	}
	return v
}

// ownService is a path prefix that authz serves itself, unpaid.
type ownService struct {
	Prefix  string
	Longest time.Duration // of one call
}

var ownServices = []ownService{
	{"/escrow.", 30 * time.Second},
	{"/configuration_service.ConfigurationService/", 30 * time.Second},
	{"/grpc.health.v1.Health/Watch", time.Hour}, // a stream that waits for changes
	{"/grpc.health.v1.Health/", 30 * time.Second},
}

// What gRPC-Web in a browser sends and reads beside the payment headers.
var (
	webRequestHeaders  = []string{"content-type", "x-grpc-web", "x-user-agent", "grpc-timeout"}
	webResponseHeaders = []string{"grpc-status", "grpc-message", "grpc-status-details-bin"}
)

// Content types of gRPC, of gRPC-Web, and of its base64 form, with a format or parameters behind them.
const (
	anyGRPC    = `application/grpc(-web|-web-text)?([+;].*)?`
	nativeGRPC = `application/grpc([+;].*)?`
	webGRPC    = `application/grpc-web(-text)?([+;].*)?`
	binaryGRPC = `application/grpc(-web)?([+;].*)?`
	textGRPC   = `application/grpc-web-text([+;].*)?`
)

const post = `{ name: ":method", string_match: { exact: POST } }`

func contentType(expression string) string {
	return `{ name: content-type, string_match: { safe_regex: { regex: ` + text(expression) + ` } } }`
}

// longerThan matches a request that announces more than so many bytes.
func longerThan(bytes int64) string {
	const end = 1<<63 - 1
	return fmt.Sprintf(`{ name: content-length, range_match: { start: %d, end: %d } }`, bytes+1, int64(end))
}

func matchers(headers ...string) string { return "[" + strings.Join(headers, ", ") + "]" }

// refuseLarge allows the gRPC frame's five bytes beside the message, and for text the growth by base64.
func refuseLarge(size int64) []tooLarge {
	message := fmt.Sprintf("the message is larger than %d bytes", size)
	frame := size + 5
	return []tooLarge{
		{matchers(post, contentType(binaryGRPC), longerThan(frame)), message},
		{matchers(post, contentType(textGRPC), longerThan((frame+2)/3*4)), message},
	}
}

func originMatcher(origin string) string {
	if origin == "*" {
		return `{ safe_regex: { regex: ".*" } }`
	}
	return `{ exact: ` + text(origin) + ` }`
}

func newEndpoint(cluster string, target envoy.Address) endpoint {
	discovery := "STATIC"
	if target.IsName() {
		// Every address that the name has is used, and followed as it changes.
		discovery = "STRICT_DNS"
	}
	return endpoint{cluster, discovery, address(target, false)}
}

// address is Envoy's form of an address.
func address(a envoy.Address, listen bool) string {
	if a.Path != "" {
		mode := ""
		if listen {
			mode = ", mode: 384" // 0600
		}
		return fmt.Sprintf("{ pipe: { path: %s%s } }", text(a.Path), mode)
	}
	host, both := a.Host, ""
	if listen && host == "localhost" {
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); listen && err == nil && ip == netip.IPv6Unspecified() {
		both = ", ipv4_compat: true" // "::" means every address, as it does elsewhere
	}
	return fmt.Sprintf("{ socket_address: { address: %s, port_value: %d%s } }", text(host), a.Port, both)
}

// text quotes for YAML, of which JSON strings are a part.
func text(value string) string {
	var quoted bytes.Buffer
	encoder := json.NewEncoder(&quoted)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(value) // a string always encodes
	return strings.TrimSuffix(quoted.String(), "\n")
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}
