package channelstate_test

import (
	"testing"

	"github.com/mpegate/mpegate/channelstate/storetest"
)

func TestSharedStores(t *testing.T) {
	for name, open := range storetest.Stores() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.RunShared(t, open)
		})
	}
}

func TestFreeCallStores(t *testing.T) {
	for name, open := range storetest.Stores() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.RunFreeCalls(t, open)
		})
	}
}
