package channelstate

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"github.com/mpegate/mpegate/blockchain"
)

const vectorBlock = 7654321

var (
	vectorUser   = common.HexToAddress("0xFCAd0B19bB29D4674531d6f115237E16AfCE377c")
	vectorDaemon = common.HexToAddress("0x87C018EF78005f118C53fa9cadf0a4Fd367a77A9")
)

const (
	vectorUserKey   = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	vectorDaemonKey = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

func vectorMetadata() *blockchain.Metadata {
	return &blockchain.Metadata{
		OrganizationID: "example-org", ServiceID: "example-service", Service: &blockchain.Service{MPE: common.HexToAddress("0x042d")},
		Group:        &blockchain.OrganizationGroup{Name: "default_group", IDText: vectorGroup},
		ServiceGroup: &blockchain.ServiceGroup{FreeCalls: 3, FreeCallSigner: vectorDaemon},
	}
}

// vectorBytes reads what payment-protocol.md section 5 has of a vector.
func vectorBytes(t testing.TB, name, field string) []byte {
	t.Helper()
	content, err := os.ReadFile("../blockchain/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Messages []map[string]any }
	if err := json.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	for _, vector := range file.Messages {
		if vector["name"] == name {
			data, err := hex.DecodeString(fmt.Sprint(vector[field]))
			if err != nil || len(data) == 0 {
				t.Fatalf("%s has no %s: %v", name, field, vector)
			}
			return data
		}
	}
	t.Fatalf("there is no vector %s", name)
	return nil
}

// V4 to V7 of payment-protocol.md section 5: requests as clients sign them, tokens as the peer issues them.
func TestFreeCallVectors(t *testing.T) {
	metadata := vectorMetadata()
	key, err := parseFreeCallKey(vectorDaemonKey)
	if err != nil {
		t.Fatal(err)
	}
	request := &FreeCallProof{Address: vectorUser.Hex(), Block: vectorBlock, Signature: vectorBytes(t, "V4", "signature")}
	if user, _, err := request.verify(metadata, vectorDaemon); err != nil || user != vectorUser {
		t.Errorf("V4: %s, %v", user, err)
	}
	token, err := signFreeCallToken(key, metadata, vectorUser, "", vectorBlock+FreeCallTokenLifetime)
	if err != nil {
		t.Fatal(err)
	}
	want := append(vectorBytes(t, "V5", "signature"), "_7827121"...)
	if !bytes.Equal(token, want) || len(token) != 73 {
		t.Errorf("V5: token %x, want %x", token, want)
	}
	call := &FreeCallProof{Address: vectorUser.Hex(), Block: vectorBlock, Signature: vectorBytes(t, "V6", "signature"), Token: token}
	if user, expiry, err := call.verify(metadata, vectorDaemon); err != nil || user != vectorUser || expiry != 7827121 {
		t.Errorf("V6: %s until %d, %v", user, expiry, err)
	}
	if token, err = signFreeCallToken(key, metadata, vectorUser, "alice@example.com", vectorBlock+FreeCallTokenLifetime); err != nil {
		t.Fatal(err)
	}
	ofUser := &FreeCallProof{
		Address: vectorUser.Hex(), UserID: "alice@example.com", Block: vectorBlock, Token: token, Signature: vectorBytes(t, "V7 call", "signature"),
	}
	if user, _, err := ofUser.verify(metadata, vectorDaemon); err != nil || user != vectorUser {
		t.Errorf("V7: %s, %v", user, err)
	}
	ofUser.UserID = "bob@example.com"
	if _, _, err := ofUser.verify(metadata, vectorDaemon); err == nil {
		t.Error("V7 is good for another user")
	}
}

// proofOf signs a free call of the vectors' user, with a change before it is signed.
func proofOf(t testing.TB, change func(*FreeCallProof)) *FreeCallProof {
	t.Helper()
	daemon, user := mustKey(t, vectorDaemonKey), mustKey(t, vectorUserKey)
	token, err := signFreeCallToken(daemon, vectorMetadata(), vectorUser, "", vectorBlock+100)
	if err != nil {
		t.Fatal(err)
	}
	proof := &FreeCallProof{Address: vectorUser.Hex(), Block: vectorBlock, Token: token}
	change(proof)
	metadata := vectorMetadata()
	message := blockchain.FreeCallMessage(blockchain.FreeCallRequest{
		Address: proof.Address, UserID: proof.UserID, OrganizationID: metadata.OrganizationID, ServiceID: metadata.ServiceID,
		GroupID: metadata.Group.IDText, Block: proof.Block,
	}, proof.Token)
	if proof.Signature, err = blockchain.Sign(message, user); err != nil {
		t.Fatal(err)
	}
	return proof
}

func mustKey(t testing.TB, text string) *ecdsa.PrivateKey {
	t.Helper()
	key, err := parseFreeCallKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func wantFreeCallRefusal(t *testing.T, name string, err error, reason FreeCallReason, phrase string) {
	t.Helper()
	var refusal *FreeCallRefusal
	if !errors.As(err, &refusal) || refusal.Reason != reason || !strings.HasPrefix(refusal.Message, phrase) {
		t.Errorf("%s: %v, want %s: %s", name, err, reason, phrase)
	}
}

func TestFreeCallProofs(t *testing.T) {
	token := func(change func(*blockchain.Metadata) (common.Address, string)) []byte {
		metadata := vectorMetadata()
		user, userID := change(metadata)
		token, err := signFreeCallToken(mustKey(t, vectorDaemonKey), metadata, user, userID, vectorBlock+100)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	for _, test := range []struct {
		name   string
		change func(*FreeCallProof) // before it is signed
		after  func(*FreeCallProof)
		reason FreeCallReason
		phrase string
	}{
		{name: "good"},
		{name: "address in lower case", change: func(p *FreeCallProof) { p.Address = strings.ToLower(p.Address) }},
		{name: "address without 0x", change: func(p *FreeCallProof) { p.Address = p.Address[2:] }},
		{name: "token with 27 more", change: func(p *FreeCallProof) { p.Token[64] += 27 }},
		{name: "no underscore", change: func(p *FreeCallProof) { p.Token = bytes.Repeat([]byte{1}, 73) }, reason: FreeCallMalformed, phrase: "invalid token: no '_' found"},
		{name: "no block", change: func(p *FreeCallProof) { p.Token = p.Token[:66] }, reason: FreeCallMalformed, phrase: "invalid token: invalid block number"},
		{name: "block in hex", change: func(p *FreeCallProof) { p.Token = append(p.Token[:66], "0x10"...) }, reason: FreeCallMalformed, phrase: "invalid token: invalid block number"},
		{name: "block with a sign", change: func(p *FreeCallProof) { p.Token = append(p.Token[:66], "+10"...) }, reason: FreeCallMalformed, phrase: "invalid token: invalid block number"},
		{name: "huge block", change: func(p *FreeCallProof) { p.Token = append(p.Token[:66], "9223372036854775808"...) }, reason: FreeCallMalformed, phrase: "invalid token: invalid block number"},
		{name: "long token", change: func(p *FreeCallProof) { p.Token = append(make([]byte, 200), p.Token...) }, reason: FreeCallMalformed, phrase: "invalid token: it has 273 bytes"},
		{name: "no address", change: func(p *FreeCallProof) { p.Address = "alice" }, reason: FreeCallMalformed, phrase: "the address is not"},
		{name: "long user id", change: func(p *FreeCallProof) { p.UserID = strings.Repeat("x", 257) }, reason: FreeCallMalformed, phrase: "the user id has 257 bytes"},
		{name: "impossible block", change: func(p *FreeCallProof) { p.Block = 1 << 63 }, reason: FreeCallMalformed, phrase: "the current block is"},
		{name: "signature cut", after: func(p *FreeCallProof) { p.Signature = p.Signature[:64] }, reason: FreeCallSignature, phrase: "sign is not valid"},
		{name: "signature of nobody", after: func(p *FreeCallProof) { p.Signature = make([]byte, 65) }, reason: FreeCallSignature, phrase: "sign is not valid"},
		{name: "another block", after: func(p *FreeCallProof) { p.Block++ }, reason: FreeCallSignature, phrase: "sign is not valid"},
		{name: "another address", after: func(p *FreeCallProof) { p.Address = vectorDaemon.Hex() }, reason: FreeCallSignature, phrase: "sign is not valid"},
		{name: "another user id", after: func(p *FreeCallProof) { p.UserID = "x" }, reason: FreeCallSignature, phrase: "sign is not valid"},
		{name: "token of another user", change: func(p *FreeCallProof) {
			p.Token = token(func(*blockchain.Metadata) (common.Address, string) { return vectorDaemon, "" })
		}, reason: FreeCallTokenSignature, phrase: "token sign is not valid"},
		{name: "token of another user id", change: func(p *FreeCallProof) {
			p.Token = token(func(*blockchain.Metadata) (common.Address, string) { return vectorUser, "alice" })
		}, reason: FreeCallTokenSignature, phrase: "token sign is not valid"},
		{name: "token of another organisation", change: func(p *FreeCallProof) {
			p.Token = token(func(m *blockchain.Metadata) (common.Address, string) {
				m.OrganizationID = "other"
				return vectorUser, ""
			})
		}, reason: FreeCallTokenSignature, phrase: "token sign is not valid"},
		{name: "token of another group", change: func(p *FreeCallProof) {
			p.Token = token(func(m *blockchain.Metadata) (common.Address, string) { m.Group.Name = "other"; return vectorUser, "" })
		}, reason: FreeCallTokenSignature, phrase: "token sign is not valid"},
		{name: "token with a later block", change: func(p *FreeCallProof) { p.Token = append(p.Token[:66], "99999999"...) }, reason: FreeCallTokenSignature, phrase: "token sign is not valid"},
		{name: "token cut", change: func(p *FreeCallProof) { p.Token = p.Token[1:] }, reason: FreeCallTokenSignature, phrase: "sign is not valid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			proof := proofOf(t, func(p *FreeCallProof) {
				if test.change != nil {
					test.change(p)
				}
			})
			if test.after != nil {
				test.after(proof)
			}
			user, expiry, err := proof.verify(vectorMetadata(), common.Address{}, vectorDaemon)
			if test.reason == "" {
				if err != nil || user != vectorUser || expiry != vectorBlock+100 {
					t.Errorf("%s until %d, %v", user, expiry, err)
				}
				return
			}
			wantFreeCallRefusal(t, test.name, err, test.reason, test.phrase)
		})
	}
	proof := proofOf(t, func(*FreeCallProof) {})
	if _, _, err := proof.verify(vectorMetadata(), common.Address{}, vectorUser); err == nil {
		t.Error("a token that another key has signed is good")
	}
}

func TestFreeCallBlocks(t *testing.T) {
	proof := proofOf(t, func(*FreeCallProof) {})
	for _, test := range []struct {
		signed, expiry, current uint64
		reason                  FreeCallReason
		phrase                  string
	}{
		{100, 100, 100, "", ""}, {100, 1000, 105, "", ""}, {105, 1000, 100, "", ""},
		{100, 99, 100, FreeCallTokenExpired, "free call token has expired"},
		{100, 1000, 106, FreeCallSignatureOld, "signature has expired"},
		{106, 1000, 100, FreeCallSignatureOld, "signature has expired"},
		{1<<63 - 1, 1000, 100, FreeCallSignatureOld, "signature has expired"},
		{1, 1, 100, FreeCallTokenExpired, "free call token has expired"},
	} {
		proof.Block = test.signed
		err := proof.checkBlocks(test.expiry, test.current)
		if test.reason == "" {
			if err != nil {
				t.Errorf("%+v: %v", test, err)
			}
			continue
		}
		wantFreeCallRefusal(t, fmt.Sprint(test), err, test.reason, test.phrase)
	}
}

func TestQuotas(t *testing.T) {
	for text, want := range map[string]Quota{
		"0": {}, "15": {Calls: 15}, " 7 ": {Calls: 7}, "unlimited": {Unlimited: true}, "Unlimited": {Unlimited: true}, "infinity": {Unlimited: true},
	} {
		if got, err := ParseQuota(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "1.5", "all", "99999999999999999999", "0x10"} {
		if got, err := ParseQuota(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
	for _, test := range []struct {
		quota      Quota
		used, left uint64
	}{{Quota{}, 0, 0}, {Quota{Calls: 3}, 0, 3}, {Quota{Calls: 3}, 2, 1}, {Quota{Calls: 3}, 3, 0}, {Quota{Calls: 3}, 9, 0}, {Quota{Unlimited: true}, 1 << 40, 99999999}} {
		if left := test.quota.left(test.used); left != test.left {
			t.Errorf("%s after %d: %d left", test.quota, test.used, left)
		}
	}
}

func TestFreeCallCounts(t *testing.T) {
	var count *FreeCallCount
	for used := uint64(1); used <= 20; used++ {
		next, err := count.take(Quota{Calls: 20})
		if err != nil || next.Used != used || len(next.Writes) != min(int(used), keptWrites) {
			t.Fatalf("call %d: %+v, %v", used, next, err)
		}
		if count != nil && next.Writes[len(next.Writes)-2] != count.Writes[len(count.Writes)-1] {
			t.Fatal("the write before is forgotten")
		}
		count = next
	}
	_, err := count.take(Quota{Calls: 20})
	wantFreeCallRefusal(t, "one too many", err, FreeCallLimit, "free call limit has been exceeded, calls made = 20, total free calls eligible = 20")
	if next, err := count.take(Quota{Unlimited: true}); err != nil || next.Used != 21 {
		t.Errorf("without limit: %+v, %v", next, err)
	}
	user := FreeCallUser{OrganizationID: "a/b", ServiceID: "c d", Address: vectorUser, UserID: "x\xff/y"}
	data, err := encodeFreeCalls(&user, count)
	if err != nil {
		t.Fatal(err)
	}
	readUser, read, err := decodeFreeCalls(data)
	if err != nil || readUser != user || read.Used != 20 || len(read.Writes) != keptWrites || read.Writes[7] != count.Writes[7] {
		t.Errorf("read %+v %+v, %v", readUser, read, err)
	}
	if path := string(user.appendName(nil)); path != "a%2Fb/c%20d/0xfcad0b19bb29d4674531d6f115237e16afce377c/x%FF%2Fy" {
		t.Errorf("the path is %s", path)
	}
	for name, data := range map[string][]byte{"nothing": nil, "no message": {0xff}, "newer": append([]byte{8, 1, 8, 2}, data...)} {
		if name == "newer" {
			data = append(bytes.Clone(data), 8, 2)
		}
		if _, read, err := decodeFreeCalls(data); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: read %+v, %v", name, read, err)
		}
	}
}

func TestFreeCallSettings(t *testing.T) {
	for _, test := range []struct {
		change func(*FreeCallSettings)
		faults []string
	}{
		{func(*FreeCallSettings) {}, nil},
		{func(s *FreeCallSettings) {
			s.PrivateKey, s.TrustedSigners = "0x"+vectorDaemonKey, []string{vectorUser.Hex()}
			s.PerAddress = map[string]any{strings.ToLower(vectorUser.Hex()): 5, vectorDaemon.Hex(): "unlimited", "0x0000000000000000000000000000000000000001": json.Number("0")}
		}, nil},
		{func(s *FreeCallSettings) { s.PrivateKey = "secretsecret" }, []string{"private_key is not a private key"}},
		{func(s *FreeCallSettings) { s.PrivateKey = strings.Repeat("f", 64) }, []string{"private_key is not a private key"}},
		{func(s *FreeCallSettings) { s.TrustedSigners = []string{"bob"} }, []string{`trusted_signers[0] is "bob": write an address`}},
		{func(s *FreeCallSettings) {
			s.PerAddress = map[string]any{vectorUser.Hex(): 1, strings.ToLower(vectorUser.Hex()): 2, vectorDaemon.Hex(): "many", "nobody": 3}
		}, []string{"per_address has 0xFCAd0B19bB29D4674531d6f115237E16AfCE377c twice", `is "many", which is neither a number`, `per_address has the key "nobody"`}},
		{func(s *FreeCallSettings) { s.TokenLifetime = 0 }, []string{"token_lifetime is 0 blocks: write a number from 1 to 172800"}},
		{func(s *FreeCallSettings) { s.TokenLifetime = 172801 }, []string{"token_lifetime is 172801 blocks"}},
	} {
		settings := DefaultFreeCallSettings()
		test.change(&settings)
		err := settings.Validate()
		if (err == nil) != (len(test.faults) == 0) {
			t.Errorf("fault %v, want %q", err, test.faults)
			continue
		}
		for _, fault := range test.faults {
			if !strings.Contains(err.Error(), fault) {
				t.Errorf("fault %v, want %q", err, fault)
			}
		}
		if err != nil && settings.PrivateKey != "" && strings.Contains(err.Error(), settings.PrivateKey) {
			t.Errorf("the fault shows the key: %v", err)
		}
	}
}
