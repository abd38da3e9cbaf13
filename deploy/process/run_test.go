package process_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/deploy/demo/sample"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/deploy/process"
)

// The whole life of serve: start, a refused and a paid call, health, metrics, Envoy killed and back, stop.
func TestServe(t *testing.T) {
	w := newWorld(t)
	r := w.run(t, process.RoleServe, nil)
	address, admin := r.ready(), r.admin()
	connection := dial(t, address)
	client := samplev1.NewSampleClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	if _, err := client.Echo(ctx, &samplev1.EchoRequest{Text: "unpaid"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an unpaid call is answered %v", err)
	}
	pay := w.openChannel(t, ctx)
	paid, err := pay.Paying(ctx, price)
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := client.Echo(paid, &samplev1.EchoRequest{Text: "paid"}); err != nil || reply.GetText() != "paid" {
		t.Errorf("a paid call is answered %v, %v", reply, err)
	}
	for _, name := range []string{"", "test-service"} {
		if reply, err := healthpb.NewHealthClient(connection).Check(ctx, &healthpb.HealthCheckRequest{Service: name}); err != nil || reply.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health of %q is %v, %v", name, reply, err)
		}
	}
	if _, err := healthpb.NewHealthClient(connection).Check(ctx, &healthpb.HealthCheckRequest{Service: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("health of another service is %v", err)
	}

	code, text := get(t, admin+"/readyz")
	if code != http.StatusOK {
		t.Errorf("/readyz is %d %s", code, text)
	}
	for _, part := range []string{"chain", "metadata", "channel state", "authz", "envoy"} {
		if !strings.Contains(text, fmt.Sprintf("%q", part)) {
			t.Errorf("/readyz does not name %s: %s", part, text)
		}
	}
	_, text = get(t, admin+"/metrics")
	for _, metric := range []string{
		"mpegate_build_info{", "mpegate_chain_block_age_seconds ", "mpegate_chain_requests_total ", "mpegate_channel_cache_channels 1\n",
		"mpegate_channel_state_charges_total 1\n", "mpegate_channel_state_transactions_total 1\n", "mpegate_channel_state_conflicts_total 0\n",
		"mpegate_envoy_restarts_total 0\n", `mpegate_part_ready{part="envoy"} 1`, "go_goroutines ", "mpegate_metadata_age_seconds ",
	} {
		if !strings.Contains(text, metric) {
			t.Errorf("/metrics lacks %s", metric)
		}
	}

	killEnvoy(t, r)
	r.eventually("Envoy is back", func() string {
		if _, text := get(t, admin+"/metrics"); !strings.Contains(text, "mpegate_envoy_restarts_total 1\n") {
			return ""
		}
		if code, _ := get(t, admin+"/readyz"); code != http.StatusOK {
			return ""
		}
		return "back"
	})
	if paid, err = pay.Paying(ctx, 2*price); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Echo(paid, &samplev1.EchoRequest{Text: "again"}, grpc.WaitForReady(true)); err != nil {
		t.Errorf("after Envoy came back a paid call is answered %v", err)
	}

	if err := r.end(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if r.stdout.String() != readyPrefix+address+"\n" {
		t.Errorf("standard output is %q", r.stdout)
	}
	if _, err := net.DialTimeout("tcp", address, time.Second); err == nil {
		t.Error("Envoy listens after the stop")
	}
}

// killEnvoy ends this process's only child, as a crash would.
func killEnvoy(t *testing.T, r *running) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(tasks) == 0 {
		t.Skip("children are not listed on this system")
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(text)) {
			var pid int
			if _, err := fmt.Sscan(field, &pid); err != nil {
				t.Fatal(err)
			}
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if strings.Contains(string(name), "envoy") {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// A call under way when the stop is asked for ends well; new ones are not taken.
func TestStopLetsCallsEnd(t *testing.T) {
	w := newWorld(t)
	r := w.run(t, process.RoleServe, nil)
	connection := dial(t, r.ready())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	paid, err := w.openChannel(t, ctx).Paying(ctx, price)
	if err != nil {
		t.Fatal(err)
	}
	chat, err := samplev1.NewSampleClient(connection).Chat(paid)
	if err != nil {
		t.Fatal(err)
	}
	say := func(text string) {
		t.Helper()
		if err := chat.Send(&samplev1.EchoRequest{Text: text}); err != nil {
			t.Fatal(err)
		}
		if reply, err := chat.Recv(); err != nil || reply.GetText() != text {
			t.Fatalf("%s: %v, %v", text, reply, err)
		}
	}
	say("before")
	admin := r.admin()
	r.stop()
	r.eventually("readiness is off", func() string {
		if code, text := get(t, admin+"/readyz"); code == http.StatusServiceUnavailable && strings.Contains(text, "stopping") {
			return "off"
		}
		return ""
	})
	say("during the stop")
	if err := chat.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := chat.Recv(); err != io.EOF {
		t.Errorf("the call ends with %v", err)
	}
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

func TestServeWithoutBlockchain(t *testing.T) {
	listener := open(t)
	service := sample.NewServer()
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- service.Serve(serving, listener) }()
	defer func() { stop(); <-served }()
	r := runWith(t, process.RoleServe, []string{
		"MPEGATE_BLOCKCHAIN_ENABLED=false", "MPEGATE_LISTEN_ADDRESS=127.0.0.1:0", "MPEGATE_ADMIN_ADDRESS=127.0.0.1:0",
		"MPEGATE_SERVICE_ENDPOINT=" + listener.Addr().String(), "MPEGATE_LOG_FORMAT=json", "MPEGATE_ENVOY_CONCURRENCY=1",
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reply, err := samplev1.NewSampleClient(dial(t, r.ready())).Echo(ctx, &samplev1.EchoRequest{Text: "free"})
	if err != nil || reply.GetText() != "free" {
		t.Errorf("%v, %v", reply, err)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// authz alone: TCP and Unix socket, health, and a channel state that answers.
func TestAuthzRole(t *testing.T) {
	w := newWorld(t)
	for _, address := range []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "authz.sock")} {
		r := w.run(t, process.RoleAuthz, map[string]string{"AUTHZ_ADDRESS": address})
		target := r.ready()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		connection := dial(t, target)
		if reply, err := healthpb.NewHealthClient(connection).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil || reply.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%s: %v, %v", address, reply, err)
		}
		block, err := w.chain.Client.BlockNumber(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if state, err := w.openChannel(t, ctx).State(ctx, connection, block); err != nil || !state.Signed.IsZero() {
			t.Errorf("%s: state %+v, %v", address, state, err)
		}
		if err := r.end(); err != nil {
			t.Error(err)
		}
	}
}

// A stop during the start is a stop, not a failure.
func TestStopDuringStart(t *testing.T) {
	w := newWorld(t)
	silent := open(t) // takes connections and never answers
	defer silent.Close()
	r := w.run(t, process.RoleServe, map[string]string{"BLOCKCHAIN_RPC_URL": "http://" + silent.Addr().String()})
	code, text := get(t, r.admin()+"/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(text, "starting") {
		t.Errorf("during the start /readyz is %d %s", code, text)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// The node going away makes the process not ready; it comes back with the node.
func TestReadinessFollowsTheChain(t *testing.T) {
	w := newWorld(t)
	r := w.run(t, process.RoleAuthz, map[string]string{"AUTHZ_ADDRESS": "127.0.0.1:0", "BLOCKCHAIN_MAX_BLOCK_AGE": "1s"})
	r.ready()
	admin := r.admin()
	w.chain.Close()
	r.eventually("not ready", func() string {
		if code, text := get(t, admin+"/readyz"); code == http.StatusServiceUnavailable && strings.Contains(text, "height of the chain is not known") {
			return "not ready"
		}
		return ""
	})
	if code, _ := get(t, admin+"/healthz"); code != http.StatusOK {
		t.Errorf("/healthz is %d while the node is away", code)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}
