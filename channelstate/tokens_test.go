package channelstate_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

func sharedOf(t testing.TB, store channelstate.Store) channelstate.SharedStore {
	t.Helper()
	shared, ok := store.(channelstate.SharedStore)
	if !ok {
		t.Fatalf("%T is not a shared store", store)
	}
	return shared
}

func openTokens(t testing.TB, shared channelstate.SharedStore, change ...func(*channelstate.TokenSettings)) *channelstate.Tokens {
	t.Helper()
	settings := channelstate.DefaultTokenSettings()
	for _, change := range change {
		change(&settings)
	}
	tokens, err := channelstate.OpenTokens(t.Context(), shared, group, settings, channelstate.DefaultSettings(), zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func issue(t testing.TB, tokens *channelstate.Tokens) string {
	t.Helper()
	channel := number(7)
	token, err := tokens.Issue(&channel, alice, "org", "group")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func checkToken(tokens *channelstate.Tokens, text string) (common.Address, error) {
	channel := number(7)
	return tokens.Check(text, &channel, "org", "group")
}

func wantGood(t *testing.T, what string, tokens *channelstate.Tokens, text string) {
	t.Helper()
	if user, err := checkToken(tokens, text); err != nil || user != alice {
		t.Errorf("%s: user %s, error %v", what, user, err)
	}
}

func wantRefused(t *testing.T, what string, tokens *channelstate.Tokens, text string) {
	t.Helper()
	if _, err := checkToken(tokens, text); !errors.Is(err, channelstate.ErrTokenInvalid) {
		t.Errorf("%s: %v", what, err)
	}
}

// Replicas that start at once agree on one key, and so do later ones.
func TestReplicasAgreeOnTheKeyOfTokens(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		shared := sharedOf(t, store)
		replicas := make([]*channelstate.Tokens, 8)
		for i, err := range atOnce(len(replicas), func(i int) (err error) {
			replicas[i], err = channelstate.OpenTokens(t.Context(), shared, group, channelstate.DefaultTokenSettings(),
				channelstate.DefaultSettings(), zap.NewNop())
			return err
		}) {
			if err != nil {
				t.Fatalf("replica %d: %v", i, err)
			}
		}
		replicas = append(replicas, openTokens(t, shared))
		for i := range replicas {
			wantGood(t, "a token of the next replica", replicas[i], issue(t, replicas[(i+1)%len(replicas)]))
		}
		other, err := channelstate.OpenTokens(t.Context(), shared, channelstate.Group{ChainID: 1}, channelstate.DefaultTokenSettings(),
			channelstate.DefaultSettings(), zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		wantRefused(t, "another group", other, issue(t, replicas[0]))
	})
}

func TestTokensOfAConfiguredSecret(t *testing.T) {
	shared := sharedOf(t, storetest.Memory(t))
	made := openTokens(t, shared)
	secret := func(text string) func(*channelstate.TokenSettings) {
		return func(s *channelstate.TokenSettings) { s.Secret = strings.Repeat(text, 32) }
	}
	first, second := openTokens(t, shared, secret("a")), openTokens(t, shared, secret("b"), func(s *channelstate.TokenSettings) {
		s.PreviousSecret = strings.Repeat("a", 32)
	})
	wantGood(t, "of the key made before", first, issue(t, made))
	wantGood(t, "of the previous secret", second, issue(t, first))
	wantRefused(t, "of a secret to come", first, issue(t, second))
	wantRefused(t, "of a secret that this replica does not have", made, issue(t, first))
	if _, err := first.Rotate(t.Context(), false); !errors.Is(err, channelstate.ErrTokenSecretConfigured) {
		t.Errorf("rotation: %v", err)
	}
	none, err := shared.LoadShared(t.Context(), channelstate.Group{ChainID: 2}, "token-keys")
	if err != nil || none.Revision != 0 {
		t.Errorf("a configured secret is stored: %+v, %v", none, err)
	}
}

func TestRotation(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		shared := sharedOf(t, store)
		here, there := openTokens(t, shared), openTokens(t, shared)
		old := issue(t, here)
		done, err := here.Rotate(t.Context(), false)
		if err != nil || !done.AcceptedUntil.After(done.SignsFrom) {
			t.Fatalf("rotation %+v, error %v", done, err)
		}
		wantGood(t, "a token of before", here, old)
		wantGood(t, "a token that the other replica must know before it has looked", there, issue(t, here))
		restarted := openTokens(t, shared)
		wantGood(t, "a token of before, after a restart", restarted, old)

		if _, err := there.Rotate(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, "a revoked token", there, old)
		wantRefused(t, "a revoked token, after a restart", openTokens(t, shared), old)
		wantGood(t, "a new token, after a restart", openTokens(t, shared), issue(t, there))
	})
}

func TestRotationsAtOnce(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		shared := sharedOf(t, store)
		replicas := []*channelstate.Tokens{openTokens(t, shared), openTokens(t, shared), openTokens(t, shared)}
		old := issue(t, replicas[0])
		for _, err := range atOnce(len(replicas), func(i int) error {
			_, err := replicas[i].Rotate(t.Context(), false)
			return err
		}) {
			if err != nil {
				t.Error(err)
			}
		}
		wantGood(t, "a token of before", openTokens(t, shared), old)
	})
}

// lostShared loses the first replies of writes, whether or not they arrived.
type lostShared struct {
	channelstate.SharedStore
	mu    sync.Mutex
	lose  int
	apply bool
}

func (l *lostShared) SwapShared(
	ctx context.Context, group channelstate.Group, name string, base int64, value []byte,
) (channelstate.Shared, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lose == 0 {
		return l.SharedStore.SwapShared(ctx, group, name, base, value)
	}
	l.lose--
	if l.apply {
		if _, _, err := l.SharedStore.SwapShared(ctx, group, name, base, value); err != nil {
			return channelstate.Shared{}, false, err
		}
	}
	return channelstate.Shared{}, false, channelstate.ErrOutcomeUnknown
}

func TestKeysOfTokensWhoseReplyIsLost(t *testing.T) {
	for _, apply := range []bool{true, false} {
		shared := &lostShared{SharedStore: sharedOf(t, storetest.Memory(t)), lose: 2, apply: apply}
		tokens := openTokens(t, shared)
		wantGood(t, "a token of another replica", openTokens(t, shared), issue(t, tokens))
		shared.mu.Lock()
		shared.lose = 2
		shared.mu.Unlock()
		if _, err := tokens.Rotate(t.Context(), true); err != nil {
			t.Error(err)
		}
		wantGood(t, "a token after the rotation", openTokens(t, shared), issue(t, tokens))
	}
	shared := &lostShared{SharedStore: sharedOf(t, storetest.Memory(t)), lose: 1000}
	_, err := channelstate.OpenTokens(t.Context(), shared, group, channelstate.DefaultTokenSettings(), channelstate.DefaultSettings(), zap.NewNop())
	if !errors.Is(err, channelstate.ErrUnavailable) {
		t.Errorf("a store that never answers: %v", err)
	}
}

func TestKeysOfTokensThatCannotBeRead(t *testing.T) {
	shared := sharedOf(t, storetest.Memory(t))
	if _, _, err := shared.SwapShared(t.Context(), group, "token-keys", 0, []byte{0xff}); err != nil {
		t.Fatal(err)
	}
	_, err := channelstate.OpenTokens(t.Context(), shared, group, channelstate.DefaultTokenSettings(), channelstate.DefaultSettings(), zap.NewNop())
	if !errors.Is(err, channelstate.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}

// A replica that only follows learns of the keys of the others.
func TestReplicasFollowRotations(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		shared := sharedOf(t, store)
		here, there := openTokens(t, shared), openTokens(t, shared)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- there.Run(ctx) }()
		if _, err := here.Rotate(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		token := issue(t, here)
		waitUntil(t, func() bool {
			_, err := checkToken(there, token)
			return err == nil
		})
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
