// Package peerstate takes the payment state that snetd (singnet/snet-daemon) keeps in etcd over into ours, once.
package peerstate

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
)

// maxValue bounds a stored value in bytes; real ones have a few hundred.
const maxValue = 16 << 10

const signatureLength = 65

// The values as the peer's Go code encodes them: gob goes by the names of types' fields.
type (
	paymentChannelData struct {
		ChannelID, Nonce       *big.Int
		State                  int
		Sender, Recipient      [20]byte
		GroupID                [32]byte
		FullAmount, Expiration *big.Int
		Signer                 [20]byte
		AuthorizedAmount       *big.Int
		Signature              []byte
	}
	payment struct {
		MpeContractAddress              [20]byte
		ChannelID, ChannelNonce, Amount *big.Int
		Signature                       []byte
	}
	freeCallUserData struct {
		Address, UserID                    string
		FreeCallsMade                      int
		OrganizationId, ServiceId, GroupID string //nolint:revive // gob goes by these names
	}
	prePaidData struct{ Amount *big.Int }
)

type channelValue struct {
	id, nonce, signed uint256.Int
	sender, signer    common.Address
	group             [32]byte
	signature         []byte
}

func decodeChannel(data []byte) (*channelValue, error) {
	var stored paymentChannelData
	if err := decodeGob(data, &stored); err != nil {
		return nil, err
	}
	n := numbers{}
	value := &channelValue{
		id: n.read("ChannelID", stored.ChannelID), nonce: n.read("Nonce", stored.Nonce), signed: n.read("AuthorizedAmount", stored.AuthorizedAmount),
		sender: stored.Sender, signer: stored.Signer, group: stored.GroupID, signature: stored.Signature,
	}
	return value, n.err
}

type paymentValue struct {
	channel, nonce, amount uint256.Int
	signature              []byte
}

func decodePayment(data []byte) (*paymentValue, error) {
	var stored payment
	if err := decodeGob(data, &stored); err != nil {
		return nil, err
	}
	n := numbers{}
	value := &paymentValue{
		channel: n.read("ChannelID", stored.ChannelID), nonce: n.read("ChannelNonce", stored.ChannelNonce), amount: n.read("Amount", stored.Amount),
		signature: stored.Signature,
	}
	return value, n.err
}

func decodePrepaid(data []byte) (uint256.Int, error) {
	var stored prePaidData
	if err := decodeGob(data, &stored); err != nil {
		return uint256.Int{}, err
	}
	n := numbers{}
	return n.read("Amount", stored.Amount), n.err
}

func decodeFreeCalls(data []byte) (*freeCallUserData, error) {
	var stored freeCallUserData
	if err := decodeGob(data, &stored); err != nil {
		return nil, err
	}
	if stored.FreeCallsMade < 0 {
		return nil, errors.New("FreeCallsMade is negative")
	}
	return &stored, nil
}

// decodeGob reads one value and nothing after it. gob is not made for hostile input: what it may still throw is an
// error like any other.
func decodeGob(data []byte, value any) (err error) {
	if len(data) > maxValue {
		return fmt.Errorf("the value has %d bytes, more than %d", len(data), maxValue)
	}
	defer func() {
		if thrown := recover(); thrown != nil {
			err = fmt.Errorf("the value cannot be read: %v", thrown)
		}
	}()
	reader := bytes.NewReader(data)
	if err := gob.NewDecoder(reader).Decode(value); err != nil {
		return fmt.Errorf("the value cannot be read: %w", err)
	}
	if reader.Len() > 0 {
		return fmt.Errorf("%d bytes follow the value", reader.Len())
	}
	return nil
}

// numbers keeps the first fault of the numbers it reads.
type numbers struct{ err error }

func (n *numbers) read(field string, stored *big.Int) (number uint256.Int) {
	if stored == nil {
		return number // gob leaves a missing field alone
	}
	if stored.Sign() < 0 || number.SetFromBig(stored) {
		if n.err == nil {
			n.err = fmt.Errorf("%s is negative or has more than 256 bits", field)
		}
		number.Clear()
	}
	return number
}
