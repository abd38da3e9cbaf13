package harness

import (
	"context"

	"github.com/ethereum/go-ethereum/accounts/abi/bind"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/deploy/demo/devchain"
	"github.com/mpegate/mpegate/deploy/demo/payer"
)

// AddFunds tops a channel up, in cogs.
func (w *World) AddFunds(p *payer.Payer, amount uint64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	client := w.Chain.Account("client")
	if err := w.Chain.Mint(ctx, client.Address, uint256.NewInt(amount)); err != nil {
		w.t.Fatal(err)
	}
	w.transact(client, func(options *bind.TransactOpts) (*types.Transaction, error) {
		return w.Chain.TokenContract.Transact(options, "approve", w.Chain.MPE, uint256.NewInt(amount).ToBig())
	})
	w.transact(client, func(options *bind.TransactOpts) (*types.Transaction, error) {
		return w.Chain.MPEContract.Transact(options, "deposit", uint256.NewInt(amount).ToBig())
	})
	w.transact(client, func(options *bind.TransactOpts) (*types.Transaction, error) {
		return w.escrow().AddFunds(options, &p.Channel, uint256.NewInt(amount))
	})
}

// Extend moves a channel's expiration to a block.
func (w *World) Extend(p *payer.Payer, expiration *uint256.Int) {
	w.t.Helper()
	w.transact(w.Chain.Account("client"), func(options *bind.TransactOpts) (*types.Transaction, error) {
		return w.escrow().Extend(options, &p.Channel, expiration)
	})
}

// Claim claims on chain as the provider does: actual is paid, planned is what the signature is over.
func (w *World) Claim(p *payer.Payer, actual, planned uint64, signature []byte) {
	w.t.Helper()
	w.transact(w.Chain.Account("provider"), func(options *bind.TransactOpts) (*types.Transaction, error) {
		return w.escrow().Claim(options, &p.Channel, uint256.NewInt(actual), uint256.NewInt(planned), signature, false)
	})
}

// ClaimTimeout takes everything back for the client of an expired channel.
func (w *World) ClaimTimeout(p *payer.Payer) {
	w.t.Helper()
	w.transact(w.Chain.Account("client"), func(options *bind.TransactOpts) (*types.Transaction, error) {
		return w.escrow().ClaimTimeout(options, &p.Channel)
	})
}

func (w *World) escrow() *blockchain.Escrow {
	w.t.Helper()
	contract, err := blockchain.NewEscrow(w.Chain.MPE, w.Chain.Client)
	if err != nil {
		w.t.Fatal(err)
	}
	return contract
}

func (w *World) transact(from *devchain.Account, send func(*bind.TransactOpts) (*types.Transaction, error)) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	if _, err := w.Chain.Transact(ctx, from, send); err != nil {
		w.t.Fatal(err)
	}
}
