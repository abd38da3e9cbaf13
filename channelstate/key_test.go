package channelstate

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
)

func TestKeyPath(t *testing.T) {
	key := Key{ChainID: 11155111, MPE: common.HexToAddress("0x7E0aF8988DF45B824b2E0e0A87c6196897744970"), Channel: number(42)}
	key.GroupID[0], key.GroupID[31] = 0xab, 1
	want := "11155111/0x7e0af8988df45b824b2e0e0a87c6196897744970/" +
		"ab00000000000000000000000000000000000000000000000000000000000001/channels/00000000000000000042"
	if key.String() != want {
		t.Errorf("key %s\nwant %s", key, want)
	}
	if group := key.Group(); !strings.HasPrefix(want, group.String()+"/") || group.Key(&key.Channel) != key {
		t.Errorf("group %s does not lead back to its key", group)
	}
}

func TestNumbersInPaths(t *testing.T) {
	numbers := []uint256.Int{number(0), number(9), number(10), number(123456789), number(1<<63 + 7), number(^uint64(0)), *largest}
	var paths []string
	for i := range numbers {
		path := string(appendNumber(nil, &numbers[i]))
		paths = append(paths, path)
		if back, valid := parseNumber(path); !valid || back != numbers[i] {
			t.Errorf("%s is read as %s", path, back.Dec())
		}
	}
	if !slices.IsSorted(paths[:len(paths)-1]) {
		t.Errorf("paths do not sort as the numbers do: %v", paths)
	}
	for _, text := range []string{"", "42", "-1", "0x2a", "0000000000000000004x", "000000000000000000042", "00000000000000000042/3", "+0000000000000000042",
		"115792089237316195423570985008687907853269984665640564039457584007913129639936"} {
		if number, valid := parseNumber(text); valid {
			t.Errorf("%q is read as %s", text, number.Dec())
		}
	}
}

func TestChargeID(t *testing.T) {
	made := time.UnixMilli(1_700_000_000_123)
	id := newChargeIDAt(made)
	if !id.Time().Equal(made) {
		t.Errorf("the id was made at %s, want %s", id.Time(), made)
	}
	if read, err := ParseChargeID(id.String()); err != nil || read != id {
		t.Errorf("read %s, error %v, want %s", read, err, id)
	}
	seen := map[ChargeID]bool{}
	for range 10_000 {
		id := NewChargeID()
		if seen[id] {
			t.Fatalf("%s was made twice", id)
		}
		seen[id] = true
	}
	for _, text := range []string{"", "12", strings.Repeat("g", 32), strings.Repeat("0", 33), strings.Repeat("0", 31)} {
		if _, err := ParseChargeID(text); err == nil {
			t.Errorf("%q is taken for a charge id", text)
		}
	}
}
