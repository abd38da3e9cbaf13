package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/mpegate/mpegate/channelstate"
)

// RotatePath is where the admin listener takes a Rotate, as JSON.
const RotatePath = "/tokens/rotate"

// Rotate asks for a new key of prepaid tokens.
type Rotate struct {
	Revoke bool `json:"revoke"` // refuse tokens of the keys before
}

// Rotated says what has become of it.
type Rotated struct {
	SignsFrom     time.Time  `json:"signs_from"`                      // when tokens are signed with the new key
	AcceptedUntil *time.Time `json:"old_tokens_good_until,omitempty"` // absent when they are refused
}

// openTokens reads or makes the key of prepaid tokens and follows what other replicas do with it.
func (p *process) openTokens(ctx context.Context, store channelstate.SharedStore, group channelstate.Group) (*channelstate.Tokens, error) {
	tokens, err := channelstate.OpenTokens(ctx, store, group, p.settings.Payment, p.settings.ChannelState, p.logger.Logger)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", partState, qualify("payment", err))
	}
	p.tokens.Store(tokens)
	p.background("prepaid tokens", tokens.Run)
	return tokens, nil
}

// rotateTokens changes the key of prepaid tokens for all replicas. A web page that a person on this machine has open
// can send a request here, but none with this content type.
func (p *process) rotateTokens(writer http.ResponseWriter, request *http.Request) {
	if mediaType, _, err := mime.ParseMediaType(request.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		http.Error(writer, `send {"revoke": false} with content-type application/json`, http.StatusUnsupportedMediaType)
		return
	}
	var rotate Rotate
	decoder := json.NewDecoder(io.LimitReader(request.Body, 1<<10))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&rotate); err != nil {
		http.Error(writer, `send {"revoke": false} or {"revoke": true}`, http.StatusBadRequest)
		return
	}
	tokens := p.tokens.Load()
	if tokens == nil {
		http.Error(writer, "there are no prepaid tokens: the channel state is not open yet, or blockchain.enabled is false", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithTimeout(request.Context(), 10*time.Second)
	defer cancel()
	done, err := tokens.Rotate(ctx, rotate.Revoke)
	if err != nil {
		code := http.StatusConflict
		if errors.Is(err, channelstate.ErrUnavailable) || ctx.Err() != nil {
			code = http.StatusServiceUnavailable
		}
		http.Error(writer, p.redactor.Text(err.Error()), code)
		return
	}
	reply := Rotated{SignsFrom: done.SignsFrom.UTC()}
	if !done.AcceptedUntil.IsZero() {
		until := done.AcceptedUntil.UTC()
		reply.AcceptedUntil = &until
	}
	writer.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(writer).Encode(reply); err != nil {
		p.logger.Debug("nobody has read that the key of tokens was changed", zap.Error(err))
	}
}
