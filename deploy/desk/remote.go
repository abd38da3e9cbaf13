package desk

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// Remote are the books of a running process, asked at its admin listener.
type Remote struct {
	Address string            // host:port
	Key     *ecdsa.PrivateKey // of the payment address; nil can only read
	Block   func(ctx context.Context) (uint64, error)
}

// ErrNobody: no process listens at the admin address.
var ErrNobody = errors.New("nobody listens there")

const (
	remoteTimeout = 30 * time.Second
	maxReply      = 16 << 20
)

var errNoKey = errors.New("the key of the payment address is needed for this: give --keystore and --password-file, or --key-file")

// Terms asks whose books these are.
func (r *Remote) Terms(ctx context.Context) (Terms, error) {
	answer, err := r.ask(ctx, askTerms, &request{})
	if err != nil {
		return Terms{}, err
	}
	if answer.Terms == nil {
		return Terms{}, fmt.Errorf("what answers at %s is no mpegate", r.Address)
	}
	return *answer.Terms, nil
}

// Channels lists a page of the records.
func (r *Remote) Channels(ctx context.Context, cursor string) ([]Holding, string, error) {
	answer, err := r.ask(ctx, askChannels, &request{Cursor: cursor})
	if err != nil {
		return nil, "", err
	}
	return answer.Holdings, answer.Next, nil
}

// Claims lists a page of the claims.
func (r *Remote) Claims(ctx context.Context, cursor string) ([]channelstate.Claim, string, error) {
	answer, err := r.ask(ctx, askClaims, &request{Cursor: cursor})
	if err != nil {
		return nil, "", err
	}
	return answer.Claims, answer.Next, nil
}

// Start starts claims.
func (r *Remote) Start(ctx context.Context, channels []uint256.Int) ([]channelstate.Claim, []Refused, error) {
	answer, err := r.askSigned(ctx, askStart, &request{Channels: channels})
	if err != nil {
		return nil, nil, err
	}
	return answer.Claims, answer.Refused, nil
}

// Send makes claims final.
func (r *Remote) Send(ctx context.Context, claims []Name) ([]channelstate.Claim, []Refused, error) {
	answer, err := r.askSigned(ctx, askSend, &request{Claims: claims})
	if err != nil {
		return nil, nil, err
	}
	return answer.Claims, answer.Refused, nil
}

// Estimate tells the gas of a transaction.
func (r *Remote) Estimate(ctx context.Context, claims []Name) (uint64, error) {
	answer, err := r.ask(ctx, askEstimate, &request{Claims: claims})
	if err != nil {
		return 0, err
	}
	return answer.Gas, nil
}

// Settle puts claims away.
func (r *Remote) Settle(ctx context.Context, claims []Name) error {
	_, err := r.askSigned(ctx, askSettle, &request{Claims: claims})
	return err
}

func (r *Remote) askSigned(ctx context.Context, operation string, asked *request) (*reply, error) {
	if r.Key == nil {
		return nil, errNoKey
	}
	terms, err := r.Terms(ctx)
	if err != nil {
		return nil, err
	}
	if asked.Block, err = r.Block(ctx); err != nil {
		return nil, err
	}
	message, err := asked.message(operation, &terms)
	if err != nil {
		return nil, err
	}
	if asked.Signature, err = blockchain.Sign(message, r.Key); err != nil {
		return nil, err
	}
	return r.ask(ctx, operation, asked)
}

func (r *Remote) ask(ctx context.Context, operation string, asked *request) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	body, err := json.Marshal(asked)
	if err != nil {
		return nil, err
	}
	sent, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.Address+Path+operation, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	sent.Header.Set("Content-Type", contentType)
	response, err := http.DefaultClient.Do(sent)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("admin.address %s: %w", r.Address, ErrNobody)
	}
	if err != nil {
		return nil, fmt.Errorf("admin.address %s does not answer: %w", r.Address, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return nil, fmt.Errorf("admin.address %s does not answer: %w", r.Address, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the mpegate at admin.address %s: %s", r.Address, strings.TrimSpace(string(text[:min(len(text), 2000)])))
	}
	var answer reply
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("what answers at admin.address %s is no mpegate, or one of another version", r.Address)
	}
	return &answer, nil
}
