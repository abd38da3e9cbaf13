package blockchain_test

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"os"
	"strconv"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
)

// vectorFile is testdata/vectors.json: the test vectors of payment-protocol.md
// section 5.
type vectorFile struct {
	Keys map[string]struct {
		PrivateKey string         `json:"private_key"`
		Address    common.Address `json:"address"`
	} `json:"keys"`
	Inputs struct {
		MPE                    common.Address
		Channel, Nonce, Amount string
		Block                  uint64
		OrganizationID         string   `json:"organization_id"`
		ServiceID              string   `json:"service_id"`
		GroupName              string   `json:"group_name"`
		GroupID                string   `json:"group_id"`
		ExpiryBlock            uint64   `json:"expiry_block"`
		UserID                 string   `json:"user_id"`
		Username               string   `json:"username"`
		Channels               []string `json:"channels"`
	} `json:"inputs"`
	Messages []vector `json:"messages"`
}

type vector struct {
	Name, Message, Text, Signer string
	M, Inner, Digest, Signature string
	Bin                         string `json:"bin"`
	BinV0                       string `json:"bin_v0"`
	Token                       string
}

func readVectors(t testing.TB) vectorFile {
	t.Helper()
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file vectorFile
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Messages) != 17 {
		t.Fatalf("%d messages in the vector file, want all 17", len(file.Messages))
	}
	return file
}

func (f *vectorFile) key(t testing.TB, role string) (*ecdsa.PrivateKey, common.Address) {
	t.Helper()
	key, err := crypto.HexToECDSA(f.Keys[role].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, f.Keys[role].Address
}

func (f *vectorFile) find(t testing.TB, name string) vector {
	t.Helper()
	for _, vector := range f.Messages {
		if vector.Name == name {
			return vector
		}
	}
	t.Fatalf("no vector %s", name)
	return vector{}
}

// message builds the vector's message from the inputs.
func (f *vectorFile) message(t testing.TB, v vector) []byte {
	t.Helper()
	in := f.Inputs
	_, user := f.key(t, "USER")
	channel, nonce, amount := number(t, in.Channel), number(t, in.Nonce), number(t, in.Amount)
	request := blockchain.FreeCallRequest{
		Address: user.Hex(), OrganizationID: in.OrganizationID, ServiceID: in.ServiceID, GroupID: in.GroupID, Block: in.Block,
	}
	withUserID := request
	withUserID.UserID = in.UserID
	switch v.Message {
	case "claim":
		return blockchain.ClaimMessage(in.MPE, channel, nonce, amount)
	case "channel_state":
		return blockchain.ChannelStateMessage(in.MPE, channel, in.Block)
	case "token":
		return blockchain.TokenMessage(fromHex(t, f.find(t, "V1").Signature), in.Block)
	case "free_call_token_request":
		return blockchain.FreeCallTokenRequestMessage(request)
	case "free_call_token":
		return blockchain.FreeCallTokenMessage(in.OrganizationID, in.GroupName, user, "", in.ExpiryBlock)
	case "free_call_token_user_id":
		return blockchain.FreeCallTokenMessage(in.OrganizationID, in.GroupName, user, in.UserID, in.ExpiryBlock)
	case "free_call":
		return blockchain.FreeCallMessage(request, fromHex(t, v.Token))
	case "free_call_user_id":
		return blockchain.FreeCallMessage(withUserID, fromHex(t, v.Token))
	case "list_unclaimed":
		return blockchain.ListUnclaimedMessage(in.MPE, in.Block)
	case "list_in_progress":
		return blockchain.ListInProgressMessage(in.MPE, in.Block)
	case "start_claim":
		return blockchain.StartClaimMessage(in.MPE, channel, nonce)
	case "start_claim_multi":
		var ids []uint256.Int
		for _, text := range in.Channels {
			ids = append(ids, *number(t, text))
		}
		message := blockchain.StartClaimForMultipleChannelsMessage(in.MPE, ids, in.Block)
		if ids[0].Dec() != in.Channels[0] {
			t.Error("the caller's ids were sorted in place")
		}
		return message
	case "configuration":
		return blockchain.ConfigurationMessage(v.Text, in.Block)
	case "training":
		return blockchain.TrainingMessage(v.Text, user, in.Block)
	case "metering":
		return blockchain.MeteringMessage(in.Username, in.OrganizationID, in.ServiceID, in.GroupID, in.Block)
	}
	t.Fatalf("vector %s has the unknown message %q", v.Name, v.Message)
	return nil
}

func TestVectors(t *testing.T) {
	file := readVectors(t)
	for _, vector := range file.Messages {
		t.Run(vector.Name, func(t *testing.T) {
			message := file.message(t, vector)
			if got := hex.EncodeToString(message); got != vector.M {
				t.Fatalf("message\n%s, want\n%s", got, vector.M)
			}
			if inner := crypto.Keccak256Hash(message); vector.Inner != "" && hex.EncodeToString(inner[:]) != vector.Inner {
				t.Errorf("inner hash %x, want %s", inner, vector.Inner)
			}
			if digest := blockchain.Digest(message); hex.EncodeToString(digest[:]) != vector.Digest {
				t.Errorf("digest %x, want %s", digest, vector.Digest)
			}
			key, address := file.key(t, vector.Signer)
			signature, err := blockchain.Sign(message, key)
			if err != nil {
				t.Fatal(err)
			}
			want := fromHex(t, vector.Signature)
			if !bytes.Equal(signature[:64], want[:64]) || signature[64] != want[64]%27+27 {
				t.Errorf("signature %x, want %x up to 27 in v", signature, want)
			}
			checkTextForms(t, vector, want)
			expectSigner(t, message, want, address)
		})
	}
}

// checkTextForms checks the forms in which the vector travels in a header.
func checkTextForms(t *testing.T, vector vector, signature []byte) {
	t.Helper()
	inHeader := signature
	if vector.Message == "free_call_token" || vector.Message == "free_call_token_user_id" {
		inHeader = fromHex(t, vector.Token)
		if want := string(signature) + "_7827121"; string(inHeader) != want {
			t.Errorf("token %x, want the signature, _ and the expiry block", inHeader)
		}
	}
	if vector.Bin != "" && base64.StdEncoding.EncodeToString(inHeader) != vector.Bin {
		t.Errorf("-bin form %s, want %s", base64.StdEncoding.EncodeToString(inHeader), vector.Bin)
	}
	withoutBase := append(bytes.Clone(signature[:64]), signature[64]%27)
	if vector.BinV0 != "" && base64.StdEncoding.EncodeToString(withoutBase) != vector.BinV0 {
		t.Errorf("-bin form with v 0 %s, want %s", base64.StdEncoding.EncodeToString(withoutBase), vector.BinV0)
	}
}

func expectSigner(t *testing.T, message, signature []byte, want common.Address) {
	t.Helper()
	got, err := blockchain.RecoverSigner(message, signature)
	if err != nil {
		t.Errorf("signature %x: %v", signature, err)
	} else if got != want {
		t.Errorf("signature %x recovers to %s, want %s", signature, got, want)
	}
}

func TestRecoverSignerAcceptsEveryFormOfASignature(t *testing.T) {
	file := readVectors(t)
	for _, vector := range file.Messages {
		message, signature := fromHex(t, vector.M), fromHex(t, vector.Signature)
		_, address := file.key(t, vector.Signer)
		recovery := signature[64] % 27
		for _, base := range []byte{0, 27, 54, 81, 108, 135, 162, 189, 216, 243} {
			expectSigner(t, message, withV(signature, base+recovery), address)
			expectSigner(t, message, withV(highTwin(signature), base+1-recovery), address)
		}
		other, err := blockchain.RecoverSigner(message, withV(signature, 27+1-recovery))
		if err == nil && other == address {
			t.Errorf("%s: the other v recovers to the same address", vector.Name)
		}
	}
}

func TestRecoverSignerRefuses(t *testing.T) {
	file := readVectors(t)
	v1 := file.find(t, "V1")
	message, good := fromHex(t, v1.M), fromHex(t, v1.Signature)
	order := crypto.S256().Params().N.FillBytes(make([]byte, 32))
	zeros := make([]byte, 65)
	tests := map[string]struct {
		signature []byte
		want      error
	}{
		"nothing":            {nil, blockchain.ErrSignatureLength},
		"64 bytes":           {good[:64], blockchain.ErrSignatureLength},
		"66 bytes":           {append(bytes.Clone(good), 0), blockchain.ErrSignatureLength},
		"text":               {[]byte(v1.Signature), blockchain.ErrSignatureLength},
		"v 2":                {withV(good, 2), blockchain.ErrSignatureData},
		"v 26":               {withV(good, 26), blockchain.ErrSignatureData},
		"v 29":               {withV(good, 29), blockchain.ErrSignatureData},
		"v 255":              {withV(good, 255), blockchain.ErrSignatureData},
		"zeros":              {zeros, blockchain.ErrSignatureData},
		"r zero":             {append(make([]byte, 32), good[32:]...), blockchain.ErrSignatureData},
		"s zero":             {append(append(bytes.Clone(good[:32]), make([]byte, 32)...), good[64]), blockchain.ErrSignatureData},
		"r is the order":     {append(bytes.Clone(order), good[32:]...), blockchain.ErrSignatureData},
		"s is the order":     {append(append(bytes.Clone(good[:32]), order...), good[64]), blockchain.ErrSignatureData},
		"r all ones":         {append(bytes.Repeat([]byte{0xff}, 32), good[32:]...), blockchain.ErrSignatureData},
		"r not on the curve": {notOnCurve(t, message, good), blockchain.ErrSignatureData},
	}
	for name, test := range tests {
		before := bytes.Clone(test.signature)
		address, err := blockchain.RecoverSigner(message, test.signature)
		if !errors.Is(err, test.want) || address != (common.Address{}) {
			t.Errorf("%s: %s, %v, want %v", name, address, err, test.want)
		}
		if !bytes.Equal(before, test.signature) {
			t.Errorf("%s: the caller's signature was changed", name)
		}
	}
}

// notOnCurve finds an r that is no x coordinate: about every second one.
func notOnCurve(t *testing.T, message, good []byte) []byte {
	t.Helper()
	for last := range 256 {
		signature := bytes.Clone(good)
		signature[31] = byte(last)
		if _, err := blockchain.RecoverSigner(message, signature); err != nil {
			return signature
		}
	}
	t.Fatal("every r recovers")
	return nil
}

func TestSignWithoutKeyIsAnError(t *testing.T) {
	if _, err := blockchain.Sign([]byte("message"), nil); err == nil {
		t.Error("a message was signed without a key")
	}
}

func TestWithinWindow(t *testing.T) {
	tests := []struct {
		block, current, window uint64
		want                   bool
	}{
		{100, 100, 0, true}, {95, 100, 5, true}, {105, 100, 5, true}, {94, 100, 5, false}, {106, 100, 5, false},
		{0, 3, 5, true}, {math.MaxUint64, 0, 5, false}, {0, math.MaxUint64, 5, false},
		{math.MaxUint64, math.MaxUint64 - 5, 5, true}, {math.MaxUint64 - 6, math.MaxUint64, 5, false},
		{0, math.MaxUint64, math.MaxUint64, true},
	}
	for _, test := range tests {
		if got := blockchain.WithinWindow(test.block, test.current, test.window); got != test.want {
			t.Errorf("WithinWindow(%d, %d, %d) = %v", test.block, test.current, test.window, got)
		}
	}
}

func FuzzRecoverSigner(f *testing.F) {
	file := readVectors(f)
	for _, vector := range file.Messages {
		f.Add(fromHex(f, vector.M), fromHex(f, vector.Signature))
	}
	f.Add([]byte{}, []byte{})
	f.Add([]byte("x"), make([]byte, 65))
	f.Fuzz(func(t *testing.T, message, signature []byte) {
		address, err := blockchain.RecoverSigner(message, signature)
		if err != nil {
			if !errors.Is(err, blockchain.ErrSignatureLength) && !errors.Is(err, blockchain.ErrSignatureData) {
				t.Fatalf("an error of no kind: %v", err)
			}
			if address != (common.Address{}) {
				t.Fatalf("%s beside the error %v", address, err)
			}
			return
		}
		recovery := signature[64] % 27
		expectSigner(t, message, withV(signature, recovery), address)
		expectSigner(t, message, withV(highTwin(signature), 28-recovery), address)
	})
}

func FuzzSign(f *testing.F) {
	file := readVectors(f)
	key, address := file.key(f, "USER")
	f.Add([]byte("message"))
	f.Fuzz(func(t *testing.T, message []byte) {
		signature, err := blockchain.Sign(message, key)
		if err != nil {
			t.Fatal(err)
		}
		expectSigner(t, message, signature, address)
	})
}

func BenchmarkRecoverSigner(b *testing.B) {
	file := readVectors(b)
	v1 := file.find(b, "V1")
	message, signature := fromHex(b, v1.M), fromHex(b, v1.Signature)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := blockchain.RecoverSigner(message, signature); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifyClaim is what a paid call costs here: building the message and
// recovering its signer.
func BenchmarkVerifyClaim(b *testing.B) {
	file := readVectors(b)
	signature := fromHex(b, file.find(b, "V1").Signature)
	channel, nonce, amount := number(b, file.Inputs.Channel), number(b, file.Inputs.Nonce), number(b, file.Inputs.Amount)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := blockchain.RecoverSigner(blockchain.ClaimMessage(file.Inputs.MPE, channel, nonce, amount), signature); err != nil {
			b.Fatal(err)
		}
	}
}

func withV(signature []byte, v byte) []byte {
	changed := bytes.Clone(signature)
	changed[64] = v
	return changed
}

// highTwin is the signature with n-s in place of s; its v has to be flipped too.
func highTwin(signature []byte) []byte {
	twin := bytes.Clone(signature)
	s := new(big.Int).SetBytes(signature[32:64])
	new(big.Int).Sub(crypto.S256().Params().N, s).FillBytes(twin[32:64])
	return twin
}

func number(t testing.TB, text string) *uint256.Int {
	t.Helper()
	value, err := uint256.FromDecimal(text)
	if err != nil {
		t.Fatal(strconv.Quote(text), err)
	}
	return value
}

func fromHex(t testing.TB, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
