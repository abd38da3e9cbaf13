package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/holiman/uint256"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/mpegate/mpegate/deploy/demo/child"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/e2e/harness"
)

var (
	seconds = flag.Float64("seconds", 4, "how long each load runs in a round")
	rounds  = flag.Int("rounds", 3, "how often each load runs; the loads take turns and the median round is shown")
)

// allowAllVariable makes a child of this test binary the allow-all server on the address that it holds.
const allowAllVariable = "MPEGATE_BENCH_ALLOW_ALL"

func TestMain(m *testing.M) {
	if address := os.Getenv(allowAllVariable); address != "" {
		fmt.Fprintln(os.Stderr, serveAllowAll(address))
		os.Exit(1)
	}
	harness.Main(m)
}

// scenario is one line of the table.
type scenario struct {
	name    string
	address string
	clients int
	paid    bool
	purse   *purse // signs the payments; they are sent in every scenario, so that all make the same calls
	onOne   bool   // all clients share one channel

	connections []*grpc.ClientConn
	results     []result
	spent       usage // of all rounds
}

// BenchmarkCalls prints the table. Run it once: go test ./e2e/bench -run '^$' -bench . -benchtime 1x
func BenchmarkCalls(b *testing.B) {
	world := harness.New(b, harness.Options{OwnServiceProcess: true, PollInterval: 2 * time.Second, Settings: "log:\n  level: warn\n"})
	bare := startEnvoy(b, world.ServiceAddress, "")
	allowing := startEnvoy(b, world.ServiceAddress, startAllowAll(b))
	scenarios := []*scenario{{name: "bare Envoy", address: bare, clients: 32}}
	for _, clients := range []int{1, 8, 32} {
		scenarios = append(scenarios, &scenario{name: "allow-all ext_authz", address: allowing, clients: clients})
	}
	for _, clients := range []int{1, 8, 32} {
		scenarios = append(scenarios, &scenario{name: "paid, a channel each", address: world.Address, clients: clients, paid: true})
	}
	scenarios = append(scenarios, &scenario{name: "paid, all on one channel", address: world.Address, clients: 8, paid: true, onOne: true})
	for _, s := range scenarios {
		s.dial(b)
		channels := s.clients
		if s.onOne {
			channels = 1
		}
		s.purse = openPurse(b, world, channels)
	}
	for b.Loop() {
		for round := range *rounds {
			for _, s := range scenarios {
				fmt.Fprintf(os.Stderr, "round %d of %d: %s, %d clients\n", round+1, *rounds, s.name, s.clients)
				s.measure(b, world)
			}
		}
	}
	printTable(scenarios)
}

func (s *scenario) dial(b *testing.B) {
	b.Helper()
	for range s.clients {
		connection, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = connection.Close() })
		s.connections = append(s.connections, connection)
	}
}

// measure runs the load once, after a short one that opens connections and fills caches.
func (s *scenario) measure(b *testing.B, world *harness.World) {
	b.Helper()
	duration := time.Duration(*seconds * float64(time.Second))
	s.purse.sign(b, s.expectedCalls(duration))
	load := load{clients: s.clients, duration: duration / 10, call: s.call}
	load.run(b.Context())
	before := readUsage(b, world)
	load.duration = duration
	r := load.run(b.Context())
	if s.paid {
		s.spent = s.spent.plus(readUsage(b, world).minus(before))
	}
	if r.failure != nil {
		b.Logf("%s, %d clients: %d calls failed, such as: %v", s.name, s.clients, r.failed, r.failure)
	}
	s.results = append(s.results, r)
}

// expectedCalls is how many payments to sign ahead, so that signing is not measured: more than one round can use.
func (s *scenario) expectedCalls(duration time.Duration) int {
	const most = 6000 // calls a second, above what two cores do
	return int(duration.Seconds() * 1.1 * most)
}

func (s *scenario) call(ctx context.Context, client, _ int) error {
	channel := client
	if s.onOne {
		channel = 0
	}
	ctx = metadata.NewOutgoingContext(ctx, s.purse.next(channel))
	_, err := samplev1.NewSampleClient(s.connections[client]).Echo(ctx, &samplev1.EchoRequest{Text: "hello"})
	return err
}

func startAllowAll(b *testing.B) string {
	b.Helper()
	address := harness.FreeAddress(b)
	b.Setenv(allowAllVariable, address)
	process, err := child.Start(os.Args[0], "allow-all", b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(process.Kill)
	b.Setenv(allowAllVariable, "")
	return address
}

// median is the result of the round in the middle by calls a second.
func (s *scenario) median() result {
	sorted := slices.SortedFunc(slices.Values(s.results), func(one, other result) int {
		return int(one.perSecond()) - int(other.perSecond())
	})
	return sorted[len(sorted)/2]
}

func printTable(scenarios []*scenario) {
	ceiling := map[int]float64{} // allow-all by clients
	fmt.Printf("\n%-26s %7s %9s %9s %9s %7s %10s %8s %10s\n", "", "clients", "calls/s", "p50", "p99", "failed", "allow-all", "etcd/call", "chain/call")
	for _, s := range scenarios {
		r := s.median()
		if s.name == "allow-all ext_authz" {
			ceiling[s.clients] = r.perSecond()
		}
		ratio, etcd, chain := "", "", ""
		if s.paid {
			ratio = fmt.Sprintf("%.2f", r.perSecond()/ceiling[s.clients])
			calls := 0
			for _, round := range s.results {
				calls += round.calls + round.failed
			}
			etcd = fmt.Sprintf("%.2f", s.spent.transactions/float64(calls))
			chain = fmt.Sprintf("%.4f", s.spent.chainRequests/float64(calls))
		}
		fmt.Printf("%-26s %7d %9.0f %9s %9s %7d %10s %8s %10s\n", s.name, s.clients, r.perSecond(),
			r.median.Round(10*time.Microsecond), r.tail99.Round(10*time.Microsecond), r.failed, ratio, etcd, chain)
	}
}

// amountOf is the cumulative amount of the nth call on a channel, in cogs.
func amountOf(n int) *uint256.Int { return uint256.NewInt(uint64(n) * harness.Price) }
