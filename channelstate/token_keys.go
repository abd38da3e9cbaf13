package channelstate

import (
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/proto"

	recordpb "github.com/mpegate/mpegate/channelstate/proto/record"
)

const (
	tokenKeysFormat = 1
	// maxTokenKeys bounds the keys kept beside each other. Each token may have
	// to be tried with all.
	maxTokenKeys = 16
)

// tokenKey is a secret of tokens that the replicas share.
type tokenKey struct {
	secret        []byte
	signsFrom     time.Time // when all replicas know it
	acceptedUntil time.Time // when its last token has expired; zero for the newest key
}

// tokenKeys are the keys of a group, oldest first. They are never changed.
type tokenKeys []tokenKey

// signing is the newest key that all replicas know. The first key has no
// other replica to wait for.
func (k tokenKeys) signing(now time.Time) []byte {
	for i := len(k) - 1; i > 0; i-- {
		if !k[i].signsFrom.After(now) {
			return k[i].secret
		}
	}
	if len(k) == 0 {
		return nil
	}
	return k[0].secret
}

// accepted adds the keys whose tokens may still be good.
func (k tokenKeys) accepted(now time.Time, keys []jwt.VerificationKey) []jwt.VerificationKey {
	for i := range k {
		if k[i].isAccepted(now) {
			keys = append(keys, k[i].secret)
		}
	}
	return keys
}

func (k *tokenKey) isAccepted(now time.Time) bool {
	return k.acceptedUntil.IsZero() || now.Before(k.acceptedUntil)
}

// rotated adds a key that signs from a moment on. The others are accepted
// until the last token they sign before it has expired.
func (k tokenKeys) rotated(secret []byte, now, signsFrom time.Time, lifetime time.Duration) (tokenKeys, error) {
	var next tokenKeys
	for _, key := range k {
		if !key.isAccepted(now) {
			continue
		}
		if key.acceptedUntil.IsZero() {
			key.acceptedUntil = signsFrom.Add(lifetime)
		}
		next = append(next, key)
	}
	if len(next) >= maxTokenKeys {
		return nil, fmt.Errorf("%d keys of tokens are still accepted, no more are kept: the oldest is let go at %s",
			len(next), next[0].acceptedUntil.UTC().Format(time.RFC3339))
	}
	return append(next, tokenKey{secret: secret, signsFrom: signsFrom}), nil
}

func (k tokenKeys) encode() ([]byte, error) {
	message := &recordpb.TokenKeys{Format: tokenKeysFormat}
	for _, key := range k {
		encoded := &recordpb.TokenKey{Secret: key.secret, SignsFrom: key.signsFrom.Unix()}
		if !key.acceptedUntil.IsZero() {
			encoded.AcceptedUntil = key.acceptedUntil.Unix()
		}
		message.Keys = append(message.Keys, encoded)
	}
	return proto.Marshal(message)
}

// decodeTokenKeys refuses keys that cannot sign: a token signed with an empty
// secret is one that anybody can make.
func decodeTokenKeys(data []byte) (tokenKeys, error) {
	var message recordpb.TokenKeys
	if err := proto.Unmarshal(data, &message); err != nil {
		return nil, fmt.Errorf("%w: keys of tokens", ErrCorrupt) // the library's text may quote one
	}
	d := decoder{what: "keys of tokens"}
	d.require(message.GetFormat() == tokenKeysFormat, "their format is not known here (a newer version of this program wrote them?)")
	d.require(len(message.GetKeys()) > 0, "there is none")
	var keys tokenKeys
	for _, encoded := range message.GetKeys() {
		d.require(len(encoded.GetSecret()) >= minTokenSecret, "a secret is too short")
		key := tokenKey{secret: encoded.GetSecret(), signsFrom: time.Unix(encoded.GetSignsFrom(), 0)}
		if until := encoded.GetAcceptedUntil(); until != 0 {
			key.acceptedUntil = time.Unix(until, 0)
		}
		keys = append(keys, key)
	}
	if d.err != nil {
		return nil, d.err
	}
	return keys, nil
}
