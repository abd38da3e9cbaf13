package envoy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/metadata"

	"github.com/mpegate/mpegate/envoy"
	"github.com/mpegate/mpegate/envoy/bootstrap"
)

func TestFind(t *testing.T) {
	real := envoyBinary(t)
	empty := t.TempDir()
	fake := filepath.Join(t.TempDir(), "envoy")
	script := "#!/bin/sh\necho 'envoy  version: 0123/1.39.2/Clean/RELEASE/BoringSSL'\n"
	if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		variable, path  string
		want            string
		progress, fault string
	}{
		"variable":            {variable: real, path: empty, want: real},
		"variable before":     {variable: real, path: filepath.Dir(fake), want: real},
		"variable is nothing": {variable: filepath.Join(empty, "envoy"), path: filepath.Dir(real), fault: "MPEGATE_ENVOY="},
		"path, other version": {path: filepath.Dir(fake), want: fake, progress: "is Envoy 1.39.2"},
		"no Envoy at all":     {variable: "/bin/false", path: empty, fault: "--version"},
		"something else":      {variable: "/bin/echo", path: empty, fault: "does not answer as Envoy does"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(envoy.EnvironmentBinary, c.variable)
			t.Setenv("PATH", c.path)
			var progress bytes.Buffer
			got, err := envoy.Find(t.Context(), &progress)
			if c.fault != "" {
				if err == nil || !strings.Contains(err.Error(), c.fault) {
					t.Errorf("got %q, %v", got, err)
				}
				return
			}
			if err != nil || got != c.want || !strings.Contains(progress.String(), c.progress) {
				t.Errorf("got %q, %v, %q", got, err, progress.String())
			}
			if c.progress == "" && strings.Contains(progress.String(), "warning") {
				t.Errorf("a warning about the right version: %q", progress.String())
			}
		})
	}
}

func TestValidateTellsWhy(t *testing.T) {
	err := envoy.Validate(t.Context(), envoyBinary(t), []byte("static_resources: { listenerz: [] }"))
	if err == nil || !strings.Contains(err.Error(), "listenerz") {
		t.Errorf("got %v", err)
	}
	err = envoy.Validate(t.Context(), filepath.Join(t.TempDir(), "absent"), nil)
	if err == nil || !strings.Contains(err.Error(), "cannot run Envoy") {
		t.Errorf("got %v", err)
	}
}

// A start that fails says why in Envoy's words, and leaves nothing behind.
func TestFailedStarts(t *testing.T) {
	occupied, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = occupied.Close() }()
	address, err := envoy.ParseAddress(occupied.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		options func(*envoy.RunOptions)
		want    string
	}{
		"no such binary": {func(o *envoy.RunOptions) { o.Binary = "/absent/envoy" }, "cannot start Envoy"},
		"bad config":     {func(o *envoy.RunOptions) { o.Config = []byte("listenerz: []") }, "listenerz"},
		"port in use": {func(o *envoy.RunOptions) {
			o.Config = testConfig(t, func(s *bootstrap.Settings) { s.Public = address })
		}, "Address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			t.Setenv("TMPDIR", folder)
			options := envoy.RunOptions{Binary: envoyBinary(t), Config: testConfig(t, nil)}
			c.options(&options)
			_, err := envoy.Supervise(t.Context(), options)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			expectEmptyFolder(t, folder)
		})
	}
}

func testConfig(t *testing.T, change func(*bootstrap.Settings)) []byte {
	t.Helper()
	settings := rigSettings(envoy.Address{Host: "127.0.0.1", Port: 1}, envoy.Address{Host: "127.0.0.1", Port: 1})
	if change != nil {
		change(&settings)
	}
	config, err := bootstrap.Render(settings)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func expectEmptyFolder(t *testing.T, folder string) {
	t.Helper()
	left, err := os.ReadDir(folder)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind in %s: %v, %v", folder, left, err)
	}
}

// The configuration is readable for us only, and gone once Envoy has read it.
func TestConfigurationIsPrivate(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	process, err := envoy.Start(t.Context(), envoy.RunOptions{Binary: envoyBinary(t), Config: testConfig(t, nil)})
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*", "envoy.yaml"))
	if err != nil || len(files) != 1 {
		t.Fatalf("found %v, %v", files, err)
	}
	for path, want := range map[string]os.FileMode{files[0]: 0o600, filepath.Dir(files[0]): 0o700 | os.ModeDir} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	ready(t, process)
	expectEmptyFolder(t, folder)
	ready(t, process)
	stop(t, process)
	if err := process.Wait(); err != nil {
		t.Errorf("after Stop: %v", err)
	}
}

func ready(t *testing.T, process *envoy.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := process.Ready(ctx); err != nil {
		t.Fatal(err)
	}
}

func stop(t *testing.T, process *envoy.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := process.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// Envoy on Unix sockets: the admin interface, and authz behind one.
func TestUnixSockets(t *testing.T) {
	folder := t.TempDir()
	authz := newFakeAuthz(t)
	proxy := filepath.Join(folder, "authz")
	listener, err := net.Listen("unix", proxy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() { _ = authz.server.Serve(listener) }()
	service := newFakeService(t)
	settings := rigSettings(service.address, envoy.Address{Path: proxy})
	settings.Admin = envoy.Address{Path: filepath.Join(folder, "admin")}
	process, _ := startEnvoy(t, settings)
	if address, err := process.Admin(); err != nil || address != settings.Admin {
		t.Errorf("admin is at %v, %v", address, err)
	}
	if info, err := os.Stat(settings.Admin.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("admin socket: %v, %v", info, err)
	}
	address, err := process.ListenerAddress(t.Context(), bootstrap.ListenerName)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{address: address.String()}
	if _, err := call(t.Context(), r.dial(t), "/test.Service/OK"); err != nil || authz.checkCount() != 1 {
		t.Errorf("call: %v, %d checks", err, authz.checkCount())
	}
}

// A drain waits for the call under way, which ends well, and is no longer ready from its start.
func TestDrain(t *testing.T) {
	r := newRig(t, nil)
	release := make(chan struct{})
	r.service.hold = release
	stream, err := open(t.Context(), r.dial(t), "/test.Service/Held")
	if err != nil {
		t.Fatal(err)
	}
	<-r.service.arrived

	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := r.envoy.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a drain with a call under way ended with %v", err)
	}
	notReady, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := r.envoy.Ready(notReady); err == nil {
		t.Error("Envoy is ready while it drains")
	}

	drained := make(chan error, 1)
	go func() { drained <- r.envoy.Drain(t.Context()) }()
	close(release)
	var answer reply
	if err := stream.RecvMsg(&answer); err != nil || answer.text != "answer" {
		t.Errorf("the call under way got %q, %v", answer.text, err)
	}
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
	if connection, err := net.Dial("tcp", r.address); err == nil {
		_ = connection.Close()
		t.Error("a drained Envoy takes connections")
	}
}

// Killed, it comes back by itself, and whoever asks is told that it was away.
func TestSupervise(t *testing.T) {
	changes := make(chan bool, 100)
	core, lines := observer.New(zap.InfoLevel)
	supervisor, err := envoy.Supervise(t.Context(), envoy.RunOptions{
		Binary: envoyBinary(t), Config: testConfig(t, nil), Logger: zap.New(core), OnReady: func(ready bool) { changes <- ready },
	})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want bool) {
		t.Helper()
		select {
		case got := <-changes:
			if got != want {
				t.Errorf("told %t, want %t", got, want)
			}
		case <-time.After(patience):
			t.Fatal("told nothing")
		}
	}
	expect(true)
	pid := 0
	for restart := range uint64(2) {
		process := supervisor.Process()
		if process == nil || process.PID() == pid || !supervisor.Ready() {
			t.Fatalf("restart %d: %v, ready %t", restart, process, supervisor.Ready())
		}
		pid = process.PID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		expect(false)
		expect(true)
		if supervisor.Restarts() != restart+1 {
			t.Errorf("%d restarts", supervisor.Restarts())
		}
	}
	process := supervisor.Process()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := errors.Join(supervisor.Stop(ctx), supervisor.Stop(ctx)); err != nil {
		t.Error(err)
	}
	expect(false)
	if err := process.Wait(); err != nil || supervisor.Process() != nil {
		t.Errorf("after Stop: %v, %v", err, supervisor.Process())
	}
	if lines.FilterMessageSnippet("starting it again").Len() != 2 {
		t.Errorf("log: %v", lines.All())
	}
}

// At debug level Envoy prints whole requests; what could be spent is not in our log all the same.
func TestLogHasNothingToSpend(t *testing.T) {
	t.Setenv("TEST_ENVOY_LOG", "trace")
	r := newRig(t, nil)
	const secret = "aSignatureThatCouldBeSpent+/=="
	ctx := metadata.AppendToOutgoingContext(t.Context(), "snet-user-info", "to be seen")
	for _, header := range envoy.SpendableHeaders {
		ctx = metadata.AppendToOutgoingContext(ctx, header, secret)
	}
	if _, err := call(ctx, r.dial(t), "/test.Service/OK"); err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.address+"/test.Service/OK", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("content-type", "application/grpc-web")
	for _, header := range envoy.SpendableHeaders {
		request.Header.Add(header, secret)
		request.Header.Add(header, secret)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	encoded := base64.RawStdEncoding.EncodeToString([]byte(secret)) // as the gRPC library sends it
	shown := 0
	for _, line := range r.log.All() {
		if strings.Contains(line.Message, "to be seen") {
			shown++
		}
		if strings.Contains(line.Message, secret) || strings.Contains(line.Message, encoded) {
			t.Errorf("in the log: %s", line.Message)
		}
	}
	if shown == 0 {
		t.Error("the log shows no request: the test proves nothing")
	}
}

// asParent makes this test binary start an Envoy and wait to be killed.
const asParent = "MPEGATE_TEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(asParent) != "" {
		config, err := os.ReadFile(os.Getenv(asParent))
		if err != nil {
			panic(err)
		}
		process, err := envoy.Start(context.Background(), envoy.RunOptions{Binary: os.Getenv(envoy.EnvironmentBinary), Config: config})
		if err != nil {
			panic(err)
		}
		if err := process.Ready(context.Background()); err != nil {
			panic(err)
		}
		fmt.Println(process.PID())
		_ = process.Wait()
		return
	}
	os.Exit(m.Run())
}

// kill -9 of our process takes Envoy with it.
func TestEnvoyDiesWithItsParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can do this")
	}
	config := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(config, testConfig(t, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), asParent+"="+config, envoy.EnvironmentBinary+"="+envoyBinary(t), "TMPDIR="+t.TempDir())
	output, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	parent.Stderr = os.Stderr
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	for deadline := time.Now().Add(patience); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("Envoy lives on")
		}
	}
}

// alive is false for a zombie too: the test may run where nobody collects orphans.
func alive(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(status), ") ")
	return !strings.HasPrefix(after, "Z")
}
