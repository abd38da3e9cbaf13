package channelstate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	clusterStartTimeout = time.Minute
	// Without traffic etcd counts pings as abuse, so they are sent only while a request waits.
	clusterKeepAlive        = 10 * time.Second
	clusterKeepAliveTimeout = 3 * time.Second
	clusterSendBytes        = 2 << 20
	clusterReceiveBytes     = 64 << 20
	clusterRetryPause       = 500 * time.Millisecond
)

// dialCluster returns a client that has read from the cluster once. It waits
// for a cluster that does not answer, until ctx ends or clusterStartTimeout
// has passed, and gives up at once where waiting cannot help.
func dialCluster(ctx context.Context, settings EtcdSettings, endpoints []string, logger *zap.Logger) (*clientv3.Client, error) {
	config, err := clusterConfig(settings, endpoints, logger)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, clusterStartTimeout)
	defer cancel()
	began, shown := time.Now(), time.Now()
	var reason error // of the last try that ctx did not cut short
	for {
		var client *clientv3.Client
		err := tryCluster(ctx, settings, config)
		if err == nil {
			client, err = clientv3.New(config)
		}
		if err == nil {
			return client, nil
		}
		if reason == nil || ctx.Err() == nil {
			reason = err
		}
		if hopeless(err) {
			return nil, fmt.Errorf("the etcd cluster at %s refuses us: %w", strings.Join(endpoints, ", "), explain(err, settings))
		}
		if time.Since(shown) >= progressInterval {
			shown = time.Now()
			logger.Warn("waiting for the etcd cluster", zap.Strings("endpoints", endpoints),
				zap.Duration("so_far", time.Since(began).Round(time.Second)), zap.Error(err))
		}
		select {
		case <-time.After(clusterRetryPause + rand.N(clusterRetryPause)):
		case <-ctx.Done():
			return nil, fmt.Errorf("the etcd cluster at %s did not answer within %s: %w",
				strings.Join(endpoints, ", "), time.Since(began).Round(time.Second), reason)
		}
	}
}

func clusterConfig(settings EtcdSettings, endpoints []string, logger *zap.Logger) (clientv3.Config, error) {
	if len(endpoints) == 0 {
		return clientv3.Config{}, errors.New("etcd.endpoints is empty and the organisation metadata names no storage endpoints: " +
			"write the URLs of the cluster, or set store to embedded")
	}
	withTLS := settings.CAFile != "" || settings.CertFile != ""
	if err := checkEndpoints("etcd.endpoints", endpoints, withTLS); err != nil {
		return clientv3.Config{}, err
	}
	config := clientv3.Config{
		Endpoints:            endpoints,
		Username:             settings.Username,
		Password:             settings.Password,
		DialTimeout:          settings.DialTimeout,
		DialKeepAliveTime:    clusterKeepAlive,
		DialKeepAliveTimeout: clusterKeepAliveTimeout,
		MaxCallSendMsgSize:   clusterSendBytes,
		MaxCallRecvMsgSize:   clusterReceiveBytes,
		Logger:               clientLogger(logger),
	}
	if withTLS || strings.HasPrefix(endpoints[0], "https:") {
		var err error
		if config.TLS, err = clusterTLS(settings); err != nil {
			return clientv3.Config{}, err
		}
	}
	return config, nil
}

// clusterTLS reads the client certificate again for each handshake, so that
// one that is renewed on disk is used without a restart.
func clusterTLS(settings EtcdSettings) (*tls.Config, error) {
	files := transport.TLSInfo{TrustedCAFile: settings.CAFile, CertFile: settings.CertFile, KeyFile: settings.KeyFile}
	config, err := files.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("etcd.ca_file %q, etcd.cert_file %q and etcd.key_file %q cannot be used: %w",
			settings.CAFile, settings.CertFile, settings.KeyFile, err)
	}
	config.MinVersion = tls.VersionTLS12
	return config, nil
}

// clientLogger keeps an outage from filling the log: three times a minute is
// enough to say that a request was tried again.
func clientLogger(logger *zap.Logger) *zap.Logger {
	return logger.Named("etcd").WithOptions(zap.WithCaller(false), zap.AddStacktrace(zap.FatalLevel+1),
		zap.WrapCore(func(core zapcore.Core) zapcore.Core {
			return zapcore.NewSamplerWithOptions(levelCore{core, zap.NewAtomicLevelAt(zap.WarnLevel)}, time.Minute, 3, 0)
		}))
}

// tryCluster logs in and reads once. Its client does not wait and try again by
// itself as the lasting one does, which would hide why the cluster cannot be reached.
func tryCluster(ctx context.Context, settings EtcdSettings, config clientv3.Config) error {
	config.MaxUnaryRetries = 1
	config.Logger = zap.NewNop()
	config.DialOptions = []grpc.DialOption{grpc.WithChainUnaryInterceptor(failAtOnce)}
	client, err := clientv3.New(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, settings.DialTimeout+settings.RequestTimeout)
	defer cancel()
	return errors.Join(probe(ctx, client, settings.KeyPrefix), client.Close())
}

// failAtOnce overrules the etcd client, which waits for connections.
func failAtOnce(
	ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	return invoke(ctx, method, request, reply, connection, append(options, grpc.WaitForReady(false))...)
}

// probe is a read that only a majority of the cluster can answer, of a key
// that a user with rights on our keys alone may read.
func probe(ctx context.Context, client *clientv3.Client, prefix string) error {
	_, err := client.Get(ctx, prefix+"/ready", clientv3.WithCountOnly())
	return err
}

// hopeless tells a cluster that refuses from one that is away.
func hopeless(err error) bool {
	for _, refusal := range []error{rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty, rpctypes.ErrPermissionDenied, rpctypes.ErrAuthOldRevision} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument:
		return true
	}
	text := err.Error()
	return strings.Contains(text, "x509:") || strings.Contains(text, "tls:")
}

// explain adds what to do to what etcd says.
func explain(err error, settings EtcdSettings) error {
	text := err.Error()
	switch {
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return fmt.Errorf("etcd.username %q and etcd.password are not a user of it: %w", settings.Username, err)
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("it asks for a user, set etcd.username and etcd.password: %w", err)
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("etcd.username %q needs a role that may read and write the keys that begin with %q (etcd.key_prefix): %w",
			settings.Username, settings.KeyPrefix, err)
	case strings.Contains(text, "x509:"):
		return fmt.Errorf("its certificate is not accepted, see etcd.ca_file: %w", err)
	case strings.Contains(text, "tls:"):
		return fmt.Errorf("TLS with it fails, see etcd.cert_file, etcd.key_file and the scheme of etcd.endpoints: %w", err)
	}
	return err
}
