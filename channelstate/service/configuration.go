package service

import (
	"context"
	"slices"

	"github.com/ethereum/go-ethereum/common"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate/proto/configuration"
)

// Switch stops and starts calls for all replicas of the group. channelstate.Switch is one.
type Switch interface {
	Stopped() bool
	Set(ctx context.Context, stopped bool, by common.Address) error
}

// Configuration is what a ConfigurationService asks the other packages for.
type Configuration struct {
	Operators []common.Address // who may ask
	Switch    Switch
	Head      Head
	Settings  func() *configuration.ConfigurationResponse // without secrets
	Logger    *zap.Logger                                 // nil: nothing is logged
}

// ConfigurationService answers configuration_service.ConfigurationService
// (payment-protocol.md section 4.11). Codes: 3 for a request without a
// signature, 16 for one that is wrong, too old or not of a listed operator, 12
// for what is not offered, 14 when the chain or the channel state cannot be asked.
type ConfigurationService struct {
	configuration.UnimplementedConfigurationServiceServer
	parts Configuration
}

// NewConfigurationService makes the service. Without operators every request is refused.
func NewConfigurationService(parts Configuration) *ConfigurationService {
	if parts.Logger == nil {
		parts.Logger = zap.NewNop()
	}
	return &ConfigurationService{parts: parts}
}

// GetConfiguration tells the settings that are no secrets.
func (s *ConfigurationService) GetConfiguration(ctx context.Context, request *configuration.EmptyRequest) (*configuration.ConfigurationResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := s.operator(ctx, blockchain.ConfigurationGet, request.GetAuth()); err != nil {
		return nil, err
	}
	return s.parts.Settings(), nil
}

// UpdateConfiguration is not offered: the settings of a replica are its file's.
func (s *ConfigurationService) UpdateConfiguration(ctx context.Context, request *configuration.UpdateRequest) (*configuration.ConfigurationResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := s.operator(ctx, blockchain.ConfigurationUpdate, request.GetAuth()); err != nil {
		return nil, err
	}
	return nil, status.Error(codes.Unimplemented,
		"settings are not changed from afar: change the settings file or the environment of each replica and start it again")
}

// StopProcessingRequests turns calls away, at every replica, until they are
// started again. Calls under way are served to their end.
func (s *ConfigurationService) StopProcessingRequests(ctx context.Context, request *configuration.EmptyRequest) (*configuration.StatusResponse, error) {
	return s.turn(ctx, blockchain.ConfigurationStopRequests, request, true)
}

// StartProcessingRequests lets calls pass again.
func (s *ConfigurationService) StartProcessingRequests(ctx context.Context, request *configuration.EmptyRequest) (*configuration.StatusResponse, error) {
	return s.turn(ctx, blockchain.ConfigurationStartRequests, request, false)
}

// IsDaemonProcessingRequests tells whether calls are processed.
func (s *ConfigurationService) IsDaemonProcessingRequests(ctx context.Context, request *configuration.EmptyRequest) (*configuration.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := s.operator(ctx, blockchain.ConfigurationAreRequestsRun, request.GetAuth()); err != nil {
		return nil, err
	}
	return statusOf(s.parts.Switch.Stopped()), nil
}

func (s *ConfigurationService) turn(
	ctx context.Context, operation string, request *configuration.EmptyRequest, stop bool,
) (*configuration.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	operator, err := s.operator(ctx, operation, request.GetAuth())
	if err != nil {
		return nil, err
	}
	if err := s.parts.Switch.Set(ctx, stop, operator); err != nil {
		return nil, unavailable(ctx, err)
	}
	return statusOf(stop), nil
}

func statusOf(stopped bool) *configuration.StatusResponse {
	answer := configuration.StatusResponse_REQUEST_IN_PROGRESS
	if stopped {
		answer = configuration.StatusResponse_HAS_STOPPED_PROCESSING_REQUESTS
	}
	return &configuration.StatusResponse{CurrentProcessingStatus: answer}
}

// operator proves that a listed operator has signed the operation lately. The
// node is asked for the head only for a signature of one of them.
func (s *ConfigurationService) operator(ctx context.Context, operation string, auth *configuration.CallerAuthentication) (common.Address, error) {
	if auth == nil {
		return common.Address{}, status.Error(codes.InvalidArgument, "auth is missing: the request has to be signed by an operator")
	}
	block := auth.GetCurrentBlock()
	if err := checkBlock(block); err != nil {
		return common.Address{}, err
	}
	signer, err := recoverSigner(blockchain.ConfigurationMessage(operation, block), auth.GetSignature())
	if err != nil {
		return signer, err
	}
	if !slices.Contains(s.parts.Operators, signer) {
		return signer, status.Errorf(codes.Unauthenticated, "unauthorized access, %s is not authorized: "+
			"operators.addresses of the settings lists who is", signer)
	}
	if err := checkWindow(ctx, s.parts.Head, block); err != nil {
		return signer, err
	}
	s.parts.Logger.Info("an operator asks", zap.String("operation", operation), zap.Stringer("operator", signer))
	return signer, nil
}

// ConfigurationWithoutBlockchain is the service where no block is known by
// which a request could be told from one recorded long ago.
type ConfigurationWithoutBlockchain struct {
	configuration.UnimplementedConfigurationServiceServer
}

var errNoBlock = status.Error(codes.FailedPrecondition,
	"operators prove who they are with the number of the current block, "+
		"and blockchain.enabled is false here: change the settings or stop the process instead")

// GetConfiguration is refused.
func (ConfigurationWithoutBlockchain) GetConfiguration(context.Context, *configuration.EmptyRequest) (*configuration.ConfigurationResponse, error) {
	return nil, errNoBlock
}

// UpdateConfiguration is refused.
func (ConfigurationWithoutBlockchain) UpdateConfiguration(context.Context, *configuration.UpdateRequest) (*configuration.ConfigurationResponse, error) {
	return nil, errNoBlock
}

// StopProcessingRequests is refused.
func (ConfigurationWithoutBlockchain) StopProcessingRequests(context.Context, *configuration.EmptyRequest) (*configuration.StatusResponse, error) {
	return nil, errNoBlock
}

// StartProcessingRequests is refused.
func (ConfigurationWithoutBlockchain) StartProcessingRequests(context.Context, *configuration.EmptyRequest) (*configuration.StatusResponse, error) {
	return nil, errNoBlock
}

// IsDaemonProcessingRequests is refused.
func (ConfigurationWithoutBlockchain) IsDaemonProcessingRequests(context.Context, *configuration.EmptyRequest) (*configuration.StatusResponse, error) {
	return nil, errNoBlock
}
