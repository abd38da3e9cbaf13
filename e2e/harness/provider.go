package harness

import (
	"context"
	"crypto/ecdsa"

	"github.com/ethereum/go-ethereum/accounts/abi/bind"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate/proto/configuration"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
)

// What the provider and the operator ask through Envoy, and what the provider sends to the contract.

// sign signs as the payment address, which is that of the account "provider".
func (w *World) sign(message []byte) []byte {
	w.t.Helper()
	signature, err := blockchain.Sign(message, w.Chain.Account("provider").Key)
	if err != nil {
		w.t.Fatal(err)
	}
	return signature
}

// StartClaim starts the claim of a channel, signed for a nonce.
func (w *World) StartClaim(ctx context.Context, channel *uint256.Int, nonce uint64) (*escrow.PaymentReply, error) {
	w.t.Helper()
	return escrow.NewProviderControlServiceClient(w.connection).StartClaim(ctx, &escrow.StartClaimRequest{
		MpeAddress: w.Chain.MPE.Hex(), ChannelId: channel.Bytes(),
		Signature: w.sign(blockchain.StartClaimMessage(w.Chain.MPE, channel, uint256.NewInt(nonce))),
	})
}

// StartClaims starts the claims of several channels.
func (w *World) StartClaims(ctx context.Context, channels ...uint256.Int) (*escrow.PaymentsListReply, error) {
	w.t.Helper()
	request := &escrow.StartMultipleClaimRequest{MpeAddress: w.Chain.MPE.Hex(), CurrentBlock: w.Block()}
	for i := range channels {
		request.ChannelIds = append(request.ChannelIds, channels[i].Uint64())
	}
	request.Signature = w.sign(blockchain.StartClaimForMultipleChannelsMessage(w.Chain.MPE, channels, request.CurrentBlock))
	return escrow.NewProviderControlServiceClient(w.connection).StartClaimForMultipleChannels(ctx, request)
}

// Unclaimed lists the channels with something to claim.
func (w *World) Unclaimed(ctx context.Context) ([]*escrow.PaymentReply, error) {
	w.t.Helper()
	block := w.Block()
	reply, err := escrow.NewProviderControlServiceClient(w.connection).GetListUnclaimed(ctx, &escrow.GetPaymentsListRequest{
		MpeAddress: w.Chain.MPE.Hex(), CurrentBlock: block, Signature: w.sign(blockchain.ListUnclaimedMessage(w.Chain.MPE, block)),
	})
	return reply.GetPayments(), err
}

// InProgress lists the claims that are not on the chain yet.
func (w *World) InProgress(ctx context.Context) ([]*escrow.PaymentReply, error) {
	w.t.Helper()
	block := w.Block()
	reply, err := escrow.NewProviderControlServiceClient(w.connection).GetListInProgress(ctx, &escrow.GetPaymentsListRequest{
		MpeAddress: w.Chain.MPE.Hex(), CurrentBlock: block, Signature: w.sign(blockchain.ListInProgressMessage(w.Chain.MPE, block)),
	})
	return reply.GetPayments(), err
}

// SendClaims claims payments on chain in one transaction: what was spent of what was signed.
func (w *World) SendClaims(payments ...*escrow.PaymentReply) {
	w.t.Helper()
	orders := make([]blockchain.ClaimOrder, len(payments))
	for i, payment := range payments {
		orders[i].Channel.SetBytes(payment.GetChannelId())
		orders[i].Actual.SetBytes(payment.GetSpentAmount())
		orders[i].Planned.SetBytes(payment.GetSignedAmount())
		orders[i].Signature = payment.GetSignature()
	}
	w.transact(w.Chain.Account("provider"), func(options *bind.TransactOpts) (*types.Transaction, error) {
		return w.escrow().MultiClaim(options, orders)
	})
}

// Earned is what the provider has in the contract, in cogs.
func (w *World) Earned() uint64 {
	w.t.Helper()
	balance, err := w.Chain.EscrowBalance(context.Background(), w.Chain.Account("provider").Address)
	if err != nil {
		w.t.Fatal(err)
	}
	return balance.Uint64()
}

// Channel is a channel as the chain has it.
func (w *World) Channel(id *uint256.Int) blockchain.Channel {
	w.t.Helper()
	channel, err := w.escrow().Channel(context.Background(), id, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return channel
}

// Operate asks ConfigurationService for one of blockchain's Configuration operations that answer a status.
func (w *World) Operate(ctx context.Context, key *ecdsa.PrivateKey, operation string) (configuration.StatusResponse_Status, error) {
	w.t.Helper()
	block := w.Block()
	signature, err := blockchain.Sign(blockchain.ConfigurationMessage(operation, block), key)
	if err != nil {
		w.t.Fatal(err)
	}
	client := configuration.NewConfigurationServiceClient(w.connection)
	ask := client.IsDaemonProcessingRequests
	switch operation {
	case blockchain.ConfigurationStopRequests:
		ask = client.StopProcessingRequests
	case blockchain.ConfigurationStartRequests:
		ask = client.StartProcessingRequests
	}
	reply, err := ask(ctx, &configuration.EmptyRequest{Auth: &configuration.CallerAuthentication{Signature: signature, CurrentBlock: block}})
	return reply.GetCurrentProcessingStatus(), err
}
