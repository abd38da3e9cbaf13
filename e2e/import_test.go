package e2e_test

import (
	"testing"

	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/e2e/harness"
)

// TestServiceOfThePeerRunsHere takes a configuration file of the peer daemon and serves with nothing else to configure.
func TestServiceOfThePeerRunsHere(t *testing.T) {
	t.Setenv("MPEGATE_ADMIN_ADDRESS", "127.0.0.1:0") // the default port may be taken on the machine that tests
	world := harness.New(t, harness.Options{FromPeer: true})
	p := world.OpenChannel(10 * harness.Price)
	for call := uint64(1); call <= 3; call++ {
		if _, err := world.Client().Echo(paying(t, p, call*harness.Price), &samplev1.EchoRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	expectBooks(t, world, p, 3*harness.Price, 3*harness.Price)
}
