package translator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/translator"
)

// BenchmarkCalls makes calls with 32 clients through Envoy and reports what they cost this process (clients, service
// and translator) and Envoy.
func BenchmarkCalls(b *testing.B) {
	b.Run("jsonrpc", func(b *testing.B) {
		r := newRig(b, blockchain.ServiceTypeJSONRPC, rigOptions{})
		r.service.will(func(w http.ResponseWriter, r *http.Request) {
			var request struct{ ID json.Number }
			body, _ := io.ReadAll(r.Body)
			_ = json.Unmarshal(body, &request)
			w.Header().Set("content-type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"sum_of_both":3,"note":"three"}}`, request.ID)
		})
		r.benchmark(b)
	})
	b.Run("http", func(b *testing.B) {
		r := newRig(b, blockchain.ServiceTypeHTTP, rigOptions{})
		r.service.willSay(http.StatusOK, "application/json", `{"sum_of_both":3,"note":"three"}`)
		r.benchmark(b)
	})
	b.Run("process", func(b *testing.B) {
		r := newRig(b, blockchain.ServiceTypeProcess, rigOptions{settings: func(s *translator.Settings) {
			s.Process.Executable = "/bin/true"
		}})
		r.benchmark(b)
	})
}

func (r *rig) benchmark(b *testing.B) {
	method := methodOf(b, pathAdd)
	in := dynamicpb.NewMessage(method.Input())
	fields := method.Input().Fields()
	in.Set(fields.ByName("first_number"), fields.ByName("first_number").Default())
	const clients = 32
	var left atomic.Int64
	left.Store(int64(b.N))
	ownBefore, envoyBefore := ownCPU(), processCPU(b, r.envoy.PID())
	b.ResetTimer()
	var clientsDone sync.WaitGroup
	for range clients {
		connection, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = connection.Close() })
		clientsDone.Go(func() {
			for left.Add(-1) >= 0 {
				if err := connection.Invoke(context.Background(), pathAdd, in, dynamicpb.NewMessage(method.Output())); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	clientsDone.Wait()
	b.StopTimer()
	calls := time.Duration(b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(float64((ownCPU()-ownBefore)/calls)/1e3, "own-cpu-µs/call")
	b.ReportMetric(float64((processCPU(b, r.envoy.PID())-envoyBefore)/calls)/1e3, "envoy-cpu-µs/call")
}

func ownCPU() time.Duration {
	var self syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &self)
	return time.Duration(self.Utime.Nano() + self.Stime.Nano())
}

// processCPU reads proc(5); it is 0 where there is no /proc.
func processCPU(b *testing.B, pid int) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+2:]))
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		b.Fatal(err)
	}
	const tick = 10 * time.Millisecond
	return time.Duration(user+system) * tick
}
