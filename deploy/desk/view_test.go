package desk

import (
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

var (
	payee    = common.HexToAddress("0x1")
	sender   = common.HexToAddress("0x2")
	stranger = common.HexToAddress("0x3")
)

func n(number uint64) uint256.Int { return *uint256.NewInt(number) }

// onChain is a channel of 1000 cogs that expires at block 500.
func onChain(nonce uint64) blockchain.Channel {
	return blockchain.Channel{ID: n(7), Nonce: n(nonce), Value: n(1000), Expiration: n(500), Sender: sender, Signer: sender, Recipient: payee}
}

func holding(nonce, signed, spent uint64) Holding {
	return Holding{Channel: n(7), Nonce: n(nonce), Signed: n(signed), Spent: n(spent), Sender: sender, Signer: sender}
}

func claim(nonce, signed, spent uint64, sent bool) channelstate.Claim {
	return channelstate.Claim{Channel: n(7), Nonce: n(nonce), Signed: n(signed), Spent: n(spent), Sender: sender, Signer: sender, Sent: sent}
}

func TestChannelsAndPlans(t *testing.T) {
	expired, elsewhere, poor, reopened := onChain(0), onChain(0), onChain(0), onChain(0)
	expired.Expiration = n(90)
	elsewhere.Recipient = stranger
	poor.Value = n(49)
	reopened.Sender = stranger
	near := onChain(0)
	near.Expiration = n(120)
	tests := []struct {
		name    string
		holding Holding
		claims  []channelstate.Claim
		chain   blockchain.Channel
		least   uint64

		state     string
		unclaimed uint64
		claims1   string // state of the first claim
		item      *Item
		skipped   string // part of the reason
		passed    int
	}{
		{name: "nothing spent", holding: holding(0, 50, 0), chain: onChain(0), state: StateOpen},
		{name: "spent", holding: holding(0, 60, 50), chain: onChain(0), state: StateOpen, unclaimed: 50,
			item: &Item{Channel: n(7), Nonce: n(0), Actual: n(50), Planned: n(60)}},
		{name: "too little", holding: holding(0, 60, 50), chain: onChain(0), least: 51, state: StateOpen, unclaimed: 50, skipped: "least"},
		{name: "little, but it expires", holding: holding(0, 60, 50), chain: near, least: 51, state: StateClosing, unclaimed: 50,
			item: &Item{Channel: n(7), Nonce: n(0), Actual: n(50), Planned: n(60)}},
		{name: "expired and not taken back", holding: holding(0, 60, 50), chain: expired, state: StateExpired, unclaimed: 50,
			item: &Item{Channel: n(7), Nonce: n(0), Actual: n(50), Planned: n(60)}},
		{name: "taken back", holding: holding(0, 60, 50), chain: onChain(1), state: StateLost, skipped: "beyond"},
		{name: "another channel", holding: holding(0, 60, 50), chain: reopened, state: StateLost, skipped: "other parties"},
		{name: "not ours", holding: holding(0, 60, 50), chain: elsewhere, state: StateNotOurs, unclaimed: 50, skipped: "pays"},
		{name: "worth more than the channel", holding: holding(0, 60, 50), chain: poor, state: StateOpen, unclaimed: 50, skipped: "value"},
		{name: "started", holding: holding(1, 0, 0), claims: []channelstate.Claim{claim(0, 60, 50, false)}, chain: onChain(0),
			state: StateSettling, unclaimed: 50, claims1: ClaimStarted,
			item: &Item{Channel: n(7), Nonce: n(0), Actual: n(50), Planned: n(60), Resumed: true}},
		{name: "sent, and more is spent", holding: holding(1, 30, 20), claims: []channelstate.Claim{claim(0, 60, 50, true)}, chain: onChain(0),
			least: 1000, state: StateSettling, unclaimed: 70, claims1: ClaimSent,
			item: &Item{Channel: n(7), Nonce: n(0), Actual: n(50), Planned: n(60), Resumed: true}},
		{name: "started and all given back", holding: holding(1, 0, 0), claims: []channelstate.Claim{claim(0, 60, 0, false)}, chain: onChain(0),
			state: StateSettling, claims1: ClaimStarted, item: &Item{Channel: n(7), Nonce: n(0), Planned: n(60), Resumed: true}},
		{name: "on chain, and more is spent", holding: holding(1, 30, 20), claims: []channelstate.Claim{claim(0, 60, 50, true)}, chain: onChain(1),
			state: StateOpen, unclaimed: 20, claims1: ClaimOnChain, passed: 1,
			item: &Item{Channel: n(7), Nonce: n(1), Actual: n(20), Planned: n(30)}},
		{name: "on chain", holding: holding(1, 0, 0), claims: []channelstate.Claim{claim(0, 60, 50, true)}, chain: onChain(1),
			state: StateOpen, claims1: ClaimOnChain, passed: 1},
		{name: "reorganised under a second claim", holding: holding(2, 0, 0), claims: []channelstate.Claim{claim(1, 60, 50, true)}, chain: onChain(0),
			state: StateSettling, unclaimed: 50, claims1: ClaimWaiting},
		{name: "ahead and unexplained", holding: holding(1, 60, 50), chain: onChain(0), state: StateSettling, unclaimed: 50, skipped: "reorganised"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			terms, clock := &Terms{PaymentAddress: payee, Threshold: 30}, &Clock{Block: 100}
			channel := describe(terms, clock, &test.holding, &test.chain, test.claims)
			if channel.State != test.state || channel.Unclaimed != n(test.unclaimed) {
				t.Errorf("%s with %s unclaimed, wanted %s with %d", channel.State, channel.Unclaimed.Dec(), test.state, test.unclaimed)
			}
			if len(channel.Claims) > 0 && channel.Claims[0].State != test.claims1 {
				t.Errorf("its claim is %s, wanted %s", channel.Claims[0].State, test.claims1)
			}
			plan := NewPlan(&Report{Channels: []Channel{channel}}, &Wish{Payee: payee, Least: n(test.least), Near: 30})
			var wanted []Item
			if test.item != nil {
				wanted = []Item{*test.item}
			}
			if !slices.Equal(plan.Items, wanted) {
				t.Errorf("the plan is %+v, wanted %+v", plan.Items, wanted)
			}
			if (test.skipped != "") != (len(plan.Skipped) == 1) || test.skipped != "" && !strings.Contains(plan.Skipped[0].Reason, test.skipped) {
				t.Errorf("left out %+v, wanted %q", plan.Skipped, test.skipped)
			}
			if len(plan.passed) != test.passed {
				t.Errorf("%d claims to put away, wanted %d", len(plan.passed), test.passed)
			}
		})
	}
}

func TestClock(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := &Clock{Block: 100, at: at, pace: 12 * time.Second}
	tests := map[string]struct {
		block uint256.Int
		want  time.Time
	}{
		"now":       {n(100), at},
		"later":     {n(110), at.Add(2 * time.Minute)},
		"earlier":   {n(95), at.Add(-time.Minute)},
		"far":       {n(1 << 62), time.Time{}},
		"no number": {*new(uint256.Int).SetAllOne(), time.Time{}},
	}
	for name, test := range tests {
		if got := clock.When(&test.block); !got.Equal(test.want) {
			t.Errorf("%s: %s, wanted %s", name, got, test.want)
		}
	}
	block := n(110)
	if got := (&Clock{Block: 100, at: at}).When(&block); !got.IsZero() {
		t.Errorf("without a pace: %s", got)
	}
	for block, want := range map[uint64]int64{100: 0, 101: 1, 90: -10, 1 << 63: 1 << 53} {
		expiration := n(block)
		if got := blocksLeft(&expiration, 100); got != want {
			t.Errorf("%d is %d blocks away, wanted %d", block, got, want)
		}
	}
	all := new(uint256.Int).SetAllOne()
	if got := blocksLeft(all, 100); got != 1<<53 {
		t.Errorf("the last block is %d away", got)
	}
}

func TestAmountsOfWei(t *testing.T) {
	for wei, want := range map[string]string{
		"0": "0", "1": "0.000000001", "1000000000": "1", "1500000000": "1.5", "123456789012": "123.456789012",
	} {
		number, _ := new(big.Int).SetString(wei, 10)
		if got := Gwei(number); got != want {
			t.Errorf("%s wei are %s gwei, wanted %s", wei, got, want)
		}
	}
	if got := Ether(big.NewInt(2_500_000_000_000_000)); got != "0.0025" {
		t.Errorf("ether: %s", got)
	}
}
