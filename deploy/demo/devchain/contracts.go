package devchain

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/accounts/abi/bind"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/envoy/wheel"
)

// Names of the contracts in the published package. Its FetchToken is runtime code without a constructor, so
// the token is SingularityNetToken: an ERC-20 token as well, which is all the escrow contract asks for.
const (
	tokenName    = "SingularityNetToken"
	mpeName      = "MultiPartyEscrow"
	registryName = "Registry"
)

// artifact is one contract as the package publishes it.
type artifact struct {
	abi      abi.ABI
	bytecode []byte
}

func loadArtifacts(ctx context.Context, progress io.Writer) (map[string]artifact, error) {
	folder, err := wheel.Fetch(ctx, wheel.Contracts, progress)
	if err != nil {
		return nil, err
	}
	artifacts := map[string]artifact{}
	for _, name := range []string{tokenName, mpeName, registryName} {
		loaded, err := loadArtifact(filepath.Join(folder, filepath.FromSlash(wheel.ContractsResources)), name)
		if err != nil {
			return nil, fmt.Errorf("published contract %s: %w", name, err)
		}
		artifacts[name] = loaded
	}
	return artifacts, nil
}

func loadArtifact(folder, name string) (artifact, error) {
	description, err := os.ReadFile(filepath.Join(folder, "abi", name+".json"))
	if err != nil {
		return artifact{}, err
	}
	parsed, err := abi.JSON(bytes.NewReader(description))
	if err != nil {
		return artifact{}, err
	}
	code, err := os.ReadFile(filepath.Join(folder, "bytecode", name+".json"))
	if err != nil {
		return artifact{}, err
	}
	var text string
	if err := json.Unmarshal(code, &text); err != nil {
		return artifact{}, err
	}
	bytecode, err := hex.DecodeString(strings.TrimPrefix(text, "0x"))
	if err != nil {
		return artifact{}, err
	}
	return artifact{abi: parsed, bytecode: bytecode}, nil
}

// deploy puts the contracts on the chain and gives the accounts of genesisNames their tokens.
func (c *Chain) deploy(ctx context.Context) error {
	var err error
	if c.Token, c.TokenContract, err = c.deployOne(ctx, tokenName, "Embedded chain token", "EMB"); err != nil {
		return err
	}
	if c.MPE, c.MPEContract, err = c.deployOne(ctx, mpeName, c.Token); err != nil {
		return err
	}
	if c.Registry, c.RegistryContract, err = c.deployOne(ctx, registryName); err != nil {
		return err
	}
	for _, name := range genesisNames {
		if err := c.Mint(ctx, c.Account(name).Address, initialTokens); err != nil {
			return err
		}
	}
	return nil
}

func (c *Chain) deployOne(ctx context.Context, name string, parameters ...any) (common.Address, *bind.BoundContract, error) {
	var address common.Address
	var contract *bind.BoundContract
	_, err := c.Transact(ctx, c.Account(deployerName), func(options *bind.TransactOpts) (transaction *types.Transaction, err error) {
		address, transaction, contract, err = bind.DeployContract(options, c.artifacts[name].abi, c.artifacts[name].bytecode, c.Client, parameters...)
		return transaction, err
	})
	if err != nil {
		return common.Address{}, nil, fmt.Errorf("deploying %s: %w", name, err)
	}
	return address, contract, nil
}

// OpenChannel opens a payment channel: it mints the value (cogs) for the sender, approves and deposits it, and
// returns the id of the new channel. expiration is a block number.
func (c *Chain) OpenChannel(ctx context.Context, sender *Account, signer, recipient common.Address, group [32]byte,
	value *uint256.Int, expiration uint64) (uint256.Int, error) {
	var none uint256.Int
	if err := c.Mint(ctx, sender.Address, value); err != nil {
		return none, err
	}
	_, err := c.Transact(ctx, sender, func(options *bind.TransactOpts) (*types.Transaction, error) {
		return c.TokenContract.Transact(options, "approve", c.MPE, value.ToBig())
	})
	if err != nil {
		return none, fmt.Errorf("approving the escrow contract: %w", err)
	}
	receipt, err := c.Transact(ctx, sender, func(options *bind.TransactOpts) (*types.Transaction, error) {
		return c.MPEContract.Transact(options, "depositAndOpenChannel", signer, recipient, group,
			value.ToBig(), uint256.NewInt(expiration).ToBig())
	})
	if err != nil {
		return none, fmt.Errorf("opening a channel: %w", err)
	}
	opened := c.artifacts[mpeName].abi.Events["ChannelOpen"].ID
	for _, entry := range receipt.Logs {
		// The id is the first value that is not indexed.
		if entry.Address == c.MPE && entry.Topics[0] == opened && len(entry.Data) >= 32 {
			return *new(uint256.Int).SetBytes(entry.Data[:32]), nil
		}
	}
	return none, fmt.Errorf("transaction %s opened no channel", receipt.TxHash)
}

// RegisterService writes organisation and service to the Registry, or changes the URIs of those it has.
// The account "provider" is the owner.
func (c *Chain) RegisterService(ctx context.Context, organizationID, organizationURI, serviceID, serviceURI string) error {
	organization, err := registryID(organizationID)
	if err != nil {
		return err
	}
	service, err := registryID(serviceID)
	if err != nil {
		return err
	}
	owner := c.Account(providerName)
	known, err := c.registered(ctx, "getOrganizationById", organization)
	if err != nil {
		return err
	}
	if known {
		err = c.writeRegistry(ctx, owner, "changeOrganizationMetadataURI", organization, paddedURI(organizationURI))
	} else {
		err = c.writeRegistry(ctx, owner, "createOrganization", organization, paddedURI(organizationURI), []common.Address{})
	}
	if err != nil {
		return err
	}
	if known, err = c.registered(ctx, "getServiceRegistrationById", organization, service); err != nil {
		return err
	}
	method := "createServiceRegistration"
	if known {
		method = "updateServiceRegistration"
	}
	return c.writeRegistry(ctx, owner, method, organization, service, paddedURI(serviceURI))
}

func (c *Chain) registered(ctx context.Context, method string, ids ...any) (bool, error) {
	var results []any
	if err := c.RegistryContract.Call(&bind.CallOpts{Context: ctx}, &results, method, ids...); err != nil {
		return false, fmt.Errorf("registry %s: %w", method, err)
	}
	found, isBool := results[0].(bool)
	if !isBool {
		return false, fmt.Errorf("registry %s returned a %T", method, results[0])
	}
	return found, nil
}

func (c *Chain) writeRegistry(ctx context.Context, owner *Account, method string, parameters ...any) error {
	_, err := c.Transact(ctx, owner, func(options *bind.TransactOpts) (*types.Transaction, error) {
		return c.RegistryContract.Transact(options, method, parameters...)
	})
	if err != nil {
		return fmt.Errorf("registry %s: %w", method, err)
	}
	return nil
}

func registryID(text string) (id [32]byte, err error) {
	if text == "" || len(text) > len(id) {
		return id, fmt.Errorf("registry id %q: it must have 1 to 32 bytes", text)
	}
	copy(id[:], text)
	return id, nil
}

// paddedURI fills up with NULs to a multiple of 32, as the publishing tools do.
func paddedURI(uri string) []byte {
	return append([]byte(uri), make([]byte, (32-len(uri)%32)%32)...)
}
