package bench

import (
	"bufio"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/mpegate/mpegate/deploy/demo/payer"
	"github.com/mpegate/mpegate/e2e/harness"
)

// purse holds channels and payments that were signed ahead.
type purse struct {
	channels []*paidChannel
}

type paidChannel struct {
	payer    *payer.Payer
	payments []metadata.MD // of the amounts 1, 2, 3 … times the price
	used     atomic.Int64
}

func openPurse(b *testing.B, world *harness.World, channels int) *purse {
	b.Helper()
	p := &purse{}
	for range channels {
		p.channels = append(p.channels, &paidChannel{payer: world.OpenChannel(1 << 50)})
	}
	return p
}

// sign makes so many more payments, spread over the channels with room for the faster ones.
func (p *purse) sign(b *testing.B, payments int) {
	b.Helper()
	share := payments/len(p.channels) + 1000
	var group sync.WaitGroup
	limit := make(chan struct{}, runtime.NumCPU())
	for _, channel := range p.channels {
		limit <- struct{}{}
		group.Go(func() {
			defer func() { <-limit }()
			for ready := len(channel.payments) - int(channel.used.Load()); ready < share; ready++ {
				payment, err := channel.payer.Payment(amountOf(len(channel.payments) + 1))
				if err != nil {
					b.Error(err)
					return
				}
				channel.payments = append(channel.payments, payment)
			}
		})
	}
	group.Wait()
}

func (p *purse) next(channel int) metadata.MD {
	c := p.channels[channel]
	number := int(c.used.Add(1))
	if number <= len(c.payments) {
		return c.payments[number-1]
	}
	// More than was signed ahead: signed now, which slows the call down.
	payment, err := c.payer.Payment(amountOf(number))
	if err != nil {
		return nil // refused, and shown as failed
	}
	return payment
}

// usage is what mpegate has asked of etcd and the chain.
type usage struct{ transactions, chainRequests float64 }

func (u usage) minus(o usage) usage {
	return usage{u.transactions - o.transactions, u.chainRequests - o.chainRequests}
}

func (u usage) plus(o usage) usage {
	return usage{u.transactions + o.transactions, u.chainRequests + o.chainRequests}
}

// readUsage reads the counters from mpegate's own metrics.
func readUsage(b *testing.B, world *harness.World) usage {
	b.Helper()
	response, err := http.Get(world.Admin + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	sums := map[string]float64{}
	scanner := bufio.NewScanner(response.Body)
	for scanner.Scan() {
		name, value, found := strings.Cut(scanner.Text(), " ")
		name, _, _ = strings.Cut(name, "{")
		if number, err := strconv.ParseFloat(value, 64); found && err == nil {
			sums[name] += number
		}
	}
	if err := scanner.Err(); err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{transactionsMetric, chainRequestsMetric} {
		if _, found := sums[name]; !found {
			b.Fatalf("mpegate shows no metric %s", name)
		}
	}
	return usage{sums[transactionsMetric], sums[chainRequestsMetric]}
}

// The names of deploy/process/metrics.go.
const (
	transactionsMetric  = "mpegate_channel_state_transactions_total"
	chainRequestsMetric = "mpegate_chain_requests_total"
)
