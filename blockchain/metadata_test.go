package blockchain

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
)

func readExample(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "metadata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// edited returns an example document after a change. json.Number keeps numbers as they are written.
func edited(t testing.TB, name string, edit func(document, group map[string]any)) []byte {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(string(readExample(t, name))))
	decoder.UseNumber()
	var document map[string]any
	if err := decoder.Decode(&document); err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(document, document["groups"].([]any)[0].(map[string]any))
	}
	data, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func resolveExamples(t testing.TB, organization, service []byte, group string) (*Metadata, error) {
	t.Helper()
	parsedOrganization, err := ParseOrganization(organization)
	if err != nil {
		return nil, err
	}
	parsedService, err := ParseService(service)
	if err != nil {
		return nil, err
	}
	return Resolve(parsedOrganization, parsedService, "acme-vision", "captioner", group)
}

func TestExampleMetadata(t *testing.T) {
	metadata, err := resolveExamples(t, readExample(t, "organization.json"), readExample(t, "service.json"), "default_group")
	if err != nil {
		t.Fatal(err)
	}
	if len(metadata.Warnings) > 0 {
		t.Errorf("warnings: %q", metadata.Warnings)
	}
	group := metadata.Group
	if group.PaymentAddress != common.HexToAddress("0x6A9296CEb89D12e1F53b2Dd5Df45d3ADB3A814c2") || group.ExpirationThreshold != 40320 {
		t.Errorf("group %+v", group)
	}
	for i, value := range group.ID {
		if int(value) != i {
			t.Fatalf("group id %x", group.ID)
		}
	}
	if !slices.Equal(group.StorageEndpoints, []string{"http://127.0.0.1:2379"}) ||
		group.ConnectionTimeout != 15*time.Second || group.RequestTimeout != 13*time.Second {
		t.Errorf("storage %+v", group)
	}
	service, offer := metadata.Service, metadata.ServiceGroup
	if service.Type != ServiceTypeGRPC || service.Encoding != EncodingProto || service.DisplayName != "Acme Captioner" ||
		service.MPE != common.HexToAddress("0x042d31F61c598eADcAc729B845406514521db520") ||
		service.APISource != "ipfs://QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o" {
		t.Errorf("service %+v", service)
	}
	if offer.FreeCalls != 15 || offer.FreeCallSigner != common.HexToAddress("0x87C018EF78005f118C53fa9cadf0a4Fd367a77A9") || len(offer.Endpoints) != 2 {
		t.Errorf("offer %+v", offer)
	}
	for method, want := range map[string]uint64{"/acme.v1.Captioner/Caption": 2000, "/acme.v1.Captioner/Tags": 500} {
		if price, defined := offer.Pricing.Price(method); !defined || price.Uint64() != want {
			t.Errorf("%s costs %s, %v", method, price.Dec(), defined)
		}
	}
	if _, defined := offer.Pricing.Price("/acme.v1.Captioner/caption"); defined {
		t.Error("a method that is not listed has a price")
	}
}

// setAt sets a value below a group by its path; nil removes it.
func setAt(object map[string]any, value any, path ...string) {
	for _, name := range path[:len(path)-1] {
		object = object[name].(map[string]any)
	}
	if last := path[len(path)-1]; value == nil {
		delete(object, last)
	} else {
		object[last] = value
	}
}

func TestOrganizationFaults(t *testing.T) {
	threshold := []string{"payment", "payment_expiration_threshold"}
	address := []string{"payment", "payment_address"}
	tests := map[string]struct {
		path  []string
		value any
		want  string
	}{
		"no threshold":           {threshold, nil, "payment_expiration_threshold is missing"},
		"empty threshold":        {threshold, "", "payment_expiration_threshold is missing"},
		"negative threshold":     {threshold, -5, "must not be negative"},
		"fractional threshold":   {threshold, 1.5, "plain digits"},
		"threshold with letters": {threshold, "soon", "plain digits"},
		"huge threshold":         {threshold, json.Number("9223372036854775808"), "highest value"},
		"threshold is a list":    {threshold, []int{1}, "plain digits"},
		"no address":             {address, nil, "payment_address is missing"},
		"zero address":           {address, "0x0000000000000000000000000000000000000000", "zero address"},
		"short address":          {address, "0x6A9296", "not an address"},
		"address is a number":    {address, 7, "where text is expected"},
		"no group id":            {[]string{"group_id"}, nil, "group_id is missing"},
		"group id not base64":    {[]string{"group_id"}, "?????", "not base64"},
		"group id of 31 bytes":   {[]string{"group_id"}, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==", "31 bytes"},
		"group id with line end": {[]string{"group_id"}, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", "not base64"},
		"loose trailing bits":    {[]string{"group_id"}, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=", "not base64"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			organization := edited(t, "organization.json", func(_, group map[string]any) { setAt(group, test.value, test.path...) })
			_, err := resolveExamples(t, organization, readExample(t, "service.json"), "default_group")
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "organisation metadata") {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func pricingOf(group map[string]any) []any { return group["pricing"].([]any) }

func fixed(price any) map[string]any {
	return map[string]any{"default": true, "price_model": "fixed_price", "price_in_cogs": price}
}

func withPricing(entries ...any) func(_, group map[string]any) {
	return func(_, group map[string]any) { group["pricing"] = entries }
}

func perMethod(prices ...any) func(_, group map[string]any) {
	return func(_, group map[string]any) {
		entry := pricingOf(group)[0].(map[string]any)
		entry["details"].([]any)[0].(map[string]any)["method_pricing"] = prices
	}
}

func TestServiceFaults(t *testing.T) {
	field := func(name string, value any) func(document, _ map[string]any) {
		return func(document, _ map[string]any) { setAt(document, value, name) }
	}
	inGroup := func(name string, value any) func(_, group map[string]any) {
		return func(_, group map[string]any) { setAt(group, value, name) }
	}
	notDefault := map[string]any{"price_model": "fixed_price", "price_in_cogs": 1}
	tests := map[string]struct {
		edit func(document, group map[string]any)
		want string
	}{
		"no mpe address":          {field("mpe_address", nil), "mpe_address is missing"},
		"zero mpe address":        {field("mpe_address", "0x0000000000000000000000000000000000000000"), "zero address"},
		"unknown service type":    {field("service_type", "executable"), "grpc, http, jsonrpc, process"},
		"no service type":         {field("service_type", nil), "service_type is missing"},
		"unknown encoding":        {field("encoding", "xml"), `encoding is "xml"`},
		"no groups":               {field("groups", []any{}), "groups is missing"},
		"groups is text":          {field("groups", "x"), "where a list is expected"},
		"no pricing":              {inGroup("pricing", nil), "pricing is missing"},
		"empty pricing":           {withPricing(), "pricing is missing or empty"},
		"two defaults":            {withPricing(fixed(1), fixed(2)), `2 entries with "default": true`},
		"no default of two":       {withPricing(notDefault, notDefault), `none of the 2 entries`},
		"no price":                {withPricing(map[string]any{"default": true, "price_model": "fixed_price"}), "price_in_cogs is missing"},
		"price null":              {withPricing(fixed(nil)), "price_in_cogs is missing"},
		"negative price":          {withPricing(fixed(-1)), "must not be negative"},
		"fractional price":        {withPricing(fixed(0.5)), "plain digits"},
		"price with exponent":     {withPricing(fixed(json.Number("1e18"))), "plain digits"},
		"price 2^256":             {withPricing(fixed(json.Number("115792089237316195423570985008687907853269984665640564039457584007913129639936"))), "2^256-1"},
		"price of 1000 digits":    {withPricing(fixed(json.Number(strings.Repeat("9", 1000)))), "2^256-1"},
		"price octal look":        {withPricing(fixed("010")), "zeros in front"},
		"price is true":           {withPricing(fixed(true)), "plain digits"},
		"dynamic pricing":         {withPricing(map[string]any{"default": true, "price_model": "dynamic_pricing"}), "not supported yet"},
		"unknown model":           {withPricing(map[string]any{"default": true, "price_model": "method_price"}), "fixed_price_per_method"},
		"no model":                {withPricing(map[string]any{"default": true}), "price_model is missing"},
		"no methods":              {perMethod(), "details is missing or has no methods"},
		"method without a name":   {perMethod(map[string]any{"price_in_cogs": 1}), "method_name is missing"},
		"method with a slash":     {perMethod(map[string]any{"method_name": "a/b", "price_in_cogs": 1}), "without / and spaces"},
		"method without a price":  {perMethod(map[string]any{"method_name": "Caption"}), `price_in_cogs of "/acme.v1.Captioner/Caption" is missing`},
		"method twice":            {perMethod(map[string]any{"method_name": "A", "price_in_cogs": 1}, map[string]any{"method_name": "A", "price_in_cogs": 1}), "given twice"},
		"free calls negative":     {inGroup("free_calls", -1), "free_calls"},
		"free call signer broken": {inGroup("free_call_signer_address", "0x12"), "free_call_signer_address"},
		"other group name":        {inGroup("group_name", "premium"), `only "premium": set metadata.group_name`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := resolveExamples(t, readExample(t, "organization.json"), edited(t, "service.json", test.edit), "default_group")
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "service metadata") {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestAcceptedPrices(t *testing.T) {
	highest := new(uint256.Int).SetAllOne()
	tests := map[string]struct {
		entries []any
		want    *uint256.Int
		warned  bool
	}{
		"zero":                   {[]any{fixed(0)}, uint256.NewInt(0), false},
		"integer as text":        {[]any{fixed("25")}, uint256.NewInt(25), false},
		"2^256-1":                {[]any{fixed(json.Number(highest.Dec()))}, highest, false},
		"above what floats hold": {[]any{fixed(json.Number("1000000000000000001"))}, uint256.NewInt(1000000000000000001), false},
		"single without default": {[]any{map[string]any{"price_model": "fixed_price", "price_in_cogs": 3}}, uint256.NewInt(3), true},
		"other entries ignored":  {[]any{map[string]any{"price_model": "dynamic_pricing"}, fixed(4)}, uint256.NewInt(4), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			metadata, err := resolveExamples(t, readExample(t, "organization.json"), edited(t, "service.json", withPricing(test.entries...)), "default_group")
			if err != nil {
				t.Fatal(err)
			}
			price, defined := metadata.ServiceGroup.Pricing.Price("/any.Service/Method")
			if !defined || !price.Eq(test.want) {
				t.Errorf("price %s, want %s", price.Dec(), test.want.Dec())
			}
			if (len(metadata.Warnings) > 0) != test.warned {
				t.Errorf("warnings %q", metadata.Warnings)
			}
		})
	}
}

func TestWhatIsOptional(t *testing.T) {
	service := edited(t, "service.json", func(document, group map[string]any) {
		for _, name := range []string{"encoding", "display_name", "service_api_source"} {
			delete(document, name)
		}
		for _, name := range []string{"free_calls", "free_call_signer_address", "endpoints", "group_id"} {
			delete(group, name)
		}
		document["model_ipfs_hash"] = "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o"
		delete(pricingOf(group)[0].(map[string]any), "package_name")
	})
	organization := edited(t, "organization.json", func(_, group map[string]any) {
		delete(group["payment"].(map[string]any), "payment_channel_storage_client")
	})
	metadata, err := resolveExamples(t, organization, append([]byte("\ufeff"), service...), "default_group")
	if err != nil {
		t.Fatal(err)
	}
	if metadata.Service.Encoding != EncodingProto || metadata.Service.APISource != "ipfs://QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o" {
		t.Errorf("service %+v", metadata.Service)
	}
	if _, defined := metadata.ServiceGroup.Pricing.Price("/Captioner/Tags"); !defined {
		t.Error("a service without package has no price")
	}
}

func TestFaultsOfOtherGroupsDoNotMatter(t *testing.T) {
	addBroken := func(document, _ map[string]any) {
		document["groups"] = append(document["groups"].([]any), map[string]any{"group_name": "broken"})
	}
	organization, service := edited(t, "organization.json", addBroken), edited(t, "service.json", addBroken)
	if _, err := resolveExamples(t, organization, service, "default_group"); err != nil {
		t.Error(err)
	}
	if _, err := resolveExamples(t, organization, service, "broken"); err == nil ||
		!strings.Contains(err.Error(), "group_id is missing") || !strings.Contains(err.Error(), "pricing is missing") {
		t.Errorf("error %v", err)
	}
	_, err := resolveExamples(t, organization, service, "Default_Group")
	if err == nil || !strings.Contains(err.Error(), `"default_group", "broken"`) {
		t.Errorf("error %v", err)
	}
	twice := func(document, group map[string]any) { document["groups"] = []any{group, group} }
	if _, err := resolveExamples(t, edited(t, "organization.json", twice), service, "default_group"); err == nil ||
		!strings.Contains(err.Error(), "two groups") {
		t.Errorf("error %v", err)
	}
}

func TestWarnings(t *testing.T) {
	organization := edited(t, "organization.json", func(document, group map[string]any) {
		document["org_id"] = "other"
		setAt(group, "0x6a9296CEb89D12e1F53b2Dd5Df45d3ADB3A814c2", "payment", "payment_address") // one letter's case changed
		setAt(group, "soon", "payment", "payment_channel_storage_client", "request_timeout")
	})
	service := edited(t, "service.json", func(_, group map[string]any) {
		group["group_id"] = "////////////////////////////////////////////////"
	})
	metadata, err := resolveExamples(t, organization, service, "default_group")
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(metadata.Warnings, "\n")
	for _, want := range []string{"org_id", "checksum", "request_timeout", "publish the service metadata again"} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning about %s in %s", want, all)
		}
	}
}

func TestDocumentsThatAreNone(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"empty":      {"", "it is empty"},
		"web page":   {"<html>gateway\x1b[31m time-out</html>", `"<html>gateway?[31m time-out</html>"`},
		"list":       {"[]", "not a JSON object"},
		"broken off": {`{"org_name":"x"`, "not valid JSON"},
		"null":       {"null", "not a JSON object"},
		"more after": {`{"groups":[]} {}`, "not valid JSON"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for _, parse := range []func() error{
				func() error { _, err := ParseOrganization([]byte(test.text)); return err },
				func() error { _, err := ParseService([]byte(test.text)); return err },
			} {
				if err := parse(); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
			}
		})
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add(readExample(f, "organization.json"), readExample(f, "service.json"), "default_group")
	f.Add([]byte(`{"groups":[{}]}`), edited(f, "service.json", withPricing(fixed("1"))), "")
	f.Add([]byte(`{"groups":null}`), []byte(`{"mpe_address":"0x","groups":[{"pricing":[{"price_in_cogs":{}}]}]}`), "x")
	f.Fuzz(func(t *testing.T, organizationData, serviceData []byte, name string) {
		organization, organizationError := ParseOrganization(organizationData)
		service, serviceError := ParseService(serviceData)
		if organizationError != nil || serviceError != nil {
			return
		}
		metadata, err := Resolve(organization, service, "acme-vision", "captioner", name)
		if err != nil {
			return
		}
		pricing := metadata.ServiceGroup.Pricing
		if metadata.Group.PaymentAddress == (common.Address{}) || metadata.Service.MPE == (common.Address{}) || metadata.Service.Type == "" {
			t.Errorf("accepted without an address or a type: %+v", metadata)
		}
		if (pricing.Fixed == nil) == (pricing.PerMethod == nil) {
			t.Errorf("pricing %+v is not exactly one of two", pricing)
		}
		for method := range pricing.PerMethod {
			if strings.Count(method, "/") != 2 {
				t.Errorf("method %q", method)
			}
		}
	})
}
