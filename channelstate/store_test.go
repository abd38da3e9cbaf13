package channelstate_test

import (
	"testing"

	"github.com/mpegate/mpegate/channelstate/storetest"
)

func TestStores(t *testing.T) {
	for name, open := range storetest.Stores() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, open)
		})
	}
}
