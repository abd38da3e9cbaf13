package peerstate

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/storetest"
)

var (
	vectorUser = common.HexToAddress("0xFCAd0B19bB29D4674531d6f115237E16AfCE377c")
	vectorMPE  = common.HexToAddress("0x042d31f61c598eadcac729b845406514521db520")
)

func testPlace() Place {
	place := Place{Network: "sepolia", Organization: "example-org", Group: channelstate.Group{ChainID: 11155111, MPE: vectorMPE}}
	for i := range place.Group.GroupID {
		place.Group.GroupID[i] = byte(i)
	}
	place.GroupText = base64.StdEncoding.EncodeToString(place.Group.GroupID[:])
	return place
}

// fixture reads a value that the peer has written (operations.md section 13).
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func encode(t testing.TB, value any) []byte {
	t.Helper()
	var data bytes.Buffer
	if err := gob.NewEncoder(&data).Encode(value); err != nil {
		t.Fatal(err)
	}
	return data.Bytes()
}

func number(value uint64) uint256.Int { return *uint256.NewInt(value) }

func TestFixtures(t *testing.T) {
	channel, err := decodeChannel(fixture(t, "channel"))
	if err != nil {
		t.Fatal(err)
	}
	if channel.id != number(1234) || channel.nonce != number(5) || channel.signed != number(987654321000) ||
		channel.sender != vectorUser || channel.signer != vectorUser || channel.group != testPlace().Group.GroupID || len(channel.signature) != 65 {
		t.Errorf("channel %+v", channel)
	}
	payment, err := decodePayment(fixture(t, "payment"))
	if err != nil || payment.channel != number(1234) || payment.nonce != number(5) || payment.amount != number(987654321000) ||
		!bytes.Equal(payment.signature, channel.signature) {
		t.Errorf("payment %+v, %v", payment, err)
	}
	calls, err := decodeFreeCalls(fixture(t, "freecalls"))
	want := freeCallUserData{Address: vectorUser.Hex(), FreeCallsMade: 3, OrganizationId: "example-org", ServiceId: "example-service", GroupID: testPlace().GroupText}
	if err != nil || *calls != want {
		t.Errorf("free calls %+v, %v", calls, err)
	}
	if amount, err := decodePrepaid(fixture(t, "prepaid")); err != nil || amount != number(3000) {
		t.Errorf("prepaid %s, %v", amount.Dec(), err)
	}
}

func TestBadValues(t *testing.T) {
	good := fixture(t, "prepaid")
	for name, data := range map[string][]byte{
		"empty": nil, "cut": good[:len(good)-1], "more": append(bytes.Clone(good), 0), "text": []byte("locked"),
		"another type": fixture(t, "freecalls"), "large": make([]byte, maxValue+1),
		"negative": encode(t, prePaidData{big.NewInt(-1)}), "too big": encode(t, prePaidData{new(big.Int).Lsh(big.NewInt(1), 256)}),
	} {
		if amount, err := decodePrepaid(data); err == nil || !amount.IsZero() {
			t.Errorf("%s: %s, %v", name, amount.Dec(), err)
		}
	}
	if _, err := decodeFreeCalls(encode(t, freeCallUserData{FreeCallsMade: -1})); err == nil {
		t.Error("a negative number of calls is good")
	}
}

func FuzzDecode(f *testing.F) {
	for _, name := range []string{"channel", "payment", "freecalls", "prepaid"} {
		f.Add(fixture(f, name))
	}
	place := testPlace()
	f.Fuzz(func(t *testing.T, data []byte) {
		base := place.base()
		plan := NewPlan(place, []Entry{
			{base + vectorMPE.Hex() + "//payment-channel/storage/{ID: 1234}", data}, {base + vectorMPE.Hex() + "//payment/storage/1234/5", data},
			{base + "/PrePaid/storage/{ID:1234/P}", data}, {base + "/free-call-user/storage/{ID:" + string(data) + "}", data},
		})
		checkSums(t, plan.Report(false), 4)
		for _, channel := range plan.Channels {
			if channel.Skipped == "" && channel.Record.Spent.Gt(&channel.Record.Signed) {
				t.Fatalf("spent %s of %s", channel.Record.Spent.Dec(), channel.Record.Signed.Dec())
			}
		}
	})
}

// peer is a state as the peer writes it.
type peer struct {
	t       testing.TB
	place   Place
	key     *ecdsa.PrivateKey
	entries []Entry
}

func newPeer(t testing.TB) *peer {
	t.Helper()
	key, err := crypto.HexToECDSA("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	return &peer{t: t, place: testPlace(), key: key}
}

func (p *peer) put(key string, value []byte) {
	p.entries = append(p.entries, Entry{Key: p.place.base() + key, Value: value})
}

func (p *peer) sign(channel, nonce, amount uint64) []byte {
	p.t.Helper()
	id, at, cogs := number(channel), number(nonce), number(amount)
	signature, err := blockchain.Sign(blockchain.ClaimMessage(vectorMPE, &id, &at, &cogs), p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return signature
}

func big64(value uint64) *big.Int { return new(big.Int).SetUint64(value) }

func (p *peer) channel(id, nonce, signed uint64, change func(*paymentChannelData)) {
	data := paymentChannelData{
		ChannelID: big64(id), Nonce: big64(nonce), Sender: vectorUser, Signer: vectorUser, GroupID: p.place.Group.GroupID,
		FullAmount: big64(1 << 40), Expiration: big64(8000000), AuthorizedAmount: big64(signed), Signature: p.sign(id, nonce, signed),
	}
	if change != nil {
		change(&data)
	}
	p.put(fmt.Sprintf("%s//payment-channel/storage/{ID: %d}", vectorMPE.Hex(), id), encode(p.t, data))
}

func (p *peer) payment(id, nonce, amount uint64) {
	p.put(fmt.Sprintf("%s//payment/storage/%d/%d", vectorMPE.Hex(), id, nonce),
		encode(p.t, payment{ChannelID: big64(id), ChannelNonce: big64(nonce), Amount: big64(amount), Signature: p.sign(id, nonce, amount)}))
}

func (p *peer) prepaid(id, planned, used, refunded uint64) {
	for counter, amount := range map[string]uint64{"P": planned, "U": used, "R": refunded} {
		p.put(fmt.Sprintf("/PrePaid/storage/{ID:%d/%s}", id, counter), encode(p.t, prePaidData{big64(amount)}))
	}
}

func (p *peer) freeCalls(address, user string, calls int) {
	data := freeCallUserData{address, user, calls, p.place.Organization, "example-service", p.place.GroupText}
	p.put(fmt.Sprintf("/free-call-user/storage/{ID:%s/%s/%s/%s/%s}", address, user, data.OrganizationId, data.ServiceId, data.GroupID), encode(p.t, data))
}

// whole has one of everything.
func whole(t testing.TB) *peer {
	p := newPeer(t)
	p.put(vectorMPE.Hex()+"//payment-channel/storage/{ID: 1234}", fixture(t, "channel"))
	p.put("/free-call-user/storage/{ID:"+vectorUser.Hex()+"//example-org/example-service/"+p.place.GroupText+"}", fixture(t, "freecalls"))
	p.freeCalls(strings.ToLower(vectorUser.Hex()), "", 4)
	p.freeCalls(vectorUser.Hex(), "alice/bob", 1)
	p.freeCalls("nobody", "", 7)
	p.channel(1, 3, 1000, nil)
	p.prepaid(1, 600, 500, 50) // 150 are not used
	p.payment(1, 2, 700)
	p.channel(2, 1, 100, nil)
	p.prepaid(2, 300, 0, 0) // of an earlier nonce: 200 have no signature
	p.channel(3, 1, 0, nil)
	p.payment(3, 0, 50)
	p.payment(3, 1, 60) // of a nonce that is not claimed
	p.channel(4, 0, 10, func(data *paymentChannelData) { data.Signature = p.sign(4, 0, 11) })
	p.channel(5, 0, 10, func(data *paymentChannelData) { data.GroupID[0] = 9 })
	p.channel(6, 0, 10, nil)
	p.put("/PrePaid/storage/{ID:6/P}", []byte("no gob"))
	p.payment(7, 0, 20) // its channel is not there
	p.put(vectorMPE.Hex()+"//payment-channel/storage/{ID: 8}", []byte{1, 2, 3})
	p.put(vectorMPE.Hex()+"//payment-channel/lock/{ID: 1}", []byte("unlocked"))
	p.put("/model-user/modelStorage/{ID:org|svc|group|model}", []byte("model"))
	p.put("0x0000000000000000000000000000000000000001//payment-channel/storage/{ID: 1}", fixture(t, "channel"))
	return p
}

func checkSums(t testing.TB, report *Report, read int) {
	t.Helper()
	total := 0
	for _, sum := range append(report.Sums, report.Total) {
		signed := new(big.Int).Add(sum.SignedTaken.Int, sum.SignedSkipped.Int)
		calls := new(big.Int).Add(sum.CallsTaken.Int, sum.CallsSkipped.Int)
		if sum.Read != sum.Taken+sum.Skipped || signed.Cmp(sum.SignedRead.Int) != 0 || calls.Cmp(sum.CallsRead.Int) != 0 {
			t.Errorf("%s do not add up: %+v", sum.Kind, sum)
		}
		total += sum.Read
	}
	if report.Total.Read != read || total != 2*read {
		t.Errorf("%d keys were read, the sums have %d, in all %d", read, total-report.Total.Read, report.Total.Read)
	}
	if new(big.Int).Add(report.Spent.Int, report.Unused.Int).Cmp(report.Signed.Int) != 0 || report.Sums[0].SignedTaken.Cmp(report.Signed.Int) != 0 {
		t.Errorf("signed %s, spent %s, unused %s, of the keys %s", report.Signed, report.Spent, report.Unused, report.Sums[0].SignedTaken)
	}
}

func TestImport(t *testing.T) {
	for name, open := range storetest.Stores() {
		t.Run(name, func(t *testing.T) {
			if name == "etcd" {
				t.Skip("the peer's is one")
			}
			testImport(t, open(t))
		})
	}
}

func testImport(t *testing.T, store channelstate.Store) {
	peer, place := whole(t), testPlace()
	client, _ := storetest.EtcdClient(t)
	for _, entry := range append(peer.entries, Entry{Key: "sepolia/example-org/other", Value: []byte("not ours")}) {
		if _, err := client.Put(t.Context(), entry.Key, string(entry.Value)); err != nil {
			t.Fatal(err)
		}
	}
	calls := store.(channelstate.FreeCallStore)
	run := func(write bool) *Report {
		t.Helper()
		entries, err := Read(t.Context(), client, &place)
		if err != nil {
			t.Fatal(err)
		}
		plan := NewPlan(place, entries)
		if err := plan.Look(t.Context(), store, calls); err != nil {
			t.Fatal(err)
		}
		if write {
			if err := plan.Write(t.Context(), store, calls); err != nil {
				t.Fatal(err)
			}
		}
		report := plan.Report(write)
		checkSums(t, report, len(peer.entries))
		return report
	}
	dry := run(false)
	if dry.Total.Taken != 15 || len(channels(t, store)) != 0 {
		t.Errorf("the dry run would take %d keys and has written %d channels: %+v", dry.Total.Taken, len(channels(t, store)), dry.Reasons)
	}
	if wet := run(true); !reflect.DeepEqual(wet.Sums, dry.Sums) {
		t.Errorf("the dry run said %+v, then %+v", dry.Sums, wet.Sums)
	}
	checkStore(t, store)
	before := channels(t, store)
	if again := run(true); again.Total.Taken != 0 || !reflect.DeepEqual(channels(t, store), before) {
		t.Errorf("the second run took %d keys", again.Total.Taken)
	}
	checkStore(t, store)
}

func channels(t *testing.T, store channelstate.Store) []channelstate.ChannelRecord {
	t.Helper()
	page, next, err := store.Channels(t.Context(), testPlace().Group, "", 100)
	if err != nil || next != "" {
		t.Fatal(next, err)
	}
	return page
}

func checkStore(t *testing.T, store channelstate.Store) {
	t.Helper()
	want := map[uint64][4]uint64{1234: {5, 987654321000, 987654321000}, 1: {3, 1000, 850, 700}, 2: {1, 100, 0}, 3: {1, 0, 0, 50}}
	page := channels(t, store)
	if len(page) != len(want) {
		t.Errorf("%d channels", len(page))
	}
	for _, entry := range page {
		record, pending := entry.Record, uint64(0)
		if record.Pending != nil {
			pending = record.Pending.Spent.Uint64()
			claim, found, err := store.Claim(t.Context(), testPlace().Group.Key(&entry.Channel), &record.Pending.Nonce)
			if err != nil || !found || !reflect.DeepEqual(claim, *record.Pending) || claim.Signed != claim.Spent {
				t.Errorf("claim %+v, %v, %v", claim, found, err)
			}
		}
		got := [4]uint64{record.Nonce.Uint64(), record.Signed.Uint64(), record.Spent.Uint64(), pending}
		if got != want[entry.Channel.Uint64()] || !record.Window.Has(&record.Signed) {
			t.Errorf("channel %s: nonce, signed, spent, pending %v, want %v", entry.Channel.Dec(), got, want[entry.Channel.Uint64()])
		}
	}
	for user, used := range map[string]uint64{"": 7, "alice/bob": 1} {
		stored, err := store.(channelstate.FreeCallStore).LoadFreeCalls(t.Context(), channelstate.FreeCallUser{
			Group: testPlace().Group, OrganizationID: "example-org", ServiceID: "example-service", Address: vectorUser, UserID: user,
		})
		if err != nil || stored.Count == nil || stored.Count.Used != used {
			t.Errorf("free calls of %q: %+v, %v", user, stored.Count, err)
		}
	}
}

// A client may not pay with what it signed for the old daemon, and may go on from there; what it prepaid is not lost.
func TestRecordsGoOn(t *testing.T) {
	plan := NewPlan(testPlace(), whole(t).entries)
	record := plan.Channels[0].Record
	channel := &blockchain.Channel{
		ID: number(1), Nonce: number(2), Value: number(1 << 40), Expiration: number(8000000), Sender: vectorUser, Signer: vectorUser,
	}
	charge := &channelstate.Charge{Nonce: number(3), Amount: number(1000), Price: number(10), Block: 1}
	if _, _, refusal := record.Charge(channel, charge); refusal == nil || refusal.Reason != channelstate.ReasonAlreadyAccepted {
		t.Errorf("an amount of the old daemon pays again: %v", refusal)
	}
	if next, _, refusal := record.ChargePrepaid(channel, charge); refusal != nil || next.Spent != number(860) {
		t.Errorf("a prepaid call: %v", refusal)
	}
	charge.Amount = number(1010)
	if next, _, refusal := record.Charge(channel, charge); refusal != nil || next.Spent != number(860) || next.Signed != number(1010) {
		t.Errorf("the next call: %v", refusal)
	}
}
