package channelstate

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"strconv"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/mpegate/mpegate/blockchain"
)

const (
	// FreeCallTokenLifetime is how long a free-call token is good by default
	// and at most, in blocks.
	FreeCallTokenLifetime = 172800
	// freeCallWindow is how many blocks a signed request may be away from the head.
	freeCallWindow = 5
	// maxFreeCallToken bounds what is read as a token, in bytes; ours have at most 85.
	maxFreeCallToken = 128
	// maxUserID bounds the user ids of trusted signers, in bytes.
	maxUserID = 256
	// vOffset is between v as contracts want it and as these tokens have it.
	vOffset = 27
)

// FreeCallReason is the stable word for why a free call was refused.
type FreeCallReason string

// Why a free call, or a request about free calls, is refused.
const (
	FreeCallMalformed      FreeCallReason = "malformed"
	FreeCallSignature      FreeCallReason = "signature"
	FreeCallTokenSignature FreeCallReason = "token_signature"
	FreeCallTokenExpired   FreeCallReason = "token_expired"
	FreeCallSignatureOld   FreeCallReason = "signature_expired"
	FreeCallUserID         FreeCallReason = "user_id"
	FreeCallBalance        FreeCallReason = "balance"
	FreeCallLimit          FreeCallReason = "limit"
)

// FreeCallRefusal is the answer to a request that the rules do not allow.
// Message is for the client and has the phrase clients match on
// (payment-protocol.md, sections 6.3 and 6.4).
type FreeCallRefusal struct {
	Reason  FreeCallReason
	Message string
}

// Error is the message.
func (r *FreeCallRefusal) Error() string { return r.Message }

func refuseFreeCall(reason FreeCallReason, format string, arguments ...any) *FreeCallRefusal {
	return &FreeCallRefusal{Reason: reason, Message: fmt.Sprintf(format, arguments...)}
}

// FreeCallProof is what a client signs for a free call, to ask how many are
// left and, without a token, to ask for one.
type FreeCallProof struct {
	Address   string // as it was sent: the text is signed, whatever its case
	UserID    string // set by trusted signers for one of their users
	Block     uint64 // that the client has signed
	Signature []byte
	Token     []byte // the whole one; nil in a request for a token
}

// verify finds out whose proof it is and whether the token is one of the
// signers', without asking anybody. The order of the checks is the peer's.
func (p *FreeCallProof) verify(metadata *blockchain.Metadata, signers ...common.Address) (user common.Address, expiry uint64, err error) {
	var tokenSignature []byte
	if p.Token != nil {
		if tokenSignature, expiry, err = splitFreeCallToken(p.Token); err != nil {
			return user, 0, err
		}
	}
	if user, err = p.signer(metadata); err != nil {
		return user, 0, err
	}
	if p.Token == nil {
		return user, 0, nil
	}
	message := blockchain.FreeCallTokenMessage(metadata.OrganizationID, metadata.Group.Name, user, p.UserID, expiry)
	signer, err := blockchain.RecoverSigner(message, tokenSignature)
	if err != nil {
		return user, 0, refuseFreeCall(FreeCallTokenSignature, "sign is not valid: %v of the free call token", err)
	}
	for _, known := range signers {
		if signer == known && known != (common.Address{}) {
			return user, expiry, nil
		}
	}
	return user, 0, refuseFreeCall(FreeCallTokenSignature, "token sign is not valid: get a new token with GetFreeCallToken")
}

// signer checks who has signed the request itself.
func (p *FreeCallProof) signer(metadata *blockchain.Metadata) (common.Address, error) {
	if !common.IsHexAddress(p.Address) {
		return common.Address{}, refuseFreeCall(FreeCallMalformed, "the address is not 40 hexadecimal digits after 0x")
	}
	if len(p.UserID) > maxUserID {
		return common.Address{}, refuseFreeCall(FreeCallMalformed, "the user id has %d bytes, at most %d are taken", len(p.UserID), maxUserID)
	}
	if p.Block >= 1<<63 {
		return common.Address{}, refuseFreeCall(FreeCallMalformed, "the current block is %d, which no chain has", p.Block)
	}
	message := blockchain.FreeCallMessage(blockchain.FreeCallRequest{
		Address: p.Address, UserID: p.UserID, OrganizationID: metadata.OrganizationID, ServiceID: metadata.ServiceID,
		GroupID: metadata.Group.IDText, Block: p.Block,
	}, p.Token)
	signer, err := blockchain.RecoverSigner(message, p.Signature)
	if err != nil {
		return signer, refuseFreeCall(FreeCallSignature, "sign is not valid: %v", err)
	}
	if address := common.HexToAddress(p.Address); signer != address {
		return signer, refuseFreeCall(FreeCallSignature, "sign is not valid: it is not of %s for this request", address)
	}
	return signer, nil
}

// checkBlocks compares what was signed with the height of the chain.
func (p *FreeCallProof) checkBlocks(expiry, current uint64) error {
	if p.Token != nil && expiry < current {
		return refuseFreeCall(FreeCallTokenExpired, "free call token has expired at block %d, the current block is %d: get a new one with GetFreeCallToken", expiry, current)
	}
	if !blockchain.WithinWindow(p.Block, current, freeCallWindow) {
		return refuseFreeCall(FreeCallSignatureOld, "signature has expired: it is for block %d, the current block is %d and may be %d away", p.Block, current, freeCallWindow)
	}
	return nil
}

// splitFreeCallToken takes a token apart: signature, underscore, decimal block
// (payment-protocol.md section 4.4). The signature may hold underscores.
func splitFreeCallToken(token []byte) (signature []byte, expiry uint64, err error) {
	if len(token) > maxFreeCallToken {
		return nil, 0, refuseFreeCall(FreeCallMalformed, "invalid token: it has %d bytes, at most %d are read", len(token), maxFreeCallToken)
	}
	position := bytes.LastIndexByte(token, '_')
	if position < 0 {
		return nil, 0, refuseFreeCall(FreeCallMalformed, "invalid token: no '_' found")
	}
	// ParseUint takes no sign, and no underscore in base 10.
	expiry, parseErr := strconv.ParseUint(string(token[position+1:]), 10, 63)
	if parseErr != nil {
		return nil, 0, refuseFreeCall(FreeCallMalformed, "invalid token: invalid block number")
	}
	return token[:position], expiry, nil
}

// signFreeCallToken makes a token for a user, good until a block.
func signFreeCallToken(key *ecdsa.PrivateKey, metadata *blockchain.Metadata, user common.Address, userID string, expiry uint64) ([]byte, error) {
	message := blockchain.FreeCallTokenMessage(metadata.OrganizationID, metadata.Group.Name, user, userID, expiry)
	token, err := blockchain.Sign(message, key)
	if err != nil {
		return nil, err
	}
	token[crypto.RecoveryIDOffset] -= vOffset // as the network's tokens have it
	return strconv.AppendUint(append(token, '_'), expiry, 10), nil
}

// parseFreeCallKey reads a private key: 64 hexadecimal digits, with or without
// 0x. The error does not quote it.
func parseFreeCallKey(text string) (*ecdsa.PrivateKey, error) {
	if len(text) > 2 && (text[:2] == "0x" || text[:2] == "0X") {
		text = text[2:]
	}
	key, err := crypto.HexToECDSA(text)
	if err != nil {
		return nil, errors.New("is not a private key: write its 64 hexadecimal digits")
	}
	return key, nil
}
