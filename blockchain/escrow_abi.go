package blockchain

import (
	"strings"
	"sync"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
)

// escrowABI is the part of the MPE contract used here: what sends transactions.
// What is read on every new channel is encoded by hand in escrow.go.
const escrowABI = `[
{"type":"function","name":"deposit","inputs":[{"name":"value","type":"uint256"}],"outputs":[{"type":"bool"}]},
{"type":"function","name":"openChannel","inputs":[{"name":"signer","type":"address"},{"name":"recipient","type":"address"},
  {"name":"groupId","type":"bytes32"},{"name":"value","type":"uint256"},{"name":"expiration","type":"uint256"}],"outputs":[{"type":"bool"}]},
{"type":"function","name":"depositAndOpenChannel","inputs":[{"name":"signer","type":"address"},{"name":"recipient","type":"address"},
  {"name":"groupId","type":"bytes32"},{"name":"value","type":"uint256"},{"name":"expiration","type":"uint256"}],"outputs":[{"type":"bool"}]},
{"type":"function","name":"channelAddFunds","inputs":[{"name":"channelId","type":"uint256"},{"name":"amount","type":"uint256"}],"outputs":[{"type":"bool"}]},
{"type":"function","name":"channelExtend","inputs":[{"name":"channelId","type":"uint256"},{"name":"newExpiration","type":"uint256"}],"outputs":[{"type":"bool"}]},
{"type":"function","name":"channelClaimTimeout","inputs":[{"name":"channelId","type":"uint256"}],"outputs":[]},
{"type":"function","name":"channelClaim","inputs":[{"name":"channelId","type":"uint256"},{"name":"actualAmount","type":"uint256"},
  {"name":"plannedAmount","type":"uint256"},{"name":"v","type":"uint8"},{"name":"r","type":"bytes32"},{"name":"s","type":"bytes32"},
  {"name":"isSendback","type":"bool"}],"outputs":[]},
{"type":"function","name":"multiChannelClaim","inputs":[{"name":"channelIds","type":"uint256[]"},{"name":"actualAmounts","type":"uint256[]"},
  {"name":"plannedAmounts","type":"uint256[]"},{"name":"isSendbacks","type":"bool[]"},{"name":"v","type":"uint8[]"},
  {"name":"r","type":"bytes32[]"},{"name":"s","type":"bytes32[]"}],"outputs":[]}
]`

// Selectors of the view functions and topics of the events of the MPE contract.
var (
	selectorChannels      = selector("channels(uint256)")
	selectorNextChannelID = selector("nextChannelId()")
	selectorBalances      = selector("balances(address)")
	selectorToken         = selector("token()")

	topicOpen        = topic("ChannelOpen(uint256,uint256,address,address,address,bytes32,uint256,uint256)")
	topicClaim       = topic("ChannelClaim(uint256,uint256,address,uint256,uint256,uint256,uint256)")
	topicSenderClaim = topic("ChannelSenderClaim(uint256,uint256,uint256)")
	topicExtend      = topic("ChannelExtend(uint256,uint256)")
	topicAddFunds    = topic("ChannelAddFunds(uint256,uint256)")
)

var parsedEscrowABI = sync.OnceValues(func() (abi.ABI, error) { return abi.JSON(strings.NewReader(escrowABI)) })

func selector(signature string) [4]byte {
	return [4]byte(crypto.Keccak256([]byte(signature))[:4])
}

func topic(signature string) common.Hash {
	return crypto.Keccak256Hash([]byte(signature))
}
