package channelstate

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/golang-jwt/jwt/v5"
)

// V12 of payment-protocol.md section 5.
const (
	vectorSecret = "spec-vector-secret-0123456789abcdef"
	vectorToken  = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE4OTM0NTYwMDAsImdyb3VwSWQiOiJBQUVDQXdRRkJnY0lDUW9MREEwT0R4QVJFaE1VRlJZWEdCa2FHeHdkSGg4PSIsIm9yZ0lkIjoiZXhhbXBsZS1vcmciLCJwYXlsb2FkIjoiMTIzNCIsInVzZXJBZGRyZXNzIjoiMHhGQ0FkMEIxOWJCMjlENDY3NDUzMWQ2ZjExNTIzN0UxNkFmQ0UzNzdjIn0.BG6KNsOE7ww86e0ZZ6qw_zGNp8wkxTXlFuiDhCx07jU"
	vectorGroup  = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
)

var vectorExpiry = time.Unix(1893456000, 0)

func vector() Token {
	return Token{
		Channel: number(1234), User: common.HexToAddress("0xFCAd0B19bB29D4674531d6f115237E16AfCE377c"),
		OrganizationID: "example-org", GroupID: vectorGroup, Expires: vectorExpiry,
	}
}

func keysOf(secrets ...string) []jwt.VerificationKey {
	keys := make([]jwt.VerificationKey, len(secrets))
	for i, secret := range secrets {
		keys[i] = []byte(secret)
	}
	return keys
}

func TestTokenVector(t *testing.T) {
	token := vector()
	text, err := token.Sign([]byte(vectorSecret))
	if err != nil || text != vectorToken {
		t.Errorf("signed %s, error %v", text, err)
	}
	read, err := ReadToken(vectorToken, keysOf(vectorSecret), vectorExpiry.Add(-time.Second))
	if err != nil || !read.Expires.Equal(vectorExpiry) {
		t.Fatalf("read %+v, error %v", read, err)
	}
	read.Expires = vectorExpiry
	if read != token {
		t.Errorf("read %+v, want %+v", read, token)
	}
}

// resigned is the vector with another header or claims, signed by the vector's secret.
func resigned(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	all := jwt.MapClaims{
		"exp": vectorExpiry.Unix(), "groupId": vectorGroup, "orgId": "example-org", "payload": "1234",
		"userAddress": "0xFCAd0B19bB29D4674531d6f115237E16AfCE377c",
	}
	for name, value := range claims {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	text, err := jwt.NewWithClaims(method, all).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTokensThatAreNotGood(t *testing.T) {
	secret := []byte(vectorSecret)
	with := func(claims jwt.MapClaims) string { return resigned(t, jwt.SigningMethodHS256, secret, claims) }
	parts := strings.Split(vectorToken, ".")
	for name, test := range map[string]struct {
		text string
		err  error
	}{
		"expired":                   {with(jwt.MapClaims{"exp": 1700000000}), ErrTokenExpired},
		"no expiry":                 {with(jwt.MapClaims{"exp": nil}), ErrTokenInvalid},
		"expiry of zero":            {with(jwt.MapClaims{"exp": 0}), ErrTokenExpired},
		"another secret":            {resigned(t, jwt.SigningMethodHS256, []byte(strings.Repeat("x", 32)), nil), ErrTokenInvalid},
		"HS512":                     {resigned(t, jwt.SigningMethodHS512, secret, nil), ErrTokenInvalid},
		"HS384":                     {resigned(t, jwt.SigningMethodHS384, secret, nil), ErrTokenInvalid},
		"none":                      {resigned(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), ErrTokenInvalid},
		"no signature":              {parts[0] + "." + parts[1] + ".", ErrTokenInvalid},
		"signature of another":      {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1893456001}`)) + "." + parts[2], ErrTokenInvalid},
		"signature with spare bits": {vectorToken[:len(vectorToken)-1] + "V", ErrTokenInvalid},
		"empty":                     {"", ErrTokenInvalid},
		"no JWT":                    {"Bearer abc", ErrTokenInvalid},
		"channel as a number":       {with(jwt.MapClaims{"payload": 1234}), ErrTokenInvalid},
		"no channel":                {with(jwt.MapClaims{"payload": nil}), ErrTokenInvalid},
		"channel in hex":            {with(jwt.MapClaims{"payload": "0x4d2"}), ErrTokenInvalid},
		"channel with zeros":        {with(jwt.MapClaims{"payload": "01234"}), ErrTokenInvalid},
		"channel beyond all":        {with(jwt.MapClaims{"payload": strings.Repeat("9", 78)}), ErrTokenInvalid},
		"negative channel":          {with(jwt.MapClaims{"payload": "-1"}), ErrTokenInvalid},
		"no address":                {with(jwt.MapClaims{"userAddress": "alice"}), ErrTokenInvalid},
		"too long":                  {with(jwt.MapClaims{"more": strings.Repeat("x", maxToken)}), ErrTokenInvalid},
	} {
		read, err := ReadToken(test.text, keysOf(vectorSecret), vectorExpiry.Add(-time.Hour))
		if !errors.Is(err, test.err) {
			t.Errorf("%s: read %+v, error %v, want %v", name, read, err, test.err)
		} else if strings.Contains(err.Error(), "eyJ") {
			t.Errorf("%s: the error quotes the token: %v", name, err)
		}
	}
	if _, err := ReadToken(vectorToken, keysOf(vectorSecret), vectorExpiry); !errors.Is(err, ErrTokenExpired) {
		t.Errorf("at its last moment: %v", err)
	}
	if _, err := ReadToken(vectorToken, nil, vectorExpiry.Add(-time.Hour)); !errors.Is(err, ErrTokenInvalid) {
		t.Errorf("without a key: %v", err)
	}
	if _, err := ReadToken(vectorToken, keysOf(strings.Repeat("y", 32), vectorSecret), vectorExpiry.Add(-time.Hour)); err != nil {
		t.Errorf("by the second of two keys: %v", err)
	}
}

func TestTokenIsBound(t *testing.T) {
	token := vector()
	channel, other := number(1234), number(1235)
	if err := token.CheckFor(&channel, "example-org", vectorGroup); err != nil {
		t.Error(err)
	}
	for _, err := range []error{
		token.CheckFor(&other, "example-org", vectorGroup), token.CheckFor(&channel, "example", vectorGroup),
		token.CheckFor(&channel, "example-org", "AAAA"), token.CheckFor(&channel, "", ""),
	} {
		if !errors.Is(err, ErrTokenInvalid) {
			t.Errorf("a token for something else: %v", err)
		}
	}
}

func TestTokenNeedsASecret(t *testing.T) {
	token := vector()
	for _, secret := range [][]byte{nil, make([]byte, 31)} {
		if text, err := token.Sign(secret); err == nil {
			t.Errorf("signed with %d bytes: %s", len(secret), text)
		}
	}
}

// Nothing but what was signed with a key is read, and what is read is what Sign writes.
func FuzzReadToken(f *testing.F) {
	f.Add(vectorToken)
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	parts := strings.Split(vectorToken, ".")
	f.Add(parts[0] + "." + parts[1] + "." + parts[1])
	f.Fuzz(func(t *testing.T, text string) {
		read, err := ReadToken(text, keysOf(vectorSecret), vectorExpiry.Add(-time.Hour))
		if err != nil {
			if !errors.Is(err, ErrTokenInvalid) && !errors.Is(err, ErrTokenExpired) {
				t.Fatalf("unknown error %v", err)
			}
			return
		}
		if text != vectorToken {
			t.Fatalf("a token that nobody has signed is good: %q says %+v", text, read)
		}
	})
}

// Claims of any content, rightly signed, are read as they are or refused.
func FuzzTokenClaims(f *testing.F) {
	for _, claims := range []string{`{"exp":1893456000,"payload":"1"}`, `{}`, `[]`, `{"exp":1e400}`, `{"exp":-1,"payload":{}}`, `{"exp":NaN}`} {
		f.Add([]byte(claims))
	}
	f.Fuzz(func(t *testing.T, claims []byte) {
		signed := strings.Split(vectorToken, ".")[0] + "." + base64.RawURLEncoding.EncodeToString(claims)
		signature, err := jwt.SigningMethodHS256.Sign(signed, []byte(vectorSecret))
		if err != nil {
			t.Fatal(err)
		}
		now := vectorExpiry.Add(-time.Hour)
		read, err := ReadToken(signed+"."+base64.RawURLEncoding.EncodeToString(signature), keysOf(vectorSecret), now)
		if err != nil {
			return
		}
		if !read.Expires.After(now) {
			t.Fatalf("an expired token is good: %+v", read)
		}
		again, err := read.Sign([]byte(vectorSecret))
		if err != nil {
			t.Skip(err) // an expiry that JSON cannot write
		}
		second, err := ReadToken(again, keysOf(vectorSecret), read.Expires.Add(-2*time.Second))
		if err != nil || second.Channel != read.Channel || second.User != read.User {
			t.Fatalf("read %+v, then %+v, error %v", read, second, err)
		}
	})
}

func TestTokenKeys(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	const lifetime = time.Hour
	secret := func(i byte) []byte { return bytes.Repeat([]byte{i}, 32) }
	keys := tokenKeys{{secret: secret(1), signsFrom: start.Add(time.Second)}} // by a clock that is ahead
	var err error
	if keys, err = keys.rotated(secret(2), start, start.Add(15*time.Second), lifetime); err != nil {
		t.Fatal(err)
	}
	if keys, err = keys.rotated(secret(3), start.Add(5*time.Second), start.Add(20*time.Second), lifetime); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		at       time.Duration
		signing  byte
		accepted int
	}{
		{0, 1, 3}, {14 * time.Second, 1, 3}, {15 * time.Second, 2, 3}, {19 * time.Second, 2, 3}, {20 * time.Second, 3, 3},
		{lifetime + 14*time.Second, 3, 3}, {lifetime + 15*time.Second, 3, 2}, {lifetime + 20*time.Second, 3, 1}, {100 * lifetime, 3, 1},
	} {
		now := start.Add(test.at)
		if got := keys.signing(now); !bytes.Equal(got, secret(test.signing)) {
			t.Errorf("after %s key %d signs, want %d", test.at, got[0], test.signing)
		}
		if got := keys.accepted(now, nil); len(got) != test.accepted {
			t.Errorf("after %s %d keys are accepted, want %d", test.at, len(got), test.accepted)
		}
	}
	data, err := keys.encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := decodeTokenKeys(data)
	if err != nil || len(read) != len(keys) {
		t.Fatalf("read %+v, error %v", read, err)
	}
	for i := range keys {
		if !bytes.Equal(read[i].secret, keys[i].secret) || !read[i].signsFrom.Equal(keys[i].signsFrom) || !read[i].acceptedUntil.Equal(keys[i].acceptedUntil) {
			t.Errorf("key %d is read as %+v, want %+v", i, read[i], keys[i])
		}
	}
	if later, err := keys.rotated(secret(4), start.Add(2*lifetime), start.Add(2*lifetime), lifetime); err != nil || len(later) != 2 {
		t.Errorf("keys that are not accepted any more are kept: %+v, error %v", later, err)
	}
	for err == nil && len(keys) <= maxTokenKeys {
		keys, err = keys.rotated(secret(9), start, start, lifetime)
	}
	if err == nil {
		t.Errorf("%d keys are kept", len(keys))
	}
}

func TestTokenKeysThatCannotBeRead(t *testing.T) {
	good, err := tokenKeys{{secret: make([]byte, 32)}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	short, err := tokenKeys{{secret: make([]byte, 31)}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	newer := append(bytes.Clone(good), 0x08, 0x02) // the last format counts
	for name, data := range map[string][]byte{"empty": nil, "no message": {0xff}, "short secret": short, "newer": newer} {
		if keys, err := decodeTokenKeys(data); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: read %+v, error %v", name, keys, err)
		}
	}
}

func TestTokenSettings(t *testing.T) {
	for _, test := range []struct {
		change func(*TokenSettings)
		fault  string
	}{
		{func(*TokenSettings) {}, ""},
		{func(s *TokenSettings) { s.Secret, s.PreviousSecret = vectorSecret, strings.Repeat("z", 32) }, ""},
		{func(s *TokenSettings) { s.Secret = "test-secret-key-at-least-32-bytes-long" }, "token_secret is the public default of snetd"},
		{func(s *TokenSettings) {
			s.Secret, s.PreviousSecret = vectorSecret, "test-secret-key-at-least-32-bytes-long"
		}, "previous_token_secret is the public default of snetd"},
		{func(s *TokenSettings) { s.Secret = strings.Repeat("q", 31) }, "token_secret has 31 bytes: write at least 32"},
		{func(s *TokenSettings) { s.PreviousSecret = vectorSecret }, "previous_token_secret is set and token_secret is not"},
		{func(s *TokenSettings) { s.Lifetime = 0 }, "token_lifetime is 0s: write a duration from 1m0s to 8784h0m0s"},
		{func(s *TokenSettings) { s.Lifetime = 10000 * time.Hour }, "token_lifetime is 10000h0m0s"},
	} {
		settings := DefaultTokenSettings()
		test.change(&settings)
		err := settings.Validate()
		if test.fault == "" && err != nil || test.fault != "" && (err == nil || !strings.HasPrefix(err.Error(), test.fault)) {
			t.Errorf("fault %v, want %q", err, test.fault)
		}
		if err != nil && (strings.Contains(err.Error(), "qqq") || strings.Contains(err.Error(), vectorSecret)) {
			t.Errorf("the fault shows the secret: %v", err)
		}
	}
}
