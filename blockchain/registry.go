package blockchain

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
)

// ErrNotRegistered: the Registry has no organisation or service of this id.
var ErrNotRegistered = errors.New("not registered")

const (
	registryIDLength  = 32   // bytes32 in the contract
	registryURILength = 1024 // bytes; real ones are below 100

	registryABI = `[
{"type":"function","name":"getOrganizationById","stateMutability":"view","inputs":[{"name":"orgId","type":"bytes32"}],
 "outputs":[{"name":"found","type":"bool"},{"name":"id","type":"bytes32"},{"name":"orgMetadataURI","type":"bytes"},
  {"name":"owner","type":"address"},{"name":"members","type":"address[]"},{"name":"serviceIds","type":"bytes32[]"}]},
{"type":"function","name":"getServiceRegistrationById","stateMutability":"view","inputs":[{"name":"orgId","type":"bytes32"},{"name":"serviceId","type":"bytes32"}],
 "outputs":[{"name":"found","type":"bool"},{"name":"id","type":"bytes32"},{"name":"metadataURI","type":"bytes"}]}
]`
)

var parsedRegistryABI = sync.OnceValues(func() (abi.ABI, error) { return abi.JSON(strings.NewReader(registryABI)) })

// Registry is the contract that says where the metadata of organisations and
// services is.
type Registry struct {
	address common.Address
	backend Backend
	abi     abi.ABI
}

// NewRegistry binds the Registry at address. Nothing is asked yet.
func NewRegistry(address common.Address, backend Backend) (*Registry, error) {
	if address == (common.Address{}) {
		return nil, errors.New("the address of the Registry is zero: set blockchain.registry_address")
	}
	parsed, err := parsedRegistryABI()
	if err != nil {
		return nil, fmt.Errorf("the interface of the Registry: %w", err)
	}
	return &Registry{address: address, backend: backend, abi: parsed}, nil
}

// OrganizationURI is where the organisation's metadata is, such as ipfs://Qm….
// ErrNotRegistered when the Registry doesn't know the organisation.
func (r *Registry) OrganizationURI(ctx context.Context, organizationID string) (string, error) {
	organization, err := registryID("organization_id", organizationID)
	if err != nil {
		return "", err
	}
	uri, found, err := r.metadataURI(ctx, "getOrganizationById", organization)
	if err != nil {
		return "", err
	}
	if !found {
		return "", fmt.Errorf("organisation %q is %w in the Registry %s: check organization_id and the network",
			organizationID, ErrNotRegistered, r.address)
	}
	return uri, nil
}

// ServiceURI is where the service's metadata is, such as ipfs://Qm….
// ErrNotRegistered when the Registry doesn't know the service.
func (r *Registry) ServiceURI(ctx context.Context, organizationID, serviceID string) (string, error) {
	organization, err := registryID("organization_id", organizationID)
	if err != nil {
		return "", err
	}
	service, err := registryID("service_id", serviceID)
	if err != nil {
		return "", err
	}
	uri, found, err := r.metadataURI(ctx, "getServiceRegistrationById", organization, service)
	if err != nil {
		return "", err
	}
	if !found {
		return "", fmt.Errorf("service %q of organisation %q is %w in the Registry %s: check service_id, organization_id and the network",
			serviceID, organizationID, ErrNotRegistered, r.address)
	}
	return uri, nil
}

func (r *Registry) metadataURI(ctx context.Context, method string, ids ...any) (uri string, found bool, err error) {
	data, err := r.abi.Pack(method, ids...)
	if err != nil {
		return "", false, fmt.Errorf("%s of the Registry: %w", method, err)
	}
	output, err := call(ctx, r.backend, r.address, data, nil, common.Hash{})
	if err != nil {
		return "", false, fmt.Errorf("the Registry could not be read: %w", err)
	}
	return r.decodeURI(method, output)
}

// decodeURI takes the first and third value of what method answered.
func (r *Registry) decodeURI(method string, output []byte) (uri string, found bool, err error) {
	values, err := r.abi.Unpack(method, output)
	if err != nil {
		return "", false, fmt.Errorf("the contract at %s does not answer as a Registry does, check blockchain.registry_address: %w", r.address, err)
	}
	found, _ = values[0].(bool)
	raw, _ := values[2].([]byte)
	if len(raw) > registryURILength {
		return "", false, fmt.Errorf("the Registry holds a metadata URI of %d bytes, more than the %d allowed", len(raw), registryURILength)
	}
	// Publishers pad the text with zero bytes to whole words.
	uri = strings.TrimSpace(strings.TrimRight(string(raw), "\x00"))
	if found && uri == "" {
		return "", true, fmt.Errorf("the Registry %s has no metadata URI for it: publish the metadata first", r.address)
	}
	return uri, found, nil
}

// registryID is the text left-aligned in 32 bytes. A longer one is refused: cut
// short, it could name another organisation.
func registryID(setting, text string) ([registryIDLength]byte, error) {
	var id [registryIDLength]byte
	if text == "" {
		return id, fmt.Errorf("%s is empty: set the id under which it is registered", setting)
	}
	if len(text) > registryIDLength {
		return id, fmt.Errorf("%s %q is %d bytes long, the Registry keeps at most %d", setting, text, len(text), registryIDLength)
	}
	for i := range len(text) {
		if text[i] < 0x20 || text[i] > 0x7e {
			return id, fmt.Errorf("%s %q holds a character that is not printable ASCII, which the Registry does not keep", setting, text)
		}
	}
	copy(id[:], text)
	return id, nil
}
