package blockchain_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
)

func TestRegistry(t *testing.T) {
	chain := startChain(t, devchain.Options{})
	registry, err := blockchain.NewRegistry(chain.Registry, dial(t, chainSettings(t, chain)))
	if err != nil {
		t.Fatal(err)
	}
	const organization, service = "example-org", "a-service-of-just-32-characters-"
	if err := chain.RegisterService(t.Context(), organization, "ipfs://QmOrganisation", service, "filecoin://bafkService"); err != nil {
		t.Fatal(err)
	}
	if uri, err := registry.OrganizationURI(t.Context(), organization); err != nil || uri != "ipfs://QmOrganisation" {
		t.Errorf("%q, %v", uri, err)
	}
	if uri, err := registry.ServiceURI(t.Context(), organization, service); err != nil || uri != "filecoin://bafkService" {
		t.Errorf("%q, %v", uri, err)
	}
	for _, ids := range [][2]string{{"nobody", service}, {organization, "nothing"}} {
		_, err := registry.ServiceURI(t.Context(), ids[0], ids[1])
		if !errors.Is(err, blockchain.ErrNotRegistered) || !strings.Contains(err.Error(), ids[0]) || !strings.Contains(err.Error(), ids[1]) {
			t.Errorf("%v: %v", ids, err)
		}
	}
	if _, err := registry.OrganizationURI(t.Context(), "nobody"); !errors.Is(err, blockchain.ErrNotRegistered) {
		t.Error(err)
	}
	for _, id := range []string{"", strings.Repeat("x", 33), "žluť", "a\x00b"} {
		if _, err := registry.OrganizationURI(t.Context(), id); err == nil || errors.Is(err, blockchain.ErrNotRegistered) {
			t.Errorf("id %q: %v", id, err)
		}
		if _, err := registry.ServiceURI(t.Context(), organization, id); err == nil || !strings.Contains(err.Error(), "service_id") {
			t.Errorf("service id %q: %v", id, err)
		}
	}
	if _, err := blockchain.NewRegistry(common.Address{}, chain.Client); err == nil {
		t.Error("the zero address is a Registry")
	}
	other, err := blockchain.NewRegistry(chain.Token, chain.Client)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.OrganizationURI(t.Context(), organization); err == nil {
		t.Error("the token answered for a Registry")
	}
}
