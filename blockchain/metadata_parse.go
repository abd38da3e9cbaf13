package blockchain

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
)

// maxGroups bounds the groups of one document; real ones have one to three.
const maxGroups = 256

// The documents as they are published; section 10 of the payment protocol. Fields that nothing here needs are left out.
type (
	organizationDocument struct {
		ID     string                      `json:"org_id"`
		Name   string                      `json:"org_name"`
		Groups []organizationGroupDocument `json:"groups"`
	}
	organizationGroupDocument struct {
		Name    string `json:"group_name"`
		ID      string `json:"group_id"`
		Payment struct {
			Address   string        `json:"payment_address"`
			Threshold integerText   `json:"payment_expiration_threshold"`
			Storage   storageClient `json:"payment_channel_storage_client"`
		} `json:"payment"`
	}
	storageClient struct {
		Endpoints         []string `json:"endpoints"`
		ConnectionTimeout string   `json:"connection_timeout"`
		RequestTimeout    string   `json:"request_timeout"`
	}
	serviceDocument struct {
		DisplayName string                 `json:"display_name"`
		Encoding    string                 `json:"encoding"`
		Type        string                 `json:"service_type"`
		ModelHash   string                 `json:"model_ipfs_hash"`
		APISource   string                 `json:"service_api_source"`
		MPE         string                 `json:"mpe_address"`
		Groups      []serviceGroupDocument `json:"groups"`
	}
	serviceGroupDocument struct {
		Name           string            `json:"group_name"`
		ID             string            `json:"group_id"`
		Endpoints      []string          `json:"endpoints"`
		Pricing        []pricingDocument `json:"pricing"`
		FreeCalls      integerText       `json:"free_calls"`
		FreeCallSigner string            `json:"free_call_signer_address"`
	}
)

// ParseOrganization reads organisation metadata. Faults inside one group are kept with the group and reported by
// Resolve, so that a mistake in a group nobody asked for stops nothing.
func ParseOrganization(data []byte) (*Organization, error) {
	var document organizationDocument
	if err := decodeDocument("organisation", data, &document); err != nil {
		return nil, err
	}
	if err := checkGroupCount("organisation", len(document.Groups)); err != nil {
		return nil, err
	}
	organization := &Organization{ID: document.ID, Name: document.Name}
	for i := range document.Groups {
		organization.Groups = append(organization.Groups, parseOrganizationGroup(&document.Groups[i]))
	}
	return organization, nil
}

func parseOrganizationGroup(document *organizationGroupDocument) OrganizationGroup {
	var notes notes
	group := OrganizationGroup{
		Name: document.Name, IDText: document.ID,
		ID:                parseGroupID(&notes, document.ID),
		PaymentAddress:    parseAddress(&notes, "payment.payment_address", document.Payment.Address),
		StorageEndpoints:  document.Payment.Storage.Endpoints,
		ConnectionTimeout: parseTimeout(&notes, "connection_timeout", document.Payment.Storage.ConnectionTimeout),
		RequestTimeout:    parseTimeout(&notes, "request_timeout", document.Payment.Storage.RequestTimeout),
	}
	const field = "payment.payment_expiration_threshold"
	if document.Payment.Threshold.missing() {
		notes.fault("%s is missing: add the number of blocks before its expiration from which a channel is refused, such as 40320", field)
	} else {
		group.ExpirationThreshold = parseUint64(&notes, field, document.Payment.Threshold)
	}
	group.faults, group.warnings = notes.faults, notes.warnings
	return group
}

// ParseService reads service metadata. Faults inside one group are kept with the group and reported by Resolve.
func ParseService(data []byte) (*Service, error) {
	var document serviceDocument
	if err := decodeDocument("service", data, &document); err != nil {
		return nil, err
	}
	var notes notes
	service := &Service{
		DisplayName: document.DisplayName,
		Encoding:    parseWord(&notes, "encoding", document.Encoding, EncodingProto, EncodingProto, EncodingJSON),
		Type: parseWord(&notes, "service_type", document.Type, "",
			ServiceTypeGRPC, ServiceTypeHTTP, ServiceTypeJSONRPC, ServiceTypeProcess),
		APISource: document.APISource,
		MPE:       parseAddress(&notes, "mpe_address", document.MPE),
	}
	if service.APISource == "" && document.ModelHash != "" {
		service.APISource = "ipfs://" + strings.TrimPrefix(document.ModelHash, "ipfs://")
	}
	if err := joinFaults(checkGroupCount("service", len(document.Groups)), notes.err("service metadata")); err != nil {
		return nil, err
	}
	service.warnings = notes.warnings
	for i := range document.Groups {
		service.Groups = append(service.Groups, parseServiceGroup(&document.Groups[i]))
	}
	return service, nil
}

func parseServiceGroup(document *serviceGroupDocument) ServiceGroup {
	var notes notes
	group := ServiceGroup{
		Name: document.Name, Endpoints: document.Endpoints, groupIDText: document.ID,
		Pricing: parsePricing(&notes, document.Pricing),
	}
	if !document.FreeCalls.missing() {
		group.FreeCalls = parseUint64(&notes, "free_calls", document.FreeCalls)
	}
	if document.FreeCallSigner != "" {
		group.FreeCallSigner = parseAddress(&notes, "free_call_signer_address", document.FreeCallSigner)
	}
	group.faults, group.warnings = notes.faults, notes.warnings
	return group
}

// decodeDocument turns the JSON decoder's errors into sentences that name the field.
func decodeDocument(name string, data []byte, document any) error {
	trimmed := bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff")))
	if len(trimmed) == 0 {
		return fmt.Errorf("%s metadata: it is empty", name)
	}
	if trimmed[0] != '{' {
		return fmt.Errorf("%s metadata: it is not a JSON object, it begins with %s", name, quoted(string(trimmed)))
	}
	err := json.Unmarshal(trimmed, document)
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrongType):
		return fmt.Errorf("%s metadata: %s is a JSON %s where %s is expected", name, quoted(wrongType.Field), wrongType.Value, expectedKind(wrongType))
	case errors.As(err, &syntax):
		return fmt.Errorf("%s metadata: it is not valid JSON at byte %d: %w", name, syntax.Offset, err)
	case err != nil:
		return fmt.Errorf("%s metadata: %w", name, err)
	}
	return nil
}

func expectedKind(wrong *json.UnmarshalTypeError) string {
	switch kind := wrong.Type.Kind().String(); kind {
	case "struct", "map":
		return "an object"
	case "slice":
		return "a list"
	case "string":
		return "text"
	case "bool":
		return "true or false"
	default:
		return kind
	}
}

func checkGroupCount(document string, count int) error {
	if count == 0 {
		return fmt.Errorf("%s metadata: groups is missing or empty: publish it with at least one payment group", document)
	}
	if count > maxGroups {
		return fmt.Errorf("%s metadata: it has %d groups, more than the %d allowed", document, count, maxGroups)
	}
	return nil
}

func parseGroupID(notes *notes, text string) (id [32]byte) {
	const fix = "it must be the base64 text (44 characters) of exactly 32 bytes"
	if text == "" {
		notes.fault("group_id is missing: %s", fix)
		return id
	}
	decoded, err := base64.StdEncoding.Strict().DecodeString(text)
	switch {
	case err != nil || strings.ContainsAny(text, "\r\n"): // the decoder would skip line ends, which clients sign
		notes.fault("group_id is %s, which is not base64: %s", quoted(text), fix)
	case len(decoded) != len(id):
		notes.fault("group_id is %s, which is %d bytes: %s", quoted(text), len(decoded), fix)
	default:
		copy(id[:], decoded)
	}
	return id
}

func parseAddress(notes *notes, field, text string) common.Address {
	const fix = "set an address of 40 hex digits with 0x in front"
	if text == "" {
		notes.fault("%s is missing: %s", field, fix)
		return common.Address{}
	}
	if !common.IsHexAddress(text) {
		notes.fault("%s is %s, which is not an address: %s", field, quoted(text), fix)
		return common.Address{}
	}
	address := common.HexToAddress(text)
	if address == (common.Address{}) {
		notes.fault("%s is the zero address: %s", field, fix)
	}
	digits := text[len(text)-40:]
	if digits != strings.ToLower(digits) && digits != strings.ToUpper(digits) && digits != address.Hex()[2:] {
		notes.warn("%s is %s, whose upper and lower case letters do not fit its checksum (EIP-55): check it for typing errors", field, text)
	}
	return address
}

func parseTimeout(notes *notes, field, text string) time.Duration {
	if text == "" {
		return 0
	}
	timeout, err := time.ParseDuration(text)
	if err != nil || timeout < 0 {
		notes.warn("payment.payment_channel_storage_client.%s is %s, which is not a time such as 15s: it is not used", field, quoted(text))
		return 0
	}
	return timeout
}

func parseWord(notes *notes, field, text, missing string, allowed ...string) string {
	if text == "" && missing != "" {
		return missing
	}
	for _, word := range allowed {
		if text == word {
			return word
		}
	}
	if text == "" {
		notes.fault("%s is missing: set %s", field, strings.Join(allowed, ", "))
	} else {
		notes.fault("%s is %s, which is not known: set one of %s", field, quoted(text), strings.Join(allowed, ", "))
	}
	return ""
}

func parseUint64(notes *notes, field string, text integerText) uint64 {
	number := parseInteger(notes, field, text)
	if !number.IsUint64() || number.Uint64() > math.MaxInt64 {
		notes.fault("%s is %s: the highest value is %d", field, quoted(string(text)), int64(math.MaxInt64))
		return 0
	}
	return number.Uint64()
}

// parseInteger reads a whole number from 0 to 2^256-1 in plain decimal digits.
func parseInteger(notes *notes, field string, text integerText) (number uint256.Int) {
	digits := string(text)
	switch {
	case digits == "":
		notes.fault("%s is missing: set a whole number", field)
	case strings.HasPrefix(digits, "-"):
		notes.fault("%s is %s: it must not be negative", field, quoted(digits))
	case strings.Trim(digits, "0123456789") != "":
		notes.fault("%s is %s: write a whole number in plain digits, without fraction, exponent or sign", field, quoted(digits))
	case len(digits) > 1 && digits[0] == '0':
		notes.fault("%s is %s: write it without zeros in front", field, quoted(digits))
	default:
		if err := number.SetFromDecimal(digits); err != nil {
			notes.fault("%s is %s: the highest value is 2^256-1", field, quoted(digits))
			return uint256.Int{}
		}
	}
	return number
}

// integerText is a JSON number, or text that holds one, just as it was written: a float would lose digits.
type integerText string

func (t *integerText) UnmarshalJSON(data []byte) error {
	*t = ""
	if bytes.Equal(data, []byte("null")) {
		return nil
	}
	if data[0] == '"' {
		return json.Unmarshal(data, (*string)(t))
	}
	*t = integerText(data) // not a number: the sentence of parseInteger names the field and shows this
	return nil
}

func (t integerText) missing() bool { return t == "" }

// notes collects all that is wrong, so that a publisher sees it at once.
type notes struct{ faults, warnings []string }

func (n *notes) fault(format string, values ...any) {
	n.faults = append(n.faults, fmt.Sprintf(format, values...))
}

func (n *notes) warn(format string, values ...any) {
	n.warnings = append(n.warnings, fmt.Sprintf(format, values...))
}

func (n *notes) err(document string) error {
	if len(n.faults) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %s", document, strings.Join(n.faults, "; "))
}

// joinFaults keeps two faults on one line, as a log has it.
func joinFaults(first, second error) error {
	if first == nil || second == nil {
		return errors.Join(first, second)
	}
	return fmt.Errorf("%w; %w", first, second)
}

// quoted shows outside text in a sentence: bounded, and without characters that would disturb a terminal or a log.
func quoted(text string) string {
	const limit = 80
	cut := ""
	if len(text) > limit {
		text, cut = text[:limit], "..."
		for len(text) > 0 && !utf8.ValidString(text) && limit-len(text) < utf8.UTFMax {
			text = text[:len(text)-1]
		}
	}
	clean := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(text, "?"))
	return `"` + clean + cut + `"`
}
