package authz

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/holiman/uint256"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

// Channels knows the payment channels of the chain; *blockchain.ChannelCache is the real one.
type Channels interface {
	// Get gives a channel, read from the chain at most once. client is the caller's IP address, to bound its reads.
	Get(ctx context.Context, id *uint256.Int, client string) (blockchain.Channel, error)
	// Reread reads a channel again, or gives the known copy when that was done too often lately; fresh says which.
	Reread(ctx context.Context, id *uint256.Int) (channel blockchain.Channel, fresh bool, err error)
}

// Head knows the chain's height; *blockchain.Head is the real one.
type Head interface {
	Block() (uint64, error)
}

// Ledger charges and refunds; *channelstate.Ledger is the real one.
type Ledger interface {
	// Charge takes a price or returns an error; after an error nothing stays taken, also when the context ended.
	Charge(ctx context.Context, key channelstate.Key, channel *blockchain.Channel, charge channelstate.Charge) error
	// ChargePrepaid is Charge for a call that is paid for out of what is signed already. It gives the nonce it took from.
	ChargePrepaid(ctx context.Context, key channelstate.Key, channel *blockchain.Channel, charge channelstate.Charge) (uint256.Int, error)
	// Refund gives a charge back once, however often it is asked to.
	Refund(ctx context.Context, key channelstate.Key, refund channelstate.Refund) (channelstate.RefundOutcome, error)
}

// Switch is how the operator stops calls; *channelstate.Switch is the real one.
type Switch interface {
	// Stopped tells whether calls are turned away. It is asked for every call.
	Stopped() bool
}

// paymentMethod is one way to pay. A further one is a type with these two methods and one line in paymentMethods.
type paymentMethod interface {
	// charge decides on a call and takes its price. It sets c.charged as soon as money was taken.
	charge(ctx context.Context, c *call) *verdict
	// refund gives a charge of this method back, once.
	refund(ctx context.Context, charged *envoy.Charged) (channelstate.RefundOutcome, error)
}

// Dependencies is what a Server asks the other packages for.
type Dependencies struct {
	// WithoutPayment lets every call pass unpaid (blockchain.enabled: false). Then Channels, Head, Ledger and
	// Metadata are not used and may be nil.
	WithoutPayment bool

	Channels  Channels
	Head      Head
	Ledger    Ledger
	Metadata  func() *blockchain.Metadata // may give nil until the first load
	ChainID   uint64
	Tokens    Tokens    // nil: prepaid calls are not taken
	FreeCalls FreeCalls // nil: free calls are not taken
	Switch    Switch    // nil: nobody can stop calls

	Logger     *zap.Logger           // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are counted but shown nowhere
}

// Server decides on calls for Envoy (ext_authz) and settles them from Envoy's access log.
type Server struct {
	authv3.UnimplementedAuthorizationServer
	accesslogv3.UnimplementedAccessLogServiceServer

	methods   map[string]paymentMethod // by payment type
	everyCall paymentMethod            // set when the payment type does not matter
	turn      Switch                   // nil: nobody can stop calls
	settings  Settings
	recent    *recentCharges
	refunds   *refunds
	metrics   *metrics
	logger    *zap.Logger
}

// NewServer makes a Server that is ready to decide. Close it after the gRPC server that it was registered with.
func NewServer(settings Settings, dependencies Dependencies) (*Server, error) {
	if err := settings.Validate(); err != nil {
		return nil, err
	}
	if !dependencies.WithoutPayment && (dependencies.Channels == nil || dependencies.Head == nil ||
		dependencies.Ledger == nil || dependencies.Metadata == nil) {
		return nil, errors.New("payments need Channels, Head, Ledger and Metadata")
	}
	if !dependencies.WithoutPayment && dependencies.ChainID == 0 {
		return nil, errors.New("payments need the chain id: it is part of every key of the channel state")
	}
	logger := dependencies.Logger
	if logger == nil {
		logger = zap.NewNop()
	}
	server := &Server{settings: settings, turn: dependencies.Switch, recent: newRecentCharges(), logger: logger}
	server.metrics = newMetrics(func() float64 { return float64(server.refunds.waiting()) })
	if err := server.metrics.register(dependencies.Registerer); err != nil {
		return nil, err
	}
	listed, err := settings.AllowList.compile()
	if err != nil {
		return nil, err
	}
	server.methods = paymentMethods(dependencies, listed, server.metrics)
	if dependencies.WithoutPayment && listed == nil {
		server.everyCall = server.methods[typeEscrow]
	}
	server.refunds = startRefunds(settings.Settlement, server.refund, server.metrics, logger)
	return server, nil
}

// paymentMethods is where a payment type gets its handler.
func paymentMethods(dependencies Dependencies, listed allowList, metrics *metrics) map[string]paymentMethod {
	if dependencies.WithoutPayment {
		return map[string]paymentMethod{typeEscrow: &withoutPayment{listed: listed}}
	}
	escrow := &escrow{
		channels: dependencies.Channels, head: dependencies.Head, ledger: dependencies.Ledger,
		terms: currentTerms{source: dependencies.Metadata}, chainID: dependencies.ChainID,
		chain: chainText(dependencies.ChainID), listed: listed, metrics: metrics,
	}
	methods := map[string]paymentMethod{typeEscrow: escrow}
	if dependencies.Tokens != nil {
		methods[typePrepaid] = &prepaid{escrow: escrow, tokens: dependencies.Tokens}
	}
	if dependencies.FreeCalls != nil {
		methods[typeFree] = &freeCall{escrow: escrow, calls: dependencies.FreeCalls}
	}
	return methods
}

// Register makes a gRPC server answer both of Envoy's services.
func (s *Server) Register(server *grpc.Server) {
	authv3.RegisterAuthorizationServer(server, s)
	accesslogv3.RegisterAccessLogServiceServer(server, s)
}

// Close waits until the refunds under way are done, at most as long as the context lasts; those that are not done then
// are logged and counted as lost. Stop the gRPC server first.
func (s *Server) Close(ctx context.Context) error { return s.refunds.close(ctx) }

// Check decides whether a call may reach the service. A refusal is an answer; Check itself never fails.
func (s *Server) Check(ctx context.Context, request *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	c := newCall(request)
	verdict := s.decide(ctx, &c)
	if verdict == nil { // never; yet a decision nobody made must not let a call pass
		verdict = deny(undecided, "the call was not decided")
	}
	s.record(&c, verdict)
	return reply(verdict), nil
}

func (s *Server) decide(ctx context.Context, c *call) (result *verdict) {
	defer func() {
		if fault := recover(); fault != nil {
			result = s.recovered(c, fault)
		}
	}()
	if denied := c.checkRequest(); denied != nil {
		return denied
	}
	if s.turn != nil && s.turn.Stopped() {
		return deny(stopped, "no requests are processed at the moment, try later: the operator has stopped them")
	}
	method, denied := s.method(c)
	if denied != nil {
		return denied
	}
	ctx, cancel := c.limit(ctx, s.settings.CheckTimeout)
	defer cancel()
	if ctx.Err() != nil {
		return c.outOfTime(ctx)
	}
	result = method.charge(ctx, c)
	if c.charged == nil {
		return result
	}
	// From here on the call is paid. Without a yes that Envoy still waits for, the money goes back.
	unheard := s.recent.answered(c.requestID, c.charged, time.Now())
	if ctx.Err() != nil || unheard {
		result = c.outOfTime(ctx)
	}
	if result == nil || !result.allows() {
		s.giveBack(c.charged)
	}
	return result
}

// method finds the way to pay that the client has chosen.
func (s *Server) method(c *call) (paymentMethod, *verdict) {
	if s.everyCall != nil {
		c.paymentType = typeEscrow
		return s.everyCall, nil
	}
	paymentType, given := c.headers[envoy.HeaderPaymentType]
	if !given {
		paymentType = typeEscrow
	}
	if strings.IndexByte(paymentType, ',') >= 0 {
		return nil, repeated(envoy.HeaderPaymentType, paymentType)
	}
	method, known := s.methods[paymentType]
	if !known {
		return nil, denyf(unknownPaymentType, "unexpected %q, value: \"%s\"", envoy.HeaderPaymentType, shown(paymentType))
	}
	c.paymentType = paymentType
	return method, nil
}

// recovered answers for a decision that panicked, and gives back what it may have taken.
func (s *Server) recovered(c *call, fault any) *verdict {
	s.metrics.panics.Inc()
	s.logger.Error("a payment decision panicked", zap.String("fault", faultText(fault)),
		zap.String("request_id", shown(c.requestID)), zap.ByteString("stack", debug.Stack()))
	if c.charged != nil {
		s.giveBack(c.charged)
	}
	return deny(panicked, "internal error: the payment could not be checked")
}

// faultText describes what was panicked with. A value that is not the runtime's own may quote a header, so only its
// type is told.
func faultText(fault any) string {
	if known, ok := fault.(runtime.Error); ok {
		return known.Error()
	}
	return fmt.Sprintf("%T", fault)
}

// giveBack refunds a charge whose call never started.
func (s *Server) giveBack(charged *envoy.Charged) {
	s.metrics.settled[settledUnanswered].Inc()
	s.refunds.add(charged)
}

// refund finds the method that took a charge and asks it to give it back.
func (s *Server) refund(ctx context.Context, charged *envoy.Charged) (channelstate.RefundOutcome, error) {
	method, known := s.methods[charged.PaymentType]
	if !known {
		return 0, fmt.Errorf("%w: payment type", errMalformedCharge)
	}
	return method.refund(ctx, charged)
}

func reply(v *verdict) *authv3.CheckResponse {
	if !v.allows() {
		return envoy.OrDeny(envoy.Deny(outcomes[v.outcome].code, v.message))
	}
	var set []envoy.Header
	if v.user != "" {
		set = []envoy.Header{{Name: envoy.HeaderUserAddress, Value: v.user}}
	}
	return envoy.OrDeny(envoy.Allow(set, removed, v.charged))
}

// removed never reaches the service: what could be spent again and what only we may say. Allow leaves the user's
// address in place where we have set it.
var removed = append([]string{envoy.HeaderDaemonDebug, envoy.HeaderUserAddress}, envoy.SpendableHeaders...)

// record counts a decision and logs it at debug level. Texts of headers are not logged: they may hold a secret in the
// wrong place.
func (s *Server) record(c *call, v *verdict) {
	duration := time.Since(c.started)
	s.metrics.decision(c.paymentType, v.outcome)
	s.metrics.checkSeconds.Observe(duration.Seconds())
	entry := s.logger.Check(zap.DebugLevel, "payment decision")
	if entry == nil {
		return
	}
	path := c.path
	if v.outcome == notAMethod {
		path = ""
	}
	entry.Write(zap.String("request_id", shown(c.requestID)), zap.String("method", path),
		zap.String("payment_type", c.paymentType), zap.String("channel", c.channel), zap.String("price", c.price),
		zap.Stringer("outcome", v.outcome), zap.Duration("duration", duration), zap.Error(v.cause))
}
