package blockchain

import (
	"encoding/binary"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
)

// The messages of this file and of messages_control.go are what clients,
// providers and operators sign. A message is the plain concatenation of its
// parts, as abi.encodePacked makes it: text without length or terminator,
// addresses as 20 bytes, numbers as 32 bytes big-endian. Sign and
// RecoverSigner take the message and do the hashing.

const (
	wordLength = 32 // bytes of a uint256

	claimPrefix        = "__MPE_claim_message"
	channelStatePrefix = "__get_channel_state"
	freeCallPrefix     = "__prefix_free_trial"
)

// ClaimMessage is what a payer signs for a paid call: the provider may claim up
// to amount cogs of the channel at this nonce. The MPE contract checks the same
// bytes (function channelClaim).
func ClaimMessage(mpe common.Address, channelID, nonce, amount *uint256.Int) []byte {
	message := make([]byte, 0, len(claimPrefix)+common.AddressLength+3*wordLength)
	message = append(message, claimPrefix...)
	message = append(message, mpe[:]...)
	message = appendWord(message, channelID)
	message = appendWord(message, nonce)
	return appendWord(message, amount)
}

// ChannelStateMessage is what a party of the channel signs to read its state.
func ChannelStateMessage(mpe common.Address, channelID *uint256.Int, block uint64) []byte {
	message := make([]byte, 0, len(channelStatePrefix)+common.AddressLength+2*wordLength)
	message = append(message, channelStatePrefix...)
	message = append(message, mpe[:]...)
	message = appendWord(message, channelID)
	return appendBlock(message, block)
}

// FreeCallRequest is what identifies a user of free calls towards one service.
type FreeCallRequest struct {
	Address        string // as the client sent it: the text is signed, whatever its case
	UserID         string // may be empty
	OrganizationID string
	ServiceID      string
	GroupID        string // base64, as in the organisation's metadata
	Block          uint64 // current block as the client knows it
}

// FreeCallTokenRequestMessage is what a user signs to ask for a free-call token.
func FreeCallTokenRequestMessage(request FreeCallRequest) []byte {
	return request.message(0)
}

// FreeCallMessage is what a user signs for a free call, and to ask how many are
// left: the request followed by the whole token.
func FreeCallMessage(request FreeCallRequest, token []byte) []byte {
	return append(request.message(len(token)), token...)
}

// message leaves room for spare bytes more.
func (r *FreeCallRequest) message(spare int) []byte {
	length := len(freeCallPrefix) + len(r.Address) + len(r.UserID) + len(r.OrganizationID) +
		len(r.ServiceID) + len(r.GroupID) + wordLength
	message := make([]byte, 0, length+spare)
	message = append(message, freeCallPrefix...)
	message = append(message, r.Address...)
	message = append(message, r.UserID...)
	message = append(message, r.OrganizationID...)
	message = append(message, r.ServiceID...)
	message = append(message, r.GroupID...)
	return appendBlock(message, r.Block)
}

// FreeCallTokenMessage is what the provider's free-call key signs to issue a
// token. It holds the name of the group and no service id, so a token is good
// for every service of the group with the same key.
func FreeCallTokenMessage(organizationID, groupName string, user common.Address, userID string, expiryBlock uint64) []byte {
	message := make([]byte, 0, len(organizationID)+len(groupName)+common.AddressLength+len(userID)+wordLength)
	message = append(message, organizationID...)
	message = append(message, groupName...)
	message = append(message, user[:]...)
	message = append(message, userID...)
	return appendBlock(message, expiryBlock)
}

// TokenMessage is the outer message of a request for a prepaid token: it wraps
// the signature of the claim that pays for it.
func TokenMessage(claimSignature []byte, block uint64) []byte {
	message := make([]byte, 0, len(claimSignature)+wordLength)
	message = append(message, claimSignature...)
	return appendBlock(message, block)
}

func appendWord(message []byte, number *uint256.Int) []byte {
	word := number.Bytes32()
	return append(message, word[:]...)
}

func appendBlock(message []byte, block uint64) []byte {
	var word [wordLength]byte
	binary.BigEndian.PutUint64(word[wordLength-8:], block)
	return append(message, word[:]...)
}
