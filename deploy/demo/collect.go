package demo

import (
	"context"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/accounts/abi/bind"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate/proto/escrow"
	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
)

func (s *story) readState(ctx context.Context) (string, error) {
	state, err := s.state(ctx)
	if err != nil {
		return "", err
	}
	if !state.Signed.Eq(uint256.NewInt(s.signed)) || state.Used != s.spent {
		return "", fmt.Errorf("signed %s and spent %d, but the client's books say %d and %d", state.Signed.Dec(), state.Used, s.signed, s.spent)
	}
	if !state.SignatureIsValid {
		return "", errors.New("the stored signature is not the client's")
	}
	return fmt.Sprintf("signed %s, spent %d cogs", state.Signed.Dec(), state.Used), nil
}

// claim starts a claim at mpegate, sends it to the contract and checks who has how much afterwards.
func (s *story) claim(ctx context.Context) (string, error) {
	chain, provider := s.stage.chain, s.stage.chain.Account("provider")
	contract, err := blockchain.NewEscrow(chain.MPE, chain.Client)
	if err != nil {
		return "", err
	}
	before, err := s.books(ctx, contract)
	if err != nil {
		return "", err
	}
	spent, err := s.state(ctx)
	if err != nil {
		return "", err
	}
	started, err := s.startClaim(ctx)
	if err != nil {
		return "", err
	}
	actual, planned := uint256.NewInt(spent.Used), new(uint256.Int).SetBytes(started.GetSignedAmount())
	if _, err := chain.Transact(ctx, provider, func(options *bind.TransactOpts) (*types.Transaction, error) {
		return contract.Claim(options, &s.payer.Channel, actual, planned, started.GetSignature(), false)
	}); err != nil {
		return "", fmt.Errorf("claiming %s of %s signed: %w", actual.Dec(), planned.Dec(), err)
	}
	after, err := s.books(ctx, contract)
	if err != nil {
		return "", err
	}
	earned, paid := after.provider-before.provider, before.channel-after.channel
	if earned != s.spent || paid != s.spent {
		return "", fmt.Errorf("the calls cost %d cogs, but the provider got %d and the channel lost %d", s.spent, earned, paid)
	}
	return fmt.Sprintf("provider %d -> %d, channel %d -> %d: %d calls at %d", before.provider, after.provider,
		before.channel, after.channel, s.spent/price, uint64(price)), nil
}

// books are balances in cogs.
type books struct{ provider, channel uint64 }

func (s *story) books(ctx context.Context, contract *blockchain.Escrow) (books, error) {
	balance, err := s.stage.chain.EscrowBalance(ctx, s.stage.chain.Account("provider").Address)
	if err != nil {
		return books{}, err
	}
	channel, err := contract.Channel(ctx, &s.payer.Channel, nil)
	if err != nil {
		return books{}, err
	}
	return books{provider: balance.Uint64(), channel: channel.Value.Uint64()}, nil
}

func (s *story) startClaim(ctx context.Context) (*escrow.PaymentReply, error) {
	message := blockchain.StartClaimMessage(s.stage.chain.MPE, &s.payer.Channel, &s.payer.Nonce)
	signature, err := blockchain.Sign(message, s.stage.chain.Account("provider").Key)
	if err != nil {
		return nil, err
	}
	id := s.payer.Channel.Bytes32()
	return escrow.NewProviderControlServiceClient(s.stage.connection).StartClaim(ctx, &escrow.StartClaimRequest{
		MpeAddress: s.stage.chain.MPE.Hex(), ChannelId: id[:], Signature: signature,
	})
}

func (s *story) nextNonce(ctx context.Context) (string, error) {
	s.payer.Nonce.AddUint64(&s.payer.Nonce, 1)
	s.signed, s.spent = 0, 0
	reply, err := s.echo(ctx, &s.payer, price, &samplev1.EchoRequest{Text: "still here"})
	if err != nil {
		return "", err
	}
	s.paid()
	return fmt.Sprintf("%q", reply.GetText()), nil
}
