package blockchain

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"
)

// channelWords is the number of words channels(uint256) answers: nonce, sender,
// signer, recipient, groupId, value, expiration.
const channelWords = 7

// Escrow is the MultiPartyEscrow contract at one address.
type Escrow struct {
	address  common.Address
	backend  Backend
	contract *bind.BoundContract
}

// NewEscrow binds the MPE contract at address. Nothing is asked yet.
func NewEscrow(address common.Address, backend Backend) (*Escrow, error) {
	if address == (common.Address{}) {
		return nil, errors.New("the address of the MPE contract is zero")
	}
	parsed, err := parsedEscrowABI()
	if err != nil {
		return nil, fmt.Errorf("the interface of the MPE contract: %w", err)
	}
	return &Escrow{
		address:  address,
		backend:  backend,
		contract: bind.NewBoundContract(address, parsed, backend, backend, backend),
	}, nil
}

// Address is the address of the contract.
func (e *Escrow) Address() common.Address { return e.address }

// Channel reads a channel as it was after a block; nil is the latest block. For
// an id the contract never gave out the answer does not Exist.
func (e *Escrow) Channel(ctx context.Context, id *uint256.Int, block *big.Int) (Channel, error) {
	return e.channel(ctx, id, block, common.Hash{})
}

// ChannelAt reads a channel as it was after one certain block, even when the
// chain has meanwhile been reorganised.
func (e *Escrow) ChannelAt(ctx context.Context, id *uint256.Int, block BlockRef) (Channel, error) {
	return e.channel(ctx, id, new(big.Int).SetUint64(block.Number), block.Hash)
}

func (e *Escrow) channel(ctx context.Context, id *uint256.Int, block *big.Int, hash common.Hash) (Channel, error) {
	data := make([]byte, 4+wordLength)
	copy(data, selectorChannels[:])
	id.WriteToSlice(data[4:])
	output, err := call(ctx, e.backend, e.address, data, block, hash)
	if err != nil {
		return Channel{}, fmt.Errorf("channel %s could not be read: %w", id.Dec(), err)
	}
	channel, err := decodeChannel(output)
	channel.ID = *id
	return channel, err
}

func decodeChannel(output []byte) (Channel, error) {
	var channel Channel
	if len(output) < channelWords*wordLength {
		return channel, fmt.Errorf("the MPE contract answered %d bytes for a channel instead of %d: is its address right?",
			len(output), channelWords*wordLength)
	}
	setWord(&channel.Nonce, output, 0)
	channel.Sender = addressAt(output, 1)
	channel.Signer = addressAt(output, 2)
	channel.Recipient = addressAt(output, 3)
	copy(channel.GroupID[:], wordAt(output, 4))
	setWord(&channel.Value, output, 5)
	setWord(&channel.Expiration, output, 6)
	return channel, nil
}

// NextChannelID is the id the next channel will get: every id below it exists.
func (e *Escrow) NextChannelID(ctx context.Context) (uint256.Int, error) {
	return e.number(ctx, "nextChannelId", selectorNextChannelID[:])
}

// Balance is what owner holds in the contract outside channels, in cogs.
func (e *Escrow) Balance(ctx context.Context, owner common.Address) (uint256.Int, error) {
	data := make([]byte, 4+wordLength)
	copy(data, selectorBalances[:])
	copy(data[4+wordLength-common.AddressLength:], owner[:])
	return e.number(ctx, "balances", data)
}

// Token is the address of the ERC-20 token the contract pays in.
func (e *Escrow) Token(ctx context.Context) (common.Address, error) {
	number, err := e.number(ctx, "token", selectorToken[:])
	return common.Address(number.Bytes20()), err
}

func (e *Escrow) number(ctx context.Context, name string, data []byte) (uint256.Int, error) {
	var number uint256.Int
	output, err := call(ctx, e.backend, e.address, data, nil, common.Hash{})
	if err != nil {
		return number, fmt.Errorf("%s of the MPE contract could not be read: %w", name, err)
	}
	if len(output) < wordLength {
		return number, fmt.Errorf("the MPE contract answered %d bytes for %s: is its address right?", len(output), name)
	}
	setWord(&number, output, 0)
	return number, nil
}

// Deposit moves cogs from the caller into the contract. The token must have
// been told to let the contract take them (ERC-20 approve).
func (e *Escrow) Deposit(opts *bind.TransactOpts, value *uint256.Int) (*types.Transaction, error) {
	return e.contract.Transact(opts, "deposit", value.ToBig())
}

// OpenChannel opens a channel of value cogs out of the caller's balance in the
// contract; the caller is its sender.
func (e *Escrow) OpenChannel(opts *bind.TransactOpts, signer, recipient common.Address, groupID [32]byte, value, expiration *uint256.Int) (*types.Transaction, error) {
	return e.contract.Transact(opts, "openChannel", signer, recipient, groupID, value.ToBig(), expiration.ToBig())
}

// DepositAndOpenChannel is Deposit and OpenChannel of the same value.
func (e *Escrow) DepositAndOpenChannel(opts *bind.TransactOpts, signer, recipient common.Address, groupID [32]byte, value, expiration *uint256.Int) (*types.Transaction, error) {
	return e.contract.Transact(opts, "depositAndOpenChannel", signer, recipient, groupID, value.ToBig(), expiration.ToBig())
}

// AddFunds adds cogs of the caller's balance to a channel. The contract does
// not check that the channel exists.
func (e *Escrow) AddFunds(opts *bind.TransactOpts, id, amount *uint256.Int) (*types.Transaction, error) {
	return e.contract.Transact(opts, "channelAddFunds", id.ToBig(), amount.ToBig())
}

// Extend moves the expiration of a channel further away; only its sender may.
func (e *Escrow) Extend(opts *bind.TransactOpts, id, expiration *uint256.Int) (*types.Transaction, error) {
	return e.contract.Transact(opts, "channelExtend", id.ToBig(), expiration.ToBig())
}

// ClaimTimeout takes everything back to the sender once the channel expired.
func (e *Escrow) ClaimTimeout(opts *bind.TransactOpts, id *uint256.Int) (*types.Transaction, error) {
	return e.contract.Transact(opts, "channelClaimTimeout", id.ToBig())
}

// ClaimOrder is one claim of MultiClaim.
type ClaimOrder struct {
	Channel   uint256.Int
	Actual    uint256.Int // cogs to pay the recipient, at most Planned
	Planned   uint256.Int // cogs the signature is for
	Signature []byte      // of ClaimMessage with the channel's nonce on chain
	SendBack  bool        // give the rest back to the sender, which closes the channel
}

// Claim pays actual cogs of a channel to its recipient, who must be the caller.
// signature is of ClaimMessage with the channel's nonce on chain and the planned
// amount. sendback gives the rest to the sender and closes the channel.
func (e *Escrow) Claim(opts *bind.TransactOpts, id, actual, planned *uint256.Int, signature []byte, sendback bool) (*types.Transaction, error) {
	r, s, v, err := splitSignature(signature)
	if err != nil {
		return nil, err
	}
	return e.contract.Transact(opts, "channelClaim", id.ToBig(), actual.ToBig(), planned.ToBig(), v, r, s, sendback)
}

// MultiClaim is Claim for several channels in one transaction: one that fails
// fails all.
func (e *Escrow) MultiClaim(opts *bind.TransactOpts, orders []ClaimOrder) (*types.Transaction, error) {
	if len(orders) == 0 {
		return nil, errors.New("no claims to send")
	}
	var ids, actual, planned []*big.Int
	var sendBack []bool
	var vs []uint8
	var rs, ss [][32]byte
	for i := range orders {
		order := &orders[i]
		r, s, v, err := splitSignature(order.Signature)
		if err != nil {
			return nil, fmt.Errorf("claim of channel %s: %w", order.Channel.Dec(), err)
		}
		ids = append(ids, order.Channel.ToBig())
		actual = append(actual, order.Actual.ToBig())
		planned = append(planned, order.Planned.ToBig())
		sendBack = append(sendBack, order.SendBack)
		vs, rs, ss = append(vs, v), append(rs, r), append(ss, s)
	}
	return e.contract.Transact(opts, "multiChannelClaim", ids, actual, planned, sendBack, vs, rs, ss)
}

// splitSignature gives the parts as ecrecover of a contract wants them: v 27 or 28.
func splitSignature(signature []byte) (r, s [32]byte, v uint8, err error) {
	if len(signature) != SignatureLength {
		return r, s, 0, fmt.Errorf("%w: %d bytes instead of %d", ErrSignatureLength, len(signature), SignatureLength)
	}
	v = signature[crypto.RecoveryIDOffset] % vBase
	if v > 1 {
		return r, s, 0, ErrSignatureData
	}
	return [32]byte(signature[:32]), [32]byte(signature[32:64]), v + vBase, nil
}
