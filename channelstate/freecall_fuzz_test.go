package channelstate

import (
	"bytes"
	"errors"
	"testing"

	"github.com/ethereum/go-ethereum/common"
)

// Whatever bytes a client sends, nobody else's call is taken for his.
func FuzzFreeCallProof(f *testing.F) {
	good := proofOf(f, func(*FreeCallProof) {})
	f.Add(good.Address, good.UserID, good.Block, good.Signature, good.Token)
	f.Add("0x", "", uint64(0), []byte{}, []byte("_"))
	f.Add(good.Address[2:], "a", good.Block, good.Signature[:64], append([]byte("__"), good.Token...))
	f.Fuzz(func(t *testing.T, address, userID string, block uint64, signature, token []byte) {
		proof := &FreeCallProof{Address: address, UserID: userID, Block: block, Signature: signature, Token: token}
		user, _, err := proof.verify(vectorMetadata(), vectorDaemon)
		var refusal *FreeCallRefusal
		if err != nil {
			if !errors.As(err, &refusal) {
				t.Fatalf("an error that is no refusal: %v", err)
			}
			return
		}
		if token != nil && !bytes.Equal(token, good.Token) {
			if number, err := splitToken(token); err != nil || number != vectorBlock+100 {
				t.Fatalf("a token that was never issued is good: %q", token)
			}
		}
		if user == (common.Address{}) || common.HexToAddress(address) != user {
			t.Fatalf("the call of %q is taken for one of %s", address, user)
		}
	})
}

func splitToken(token []byte) (uint64, error) {
	_, expiry, err := splitFreeCallToken(token)
	return expiry, err
}

func FuzzDecodeFreeCalls(f *testing.F) {
	count, err := (*FreeCallCount)(nil).take(Quota{Calls: 1})
	if err != nil {
		f.Fatal(err)
	}
	data, err := encodeFreeCalls(&FreeCallUser{OrganizationID: "a", ServiceID: "b", Address: vectorUser, UserID: "c"}, count)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		user, count, err := decodeFreeCalls(data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := encodeFreeCalls(&user, count)
		if err != nil {
			t.Skip(err) // names that are no text
		}
		if sameUser, sameCount, err := decodeFreeCalls(again); err != nil || sameUser != user || sameCount.Used != count.Used {
			t.Fatalf("read %+v %+v, then %+v %+v, %v", user, count, sameUser, sameCount, err)
		}
	})
}
