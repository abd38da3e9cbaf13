package envoy_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/mpegate/mpegate/envoy"
	"github.com/mpegate/mpegate/envoy/bootstrap"
)

func preflight(t *testing.T, r *rig, origin, headers string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, "http://"+r.address+"/test.Service/OK", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("origin", origin)
	request.Header.Set("access-control-request-method", http.MethodPost)
	request.Header.Set("access-control-request-headers", headers)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response
}

func TestPreflight(t *testing.T) {
	r := newRig(t, func(s *bootstrap.Settings) { s.Envoy.CORS.AllowHeaders = []string{"my-header"} })
	response := preflight(t, r, "https://anywhere.example", "content-type,x-grpc-web,snet-payment-channel-id")
	header := response.Header
	if response.StatusCode != http.StatusOK || header.Get("access-control-allow-origin") != "https://anywhere.example" {
		t.Errorf("%s, %v", response.Status, header)
	}
	if header.Get("access-control-allow-credentials") != "" {
		t.Error("credentials are allowed")
	}
	if !strings.Contains(header.Get("access-control-allow-methods"), http.MethodPost) {
		t.Errorf("methods %q", header.Get("access-control-allow-methods"))
	}
	allowed := strings.Split(header.Get("access-control-allow-headers"), ", ")
	for _, want := range append([]string{"content-type", "x-grpc-web", "x-user-agent", "grpc-timeout", "my-header"}, envoy.PaymentHeaders...) {
		if !contains(allowed, want) {
			t.Errorf("%s is not allowed", want)
		}
	}
	if r.authz.checkCount() != 0 || r.service.count() != 0 {
		t.Error("a preflight went further than Envoy")
	}
}

// The answer to the call itself lets the page read the status, refusals included.
func TestExposedHeaders(t *testing.T) {
	r := newRig(t, func(s *bootstrap.Settings) { s.Envoy.CORS.ExposeHeaders = []string{"my-answer"} })
	for _, method := range []string{"OK", "Fail", "Reset"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.address+"/test.Service/"+method, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("origin", "https://anywhere.example")
		request.Header.Set("content-type", "application/grpc-web+proto")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		exposed := strings.Split(response.Header.Get("access-control-expose-headers"), ", ")
		for _, want := range []string{"grpc-status", "grpc-message", "grpc-status-details-bin", "my-answer"} {
			if !contains(exposed, want) {
				t.Errorf("%s: %s is not exposed: %v", method, want, response.Header)
			}
		}
	}
}

func TestOrigins(t *testing.T) {
	for name, c := range map[string]struct {
		allow  []string
		origin string
		want   bool
	}{
		"listed":     {[]string{"https://app.example"}, "https://app.example", true},
		"not listed": {[]string{"https://app.example"}, "https://app.example.evil", false},
		"as pattern": {[]string{"https://a.p.example"}, "https://axp.example", false},
		"none":       {nil, "https://app.example", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(s *bootstrap.Settings) { s.Envoy.CORS.AllowOrigins = c.allow })
			response := preflight(t, r, c.origin, "content-type")
			if got := response.Header.Get("access-control-allow-origin"); (got == c.origin) != c.want {
				t.Errorf("%s allowed %q: %s", c.origin, got, response.Status)
			}
			if r.service.count() != 0 || r.authz.checkCount() != 0 {
				t.Error("a preflight went further than Envoy")
			}
		})
	}
}

func contains(list []string, wanted string) bool {
	for _, item := range list {
		if strings.TrimSpace(item) == wanted {
			return true
		}
	}
	return false
}
