package blockchain

import (
	"slices"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
)

const (
	listUnclaimedPrefix   = "__list_unclaimed"
	listInProgressPrefix  = "__list_in_progress"
	startClaimPrefix      = "__start_claim"
	startManyClaimsPrefix = "__StartClaimForMultipleChannels_"
	meteringPrefix        = "_usage"
)

// TrainingUnified is the text of a TrainingMessage that is good for every
// reading method of training, and for a longer window.
const TrainingUnified = "unified"

// Operations of the configuration service, as ConfigurationMessage takes them.
const (
	ConfigurationGet            = "_GetConfiguration"
	ConfigurationUpdate         = "_UpdateConfiguration"
	ConfigurationStopRequests   = "_StopProcessingRequests"
	ConfigurationStartRequests  = "_StartProcessingRequests"
	ConfigurationAreRequestsRun = "_IsDaemonProcessingRequests"
)

// ListUnclaimedMessage is what the provider signs to list channels with money to claim.
func ListUnclaimedMessage(mpe common.Address, block uint64) []byte {
	return listMessage(listUnclaimedPrefix, mpe, block)
}

// ListInProgressMessage is what the provider signs to list claims that were started.
func ListInProgressMessage(mpe common.Address, block uint64) []byte {
	return listMessage(listInProgressPrefix, mpe, block)
}

func listMessage(prefix string, mpe common.Address, block uint64) []byte {
	message := make([]byte, 0, len(prefix)+common.AddressLength+wordLength)
	message = append(message, prefix...)
	message = append(message, mpe[:]...)
	return appendBlock(message, block)
}

// StartClaimMessage is what the provider signs to start the claim of a channel.
// nonce is the latest one the provider serves. It holds no block number.
func StartClaimMessage(mpe common.Address, channelID, nonce *uint256.Int) []byte {
	message := make([]byte, 0, len(startClaimPrefix)+common.AddressLength+2*wordLength)
	message = append(message, startClaimPrefix...)
	message = append(message, mpe[:]...)
	message = appendWord(message, channelID)
	return appendWord(message, nonce)
}

// StartClaimForMultipleChannelsMessage is what the provider signs to start the
// claims of several channels. The ids are signed in ascending order, in
// whatever order they are given.
func StartClaimForMultipleChannelsMessage(mpe common.Address, channelIDs []uint256.Int, block uint64) []byte {
	ordered := slices.Clone(channelIDs)
	slices.SortFunc(ordered, func(a, b uint256.Int) int { return a.Cmp(&b) })

	message := make([]byte, 0, len(startManyClaimsPrefix)+common.AddressLength+(len(ordered)+1)*wordLength)
	message = append(message, startManyClaimsPrefix...)
	message = append(message, mpe[:]...)
	for i := range ordered {
		message = appendWord(message, &ordered[i])
	}
	return appendBlock(message, block)
}

// ConfigurationMessage is what an operator signs for one of the Configuration
// operations above.
func ConfigurationMessage(operation string, block uint64) []byte {
	message := make([]byte, 0, len(operation)+wordLength)
	message = append(message, operation...)
	return appendBlock(message, block)
}

// TrainingMessage is what a user signs for a training call: text is the name of
// the method or TrainingUnified.
func TrainingMessage(text string, signer common.Address, block uint64) []byte {
	message := make([]byte, 0, len(text)+common.AddressLength+wordLength)
	message = append(message, text...)
	message = append(message, signer[:]...)
	return appendBlock(message, block)
}

// MeteringMessage is what the provider signs towards a metering server. groupID
// is base64, as in the organisation's metadata.
func MeteringMessage(username, organizationID, serviceID, groupID string, block uint64) []byte {
	length := len(meteringPrefix) + len(username) + len(organizationID) + len(serviceID) + len(groupID) + wordLength
	message := make([]byte, 0, length)
	message = append(message, meteringPrefix...)
	message = append(message, username...)
	message = append(message, organizationID...)
	message = append(message, serviceID...)
	message = append(message, groupID...)
	return appendBlock(message, block)
}
