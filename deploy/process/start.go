package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/envoy"
	"github.com/mpegate/mpegate/envoy/bootstrap"
)

// The named parts of /readyz.
const (
	partChain    = "chain"
	partMetadata = "metadata"
	partState    = "channel state"
	partAuthz    = "authz"
	partEnvoy    = "envoy"
)

// start brings the parts up in order. What has started is in p.stops, also when it returns an error.
func (p *process) start(ctx context.Context) error {
	p.nameParts()
	if err := p.registerBuild(); err != nil {
		return err
	}
	listener, err := p.openListeners(ctx)
	if err != nil {
		return err
	}
	p.warn()
	dependencies, err := p.startPayments(ctx)
	if err != nil {
		return err
	}
	if err := p.startAuthz(listener, dependencies); err != nil {
		return fmt.Errorf("%s: %w", partAuthz, err)
	}
	address := authzAddress(listener)
	if p.role == RoleServe {
		public, err := p.startEnvoy(ctx, address)
		if err != nil {
			return fmt.Errorf("%s: %w", partEnvoy, err)
		}
		address = public
	}
	return p.announce(ctx, address)
}

// nameParts lists all parts before the first starts, so that /readyz is complete from the beginning.
func (p *process) nameParts() {
	if p.settings.Blockchain.Enabled {
		p.parts.Add(partChain, partMetadata, partState)
	}
	p.parts.Add(partAuthz)
	if p.role == RoleServe {
		p.parts.Add(partEnvoy)
	}
}

// announce says that a call would be answered now.
func (p *process) announce(ctx context.Context, address envoy.Address) error {
	states, ready := p.parts.States(ctx)
	if !ready {
		for _, state := range states {
			if !state.Ready {
				return fmt.Errorf("%s: %s", state.Name, state.State)
			}
		}
	}
	p.updateHealth(ctx)
	p.logger.Info("started: "+strings.Join(p.settings.Summary(p.role), "; "), zap.Duration("took", time.Since(p.started).Round(time.Millisecond)))
	_, err := fmt.Fprintf(p.stdout, "mpegate is ready on %s\n", address)
	return err
}

func (p *process) warn() {
	for _, warning := range p.settings.Warnings() {
		p.logger.Warn(warning)
	}
	if !p.settings.Blockchain.Enabled {
		p.logger.Warn("blockchain.enabled is false: calls pass without payment")
	}
}

func quickBackOff() backoff.BackOff {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval = 100 * time.Millisecond
	pauses.MaxInterval = 2 * time.Second
	return pauses
}

// reach tries to reach a part until start.timeout, says why it waits, and gives up at once where waiting cannot help.
func reach[T any](ctx context.Context, p *process, part string, try func(context.Context) (T, error)) (T, error) {
	hopeless := []error{blockchain.ErrWrongChain, blockchain.ErrNotRegistered, blockchain.ErrNoContract}
	result, err := backoff.Retry(ctx, func() (T, error) {
		result, err := try(ctx)
		for _, sentinel := range hopeless {
			if errors.Is(err, sentinel) {
				return result, backoff.Permanent(err)
			}
		}
		return result, err
	}, backoff.WithMaxElapsedTime(p.settings.Start.Timeout), backoff.WithBackOff(quickBackOff()),
		backoff.WithNotify(func(err error, pause time.Duration) {
			p.parts.Say(part, err.Error())
			p.logger.Warn(part+" is not reached yet, trying again", zap.Error(err), zap.Duration("in", pause.Round(time.Millisecond)))
		}))
	if err != nil {
		return result, fmt.Errorf("%s: %w", part, err)
	}
	return result, nil
}

// startEnvoy runs Envoy as a supervised child and returns the public address once it serves.
func (p *process) startEnvoy(ctx context.Context, authz envoy.Address) (envoy.Address, error) {
	config, err := p.settings.renderEnvoy(authz)
	if err != nil {
		return envoy.Address{}, err
	}
	binary := p.settings.Envoy.Binary
	if binary != "" {
		if _, err := exec.LookPath(binary); err != nil {
			return envoy.Address{}, fmt.Errorf("envoy.binary is no program: %w; set it to the path of Envoy %s, or leave it empty to have it found", err, envoy.Version)
		}
	} else {
		if binary, err = envoy.Find(ctx, &lineLogger{logger: p.logger.Named("envoy"), parts: p.parts}); err != nil {
			return envoy.Address{}, fmt.Errorf("%w; install Envoy %s and set envoy.binary or $%s to it", err, envoy.Version, envoy.EnvironmentBinary)
		}
	}
	supervisor, err := envoy.Supervise(ctx, envoy.RunOptions{
		Binary: binary, Config: config, Logger: p.logger.Logger, LogLevel: p.settings.Envoy.LogLevel,
		Concurrency: p.settings.Envoy.Concurrency, DrainTime: p.settings.Envoy.DrainTime, Stdout: p.stdout,
	})
	if err != nil {
		return envoy.Address{}, err
	}
	p.stops = append(p.stops, stopStep{name: partEnvoy, extra: p.settings.Envoy.DrainTime, stop: func(ctx context.Context) error {
		return p.stopEnvoy(ctx, supervisor)
	}})
	p.parts.Started(partEnvoy, func(context.Context) error {
		if !supervisor.Ready() {
			return errors.New("the process of Envoy has ended and is started again")
		}
		return nil
	})
	if err := p.registerEnvoy(supervisor); err != nil {
		return envoy.Address{}, err
	}
	public, err := supervisor.Process().ListenerAddress(ctx, bootstrap.ListenerName)
	if err != nil {
		return envoy.Address{}, err
	}
	p.checkService(ctx)
	p.logger.Info("Envoy is ready", zap.Stringer("address", public), zap.String("binary", binary))
	return public, nil
}

// checkService tells the operator about a service that is not there yet. Calls are answered 14 until it is.
func (p *process) checkService(ctx context.Context) {
	service, err := p.settings.serviceAddress()
	if err != nil {
		return
	}
	dialer := net.Dialer{Timeout: time.Second}
	connection, err := dialer.DialContext(ctx, "tcp", envoy.Address{Host: service.Host, Port: service.Port}.String())
	if err != nil {
		p.logger.Warn("the service cannot be reached yet: start it, or mend service.endpoint", zap.String("endpoint", p.settings.Service.Endpoint), zap.Error(err))
		return
	}
	connection.Close()
}

// stopEnvoy lets calls under way end. Calls that are cut after envoy.drain_time are told, and are no failed stop.
func (p *process) stopEnvoy(ctx context.Context, supervisor *envoy.Supervisor) error {
	draining, cancel := context.WithTimeout(ctx, p.settings.Envoy.DrainTime)
	defer cancel()
	if err := supervisor.Stop(draining); err != nil {
		if draining.Err() == nil {
			return err
		}
		p.logger.Warn("calls were cut, they lasted longer than envoy.drain_time", zap.Duration("drain_time", p.settings.Envoy.DrainTime))
	}
	return nil
}

// renderEnvoy writes Envoy's configuration for an authz at the given address.
func (s *Settings) renderEnvoy(authz envoy.Address) ([]byte, error) {
	public, err := envoy.ParseAddress(s.Listen.Address)
	if err != nil {
		return nil, fmt.Errorf("listen.address is %w", err)
	}
	service, err := s.serviceAddress()
	if err != nil {
		return nil, err
	}
	admin := envoy.Address{Host: "127.0.0.1"}
	if s.Envoy.Admin != "" {
		if admin, err = envoy.ParseAddress(s.Envoy.Admin); err != nil {
			return nil, fmt.Errorf("envoy.admin is %w", err)
		}
	}
	return bootstrap.Render(bootstrap.Settings{
		Public: public, Service: service, Authz: authz, Admin: admin,
		ServiceTimeout: s.Service.Timeout, MaxMessageSize: s.Service.MaxMessageSize, Envoy: s.Envoy,
	})
}

// EnvoyConfig is Envoy's configuration for an Envoy that runs beside mpegate authz.
func (s *Settings) EnvoyConfig() ([]byte, error) {
	text := s.Authz.Address
	if text == "" {
		text = DefaultAuthzAddress
	}
	authz, err := envoy.ParseAddress(text)
	if err != nil {
		return nil, fmt.Errorf("authz.address is %w", err)
	}
	return s.renderEnvoy(authz)
}

// lineLogger logs what a part writes for people, line by line, and shows the newest line in /readyz.
type lineLogger struct {
	logger *zap.Logger
	parts  *Parts
}

func (l *lineLogger) Write(data []byte) (int, error) {
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" {
			l.logger.Info(line)
			l.parts.Say(partEnvoy, line)
		}
	}
	return len(data), nil
}
