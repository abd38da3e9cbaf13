package channelstate

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holiman/uint256"
)

// amountsOf lists what a window has accepted above its floor.
func amountsOf(window *Window) []uint256.Int {
	var amounts []uint256.Int
	for _, run := range window.Runs {
		for amount := run.First; ; amount.Add(&amount, &run.Step) {
			amounts = append(amounts, amount)
			if amount == run.Last {
				break
			}
		}
	}
	return amounts
}

// The window against a plain set: calls of several prices, out of order, given back, replayed.
func TestWindowAcceptsEachAmountOnce(t *testing.T) {
	for _, prices := range [][]uint64{{10}, {1}, {7, 20}, {1, 2, 3, 50}} {
		random := rand.New(rand.NewPCG(1, uint64(len(prices))))
		var window Window
		accepted, floor, highest := map[uint64]bool{}, uint64(0), uint64(1000)
		for range 5000 {
			price := prices[random.IntN(len(prices))]
			amount := highest + price
			if random.IntN(3) > 0 {
				amount = highest - min(highest-1, random.Uint64N(60)*price)
			}
			value, step := number(amount), number(price)
			if want := accepted[amount] || amount <= floor; window.Has(&value) != want {
				t.Fatalf("prices %d, amount %d: has it %v, want %v", prices, amount, !want, want)
			}
			if random.IntN(4) == 0 {
				window = window.without(&value)
				delete(accepted, amount)
			} else if !window.Has(&value) {
				window = window.with(&value, &step)
				accepted[amount] = true
				highest = max(highest, amount)
			}
			floor = window.Floor.Uint64()
			maps.DeleteFunc(accepted, func(amount uint64, _ bool) bool { return amount <= floor })
			wantWindow(t, &window, accepted)
		}
	}
}

func wantWindow(t *testing.T, window *Window, accepted map[uint64]bool) {
	t.Helper()
	amounts := amountsOf(window)
	if len(window.Runs) > WindowSize || len(amounts) != len(accepted) {
		t.Fatalf("%d amounts in %d runs, want %d amounts", len(amounts), len(window.Runs), len(accepted))
	}
	for i := range amounts {
		if !accepted[amounts[i].Uint64()] || i > 0 && !amounts[i].Gt(&amounts[i-1]) {
			t.Fatalf("%s is accepted, or stands in the wrong place", amounts[i].Dec())
		}
	}
	for _, run := range window.Runs {
		if run.Step.IsZero() != (run.First == run.Last) {
			t.Fatalf("%+v is not the only form of its run", run)
		}
	}
}

func TestWindowOfOneClientIsOneRun(t *testing.T) {
	var window Window
	step := number(10)
	for call := uint64(1); call <= 10_000; call++ {
		amount := number(10 * call)
		window = window.with(&amount, &step)
	}
	if len(window.Runs) != 1 || !window.Floor.IsZero() {
		t.Errorf("%d runs above %s", len(window.Runs), window.Floor.Dec())
	}
}

// Eight clients share a channel's amounts among them; one falls behind the others by far more calls than a window has
// runs for single amounts, and is served all the same.
func TestWindowLetsACallFallFarBehind(t *testing.T) {
	var window Window
	step := number(10)
	accept := func(call uint64) {
		t.Helper()
		amount := number(10 * call)
		if window.Has(&amount) {
			t.Fatalf("the amount of call %d counts as accepted, the floor is %s", call, window.Floor.Dec())
		}
		window = window.with(&amount, &step)
	}
	const rounds = WindowSize - 1
	for round := range uint64(rounds) {
		for client := uint64(1); client < 8; client++ {
			accept(8*round + client)
		}
	}
	for round := range uint64(rounds) {
		accept(8*round + 8)
	}
	if len(window.Runs) != 1 {
		t.Errorf("%d runs are left when no call is missing", len(window.Runs))
	}
}

func TestWindowThatIsFullLetsGoOfItsLowestRun(t *testing.T) {
	var window Window
	step := number(1)
	for amount := uint64(10); amount <= 10*(WindowSize+1); amount += 10 {
		value := number(amount)
		window = window.with(&value, &step)
	}
	if window.Floor != number(10) || len(window.Runs) != WindowSize {
		t.Errorf("floor %s with %d runs", window.Floor.Dec(), len(window.Runs))
	}
	between := number(15)
	window = window.with(&between, &step)
	if window.Floor != between || slices.ContainsFunc(window.Runs, func(run Run) bool { return !run.First.Gt(&window.Floor) }) {
		t.Errorf("floor %s, lowest run %+v", window.Floor.Dec(), window.Runs[0])
	}
}
