package e2e_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/e2e/harness"
)

// The desk shows who has made free calls and lets one address begin again, whether mpegate runs or not.
func TestDeskResetsFreeCalls(t *testing.T) {
	world := freeWorld(t, "  min_balance: 0\n")
	d := &desk{t, world}
	one, two := freeCaller(world, "one"), freeCaller(world, "two")
	used := func() map[string]uint64 {
		t.Helper()
		var listed struct {
			FreeCalls []struct {
				Address string
				Used    uint64
			} `json:"free_calls"`
		}
		output := d.must("freecalls", "list", "--json")
		if err := json.Unmarshal([]byte(output), &listed); err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		calls := map[string]uint64{}
		for _, entry := range listed.FreeCalls {
			calls[entry.Address] += entry.Used
		}
		return calls
	}
	if calls := used(); len(calls) != 0 {
		t.Errorf("before the first call: %v", calls)
	}
	for range 2 {
		if _, err := world.Client().Echo(free(t, world, one), &samplev1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := world.Client().Echo(free(t, world, two), &samplev1.EchoRequest{}); err != nil {
		t.Fatal(err)
	}
	addressOf := func(name string) string { return world.Chain.Account(name).Address.Hex() }
	// In lower case: addresses are read in any way of writing them.
	oneAddress, twoAddress := strings.ToLower(addressOf("one")), strings.ToLower(addressOf("two"))
	expect := func(first, second uint64) {
		t.Helper()
		calls := map[string]uint64{}
		for address, count := range used() {
			calls[strings.ToLower(address)] = count
		}
		if calls[oneAddress] != first || calls[twoAddress] != second {
			t.Errorf("%v, wanted %d and %d", calls, first, second)
		}
	}
	expect(2, 1)
	d.must("freecalls", "reset", oneAddress, "--user", "nobody")
	expect(2, 1)
	d.must("freecalls", "reset", oneAddress)
	expect(0, 1)
	expectLeft(t, world, one, freeQuota)
	expectLeft(t, world, two, freeQuota-1)

	world.Serve.Kill()
	d.must("freecalls", "reset", twoAddress)
	world.Launch(harness.Binary(t))
	expectLeft(t, world, two, freeQuota)
	if output, err := d.run("freecalls", "reset", "0x12"); err == nil {
		t.Errorf("a wrong address is taken: %s", output)
	}
}
