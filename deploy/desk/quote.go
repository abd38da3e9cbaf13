package desk

import (
	"context"
	"fmt"
	"math/big"
	"strings"

	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// Quote is what the transactions of a plan would cost.
type Quote struct {
	Transactions int      `json:"transactions"`
	Gas          uint64   `json:"gas"`
	Price        *big.Int `json:"gas_price_wei"`
	Fee          *big.Int `json:"fee_wei"`
	// Problem is why the node would not take one of them, "" when it would.
	Problem string `json:"problem,omitempty"`
}

// Quote has the node try the transactions of a plan and asks it for the price of gas.
func (d *Desk) Quote(ctx context.Context, plan *Plan, batch int) (*Quote, error) {
	price, err := d.Chain.node.SuggestGasPrice(ctx)
	if err != nil {
		return nil, fmt.Errorf("the price of gas could not be read: %w", err)
	}
	quote := &Quote{Price: price}
	for items := plan.Items; len(items) > 0; items = items[min(len(items), batch):] {
		quote.Transactions++
		var names []Name
		for i := range items[:min(len(items), batch)] {
			names = append(names, Name{Channel: items[i].Channel, Nonce: items[i].Nonce})
		}
		gas, err := d.Books.Estimate(ctx, names)
		if err != nil {
			quote.Problem = err.Error()
			continue
		}
		quote.Gas += gas
	}
	quote.Fee = new(big.Int).Mul(price, new(big.Int).SetUint64(quote.Gas))
	return quote, nil
}

// Gwei writes wei as gwei.
func Gwei(wei *big.Int) string { return decimal(wei, 9) }

// Ether writes wei as ether.
func Ether(wei *big.Int) string { return decimal(wei, 18) }

// decimal writes a number with the point so many digits from its end and no zeros at the end.
func decimal(number *big.Int, digits int) string {
	text := number.String()
	if len(text) <= digits {
		text = strings.Repeat("0", digits-len(text)+1) + text
	}
	whole, part := text[:len(text)-digits], strings.TrimRight(text[len(text)-digits:], "0")
	if part == "" {
		return whole
	}
	return whole + "." + part
}

// Estimate has the node try one transaction of claims, started or not, as they are now, and tells its gas.
func (l *Local) Estimate(ctx context.Context, names []Name) (uint64, error) {
	terms, err := l.Current()
	if err != nil {
		return 0, err
	}
	if len(names) == 0 || len(names) > AtOnce {
		return 0, fmt.Errorf("%d claims are named: name 1 to %d", len(names), AtOnce)
	}
	group := terms.group()
	var orders []blockchain.ClaimOrder
	for i := range names {
		order, found, err := l.order(ctx, group.Key(&names[i].Channel), &names[i])
		if err != nil {
			return 0, err
		}
		if !found {
			return 0, fmt.Errorf("channel %s has nothing at nonce %s any more, try again", names[i].Channel.Dec(), names[i].Nonce.Dec())
		}
		orders = append(orders, order)
	}
	return l.OnChain.Estimate(ctx, terms.PaymentAddress, orders)
}

// order is what would be claimed at a nonce.
func (l *Local) order(ctx context.Context, key channelstate.Key, name *Name) (blockchain.ClaimOrder, bool, error) {
	order := blockchain.ClaimOrder{Channel: name.Channel}
	record, found, err := l.Ledger.Read(ctx, key)
	if err != nil || !found {
		return order, false, err
	}
	if record.Nonce == name.Nonce {
		order.Actual, order.Planned, order.Signature = record.Spent, record.Signed, record.Signature
		return order, true, nil
	}
	claim, found, err := l.Ledger.Claim(ctx, key, &name.Nonce)
	order.Actual, order.Planned, order.Signature = claim.Spent, claim.Signed, claim.Signature
	return order, found, err
}

// Estimate tells the gas of one transaction that claims orders for the recipient of their channels.
func (c *Chain) Estimate(ctx context.Context, from common.Address, orders []blockchain.ClaimOrder) (uint64, error) {
	transaction, err := c.escrow.MultiClaim(&bind.TransactOpts{
		From: from, Context: ctx, NoSend: true,
		GasPrice: new(big.Int), // so that it needs no ether
		Signer:   func(_ common.Address, unsigned *types.Transaction) (*types.Transaction, error) { return unsigned, nil },
	}, orders)
	if err != nil {
		return 0, fmt.Errorf("the node would not take the transaction: %w", err)
	}
	return transaction.Gas(), nil
}
