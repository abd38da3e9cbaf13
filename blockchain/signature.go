package blockchain

import (
	"crypto/ecdsa"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
)

const (
	// SignatureLength is r (32 bytes), s (32 bytes) and v (1 byte).
	SignatureLength = crypto.SignatureLength

	vBase = 27 // v of Bitcoin's compact form; wallets send 27 and 28

	// What personal_sign (EIP-191 version 0x45) puts before the data: here always
	// a 32-byte hash, never the message itself.
	personalPrefix = "\x19Ethereum Signed Message:\n32"
)

var (
	// ErrSignatureLength: a signature that is not 65 bytes long.
	ErrSignatureLength = errors.New("incorrect signature length")
	// ErrSignatureData: no key can have made this signature of any message.
	ErrSignatureData = errors.New("incorrect signature data")
)

// Digest is the hash that is signed for a message: keccak-256 of the
// personal_sign prefix and the keccak-256 of the message.
func Digest(message []byte) common.Hash {
	// One buffer for both hashes: it goes through an interface and so to the heap.
	buffer := make([]byte, len(personalPrefix)+common.HashLength)
	copy(buffer, personalPrefix)
	inner := crypto.Keccak256Hash(message)
	copy(buffer[len(personalPrefix):], inner[:])
	return crypto.Keccak256Hash(buffer)
}

// RecoverSigner is the address whose key signed message. v may be 0 or 1, or
// the same plus a multiple of 27. High s is accepted, so one message has
// several valid signatures of one key: never take the bytes of a signature as
// an identity. Errors: ErrSignatureLength, ErrSignatureData.
func RecoverSigner(message, signature []byte) (common.Address, error) {
	if len(signature) != SignatureLength {
		return common.Address{}, fmt.Errorf("%w: %d bytes instead of %d", ErrSignatureLength, len(signature), SignatureLength)
	}
	v := signature[crypto.RecoveryIDOffset] % vBase
	if v > 1 {
		return common.Address{}, ErrSignatureData
	}
	var canonical [SignatureLength]byte
	copy(canonical[:], signature)
	canonical[crypto.RecoveryIDOffset] = v

	digest := Digest(message)
	publicKey, err := crypto.Ecrecover(digest[:], canonical[:])
	if err != nil {
		return common.Address{}, ErrSignatureData
	}
	// An address is the last 20 bytes of the hash of the key without its 0x04 byte.
	hash := crypto.Keccak256Hash(publicKey[1:])
	return common.Address(hash[common.HashLength-common.AddressLength:]), nil
}

// Sign signs message with key: 65 bytes with v = 27 or 28, the form contracts
// and wallets use. The same key and message always give the same signature
// (RFC 6979).
func Sign(message []byte, key *ecdsa.PrivateKey) ([]byte, error) {
	if key == nil {
		return nil, errors.New("no key to sign with")
	}
	digest := Digest(message)
	signature, err := crypto.Sign(digest[:], key)
	if err != nil {
		return nil, fmt.Errorf("the message could not be signed: %w", err)
	}
	signature[crypto.RecoveryIDOffset] += vBase
	return signature, nil
}

// WithinWindow tells whether block is at most window blocks away from current,
// in either direction.
func WithinWindow(block, current, window uint64) bool {
	if block > current {
		return block-current <= window
	}
	return current-block <= window
}
