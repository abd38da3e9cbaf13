package authz

import (
	"fmt"
	"strconv"

	"github.com/mpegate/mpegate/envoy"
)

// outcome says how a decision went; each has one word for logs and metrics and one gRPC code.
type outcome uint8

// The zero outcome denies, so a decision that was never made cannot let a call pass.
const (
	undecided outcome = iota
	allowed
	allowedWithoutPayment
	notAMethod
	stopped
	unknownPaymentType
	missingHeader
	repeatedHeader
	malformedHeader
	noPrice
	invalidSignature
	notListed
	channelNotFound
	tooManyReads
	chainUnavailable
	metadataUnavailable
	otherRecipient
	otherGroup
	notSigner
	unknownBlock
	wrongNonce
	nearExpiry
	aboveValue
	notCovered
	alreadyAccepted
	notEnoughFunds
	channelChanged
	invalidToken
	tokenExpired
	usageExceeded
	freeTokenMalformed
	freeTokenInvalid
	freeTokenExpired
	signatureOld
	notTrusted
	balanceTooLow
	freeCallsUsedUp
	stateUnavailable
	deadlinePassed
	timedOut
	clientGone
	panicked
	outcomeCount
)

// outcomes is the one table of words and codes (payment-protocol.md section 6.1 and DESIGN.md section 2).
var outcomes = [outcomeCount]struct {
	word string
	code envoy.Code
}{
	undecided:             {"undecided", envoy.CodeInternal},
	allowed:               {"allowed", envoy.CodeOK},
	allowedWithoutPayment: {"allowed_without_payment", envoy.CodeOK},
	notAMethod:            {"not_a_method", envoy.CodeUnimplemented},
	stopped:               {"stopped", envoy.CodeUnavailable},
	unknownPaymentType:    {"unknown_payment_type", envoy.CodeInvalidArgument},
	missingHeader:         {"missing_header", envoy.CodeInvalidArgument},
	repeatedHeader:        {"repeated_header", envoy.CodeInvalidArgument},
	malformedHeader:       {"malformed_header", envoy.CodeInvalidArgument},
	noPrice:               {"no_price", envoy.CodePermissionDenied},
	invalidSignature:      {"invalid_signature", envoy.CodeUnauthenticated},
	notListed:             {"not_listed", envoy.CodeUnauthenticated},
	channelNotFound:       {"channel_not_found", envoy.CodeUnauthenticated},
	tooManyReads:          {"too_many_reads", envoy.CodeResourceExhausted},
	chainUnavailable:      {"chain_unavailable", envoy.CodeUnavailable},
	metadataUnavailable:   {"metadata_unavailable", envoy.CodeUnavailable},
	otherRecipient:        {"other_recipient", envoy.CodeUnauthenticated},
	otherGroup:            {"other_group", envoy.CodeUnauthenticated},
	notSigner:             {"not_signer", envoy.CodeUnauthenticated},
	unknownBlock:          {"unknown_block", envoy.CodeUnavailable},
	wrongNonce:            {"wrong_nonce", envoy.CodeIncorrectNonce},
	nearExpiry:            {"near_expiry", envoy.CodeUnauthenticated},
	aboveValue:            {"above_value", envoy.CodeUnauthenticated},
	notCovered:            {"not_covered", envoy.CodeUnauthenticated},
	alreadyAccepted:       {"already_accepted", envoy.CodeUnauthenticated},
	notEnoughFunds:        {"not_enough_funds", envoy.CodeUnauthenticated},
	channelChanged:        {"channel_changed", envoy.CodeUnavailable},
	invalidToken:          {"invalid_token", envoy.CodeUnauthenticated},
	tokenExpired:          {"token_expired", envoy.CodeUnauthenticated},
	usageExceeded:         {"usage_exceeded", envoy.CodeResourceExhausted},
	freeTokenMalformed:    {"free_token_malformed", envoy.CodeInvalidArgument},
	freeTokenInvalid:      {"free_token_invalid", envoy.CodeUnauthenticated},
	freeTokenExpired:      {"free_token_expired", envoy.CodeUnauthenticated},
	signatureOld:          {"signature_expired", envoy.CodeUnauthenticated},
	notTrusted:            {"not_trusted", envoy.CodePermissionDenied},
	balanceTooLow:         {"balance_too_low", envoy.CodePermissionDenied},
	freeCallsUsedUp:       {"free_calls_used_up", envoy.CodeResourceExhausted},
	stateUnavailable:      {"state_unavailable", envoy.CodeUnavailable},
	deadlinePassed:        {"deadline_passed", envoy.CodeDeadlineExceeded},
	timedOut:              {"timed_out", envoy.CodeUnavailable},
	clientGone:            {"client_gone", envoy.CodeCancelled},
	panicked:              {"panicked", envoy.CodeInternal},
}

func (o outcome) String() string { return outcomes[o].word }

// verdict is a decision about one call. The zero verdict denies.
type verdict struct {
	outcome outcome
	message string         // for the client of a denied call
	user    string         // of an allowed call: the verified address that pays
	charged *envoy.Charged // of an allowed call: what a refund needs; nil when nothing was taken
	cause   error          // for the debug log; never sent to the client
}

func (v *verdict) allows() bool { return v.outcome == allowed || v.outcome == allowedWithoutPayment }

func deny(outcome outcome, message string) *verdict {
	return &verdict{outcome: outcome, message: message}
}

func denyFor(outcome outcome, cause error, message string) *verdict {
	return &verdict{outcome: outcome, message: message, cause: cause}
}

func denyf(outcome outcome, format string, arguments ...any) *verdict {
	return deny(outcome, fmt.Sprintf(format, arguments...))
}

// maxShown is enough for any number of 256 bits.
const maxShown = 80

// shown makes a client's text fit for a message: printable ASCII of a bounded length, without quotes around it.
func shown(text string) string {
	cut := ""
	if len(text) > maxShown {
		text, cut = text[:maxShown], "..."
	}
	quoted := strconv.QuoteToASCII(text)
	return quoted[1:len(quoted)-1] + cut
}
