package channelstate

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/golang-jwt/jwt/v5"
	"github.com/holiman/uint256"
	"go.uber.org/zap"
)

const (
	sharedTokenKeys = "token-keys"
	// tokenKeysInterval is how often a replica looks for keys of the others
	// where the store cannot tell of them.
	tokenKeysInterval = 3 * time.Second
	// tokenKeysNotice is how long a new key is known before it signs, so that
	// no replica meets a token of a key that it has not seen yet.
	tokenKeysNotice = 15 * time.Second
	// sharedAttempts bounds how often a shared value is written again because
	// another replica was faster.
	sharedAttempts = 8
)

// ErrTokenSecretConfigured: tokens are signed with a secret of the settings.
var ErrTokenSecretConfigured = errors.New("payment.token_secret is set, so it is changed there: move it to " +
	"payment.previous_token_secret, write a new payment.token_secret, and restart the replicas one after the other")

// Tokens issues and checks prepaid tokens. Checking asks nobody. It is safe
// for concurrent use.
type Tokens struct {
	shared   SharedStore
	group    Group
	settings TokenSettings
	timeout  time.Duration // of one request to the store
	logger   *zap.Logger
	now      func() time.Time

	mu   sync.Mutex // guards changes of ring
	ring atomic.Pointer[tokenRing]
}

// tokenRing is what was last read of the store.
type tokenRing struct {
	keys     tokenKeys
	accepted []jwt.VerificationKey // those of the settings too
	revision int64
}

// OpenTokens reads the keys that the replicas of the group share, and makes
// the first one when there is none and the settings have no secret. Run keeps
// them up to date.
func OpenTokens(
	ctx context.Context, shared SharedStore, group Group, settings TokenSettings, store Settings, logger *zap.Logger,
) (*Tokens, error) {
	if err := settings.Validate(); err != nil {
		return nil, err
	}
	t := &Tokens{
		shared: shared, group: group, settings: settings, timeout: store.Etcd.RequestTimeout, logger: logger, now: time.Now,
	}
	if err := t.refresh(ctx); err != nil {
		return nil, err
	}
	if t.settings.Secret != "" || len(t.ring.Load().keys) > 0 {
		return t, nil
	}
	return t, t.update(ctx, func(keys tokenKeys) (tokenKeys, error) {
		if len(keys) > 0 { // another replica was faster
			return nil, nil
		}
		return tokenKeys{{secret: newTokenSecret(), signsFrom: t.now()}}, nil
	})
}

func newTokenSecret() []byte {
	secret := make([]byte, minTokenSecret)
	rand.Read(secret) // ends the process itself when the system has no randomness
	return secret
}

// Issue makes a token for a channel. organizationID and groupID are those of
// the metadata.
func (t *Tokens) Issue(channel *uint256.Int, user common.Address, organizationID, groupID string) (string, error) {
	now := t.now()
	token := Token{
		Channel: *channel, User: user, OrganizationID: organizationID, GroupID: groupID, Expires: now.Add(t.settings.Lifetime),
	}
	secret := []byte(t.settings.Secret)
	if len(secret) == 0 {
		secret = t.ring.Load().keys.signing(now)
	}
	return token.Sign(secret)
}

// Check tells whose token it is, if it is a good one for the channel. Errors
// wrap ErrTokenExpired or ErrTokenInvalid.
func (t *Tokens) Check(text string, channel *uint256.Int, organizationID, groupID string) (common.Address, error) {
	token, err := ReadToken(text, t.ring.Load().accepted, t.now())
	if err != nil {
		return common.Address{}, err
	}
	if err := token.CheckFor(channel, organizationID, groupID); err != nil {
		return common.Address{}, err
	}
	return token.User, nil
}

// Run follows the keys of the other replicas until the context ends.
func (t *Tokens) Run(ctx context.Context) error {
	pause := newPause(tokenKeysInterval, tokenKeysInterval)
	failing := false
	for {
		err := t.follow(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			t.logger.Warn("the keys of prepaid tokens cannot be followed, those known are used", zap.Error(err))
		}
		failing = err != nil
		if !pause.wait(ctx) {
			return nil
		}
	}
}

// follow takes over what is stored until that has to be asked again.
func (t *Tokens) follow(ctx context.Context) error {
	watcher, ok := t.shared.(sharedWatcher)
	if !ok {
		return t.refresh(ctx)
	}
	return watcher.WatchShared(ctx, t.group, sharedTokenKeys, func(stored Shared) {
		if err := t.take(stored); err != nil {
			t.logger.Error("the keys of prepaid tokens cannot be read, those known are used", zap.Error(err))
		}
	})
}

func (t *Tokens) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	stored, err := t.shared.LoadShared(ctx, t.group, sharedTokenKeys)
	if err != nil {
		return unavailable(err)
	}
	return t.take(stored)
}

// take uses what is stored from now on, unless something newer is known.
func (t *Tokens) take(stored Shared) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.ring.Load(); known != nil && stored.Revision < known.revision {
		return nil
	}
	ring := &tokenRing{revision: stored.Revision}
	for _, secret := range []string{t.settings.Secret, t.settings.PreviousSecret} {
		if secret != "" {
			ring.accepted = append(ring.accepted, []byte(secret))
		}
	}
	if stored.Revision != 0 {
		keys, err := decodeTokenKeys(stored.Value)
		if err != nil {
			return err
		}
		ring.keys, ring.accepted = keys, keys.accepted(t.now(), ring.accepted)
	}
	t.ring.Store(ring)
	return nil
}

// update writes keys made from those stored, unless there are none, and uses them.
func (t *Tokens) update(ctx context.Context, change func(tokenKeys) (tokenKeys, error)) error {
	pause := newPause(5*time.Millisecond, 200*time.Millisecond)
	for range sharedAttempts {
		current := t.ring.Load()
		next, err := change(current.keys)
		if err != nil || next == nil {
			return err
		}
		value, err := next.encode()
		if err != nil {
			return err
		}
		stored, swapped, err := t.swap(ctx, current.revision, value)
		switch {
		case errors.Is(err, ErrOutcomeUnknown):
			if err := t.refresh(ctx); err != nil {
				return err
			}
			if seen := t.ring.Load().keys; seen.has(next[len(next)-1].secret) {
				return nil
			}
		case err != nil:
			return unavailable(err)
		default:
			if err := t.take(stored); err != nil || swapped {
				return err
			}
		}
		if !pause.wait(ctx) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("%w: the keys of tokens are written by others too often", ErrUnavailable)
}

func (t *Tokens) swap(ctx context.Context, base int64, value []byte) (Shared, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.shared.SwapShared(ctx, t.group, sharedTokenKeys, base, value)
}

func (k tokenKeys) has(secret []byte) bool {
	for i := range k {
		if bytes.Equal(k[i].secret, secret) {
			return true
		}
	}
	return false
}

// Rotation says what a change of the key of tokens means.
type Rotation struct {
	SignsFrom     time.Time // when tokens are signed with the new key
	AcceptedUntil time.Time // until when tokens of the old one are good; zero when they no longer are
}

// Rotate makes a new key of tokens for all replicas. Tokens of the old keys
// stay good for their lifetime; with revoke they are refused as soon as the
// replicas know of it, which takes seconds, and clients ask for new ones.
// Errors: ErrTokenSecretConfigured, or one that wraps ErrUnavailable.
func (t *Tokens) Rotate(ctx context.Context, revoke bool) (Rotation, error) {
	if t.settings.Secret != "" {
		return Rotation{}, ErrTokenSecretConfigured
	}
	if err := t.refresh(ctx); err != nil {
		return Rotation{}, err
	}
	var done Rotation
	secret := newTokenSecret()
	err := t.update(ctx, func(keys tokenKeys) (tokenKeys, error) {
		now := t.now()
		if revoke {
			done = Rotation{SignsFrom: now}
			return tokenKeys{{secret: secret, signsFrom: now}}, nil
		}
		signsFrom := now.Add(tokenKeysNotice)
		done = Rotation{SignsFrom: signsFrom, AcceptedUntil: signsFrom.Add(t.settings.Lifetime)}
		return keys.rotated(secret, now, signsFrom, t.settings.Lifetime)
	})
	if err != nil {
		return Rotation{}, err
	}
	t.logger.Info("the key of prepaid tokens was changed", zap.Time("signs_from", done.SignsFrom),
		zap.Time("old_accepted_until", done.AcceptedUntil), zap.Bool("revoked", revoke))
	return done, nil
}
