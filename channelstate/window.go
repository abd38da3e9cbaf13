package channelstate

import (
	"slices"

	"github.com/holiman/uint256"
)

// WindowSize is how many runs of accepted amounts are remembered.
const WindowSize = 128

// Window remembers the amounts accepted lately, as the sliding window of IPsec does for sequence numbers (RFC 4303,
// section 3.4.3). Amounts that follow each other by the price of a call are one run, so that a window holds all
// amounts of a nonce as long as calls leave fewer than WindowSize gaps: what bounds how far calls of one channel may
// overtake each other is the number of calls missing, not the number of calls made. It is never changed.
type Window struct {
	Floor uint256.Int // this and everything below counts as accepted
	Runs  []Run       // accepted amounts above Floor, ascending, at most WindowSize runs that do not overlap
}

// Run is the amounts First, First+Step, … Last. A single amount has First = Last and no Step.
type Run struct{ First, Last, Step uint256.Int }

func single(amount *uint256.Int) Run { return Run{First: *amount, Last: *amount} }

// has tells whether an amount from First to Last is one of the run.
func (r *Run) has(amount *uint256.Int) bool {
	if r.First.Eq(amount) || r.Last.Eq(amount) {
		return true
	}
	if r.Step.IsZero() {
		return false
	}
	var distance uint256.Int
	distance.Sub(amount, &r.First)
	return distance.Mod(&distance, &r.Step).IsZero()
}

// Has tells whether the amount counts as accepted.
func (w *Window) Has(amount *uint256.Int) bool {
	if !amount.Gt(&w.Floor) {
		return true
	}
	at, within := w.search(amount)
	return within && w.Runs[at].has(amount)
}

// search finds the run whose bounds the amount lies within, or the place where one would stand. It looks from the end,
// where nearly every amount belongs.
func (w *Window) search(amount *uint256.Int) (at int, within bool) {
	for at := len(w.Runs); at > 0; at-- {
		run := &w.Runs[at-1]
		if amount.Gt(&run.Last) {
			return at, false
		}
		if !amount.Lt(&run.First) {
			return at - 1, true
		}
	}
	return 0, false
}

// with accepts an amount that Has does not know. step is the price of its call: an amount that far from a run joins
// it. A full window lets go of its lowest run, whose last amount becomes the floor.
func (w *Window) with(amount, step *uint256.Int) Window {
	at, within := w.search(amount)
	if within {
		if w.Runs[at].has(amount) {
			return *w
		}
		below, above := w.Runs[at].cut(amount)
		return w.replaced(at, at+1, below, single(amount), above)
	}
	from, to, run := at, at, single(amount)
	if at > 0 && w.Runs[at-1].joins(&run, step) {
		from--
		run = Run{First: w.Runs[from].First, Last: run.Last, Step: *step}
	}
	if at < len(w.Runs) && run.joins(&w.Runs[at], step) {
		run = Run{First: run.First, Last: w.Runs[at].Last, Step: *step}
		to++
	}
	return w.replaced(from, to, run)
}

// joins tells whether the run and the one above it are one run with the step.
func (r *Run) joins(above *Run, step *uint256.Int) bool {
	var gap uint256.Int
	gap.Sub(&above.First, &r.Last)
	fits := func(other *uint256.Int) bool { return other.IsZero() || other.Eq(step) }
	return gap.Eq(step) && fits(&r.Step) && fits(&above.Step)
}

// cut gives what is below and what is above an amount that lies between two amounts of the run.
func (r *Run) cut(amount *uint256.Int) (below, above Run) {
	var distance, past uint256.Int
	distance.Sub(amount, &r.First)
	past.Mod(&distance, &r.Step)
	below, above = *r, *r
	below.Last.Sub(amount, &past)
	above.First.Add(&below.Last, &r.Step)
	return below.tidy(), above.tidy()
}

// minus gives what is left of the run without one of its amounts.
func (r *Run) minus(amount *uint256.Int) []Run {
	var left []Run
	if r.First.Lt(amount) {
		below := *r
		below.Last.Sub(amount, &r.Step)
		left = append(left, below.tidy())
	}
	if r.Last.Gt(amount) {
		above := *r
		above.First.Add(amount, &r.Step)
		left = append(left, above.tidy())
	}
	return left
}

// tidy gives a single amount its only form.
func (r Run) tidy() Run {
	if r.First.Eq(&r.Last) {
		r.Step.Clear()
	}
	return r
}

// without makes an amount acceptable again. One the floor has passed stays accepted.
func (w *Window) without(amount *uint256.Int) Window {
	at, within := w.search(amount)
	if !within || !w.Runs[at].has(amount) {
		return *w
	}
	return w.replaced(at, at+1, w.Runs[at].minus(amount)...)
}

// replaced puts other runs in the place of those from one position up to another.
func (w *Window) replaced(from, to int, runs ...Run) Window {
	next := Window{Floor: w.Floor, Runs: slices.Concat(w.Runs[:from], runs, w.Runs[to:])}
	if excess := len(next.Runs) - WindowSize; excess > 0 {
		next.Floor = next.Runs[excess-1].Last
		next.Runs = next.Runs[excess:]
	}
	return next
}
