package channelstate

import (
	"errors"
	"fmt"
	"time"
)

// TokenSettings say how prepaid tokens are signed and how long they are good.
type TokenSettings struct {
	Secret         string        `koanf:"token_secret" secret:"true" help:"Secret that prepaid tokens are signed with, at least 32 bytes, the same for all replicas. Empty: one is made and kept in the channel state."`
	PreviousSecret string        `koanf:"previous_token_secret" secret:"true" help:"The token_secret before the last change; its tokens stay good. Remove it once payment.token_lifetime has passed."`
	Lifetime       time.Duration `koanf:"token_lifetime" help:"How long a prepaid token is good; a client asks for a new one at no cost."`
}

// Bounds of payment.token_lifetime.
const (
	minTokenLifetime = time.Minute
	maxTokenLifetime = 366 * 24 * time.Hour
)

// publicTokenSecrets are defaults that everybody knows: the peer daemon's.
var publicTokenSecrets = []string{"test-secret-key-at-least-32-bytes-long"}

// DefaultTokenSettings work without a change.
func DefaultTokenSettings() TokenSettings { return TokenSettings{Lifetime: 24 * time.Hour} }

// Validate names every setting that cannot be used and what to write instead.
func (s *TokenSettings) Validate() error {
	var faults []error
	for _, secret := range []struct{ key, value string }{
		{"token_secret", s.Secret}, {"previous_token_secret", s.PreviousSecret},
	} {
		if fault := checkTokenSecret(secret.value); fault != "" {
			faults = append(faults, fmt.Errorf("%s %s", secret.key, fault))
		}
	}
	if s.PreviousSecret != "" && s.Secret == "" {
		faults = append(faults, errors.New("previous_token_secret is set and token_secret is not: set token_secret, or remove both"))
	}
	if s.Lifetime < minTokenLifetime || s.Lifetime > maxTokenLifetime {
		faults = append(faults, fmt.Errorf("token_lifetime is %s: write a duration from %s to %s, such as 24h",
			s.Lifetime, minTokenLifetime, maxTokenLifetime))
	}
	return errors.Join(faults...)
}

func checkTokenSecret(secret string) (fault string) {
	if secret == "" {
		return ""
	}
	for _, public := range publicTokenSecrets {
		if secret == public {
			return "is the public default of snetd, with which anybody can make tokens: write one of your own, " +
				"or remove it to have one made"
		}
	}
	if len(secret) < minTokenSecret {
		return fmt.Sprintf("has %d bytes: write at least %d random ones, or remove it to have one made", len(secret), minTokenSecret)
	}
	return ""
}
