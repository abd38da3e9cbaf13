package authz

import (
	"encoding/hex"
	"strconv"
	"sync/atomic"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
)

// price is what one call of a method costs.
type price struct {
	amount uint256.Int // cogs
	text   string
}

// terms is what one snapshot of the metadata says about selling. It is built once for each snapshot and never
// changes, so a call reads it without a lock.
type terms struct {
	metadata  *blockchain.Metadata
	mpe       common.Address
	recipient common.Address
	group     [32]byte
	threshold uint64 // blocks that must be left before a channel expires

	fixed     *price
	perMethod map[string]*price

	mpeText, groupText string // for the description of a charge

	organizationID, groupID string // as tokens have them, the group's id in base64
}

func newTerms(metadata *blockchain.Metadata) *terms {
	built := &terms{
		metadata:  metadata,
		mpe:       metadata.Service.MPE,
		recipient: metadata.Group.PaymentAddress,
		group:     metadata.Group.ID,
		threshold: metadata.Group.ExpirationThreshold,
	}
	built.mpeText = built.mpe.Hex()
	built.organizationID, built.groupID = metadata.OrganizationID, metadata.Group.IDText
	built.groupText = hex.EncodeToString(built.group[:])
	pricing := &metadata.ServiceGroup.Pricing
	if pricing.Fixed != nil {
		built.fixed = newPrice(pricing.Fixed)
	}
	built.perMethod = make(map[string]*price, len(pricing.PerMethod))
	for path, amount := range pricing.PerMethod {
		built.perMethod[path] = newPrice(&amount)
	}
	return built
}

func newPrice(amount *uint256.Int) *price { return &price{amount: *amount, text: amount.Dec()} }

// price gives the price of a method, nil when the service does not sell it.
func (t *terms) price(path string) *price {
	if t.fixed != nil {
		return t.fixed
	}
	return t.perMethod[path]
}

// currentTerms follows the metadata.
type currentTerms struct {
	source func() *blockchain.Metadata
	built  atomic.Pointer[terms]
}

// get gives the terms of the metadata of now, nil before the first load.
func (c *currentTerms) get() *terms {
	metadata := c.source()
	if metadata == nil {
		return nil
	}
	if built := c.built.Load(); built != nil && built.metadata == metadata {
		return built
	}
	built := newTerms(metadata)
	c.built.Store(built)
	return built
}

func chainText(chainID uint64) string { return strconv.FormatUint(chainID, 10) }
