package authz

import (
	"context"
	"strconv"
	"testing"

	"github.com/holiman/uint256"
	"google.golang.org/protobuf/proto"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/envoy"
)

// freeLedger takes no time, so that what is measured is ours.
type freeLedger struct{ Ledger }

func (freeLedger) Charge(context.Context, channelstate.Key, *blockchain.Channel, channelstate.Charge) error {
	return nil
}

func (freeLedger) Refund(context.Context, channelstate.Key, channelstate.Refund) (channelstate.RefundOutcome, error) {
	return channelstate.Refunded, nil
}

type oneChannel struct{ channel blockchain.Channel }

func (o *oneChannel) Get(context.Context, *uint256.Int, string) (blockchain.Channel, error) {
	return o.channel, nil
}

func (o *oneChannel) Reread(context.Context, *uint256.Int) (blockchain.Channel, bool, error) {
	return o.channel, true, nil
}

func BenchmarkCheck(b *testing.B) {
	w := newWorld(b, func(w *world) {
		w.dependencies.Ledger = freeLedger{}
		w.dependencies.Channels = &oneChannel{w.openChannel(testChannel)}
	})
	headers := w.headers(testPrice)
	ids := make([]string, 1<<12)
	for i := range ids {
		ids[i] = "9f2b6c1e-0000-4000-8000-" + strconv.Itoa(100_000_000_000+i)
	}
	call := request(testMethod, headers)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		headers[envoy.HeaderRequestID] = ids[i%len(ids)]
		if response, _ := w.server.Check(b.Context(), call); response.GetOkResponse() == nil {
			b.Fatal("refused")
		}
	}
}

// BenchmarkRecover is the part of BenchmarkCheck that no design can save.
func BenchmarkRecover(b *testing.B) {
	w := newWorld(b)
	var payment escrowPayment
	if denied := payment.parse(w.headers(testPrice)); denied != nil {
		b.Fatal(denied.message)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, denied := payment.signer(testMPE, nil); denied != nil {
			b.Fatal(denied.message)
		}
	}
}

func BenchmarkCheckRefused(b *testing.B) {
	w := newWorld(b)
	headers := w.headers(testPrice)
	delete(headers, envoy.HeaderChannelSignature)
	call := request(testMethod, headers)
	b.ReportAllocs()
	for b.Loop() {
		if response, _ := w.server.Check(b.Context(), call); response.GetDeniedResponse() == nil {
			b.Fatal("allowed")
		}
	}
}

// BenchmarkCheckLedger charges the real ledger in memory, one call after the other on one channel.
func BenchmarkCheckLedger(b *testing.B) {
	w := newWorld(b, realLedger, func(w *world) {
		channel := w.openChannel(testChannel)
		channel.Value = *uint256.NewInt(1 << 60)
		w.channels.set(channel)
	})
	calls := make([]map[string]string, b.N)
	for i := range calls {
		calls[i] = w.headers(uint64(i+1) * testPrice)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, headers := range calls {
		if response, _ := w.server.Check(b.Context(), request(testMethod, headers)); response.GetOkResponse() == nil {
			b.Fatal("refused")
		}
	}
}

// BenchmarkReply is the yes to a paid call with its encoding.
func BenchmarkReply(b *testing.B) {
	w := newWorld(b)
	paid := &verdict{outcome: allowed, user: w.sender.Hex(), charged: w.check(w.headers(testPrice)).charged}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := proto.Marshal(reply(paid)); err != nil {
			b.Fatal(err)
		}
	}
}
