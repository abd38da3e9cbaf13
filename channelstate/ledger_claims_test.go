package channelstate_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

func channelsOf(nonce uint64, ids ...uint64) []blockchain.Channel {
	channels := make([]blockchain.Channel, len(ids))
	for i, id := range ids {
		channels[i] = *channelOf(id, nonce)
	}
	return channels
}

func TestClaimsOfSeveralChannels(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledger := newLedger(t, store)
		for id := uint64(1); id <= 3; id++ {
			mustCharge(t, ledger, channelOf(id, 3), chargeOf(id, 3, 10*id, 10))
		}
		claims, err := ledger.StartClaims(t.Context(), group, channelsOf(3, 3, 1, 2))
		if err != nil || len(claims) != 3 {
			t.Fatalf("%d claims, error %v", len(claims), err)
		}
		for i, claim := range claims {
			id := uint64(i + 1)
			if claim.Channel != number(id) || claim.Nonce != number(3) || claim.Signed != number(10*id) || claim.Spent != number(10) {
				t.Errorf("claim %d is %+v", i, claim)
			}
			wantBooks(t, ledger, id, 4, 0, 0)
			stored, found, err := ledger.Claim(t.Context(), keyOf(id), &claim.Nonce)
			if err != nil || !found || stored.Spent != claim.Spent {
				t.Errorf("stored claim %+v, %v, %v", stored, found, err)
			}
			mustCharge(t, ledger, channelOf(id, 3), chargeOf(id, 4, 10, 10)) // goes on at the new nonce
		}
	})
}

func TestSeveralClaimsOrNone(t *testing.T) {
	tests := map[string]struct {
		channels []blockchain.Channel
		of       uint64
		want     error
	}{
		"nothing spent":  {channelsOf(3, 1, 2, 9), 9, channelstate.ErrNothingToClaim},
		"pending claim":  {channelsOf(3, 1, 2, 5), 5, channelstate.ErrClaimPending},
		"other parties":  {append(channelsOf(3, 1, 2), blockchain.Channel{ID: number(6), Nonce: number(3), Sender: carol, Signer: bob}), 6, channelstate.ErrChannelChanged},
		"first of three": {channelsOf(3, 0, 1, 2), 0, channelstate.ErrNothingToClaim},
	}
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledger := newLedger(t, store)
		for _, id := range []uint64{1, 2, 5, 6} {
			mustCharge(t, ledger, channelOf(id, 3), chargeOf(id, 3, 10, 10))
		}
		if _, err := ledger.StartClaim(t.Context(), keyOf(5), channelOf(5, 3)); err != nil {
			t.Fatal(err)
		}
		for name, test := range tests {
			_, err := ledger.StartClaims(t.Context(), group, test.channels)
			var of *channelstate.ChannelError
			if !errors.As(err, &of) || of.Channel != number(test.of) || !errors.Is(err, test.want) {
				t.Errorf("%s: error %v, want %v of channel %d", name, err, test.want, test.of)
			}
			wantBooks(t, ledger, 1, 3, 10, 10)
			wantBooks(t, ledger, 2, 3, 10, 10)
		}
		for name, channels := range map[string][]blockchain.Channel{
			"twice": channelsOf(3, 1, 2, 1), "too many": make([]blockchain.Channel, channelstate.MaxClaimsTogether+1),
		} {
			if _, err := ledger.StartClaims(t.Context(), group, channels); err == nil {
				t.Errorf("%s: started", name)
			}
		}
		if claims, err := ledger.StartClaims(t.Context(), group, nil); err != nil || len(claims) != 0 {
			t.Errorf("no channels: %v, %v", claims, err)
		}
	})
}

// What another replica has written is noticed, also when this one has records of before.
func TestSeveralClaimsSeeOtherReplicas(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		here, there := newLedger(t, store), newLedger(t, store)
		mustCharge(t, here, channelOf(1, 3), chargeOf(1, 3, 10, 10))
		charge := mustCharge(t, here, channelOf(2, 3), chargeOf(2, 3, 10, 10))
		mustCharge(t, there, channelOf(1, 3), chargeOf(1, 3, 20, 10))
		wantRefund(t, there, 2, refundOf(charge), channelstate.Refunded)

		if _, err := here.StartClaims(t.Context(), group, channelsOf(3, 1, 2)); !errors.Is(err, channelstate.ErrNothingToClaim) {
			t.Errorf("a channel whose only call was given back: %v", err)
		}
		mustCharge(t, there, channelOf(2, 3), chargeOf(2, 3, 30, 10))
		claims, err := here.StartClaims(t.Context(), group, channelsOf(3, 1, 2))
		if err != nil || claims[0].Signed != number(20) || claims[0].Spent != number(20) || claims[1].Signed != number(30) {
			t.Errorf("claims %+v, error %v", claims, err)
		}
	})
}

func TestSeveralClaimsWhoseReplyIsLost(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		id := uint64(0)
		for name, fault := range lostFaults {
			for _, times := range []int{1, 3} {
				faulty := &storetest.Faulty{Store: store}
				ledger := newLedger(t, faulty)
				first, second := id+1, id+2
				id += 2
				mustCharge(t, ledger, channelOf(first, 3), chargeOf(first, 3, 10, 10))
				mustCharge(t, ledger, channelOf(second, 3), chargeOf(second, 3, 20, 20))
				list := make([]storetest.Fault, times)
				for i := range list {
					list[i] = fault
				}
				faulty.Next = faults(list...)
				claims, err := ledger.StartClaims(t.Context(), group, channelsOf(3, first, second))
				if err != nil || claims[0].Spent != number(10) || claims[1].Spent != number(20) {
					t.Errorf("%s, %d times: claims %+v, error %v", name, times, claims, err)
				}
				for _, channel := range []uint64{first, second} {
					wantBooks(t, ledger, channel, 4, 0, 0)
				}
				if stats := ledger.Stats(); stats.LostReplies != 1 || stats.Unresolved != 0 {
					t.Errorf("%s, %d times: stats %+v", name, times, stats)
				}
			}
		}
	})
}

func TestSeveralClaimsThatAreTurnedAway(t *testing.T) {
	faulty := &storetest.Faulty{Store: storetest.Memory(t), Next: nil}
	ledger := newLedger(t, faulty)
	mustCharge(t, ledger, channelOf(1, 3), chargeOf(1, 3, 10, 10))
	mustCharge(t, ledger, channelOf(2, 3), chargeOf(2, 3, 20, 20))
	faulty.Next = faults(storetest.Failed)
	if _, err := ledger.StartClaims(t.Context(), group, channelsOf(3, 1, 2)); !errors.Is(err, channelstate.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	wantBooks(t, ledger, 1, 3, 10, 10)
	wantBooks(t, ledger, 2, 3, 20, 20)
	faulty.BeforeLoad = func(channelstate.Key) error { return storetest.ErrInjected }
	if _, err := ledger.StartClaims(t.Context(), group, channelsOf(3, 1, 2)); !errors.Is(err, channelstate.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	faulty.BeforeLoad = nil
	if _, err := ledger.StartClaims(t.Context(), group, channelsOf(3, 1, 2)); err != nil {
		t.Error(err)
	}
}

// Of all who start the claim of a nonce at once, alone or with others, one succeeds.
func TestClaimsStartedAtOnce(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		ledgers := []*channelstate.Ledger{newLedger(t, store), newLedger(t, store)}
		for nonce := uint64(0); nonce < 5; nonce++ {
			for id := uint64(1); id <= 3; id++ {
				mustCharge(t, ledgers[0], channelOf(id, nonce), chargeOf(id, nonce, 10, 10))
			}
			var mu sync.Mutex
			started := map[uint64]int{}
			succeed := func(claims []channelstate.Claim, err error) {
				if err != nil {
					if !errors.Is(err, channelstate.ErrClaimPending) && !errors.Is(err, channelstate.ErrNothingToClaim) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				defer mu.Unlock()
				for _, claim := range claims {
					started[claim.Channel.Uint64()]++
				}
			}
			var group sync.WaitGroup
			for i := range 12 {
				ledger := ledgers[i%2]
				group.Go(func() {
					switch ids := [][]uint64{{1, 2}, {2, 3}, {3, 1}, {1, 2, 3}, {1}, {3}}[i%6]; len(ids) {
					case 1:
						claim, err := ledger.StartClaim(t.Context(), keyOf(ids[0]), channelOf(ids[0], nonce))
						succeed([]channelstate.Claim{claim}, err)
					default:
						succeed(startClaims(t.Context(), ledger, nonce, ids...))
					}
				})
			}
			group.Wait()
			for id := uint64(1); id <= 3; id++ {
				if started[id] > 1 {
					t.Fatalf("nonce %d: the claim of channel %d was started %d times", nonce, id, started[id])
				}
				if started[id] == 0 { // all who asked for it asked for one that was taken, too
					succeed(startClaims(t.Context(), ledgers[0], nonce, id))
				}
				wantBooks(t, ledgers[1], id, nonce+1, 0, 0)
			}
		}
	})
}

func startClaims(ctx context.Context, ledger *channelstate.Ledger, nonce uint64, ids ...uint64) ([]channelstate.Claim, error) {
	return ledger.StartClaims(ctx, group, channelsOf(nonce, ids...))
}

// Claims are started, alone and together, while calls are charged and given
// back by two replicas: what was accepted is in a claim or in the record.
func TestClaimsWhileCallsGoOn(t *testing.T) {
	forEachStore(t, func(t *testing.T, store channelstate.Store) {
		const channels, callers, calls = 3, 8, 40
		ledgers := []*channelstate.Ledger{newLedger(t, store), newLedger(t, store)}
		var mu sync.Mutex
		nonces := [channels]uint64{} // of the chain
		latest := [channels]uint64{}
		spent := [channels]uint64{} // accepted and not given back
		amounts := map[string]uint64{}

		var group, claiming sync.WaitGroup
		ended := make(chan struct{})
		claiming.Go(func() {
			random := rand.New(rand.NewPCG(1, 2))
			for {
				select {
				case <-ended:
					return
				default:
				}
				mu.Lock()
				now := nonces
				mu.Unlock()
				ids := random.Perm(channels)[:1+random.IntN(channels)]
				list := make([]blockchain.Channel, len(ids))
				for i, id := range ids {
					list[i] = *channelOf(uint64(id), now[id])
				}
				claims, err := ledgers[random.IntN(2)].StartClaims(t.Context(), groupOf(), list)
				if err != nil && !errors.Is(err, channelstate.ErrNothingToClaim) {
					t.Error(err)
				}
				mu.Lock()
				for _, claim := range claims { // and it is mined
					nonces[claim.Channel.Uint64()]++
					latest[claim.Channel.Uint64()]++
				}
				mu.Unlock()
			}
		})
		for caller := range callers {
			group.Go(func() {
				random := rand.New(rand.NewPCG(3, uint64(caller)))
				for range calls {
					id := uint64(random.IntN(channels))
					mu.Lock()
					nonce, chain := latest[id], nonces[id]
					key := fmt.Sprint(id, "/", nonce)
					amounts[key] += 10
					amount := amounts[key]
					mu.Unlock()
					ledger, channel := ledgers[random.IntN(2)], channelOf(id, chain)
					charge := chargeOf(id, nonce, amount, 10)
					err := ledger.Charge(t.Context(), keyOf(id), channel, charge)
					var refusal *channelstate.Refusal
					if errors.As(err, &refusal) {
						continue // the nonce was claimed meanwhile
					} else if err != nil {
						t.Error(err)
						continue
					}
					took := uint64(10)
					if random.IntN(4) == 0 {
						outcome, err := ledger.Refund(t.Context(), keyOf(id), refundOf(charge))
						if err != nil {
							t.Error(err)
						}
						if outcome == channelstate.Refunded || outcome == channelstate.ClaimCorrected {
							took = 0
						} else if outcome != channelstate.TooLate {
							t.Errorf("outcome %s", outcome)
						}
					}
					mu.Lock()
					spent[id] += took
					mu.Unlock()
				}
			})
		}
		group.Wait()
		close(ended)
		claiming.Wait()
		if nonces[0]+nonces[1]+nonces[2] == 0 {
			t.Error("nothing was claimed")
		}
		for id := uint64(0); id < channels; id++ {
			record, _, err := ledgers[0].Read(t.Context(), keyOf(id))
			if err != nil {
				t.Fatal(err)
			}
			sum := record.Spent
			for nonce := uint64(0); nonce < record.Nonce.Uint64(); nonce++ {
				claim, found, err := ledgers[0].Claim(t.Context(), keyOf(id), uint256.NewInt(nonce))
				if err != nil || !found {
					t.Fatalf("claim of nonce %d: %v, %v", nonce, found, err)
				}
				sum.Add(&sum, &claim.Spent)
			}
			if sum != number(spent[id]) {
				t.Errorf("channel %d: %s are in claims and in the record, %d were accepted", id, sum.Dec(), spent[id])
			}
		}
		if stats := ledgers[0].Stats(); stats.Charges == 0 {
			t.Error("nothing was charged")
		}
	})
}

func groupOf() channelstate.Group { return group }
