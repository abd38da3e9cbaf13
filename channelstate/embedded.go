package channelstate

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

const (
	embeddedStartTimeout = 2 * time.Minute
	embeddedCloseTimeout = 15 * time.Second
	brokenCloseTimeout   = 2 * time.Second
	progressInterval     = 5 * time.Second
	// compactionRetention is how long replaced records are kept. Nobody reads them; at 2,000 writes a second two
	// minutes of them are some hundred megabytes, an hour would fill the default quota.
	compactionRetention = 2 * time.Minute
	// embeddedRequestBytes bounds one transaction; a record has less than 8 KiB.
	embeddedRequestBytes = 1 << 20
)

// embeddedPeerURL names the only member in its own cluster. Nothing listens on it.
const embeddedPeerURL = "http://127.0.0.1:2380"

// embedded is an etcd of one member inside this process.
type embedded struct {
	server *embed.Etcd
	client *clientv3.Client
	folder *folderLock
	fault  *serverFault
	logger *zap.Logger
	quota  int64
}

// startEmbedded opens the data folder and returns once the etcd answers. It
// gives up when ctx ends or after embeddedStartTimeout.
func startEmbedded(ctx context.Context, settings EmbeddedSettings, logger *zap.Logger) (*embedded, error) {
	listen, err := settings.listenURL()
	if err != nil {
		return nil, err
	}
	folder, err := lockFolder(settings.DataDir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, embeddedStartTimeout,
		fmt.Errorf("the channel state in %s was not ready after %s", settings.DataDir, embeddedStartTimeout))
	defer cancel()
	fault := newServerFault()
	serverLogger, started := etcdLogger(logger, fault)
	type outcome struct {
		server *embed.Etcd
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		defer folder.releaseUnlessKept()
		server, err := startServer(ctx, embeddedConfig(settings, listen, serverLogger))
		if err == nil {
			folder.keep()
		}
		done <- outcome{server, err}
	}()
	began, progress := time.Now(), time.NewTicker(progressInterval)
	defer progress.Stop()
	for {
		select {
		case result := <-done:
			if result.err != nil {
				return nil, fmt.Errorf("cannot open the channel state in embedded.data_dir %s: %w", settings.DataDir, result.err)
			}
			started()
			opened := &embedded{
				server: result.server, client: v3client.New(result.server.Server),
				folder: folder, fault: fault, logger: logger, quota: settings.QuotaBytes,
			}
			if err := opened.makeRoom(ctx); err != nil {
				return nil, errors.Join(err, opened.close())
			}
			return opened, nil
		case <-fault.raised: // the goroutine above has ended without an outcome
			return nil, fmt.Errorf("cannot open the channel state in embedded.data_dir %s: %w", settings.DataDir, fault.err())
		case <-progress.C:
			logger.Info("opening the channel state on disk",
				zap.String("data_dir", settings.DataDir), zap.Duration("so_far", time.Since(began).Round(time.Second)))
		case <-ctx.Done():
			return nil, context.Cause(ctx) // startServer ends by itself and lets go of the folder
		}
	}
}

func embeddedConfig(settings EmbeddedSettings, listen *url.URL, logger *zap.Logger) *embed.Config {
	config := embed.NewConfig()
	config.Dir = settings.DataDir
	config.Name = settings.Name
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger)
	config.QuotaBackendBytes = settings.QuotaBytes
	config.MaxRequestBytes = embeddedRequestBytes
	config.AutoCompactionMode = embed.CompactorModePeriodic
	config.AutoCompactionRetention = compactionRetention.String()
	config.EnableGRPCGateway = false
	config.ListenPeerUrls, config.ListenClientUrls, config.AdvertiseClientUrls = nil, nil, nil
	if listen != nil {
		config.ListenClientUrls = []url.URL{*listen}
		config.AdvertiseClientUrls = []url.URL{*listen}
	}
	peer, _ := url.Parse(embeddedPeerURL) // a constant
	config.AdvertisePeerUrls = []url.URL{*peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	return config
}

// startServer returns a server that has elected itself. StartEtcd does not
// watch a context, so one that comes too late is closed here; and on some
// damaged data it panics.
func startServer(ctx context.Context, config *embed.Config) (server *embed.Etcd, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			server, err = nil, fmt.Errorf("etcd cannot read its data, restore the folder from a backup: %v", reason)
		}
	}()
	server, err = embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-server.Server.ReadyNotify():
		return server, nil
	case <-server.Server.StopNotify():
		err = errors.New("etcd stopped while it was starting")
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	server.Close()
	return nil, err
}

// makeRoom ends the read-only state that etcd goes into at the quota and
// keeps after a restart, when there is room again or the quota was raised.
func (e *embedded) makeRoom(ctx context.Context) error {
	if !e.full() {
		return nil
	}
	e.logger.Warn("the channel state had reached embedded.quota_bytes; compacting it",
		zap.Int64("quota_bytes", e.quota), zap.Int64("size_bytes", e.server.Server.Backend().Size()))
	latest, err := e.client.Get(ctx, "\x00")
	if err != nil {
		return fmt.Errorf("cannot read the channel state: %w", err)
	}
	if _, err := e.client.Compact(ctx, latest.Header.GetRevision(), clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("cannot compact the channel state: %w", err)
	}
	if err := e.server.Server.Defragment(); err != nil {
		return fmt.Errorf("cannot give back the free pages of the channel state: %w", err)
	}
	if size := e.server.Server.Backend().Size(); size >= e.quota {
		return fmt.Errorf("the channel state has %d bytes and embedded.quota_bytes is %d: raise the quota", size, e.quota)
	}
	if _, err := e.client.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		return fmt.Errorf("cannot end the read-only state of the channel state: %w", err)
	}
	return nil
}

func (e *embedded) full() bool {
	for _, alarm := range e.server.Server.Alarms() {
		if alarm.GetAlarm() == etcdserverpb.AlarmType_NOSPACE {
			return true
		}
	}
	return false
}

// health is what a read cannot tell: whether etcd would still write.
func (e *embedded) health() error {
	if err := e.fault.err(); err != nil {
		return fmt.Errorf("the embedded etcd has stopped: %w", err)
	}
	if e.full() {
		return fmt.Errorf("the channel state has reached embedded.quota_bytes (%d): raise the quota and restart", e.quota)
	}
	return nil
}

// close writes nothing more and lets go of the folder. It is bounded in time:
// after a fault some parts of the server may never end.
func (e *embedded) close() error {
	clientErr := e.client.Close()
	if errors.Is(clientErr, context.Canceled) { // an in-process client has no connection to close
		clientErr = nil
	}
	timeout := embeddedCloseTimeout
	if e.fault.err() != nil {
		timeout = brokenCloseTimeout
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		e.server.Close()
	}()
	select {
	case <-closed:
		return errors.Join(clientErr, e.folder.release())
	case <-time.After(timeout):
		return errors.Join(clientErr, fmt.Errorf("the embedded etcd did not stop within %s", timeout))
	}
}
