package channelstate

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"sync/atomic"
	"time"
)

// ChargeID names one charge, uniquely across replicas and restarts. It says
// when it was made, so that a refund can be told to come too late to be known
// as a repeated one.
type ChargeID [16]byte // 6 bytes of milliseconds since 1970, 6 random ones of the process, 4 of a counter

var (
	chargeProcess = func() (process [6]byte) {
		rand.Read(process[:]) // ends the process itself when the system has no randomness
		return process
	}()
	chargeCounter atomic.Uint32
)

// NewChargeID makes an id that no other call of any replica makes.
func NewChargeID() ChargeID { return newChargeIDAt(time.Now()) }

func newChargeIDAt(now time.Time) ChargeID {
	var id ChargeID
	milliseconds := uint64(now.UnixMilli())
	binary.BigEndian.PutUint16(id[0:], uint16(milliseconds>>32))
	binary.BigEndian.PutUint32(id[2:], uint32(milliseconds))
	copy(id[6:], chargeProcess[:])
	binary.BigEndian.PutUint32(id[12:], chargeCounter.Add(1))
	return id
}

// String is the printable form: 32 hex digits.
func (id ChargeID) String() string { return hex.EncodeToString(id[:]) }

// Time is when the id was made, by the clock of the replica that made it.
func (id ChargeID) Time() time.Time {
	high, low := binary.BigEndian.Uint16(id[0:]), binary.BigEndian.Uint32(id[2:])
	return time.UnixMilli(int64(uint64(high)<<32 | uint64(low)))
}

// ParseChargeID reads the printable form.
func ParseChargeID(text string) (ChargeID, error) {
	var id ChargeID
	if len(text) != hex.EncodedLen(len(id)) {
		return ChargeID{}, errors.New("a charge id has 32 hex digits")
	}
	if _, err := hex.Decode(id[:], []byte(text)); err != nil {
		return ChargeID{}, errors.New("a charge id has 32 hex digits")
	}
	return id, nil
}
