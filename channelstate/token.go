package channelstate

import (
	"errors"
	"fmt"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/golang-jwt/jwt/v5"
	"github.com/holiman/uint256"
)

// Token says what a prepaid token is good for. It is bound to a channel and
// not to a nonce: after a claim the client signs again and goes on with it.
type Token struct {
	Channel        uint256.Int
	User           common.Address // who asked for it
	OrganizationID string
	GroupID        string // base64, as in the organisation's metadata
	Expires        time.Time
}

// Why a token is not good. Both are of what the client has sent.
var (
	ErrTokenExpired = errors.New("token is expired")
	ErrTokenInvalid = errors.New("token is not valid")
)

const (
	// minTokenSecret is what HS256 asks for (RFC 7518 section 3.2), in bytes.
	minTokenSecret = 32
	// maxToken bounds what is read as a token, in bytes; ours have about 350.
	maxToken = 4096
)

// tokenAlgorithm is the only one: whoever could choose would choose a weak one.
var tokenAlgorithm = jwt.SigningMethodHS256

// claims are the JSON of a token (payment-protocol.md section 6.5), its fields
// in the order in which every maker of the network's tokens writes them.
type claims struct {
	Expires        *jwt.NumericDate `json:"exp"`
	GroupID        string           `json:"groupId"`
	OrganizationID string           `json:"orgId"`
	Channel        string           `json:"payload"` // decimal
	User           string           `json:"userAddress"`
}

func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.Expires, nil }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return nil, nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return nil, nil }
func (c *claims) GetIssuer() (string, error)                   { return "", nil }
func (c *claims) GetSubject() (string, error)                  { return "", nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)       { return nil, nil }

// Sign writes the token as a JWT (RFC 7519), signed with HMAC-SHA-256. It
// expires at a whole second.
func (t *Token) Sign(secret []byte) (string, error) {
	if len(secret) < minTokenSecret {
		return "", fmt.Errorf("the secret of tokens has %d bytes, it needs at least %d", len(secret), minTokenSecret)
	}
	text, err := jwt.NewWithClaims(tokenAlgorithm, &claims{
		Expires:        jwt.NewNumericDate(t.Expires),
		GroupID:        t.GroupID,
		OrganizationID: t.OrganizationID,
		Channel:        t.Channel.Dec(),
		User:           t.User.Hex(),
	}).SignedString(secret)
	if err != nil {
		return "", fmt.Errorf("the token could not be signed: %w", err)
	}
	return text, nil
}

// ReadToken reads a token that one of the secrets has signed and that has not
// expired. Errors wrap ErrTokenExpired or ErrTokenInvalid and never quote it.
func ReadToken(text string, secrets []jwt.VerificationKey, now time.Time) (Token, error) {
	if len(text) > maxToken {
		return Token{}, fmt.Errorf("%w: it has %d bytes, at most %d are read", ErrTokenInvalid, len(text), maxToken)
	}
	var read claims
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{tokenAlgorithm.Alg()}), jwt.WithExpirationRequired(), jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(func() time.Time { return now }))
	_, err := parser.ParseWithClaims(text, &read, func(*jwt.Token) (any, error) {
		return jwt.VerificationKeySet{Keys: secrets}, nil
	})
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return Token{}, ErrTokenExpired
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return Token{}, fmt.Errorf("%w: it does not say when it expires", ErrTokenInvalid)
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return Token{}, fmt.Errorf("%w: its signature is not ours", ErrTokenInvalid)
	case err != nil: // the library's text may quote a part of it
		return Token{}, fmt.Errorf("%w: it is not a JWT as GetToken gives it", ErrTokenInvalid)
	}
	return read.token()
}

func (c *claims) token() (Token, error) {
	read := Token{OrganizationID: c.OrganizationID, GroupID: c.GroupID, Expires: c.Expires.Time}
	if len(c.Channel) > 78 || read.Channel.SetFromDecimal(c.Channel) != nil || read.Channel.Dec() != c.Channel {
		return Token{}, fmt.Errorf("%w: its payload is not the id of a channel", ErrTokenInvalid)
	}
	if !common.IsHexAddress(c.User) {
		return Token{}, fmt.Errorf("%w: its userAddress is not an address", ErrTokenInvalid)
	}
	read.User = common.HexToAddress(c.User)
	return read, nil
}

// CheckFor refuses a token that is good for something else.
func (t *Token) CheckFor(channel *uint256.Int, organizationID, groupID string) error {
	if t.Channel != *channel || t.OrganizationID != organizationID || t.GroupID != groupID {
		return fmt.Errorf("%w: payload, organization or groupId of the token do not match", ErrTokenInvalid)
	}
	return nil
}
