package blockchain

import (
	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
)

// Channel is a payment channel as the MPE contract stores it.
//
// Only the recipient can lower Value or raise Nonce before Expiration, so an
// old copy is a safe lower bound until then.
type Channel struct {
	ID         uint256.Int
	Nonce      uint256.Int // raised by every claim
	Value      uint256.Int // cogs left to claim
	Expiration uint256.Int // block number from which the sender may take Value back
	Sender     common.Address
	Signer     common.Address
	Recipient  common.Address
	GroupID    [32]byte
}

// Exists tells whether the contract has such a channel: it answers zeros for
// an id it never gave out, and no channel has the zero address as its sender.
func (c *Channel) Exists() bool {
	return c.Sender != (common.Address{})
}

// MaySign tells whether a payment of this channel may be signed by address:
// the contract accepts the sender and the signer the sender named.
func (c *Channel) MaySign(address common.Address) bool {
	return address != (common.Address{}) && (address == c.Sender || address == c.Signer)
}

// sameParties tells whether both channels were opened by the same call: all
// that is fixed for the life of a channel is equal.
func (c *Channel) sameParties(other *Channel) bool {
	return c.Sender == other.Sender && c.Signer == other.Signer &&
		c.Recipient == other.Recipient && c.GroupID == other.GroupID
}
