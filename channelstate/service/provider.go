package service

import (
	"context"
	"errors"

	"github.com/ethereum/go-ethereum/common"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
)

// noMetadata is the answer before the metadata is loaded.
func noMetadata() error {
	return status.Error(codes.Unavailable, "the metadata of the service is not loaded yet, try again")
}

// recoverSigner tells who signed a message. Nothing is asked of anybody for it.
func recoverSigner(message, signature []byte) (common.Address, error) {
	signer, err := blockchain.RecoverSigner(message, signature)
	switch {
	case errors.Is(err, blockchain.ErrSignatureLength):
		return signer, status.Errorf(codes.InvalidArgument, "incorrect signature: it has %d bytes instead of %d",
			len(signature), blockchain.SignatureLength)
	case err != nil:
		return signer, status.Error(codes.Unauthenticated, "incorrect signature")
	}
	return signer, nil
}

// checkBlock refuses block numbers that the signed messages cannot hold.
func checkBlock(block uint64) error {
	if block >= 1<<63 {
		return status.Errorf(codes.InvalidArgument, "current_block is %d, which no chain has", block)
	}
	return nil
}

// checkMPE compares the address that a provider's program was set up with,
// however it is written, with that of the metadata.
func checkMPE(text string, mpe common.Address) error {
	if !common.IsHexAddress(text) {
		return status.Error(codes.InvalidArgument, "mpe_address is no address: write 0x and 40 hexadecimal digits")
	}
	if sent := common.HexToAddress(text); sent != mpe {
		return status.Errorf(codes.InvalidArgument,
			"the mpe address: %s passed does not match to what has been registered: the service is paid through %s", sent, mpe)
	}
	return nil
}

// provider proves that the payment address of the group has signed a message
// with a block number lately. The node is asked for the head only for a
// signature of that address.
func (s *ControlService) provider(ctx context.Context, metadata *blockchain.Metadata, message, signature []byte, block uint64) error {
	signer, err := recoverSigner(message, signature)
	if err != nil {
		return err
	}
	if signer != metadata.Group.PaymentAddress {
		return notProvider(signer)
	}
	return checkWindow(ctx, s.parts.Head, block)
}

func notProvider(signer common.Address) error {
	return status.Errorf(codes.Unauthenticated,
		"the address: %s does not match to what has been expected / registered: the payment address of the group signs these requests", signer)
}
