package channelstate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// crashFolder tells TestCrashingWriter to be the process that is killed.
const crashFolder = "MPEGATE_TEST_CRASH_FOLDER"

func embeddedIn(folder string) EmbeddedSettings {
	settings := DefaultSettings().Embedded
	settings.DataDir = folder
	return settings
}

func openEmbedded(t *testing.T, settings EmbeddedSettings, logger *zap.Logger) *embedded {
	t.Helper()
	server, err := startEmbedded(t.Context(), settings, logger)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func closeEmbedded(t *testing.T, server *embedded) {
	t.Helper()
	if err := server.close(); err != nil {
		t.Error(err)
	}
}

func TestEmbeddedKeepsItsDataAndListensNowhere(t *testing.T) {
	core, logged := observer.New(zapcore.InfoLevel)
	settings := embeddedIn(filepath.Join(t.TempDir(), "not", "there", "yet"))
	server := openEmbedded(t, settings, zap.New(core))
	if clients, peers := len(server.server.Clients), len(server.server.Peers); clients+peers != 0 {
		t.Errorf("etcd has %d client and %d peer listeners", clients, peers)
	}
	if _, err := server.client.Put(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	closeEmbedded(t, server)

	server = openEmbedded(t, settings, zap.New(core))
	reply, err := server.client.Get(t.Context(), "key")
	if err != nil || len(reply.Kvs) != 1 || string(reply.Kvs[0].Value) != "value" {
		t.Errorf("after a restart: %v, %v", reply, err)
	}
	closeEmbedded(t, server)
	for _, entry := range logged.FilterLevelExact(zapcore.WarnLevel).All() {
		t.Errorf("an ordinary start and stop is worth no warning: %s %v", entry.Message, entry.ContextMap())
	}
	if entries := logged.FilterLevelExact(zapcore.InfoLevel).All(); len(entries) > 2 {
		t.Errorf("etcd is not quiet: %d entries, the first is %s", len(entries), entries[0].Message)
	}
}

func TestEmbeddedFolderIsForOneProcess(t *testing.T) {
	settings := embeddedIn(t.TempDir())
	server := openEmbedded(t, settings, zap.NewNop())
	_, err := startEmbedded(t.Context(), settings, zap.NewNop())
	want := fmt.Sprintf("embedded.data_dir %s is in use by another process (number %d)", settings.DataDir, os.Getpid())
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	closeEmbedded(t, server)
	closeEmbedded(t, openEmbedded(t, settings, zap.NewNop()))
}

func TestEmbeddedFolderThatCannotBeUsed(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	readOnly := filepath.Join(root, "read-only")
	if err := os.Mkdir(readOnly, 0o500); err != nil {
		t.Fatal(err)
	}
	folders := []string{filepath.Join(file, "below")}
	if os.Getuid() != 0 { // root may write anywhere
		folders = append(folders, readOnly)
	}
	for _, folder := range folders {
		_, err := startEmbedded(t.Context(), embeddedIn(folder), zap.NewNop())
		if err == nil || !strings.Contains(err.Error(), "embedded.data_dir "+folder+" cannot be written") {
			t.Errorf("%s: got %v", folder, err)
		}
	}
}

// A damaged database makes etcd panic and a damaged log makes it exit; both
// must come back as a sentence.
func TestEmbeddedDataThatCannotBeRead(t *testing.T) {
	for name, damaged := range map[string]string{"database": "member/snap/db", "log": "member/wal/*.wal"} {
		t.Run(name, func(t *testing.T) {
			settings := embeddedIn(t.TempDir())
			server := openEmbedded(t, settings, zap.NewNop())
			if _, err := server.client.Put(t.Context(), "key", "value"); err != nil {
				t.Fatal(err)
			}
			closeEmbedded(t, server)
			files, err := filepath.Glob(filepath.Join(settings.DataDir, damaged))
			if err != nil || len(files) == 0 {
				t.Fatalf("no file to damage: %v", err)
			}
			for _, file := range files {
				if err := os.WriteFile(file, []byte(strings.Repeat("no etcd wrote this", 10000)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err = startEmbedded(t.Context(), settings, zap.NewNop())
			if err == nil || !strings.Contains(err.Error(), "cannot open the channel state in embedded.data_dir "+settings.DataDir) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestEmbeddedStartEndsWithItsContext(t *testing.T) {
	settings := embeddedIn(t.TempDir())
	reason := errors.New("the operator has changed his mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	if server, err := startEmbedded(ctx, settings, zap.NewNop()); !errors.Is(err, reason) {
		t.Errorf("got %v, %v", server, err)
	}
	waitUntil(t, "the folder is free again", func() bool {
		folder, err := lockFolder(settings.DataDir)
		return err == nil && folder.release() == nil
	})
}

func TestEmbeddedListensOnASocketWhenAsked(t *testing.T) {
	folder, err := os.MkdirTemp("", "mpegate") // t.TempDir may be longer than a socket's path may be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	settings := embeddedIn(folder)
	settings.ListenClientURL = "unix:"
	server := openEmbedded(t, settings, zap.NewNop())
	defer closeEmbedded(t, server)
	if _, err := server.client.Put(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix:" + filepath.Join(folder, "client.sock")}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	reply, err := client.Get(t.Context(), "key")
	if err != nil || len(reply.Kvs) != 1 {
		t.Errorf("through the socket: %v, %v", reply, err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

func TestEmbeddedAtItsQuota(t *testing.T) {
	settings := embeddedIn(t.TempDir())
	settings.QuotaBytes = 4 << 20
	server := openEmbedded(t, settings, zap.NewNop())
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		_, err = server.client.Put(t.Context(), "key", strings.Repeat("x", 64<<10))
	}
	if err == nil {
		t.Fatal("etcd wrote more than its quota")
	}
	waitUntil(t, "health tells that the store is full", func() bool {
		err := server.health()
		return err != nil && strings.Contains(err.Error(), "embedded.quota_bytes (4194304)")
	})
	closeEmbedded(t, server)

	core, logged := observer.New(zapcore.WarnLevel)
	server = openEmbedded(t, settings, zap.New(core)) // nearly all of it is replaced values
	defer closeEmbedded(t, server)
	if logged.FilterMessageSnippet("compacting").Len() != 1 {
		t.Errorf("the compaction is not told: %v", logged.All())
	}
	if err := server.health(); err != nil {
		t.Error(err)
	}
	if _, err := server.client.Put(t.Context(), "key", "short"); err != nil {
		t.Errorf("after the compaction: %v", err)
	}
}

func TestEmbeddedAtItsQuotaWithLiveData(t *testing.T) {
	settings := embeddedIn(t.TempDir())
	settings.QuotaBytes = 4 << 20
	server := openEmbedded(t, settings, zap.NewNop())
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		_, err = server.client.Put(t.Context(), fmt.Sprint("key", i), strings.Repeat("x", 64<<10))
	}
	if err == nil {
		t.Fatal("etcd wrote more than its quota")
	}
	// etcd turns the write away first, and keeps the alarm that outlives it a moment later.
	waitUntil(t, "health tells that the store is full", func() bool { return server.health() != nil })
	closeEmbedded(t, server)
	if _, err = startEmbedded(t.Context(), settings, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "raise the quota") {
		t.Errorf("with the same quota: %v", err)
	}
	settings.QuotaBytes = 64 << 20
	server = openEmbedded(t, settings, zap.NewNop())
	defer closeEmbedded(t, server)
	if _, err := server.client.Put(t.Context(), "another", "key"); err != nil {
		t.Errorf("with a larger quota: %v", err)
	}
}

func TestEmbeddedAfterAKill(t *testing.T) {
	settings := embeddedIn(t.TempDir())
	for round := range 3 {
		child := exec.Command(os.Args[0], "-test.run=^TestCrashingWriter$")
		child.Env = append(os.Environ(), crashFolder+"="+settings.DataDir)
		child.Stderr = os.Stderr
		output, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged := ""
		lines := bufio.NewScanner(output)
		for lines.Scan() && acknowledged != "20" {
			acknowledged = lines.Text()
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // "signal: killed"
		server := openEmbedded(t, settings, zap.NewNop())
		reply, err := server.client.Get(t.Context(), "counter")
		if err != nil || len(reply.Kvs) != 1 {
			t.Fatalf("round %d: %v, %v", round, reply, err)
		}
		var kept, told int
		if _, err := fmt.Sscan(string(reply.Kvs[0].Value)+" "+acknowledged, &kept, &told); err != nil || kept < told {
			t.Errorf("round %d: %q was acknowledged and %q is there", round, acknowledged, reply.Kvs[0].Value)
		}
		closeEmbedded(t, server)
	}
}

// TestCrashingWriter is the process that TestEmbeddedAfterAKill kills: it
// writes and tells each write on its output, for ever.
func TestCrashingWriter(t *testing.T) {
	folder := os.Getenv(crashFolder)
	if folder == "" {
		t.Skip("only for TestEmbeddedAfterAKill")
	}
	server := openEmbedded(t, embeddedIn(folder), zap.NewNop())
	for count := 1; ; count++ {
		if _, err := server.client.Put(t.Context(), "counter", fmt.Sprint(count)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Println(count); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFaultEndsTheGoroutineAndIsTold(t *testing.T) {
	fault := newServerFault()
	core, logged := observer.New(zapcore.InfoLevel)
	logger, _ := etcdLogger(zap.New(core), fault)
	after := make(chan bool, 1)
	go func() {
		defer close(after)
		logger.Fatal("failed to save the log", zap.Error(errors.New("no space left on device")))
		after <- true
	}()
	if <-after {
		t.Error("the goroutine went on after a fatal error")
	}
	<-fault.raised
	if got := fault.err().Error(); got != "etcd: failed to save the log: no space left on device" {
		t.Errorf("the fault is %q", got)
	}
	if logged.Len() != 1 {
		t.Errorf("logged %v", logged.All())
	}
}

func waitUntil(t *testing.T, what string, condition func() bool) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("not within 30 seconds: %s", what)
		}
	}
}
