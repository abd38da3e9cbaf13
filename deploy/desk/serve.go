package desk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"time"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// Path is where the admin listener of a running process has its books: one operation below it, by POST as JSON.
const Path = "/desk/"

// The operations of Path. Those that change claims are signed by the payment address.
const (
	askTerms    = "terms"
	askChannels = "channels"
	askClaims   = "claims"
	askStart    = "start"
	askSend     = "send"
	askSettle   = "settle"
	askEstimate = "estimate"

	askFreeCallers    = "free-callers"
	askResetFreeCalls = "reset-free-calls"
)

const (
	contentType   = "application/json"
	maxRequest    = 64 << 10
	serverTimeout = 25 * time.Second // the listener itself waits a little longer
	// signedWindow is how many blocks a signed request may be away from the head, as for ProviderControlService.
	signedWindow = 5
)

// request is what every operation takes.
type request struct {
	Cursor     string        `json:"cursor,omitempty"`
	FreeCaller *FreeCaller   `json:"free_caller,omitempty"`
	Channels   []uint256.Int `json:"channels,omitempty"`
	Claims     []Name        `json:"claims,omitempty"`
	Block      uint64        `json:"block,omitempty"`
	Signature  []byte        `json:"signature,omitempty"` // of message, by the payment address
}

// reply is what every operation answers.
type reply struct {
	Terms       *Terms               `json:"terms,omitempty"`
	Holdings    []Holding            `json:"holdings,omitempty"`
	Claims      []channelstate.Claim `json:"claims,omitempty"`
	Refused     []Refused            `json:"refused,omitempty"`
	Next        string               `json:"next,omitempty"`
	FreeCallers []FreeCaller         `json:"free_callers,omitempty"`
	Gas         uint64               `json:"gas,omitempty"`
}

// message is what the payment address signs: the operation, whose books and all of the request but the signature.
func (r *request) message(operation string, terms *Terms) ([]byte, error) {
	unsigned := *r
	unsigned.Signature = nil
	body, err := json.Marshal(&unsigned)
	if err != nil {
		return nil, err
	}
	message := fmt.Appendf(nil, "__mpegate_desk %s %d %s %s ", operation, terms.ChainID, terms.MPE, terms.GroupID)
	return append(message, body...), nil
}

// Server answers Path for the books of this process.
type Server struct {
	Books *Local
	Head  func(ctx context.Context) (uint64, error) // the newest block
	Safe  func(text string) string                  // takes secrets out of errors; nil changes nothing
}

// denied is an answer other than OK.
type denied struct {
	code int
	text string
}

func (d *denied) Error() string { return d.text }

// ServeHTTP answers one operation. A web page that a person on this machine has open can send a request here, but
// none with this content type.
func (s *Server) ServeHTTP(writer http.ResponseWriter, received *http.Request) {
	ctx, cancel := context.WithTimeout(received.Context(), serverTimeout)
	defer cancel()
	answer, err := s.answer(ctx, received)
	if err != nil {
		code, text := http.StatusServiceUnavailable, err.Error()
		var refusal *denied
		if errors.As(err, &refusal) {
			code = refusal.code
		}
		if s.Safe != nil {
			text = s.Safe(text)
		}
		http.Error(writer, text, code)
		return
	}
	writer.Header().Set("Content-Type", contentType)
	_ = json.NewEncoder(writer).Encode(answer) // who asked may have gone
}

func (s *Server) answer(ctx context.Context, received *http.Request) (*reply, error) {
	if media, _, err := mime.ParseMediaType(received.Header.Get("Content-Type")); err != nil || media != contentType {
		return nil, &denied{http.StatusUnsupportedMediaType, "send JSON with content-type " + contentType}
	}
	var asked request
	decoder := json.NewDecoder(io.LimitReader(received.Body, maxRequest))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&asked); err != nil {
		return nil, &denied{http.StatusBadRequest, "the request cannot be read: use the same version of mpegate as the running one"}
	}
	operation := received.URL.Path[len(Path):]
	if slices.Contains([]string{askStart, askSend, askSettle}, operation) {
		if err := s.authenticate(ctx, operation, &asked); err != nil {
			return nil, err
		}
	}
	return s.perform(ctx, operation, &asked)
}

func (s *Server) perform(ctx context.Context, operation string, asked *request) (*reply, error) {
	answer := &reply{}
	var err error
	switch operation {
	case askTerms:
		var terms Terms
		terms, err = s.Books.Terms(ctx)
		answer.Terms = &terms
	case askChannels:
		answer.Holdings, answer.Next, err = s.Books.Channels(ctx, asked.Cursor)
	case askClaims:
		answer.Claims, answer.Next, err = s.Books.Claims(ctx, asked.Cursor)
	case askStart:
		answer.Claims, answer.Refused, err = s.Books.Start(ctx, asked.Channels)
	case askSend:
		answer.Claims, answer.Refused, err = s.Books.Send(ctx, asked.Claims)
	case askEstimate:
		answer.Gas, err = s.Books.Estimate(ctx, asked.Claims)
	case askFreeCallers:
		answer.FreeCallers, answer.Next, err = s.Books.FreeCallers(ctx, asked.Cursor)
	case askResetFreeCalls:
		if asked.FreeCaller == nil {
			return nil, &denied{http.StatusBadRequest, "free_caller is missing"}
		}
		err = s.Books.ResetFreeCalls(ctx, asked.FreeCaller)
	case askSettle:
		err = s.Books.Settle(ctx, asked.Claims)
	default:
		return nil, &denied{http.StatusNotFound, "there is no such operation: use the same version of mpegate as the running one"}
	}
	return answer, err
}

// authenticate proves that the payment address has signed the request lately.
func (s *Server) authenticate(ctx context.Context, operation string, asked *request) error {
	terms, err := s.Books.Current()
	if err != nil {
		return err
	}
	message, err := asked.message(operation, &terms)
	if err != nil {
		return err
	}
	signer, err := blockchain.RecoverSigner(message, asked.Signature)
	if err != nil {
		return &denied{http.StatusUnauthorized, "the request is not signed"}
	}
	if signer != terms.PaymentAddress {
		return &denied{http.StatusForbidden, fmt.Sprintf("the key is that of %s, claims are made with that of the group's payment address %s",
			signer, terms.PaymentAddress)}
	}
	head, err := s.Head(ctx)
	if err != nil {
		return err
	}
	if !blockchain.WithinWindow(asked.Block, head, signedWindow) {
		return &denied{http.StatusForbidden, fmt.Sprintf("the request is of block %d and the head of the chain is %d: "+
			"is blockchain.rpc_url of both the same chain?", asked.Block, head)}
	}
	return nil
}
