package authz

import (
	"testing"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
)

func TestPricePerMethod(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.metadata = testMetadata(blockchain.Pricing{PerMethod: map[string]uint256.Int{
			"/example.Service/Call": *uint256.NewInt(7), "/example.Service/Free": {},
		}})
	})
	for path, want := range map[string]struct {
		code  uint32
		price string
	}{
		"/example.Service/Call": {0, "7"}, "/example.Service/Free": {0, ""}, "/example.Service/call": {7, ""}, "/Service/Call": {7, ""},
	} {
		got := w.checkPath(path, w.headers(100))
		price := ""
		if got.charged != nil {
			price = got.charged.Price
		}
		if got.code != want.code || price != want.price {
			t.Errorf("%s: %d %s, price %q", path, got.code, got.message, price)
		}
	}
}

// Prices, recipient and group follow the metadata without a restart.
func TestNewMetadata(t *testing.T) {
	w := newWorld(t)
	if got := w.check(w.headers(10)); got.charged == nil || got.charged.Price != "10" {
		t.Fatalf("%+v", got)
	}
	w.metadata = testMetadata(blockchain.Pricing{Fixed: uint256.NewInt(25)})
	if got := w.check(w.headers(100)); got.charged == nil || got.charged.Price != "25" {
		t.Errorf("%+v", got)
	}
	w.metadata = testMetadata(blockchain.Pricing{Fixed: uint256.NewInt(25)})
	w.metadata.Group.PaymentAddress[0]++
	if got := w.check(w.headers(100)); got.code != 16 {
		t.Errorf("%+v", got)
	}
}

func TestTermsAreBuiltOnce(t *testing.T) {
	metadata := testMetadata(blockchain.Pricing{Fixed: uint256.NewInt(25)})
	current := currentTerms{source: func() *blockchain.Metadata { return metadata }}
	first := current.get()
	if current.get() != first {
		t.Error("built again for the same metadata")
	}
	metadata = testMetadata(blockchain.Pricing{Fixed: uint256.NewInt(25)})
	if current.get() == first {
		t.Error("not built for new metadata")
	}
}
