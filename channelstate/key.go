package channelstate

import (
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
)

// Group is whose channels these are: one payment group of one MPE contract on
// one chain. The services of a group share its channels, nothing else does.
type Group struct {
	ChainID uint64
	MPE     common.Address
	GroupID [32]byte
}

// Key names one channel of a group.
type Key struct {
	ChainID uint64
	MPE     common.Address
	GroupID [32]byte
	Channel uint256.Int
}

// Group is the group the channel belongs to.
func (k Key) Group() Group { return Group{ChainID: k.ChainID, MPE: k.MPE, GroupID: k.GroupID} }

// Key names the channel with the given id in this group.
func (g Group) Key(channel *uint256.Int) Key {
	return Key{ChainID: g.ChainID, MPE: g.MPE, GroupID: g.GroupID, Channel: *channel}
}

// String is the path of the channel's record below the store's prefix.
func (k Key) String() string { return string(k.Group().appendPath(nil, kindChannel, &k.Channel)) }

// String is the path that all keys of the group begin with.
func (g Group) String() string { return string(g.appendTo(nil)) }

// The kinds of keys a group has.
const (
	kindChannel = "channels"
	kindClaim   = "claims"
	kindSettled = "settled"
	kindRefund  = "refunds"
	kindAside   = "aside"
)

// channelDigits pads channel ids so that keys sort as the ids do: the contract
// counts them up from zero. A longer id is written whole.
const channelDigits = 20

func (g Group) appendTo(path []byte) []byte {
	path = strconv.AppendUint(path, g.ChainID, 10)
	path = append(path, "/0x"...)
	path = hex.AppendEncode(path, g.MPE[:])
	path = append(path, '/')
	return hex.AppendEncode(path, g.GroupID[:])
}

// appendPath appends <group>/<kind>/<channel>, the last two parts as given.
func (g Group) appendPath(path []byte, kind string, channel *uint256.Int) []byte {
	path = append(g.appendTo(path), '/')
	path = append(path, kind...)
	path = append(path, '/')
	if channel == nil {
		return path
	}
	return appendNumber(path, channel)
}

func appendNumber(path []byte, number *uint256.Int) []byte {
	if number.IsUint64() {
		var digits [channelDigits]byte
		value := number.Uint64()
		for i := len(digits) - 1; i >= 0; i-- {
			digits[i] = '0' + byte(value%10)
			value /= 10
		}
		return append(path, digits[:]...)
	}
	return append(path, number.Dec()...)
}

// appendClaim appends <channel>/<nonce>.
func appendClaim(path []byte, channel, nonce *uint256.Int) []byte {
	path = append(appendNumber(path, channel), '/')
	return appendNumber(path, nonce)
}

// parseNumber reads what appendNumber wrote and nothing else.
func parseNumber(text string) (uint256.Int, bool) {
	var number uint256.Int
	trimmed := strings.TrimLeft(text, "0")
	if trimmed == "" {
		trimmed = "0"
	}
	if err := number.SetFromDecimal(trimmed); err != nil {
		return number, false
	}
	return number, string(appendNumber(nil, &number)) == text
}
