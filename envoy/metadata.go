package envoy

import (
	"strings"

	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// MetadataNamespace is where Envoy keeps the dynamic metadata of a CheckResponse.
const MetadataNamespace = "envoy.filters.http.ext_authz"

// MetadataCharge is the key of a charge in that namespace; its id is at MetadataChargeID below it.
const (
	MetadataCharge   = "charge"
	MetadataChargeID = "id"
)

// MetadataWeb is the namespace in which Envoy keeps what the access log would not know of a gRPC-Web call:
// the grpc-status that went out in the body, and the bytes of messages before it.
const (
	MetadataWeb       = "mpegate.web"
	MetadataWebOK     = "ok" // whether that status is 0
	MetadataWebStatus = "grpc_status"
	MetadataWebBytes  = "message_bytes"
)

// metadataTerms is the key, beside the id, of all that a refund needs. It is one text, because each further field costs
// every call an allocation or six on this side and again in Envoy.
const metadataTerms = "terms"

// Charged describes a charge while its call is under way: enough to refund it with nothing else at hand.
// Numbers are decimal text, since a Struct's own numbers are 64-bit floats; addresses and groups are hex. No field
// may hold a space.
type Charged struct {
	ID, Channel, Nonce, Amount, Price, ChainID, MPE, Group, PaymentType string
	// Sender of the channel when it was charged: after a reorganisation its id may be another sender's. May be empty.
	Sender string
}

// terms are the fields in the order in which they are written.
func (c *Charged) terms() [9]*string {
	return [...]*string{&c.PaymentType, &c.ChainID, &c.MPE, &c.Group, &c.Channel, &c.Nonce, &c.Amount, &c.Price, &c.Sender}
}

// Struct is the dynamic metadata of a charge.
func (c *Charged) Struct() *structpb.Struct {
	var text strings.Builder
	text.Grow(256)
	for i, field := range c.terms() {
		if i > 0 {
			text.WriteByte(' ')
		}
		text.WriteString(*field)
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		MetadataCharge: structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
			MetadataChargeID: structpb.NewStringValue(c.ID),
			metadataTerms:    structpb.NewStringValue(text.String()),
		}}),
	}}
}

// ChargedFrom reads what Struct wrote, and whether there was a charge.
func ChargedFrom(metadata *structpb.Struct) (Charged, bool) {
	fields := metadata.GetFields()[MetadataCharge].GetStructValue().GetFields()
	charged := Charged{ID: fields[MetadataChargeID].GetStringValue()}
	terms := charged.terms()
	texts := strings.Split(fields[metadataTerms].GetStringValue(), " ")
	if charged.ID == "" || len(texts) != len(terms) {
		return Charged{}, false
	}
	for i, field := range terms {
		*field = texts[i]
	}
	return charged, true
}

// ChargedFromLog returns the charge of a logged call, and whether there was one.
func ChargedFromLog(entry *dataaccesslogv3.HTTPAccessLogEntry) (Charged, bool) {
	return ChargedFrom(entry.GetCommonProperties().GetMetadata().GetFilterMetadata()[MetadataNamespace])
}
