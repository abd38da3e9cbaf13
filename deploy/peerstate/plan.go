package peerstate

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// Kind is what a key of the peer is about.
type Kind string

// The kinds of keys, in the order of the report.
const (
	KindChannel  Kind = "channels"
	KindClaim    Kind = "claims in progress"
	KindPrepaid  Kind = "prepaid counters"
	KindFreeCall Kind = "free-call counters"
	KindLock     Kind = "locks"
	KindTraining Kind = "training keys"
	KindOther    Kind = "other keys"
)

var kinds = []Kind{KindChannel, KindClaim, KindPrepaid, KindFreeCall, KindLock, KindTraining, KindOther}

const (
	reasonLock     = "a lock belongs to a call of the old daemon; here nothing waits on one"
	reasonTraining = "mpegate does not offer training"
	reasonOther    = "not a key of the payments of this group and contract"
	reasonPresent  = "is in our store already"
	reasonNoRecord = "the old daemon has no such channel"
)

// Plan is what is to be written, and for every key that was read what becomes of it.
type Plan struct {
	place     Place
	Channels  []*Channel
	FreeCalls []*FreeCalls
	items     []item

	channels map[uint256.Int]*Channel
	users    map[channelstate.FreeCallUser]*FreeCalls
}

// Channel is one channel of the plan.
type Channel struct {
	ID      uint256.Int
	Record  *channelstate.Record
	Claims  []channelstate.Claim
	Skipped string // why it is not written, empty when it is

	prepaid  [3]uint256.Int // planned, used, refunded
	payments []*item
	values   []*paymentValue

	Unused  uint256.Int // prepaid and not used, kept for the client; in cogs
	Lost    uint256.Int // prepaid and not used, of which nothing is signed at this nonce; in cogs
	Written bool
}

// FreeCalls is one counter of the plan.
type FreeCalls struct {
	User    channelstate.FreeCallUser
	Used    uint64
	Skipped string
	Written bool
}

// item is one key. What becomes of it is what becomes of what it belongs to, unless it has a fault of its own.
type item struct {
	kind    Kind
	key     string
	cogs    uint256.Int // signed, of channels and claims
	calls   uint64
	fault   string
	channel *Channel
	calling *FreeCalls
}

func (i *item) reason() string {
	switch {
	case i.fault != "":
		return i.fault
	case i.channel != nil:
		return i.channel.Skipped
	case i.calling != nil:
		return i.calling.Skipped
	}
	return ""
}

// NewPlan decides what becomes of each entry.
func NewPlan(place Place, entries []Entry) *Plan {
	p := &Plan{place: place, channels: map[uint256.Int]*Channel{}, users: map[channelstate.FreeCallUser]*FreeCalls{}}
	p.items = make([]item, len(entries)) // its elements are pointed to
	for i := range entries {
		p.items[i] = item{key: entries[i].Key}
		p.sort(&p.items[i], entries[i].Value)
	}
	slices.SortFunc(p.Channels, func(a, b *Channel) int { return a.ID.Cmp(&b.ID) })
	for _, channel := range p.Channels {
		p.finish(channel)
	}
	return p
}

func (p *Plan) sort(i *item, value []byte) {
	rest, _ := strings.CutPrefix(i.key, p.place.base())
	contract := p.place.Group.MPE.Hex() + "/"
	for _, place := range []struct {
		prefix string
		kind   Kind
		read   func(*item, string, []byte) error
	}{
		{contract + "/payment-channel/storage/", KindChannel, p.readChannel},
		{contract + "/payment/storage/", KindClaim, p.readPayment},
		{contract + "/payment-channel/lock/", KindLock, notTaken(reasonLock)},
		{"/PrePaid/storage/", KindPrepaid, p.readPrepaid},
		{"/free-call-user/storage/", KindFreeCall, p.readFreeCalls},
		{"/freecall/lock/", KindLock, notTaken(reasonLock)},
		{"/model-user/", KindTraining, notTaken(reasonTraining)},
		{"", KindOther, notTaken(reasonOther)},
	} {
		if name, found := strings.CutPrefix(rest, place.prefix); found {
			i.kind = place.kind
			if err := place.read(i, name, value); err != nil {
				i.fault = err.Error()
			}
			return
		}
	}
}

func notTaken(reason string) func(*item, string, []byte) error {
	return func(i *item, _ string, _ []byte) error { i.fault = reason; return nil }
}

// braced reads {ID:name}.
func braced(text, before string) (string, bool) {
	name, opened := strings.CutPrefix(text, "{ID:"+before)
	name, closed := strings.CutSuffix(name, "}")
	return name, opened && closed
}

func (p *Plan) channel(id *uint256.Int) *Channel {
	channel := p.channels[*id]
	if channel == nil {
		channel = &Channel{ID: *id}
		p.channels[*id] = channel
		p.Channels = append(p.Channels, channel)
	}
	return channel
}

func (p *Plan) readChannel(i *item, name string, data []byte) error {
	text, ok := braced(name, " ")
	id, err := uint256.FromDecimal(text)
	if !ok || err != nil {
		return errors.New("the key names no channel")
	}
	i.channel = p.channel(id)
	value, err := decodeChannel(data)
	if err == nil {
		i.cogs = value.signed
		err = p.check(id, value)
	}
	if err != nil {
		i.channel.Skipped = err.Error()
		return nil
	}
	i.channel.Record = &channelstate.Record{
		Sender: value.sender, Signer: value.signer, Nonce: value.nonce, Signed: value.signed,
		// No amount that was signed for the old daemon may be spent again here.
		Window: channelstate.Window{Floor: value.signed},
	}
	if !value.signed.IsZero() {
		i.channel.Record.Signature = value.signature
	}
	return nil
}

func (p *Plan) check(id *uint256.Int, value *channelValue) error {
	switch {
	case value.id != *id:
		return fmt.Errorf("the key is of channel %s, the value of channel %s", id.Dec(), value.id.Dec())
	case value.group != p.place.Group.GroupID:
		return errors.New("the channel belongs to another payment group")
	case value.sender == (common.Address{}):
		return errors.New("the channel has no sender")
	case value.signed.IsZero():
		return nil
	}
	return p.checkSignature(value.sender, value.signer, id, &value.nonce, &value.signed, value.signature)
}

// checkSignature keeps amounts out that the contract would not pay.
func (p *Plan) checkSignature(sender, signer common.Address, id, nonce, amount *uint256.Int, signature []byte) error {
	if len(signature) != signatureLength {
		return fmt.Errorf("its signature has %d bytes, not %d", len(signature), signatureLength)
	}
	by, err := blockchain.RecoverSigner(blockchain.ClaimMessage(p.place.Group.MPE, id, nonce, amount), signature)
	if err != nil || by != sender && by != signer {
		return errors.New("its signature is not of the channel's sender or signer: the contract would not pay it")
	}
	return nil
}

func (p *Plan) readPayment(i *item, name string, data []byte) error {
	value, err := decodePayment(data)
	if err != nil {
		return err
	}
	i.cogs = value.amount
	if name != value.channel.Dec()+"/"+value.nonce.Dec() {
		return fmt.Errorf("the value is of channel %s, nonce %s", value.channel.Dec(), value.nonce.Dec())
	}
	i.channel = p.channel(&value.channel)
	i.channel.payments, i.channel.values = append(i.channel.payments, i), append(i.channel.values, value)
	return nil
}

func (p *Plan) readPrepaid(i *item, name string, data []byte) error {
	text, ok := braced(name, "")
	number, counter, _ := strings.Cut(text, "/")
	id, err := uint256.FromDecimal(number)
	at := strings.Index("PUR", counter)
	if !ok || err != nil || len(counter) != 1 || at < 0 {
		return errors.New("the key names no prepaid counter")
	}
	i.channel = p.channel(id)
	amount, err := decodePrepaid(data)
	if err != nil {
		// What was not used is not known, so neither claiming nor giving it back would be right.
		i.channel.Skipped = "its prepaid counter " + counter + ": " + err.Error()
		return nil
	}
	i.channel.prepaid[at] = amount
	return nil
}

// finish makes the record of a channel of all that was read of it.
func (p *Plan) finish(channel *Channel) {
	if channel.Skipped != "" {
		return
	}
	record := channel.Record
	if record == nil {
		channel.Skipped = reasonNoRecord
		return
	}
	// The old daemon counts all that is signed as owed, although calls have not used all of what was prepaid:
	// unused = planned + refunded - used. Here a claim takes what is spent, and what is signed beyond it pays prepaid
	// calls to come. So the unused part is left out of spent: it stays usable and is never claimed. Its counters
	// survive claims, so it can be more than this nonce has signed; for the rest there is no signature any more.
	unused := channel.unused()
	if unused.Gt(&record.Signed) {
		channel.Unused = record.Signed
	} else {
		channel.Unused = unused
	}
	channel.Lost.Sub(&unused, &channel.Unused)
	record.Spent.Sub(&record.Signed, &channel.Unused)
	record.Batch = newBatch()
	for at, value := range channel.values {
		claim, err := p.claim(record, value)
		if err != nil {
			channel.payments[at].fault = err.Error()
			continue
		}
		channel.Claims = append(channel.Claims, claim)
	}
	slices.SortFunc(channel.Claims, func(a, b channelstate.Claim) int { return a.Nonce.Cmp(&b.Nonce) })
	if last := len(channel.Claims) - 1; last >= 0 { // it explains why the nonce may be ahead of the chain's
		pending := channel.Claims[last]
		record.Pending = &pending
	}
}

func (c *Channel) unused() (unused uint256.Int) {
	planned, used, refunded := c.prepaid[0], c.prepaid[1], c.prepaid[2]
	if refunded.Gt(&used) {
		refunded = used
	}
	used.Sub(&used, &refunded)
	if used.Lt(&planned) {
		unused.Sub(&planned, &used)
	}
	return unused
}

func (p *Plan) claim(record *channelstate.Record, value *paymentValue) (channelstate.Claim, error) {
	switch {
	case value.amount.IsZero():
		return channelstate.Claim{}, errors.New("there is nothing to claim: its amount is zero")
	case !value.nonce.Lt(&record.Nonce):
		return channelstate.Claim{}, fmt.Errorf("its nonce is not before the channel's, which is %s", record.Nonce.Dec())
	}
	if err := p.checkSignature(record.Sender, record.Signer, &value.channel, &value.nonce, &value.amount, value.signature); err != nil {
		return channelstate.Claim{}, err
	}
	return channelstate.Claim{
		Channel: value.channel, Nonce: value.nonce, ID: newBatch(), Signed: value.amount, Spent: value.amount, Signature: value.signature,
		Sender: record.Sender, Signer: record.Signer,
	}, nil
}

func newBatch() (id channelstate.BatchID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// maxName bounds names of services and users, in bytes.
const maxName = 1024

func (p *Plan) readFreeCalls(i *item, name string, data []byte) error {
	value, err := decodeFreeCalls(data)
	if err != nil {
		return err
	}
	i.calls = uint64(value.FreeCallsMade)
	written := strings.Join([]string{value.Address, value.UserID, value.OrganizationId, value.ServiceId, value.GroupID}, "/")
	if text, ok := braced(name, ""); !ok || text != written {
		return errors.New("the key and the value name different users")
	}
	switch {
	case value.OrganizationId != p.place.Organization || value.GroupID != p.place.GroupText:
		return errors.New("the counter belongs to another organization or payment group")
	case !common.IsHexAddress(value.Address):
		return errors.New("the user's address is no address")
	case len(value.ServiceId) > maxName || len(value.UserID) > maxName || !utf8.ValidString(value.ServiceId):
		return errors.New("the name of the service or the user cannot be kept")
	}
	// The old daemon counts each spelling of an address on its own, we count the address.
	user := channelstate.FreeCallUser{
		Group: p.place.Group, OrganizationID: value.OrganizationId, ServiceID: value.ServiceId,
		Address: common.HexToAddress(value.Address), UserID: value.UserID,
	}
	calling := p.users[user]
	if calling == nil {
		calling = &FreeCalls{User: user}
		p.users[user] = calling
		p.FreeCalls = append(p.FreeCalls, calling)
	}
	if calling.Used > math.MaxInt64-i.calls {
		return errors.New("more calls than can be counted")
	}
	calling.Used += i.calls
	i.calling = calling
	return nil
}
