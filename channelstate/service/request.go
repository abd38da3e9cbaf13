package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/holiman/uint256"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
)

// maxIntegerBytes bounds an integer in a bytes field, leading zeros included.
const maxIntegerBytes = 64

// integer reads an unsigned big-endian integer, which may have leading zeros
// or no byte at all. field names it in the error.
func integer(field string, value []byte) (*uint256.Int, error) {
	if len(value) > maxIntegerBytes {
		return nil, status.Errorf(codes.InvalidArgument, "%s has %d bytes, at most %d are read", field, len(value), maxIntegerBytes)
	}
	digits := bytes.TrimLeft(value, "\x00")
	if len(digits) > 32 {
		return nil, status.Errorf(codes.InvalidArgument, "%s has more than 256 bits", field)
	}
	return new(uint256.Int).SetBytes(digits), nil
}

// word is how replies carry an integer: 32 bytes, big-endian.
func word(number *uint256.Int) []byte {
	bytes := number.Bytes32()
	return bytes[:]
}

// callerAddress is the client's IP address: the last one of x-forwarded-for,
// which the proxy in front of us appends, else that of the connection. Clients
// who reach us without a proxy can write there what they like; it only says
// whose budget of chain reads is used.
func callerAddress(ctx context.Context) string {
	incoming, _ := metadata.FromIncomingContext(ctx)
	if forwarded := incoming.Get("x-forwarded-for"); len(forwarded) > 0 {
		hops := strings.Split(forwarded[len(forwarded)-1], ",")
		if address := net.ParseIP(strings.TrimSpace(hops[len(hops)-1])); address != nil {
			return address.String()
		}
	}
	connection, ok := peer.FromContext(ctx)
	if !ok || connection.Addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(connection.Addr.String())
	if err != nil {
		return "" // a Unix socket: all of its callers are one
	}
	return host
}

// channelError is the answer when a channel cannot be had from the chain.
func channelError(ctx context.Context, id *uint256.Int, err error) error {
	switch {
	case errors.Is(err, blockchain.ErrChannelNotFound):
		return status.Errorf(codes.NotFound, "channel is not found, channelId: %s", id.Dec())
	case errors.Is(err, blockchain.ErrTooManyReads):
		return status.Errorf(codes.ResourceExhausted, "channel error: %v", err)
	default:
		return unavailable(ctx, fmt.Errorf("channel error: %w", err))
	}
}

// unavailable is the answer when the chain or the channel state cannot be
// asked; a caller who has gone is answered with what he did.
func unavailable(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return status.FromContextError(ctx.Err()).Err()
	}
	return status.Error(codes.Unavailable, err.Error())
}
