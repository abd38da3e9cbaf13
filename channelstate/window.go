package channelstate

import (
	"slices"

	"github.com/holiman/uint256"
)

// WindowSize is how many accepted amounts are remembered one by one, and so
// how far calls of one channel may overtake each other.
const WindowSize = 64

// Window remembers the amounts accepted lately, as the sliding window of IPsec
// does for sequence numbers (RFC 4303, section 3.4.3). It is never changed.
type Window struct {
	Floor   uint256.Int   // this and everything below counts as accepted
	Amounts []uint256.Int // accepted ones above Floor, ascending, at most WindowSize
}

// Has tells whether the amount counts as accepted.
func (w *Window) Has(amount *uint256.Int) bool {
	if !amount.Gt(&w.Floor) {
		return true
	}
	_, found := w.search(amount)
	return found
}

// search looks from the end, where nearly every amount belongs.
func (w *Window) search(amount *uint256.Int) (int, bool) {
	for i := len(w.Amounts) - 1; i >= 0; i-- {
		switch w.Amounts[i].Cmp(amount) {
		case 0:
			return i, true
		case -1:
			return i + 1, false
		}
	}
	return 0, false
}

// with accepts an amount that Has does not know. A full window lets go of its
// smallest amount, which becomes the floor.
func (w *Window) with(amount *uint256.Int) Window {
	position, found := w.search(amount)
	if found {
		return *w
	}
	next := Window{Floor: w.Floor}
	if len(w.Amounts) < WindowSize {
		next.Amounts = make([]uint256.Int, 0, len(w.Amounts)+1)
		next.Amounts = append(next.Amounts, w.Amounts[:position]...)
		next.Amounts = append(next.Amounts, *amount)
		next.Amounts = append(next.Amounts, w.Amounts[position:]...)
		return next
	}
	if position == 0 { // smaller than all of a full window: it is the one let go
		next.Floor, next.Amounts = *amount, w.Amounts
		return next
	}
	next.Floor = w.Amounts[0]
	next.Amounts = make([]uint256.Int, 0, WindowSize)
	next.Amounts = append(next.Amounts, w.Amounts[1:position]...)
	next.Amounts = append(next.Amounts, *amount)
	next.Amounts = append(next.Amounts, w.Amounts[position:]...)
	return next
}

// without makes an amount acceptable again. One the floor has passed stays accepted.
func (w *Window) without(amount *uint256.Int) Window {
	position, found := w.search(amount)
	if !found {
		return *w
	}
	next := Window{Floor: w.Floor}
	if len(w.Amounts) > 1 {
		next.Amounts = slices.Concat(w.Amounts[:position], w.Amounts[position+1:])
	}
	return next
}
