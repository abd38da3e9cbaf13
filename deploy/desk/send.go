package desk

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
)

// Sender sends claims to the contract. A claim is started and made final in the books before its transaction leaves,
// and the books keep it until the chain has passed it: whatever ends the process, the next run goes on where this one
// stopped. The contract takes a nonce once, so a claim sent twice is paid once.
type Sender struct {
	Desk     *Desk
	Key      *ecdsa.PrivateKey
	Batch    int           // claims in one transaction, 1 to AtOnce
	MaxPrice *big.Int      // most wei for a unit of gas; nil is no bound
	Patience time.Duration // how long one transaction may take to be in a block
	Progress io.Writer     // lines for a person
}

// Transaction is one multiChannelClaim in a block.
type Transaction struct {
	Hash     common.Hash `json:"hash"`
	Block    uint64      `json:"block"`
	Channels int         `json:"channels"`
	Claimed  uint256.Int `json:"claimed"` // cogs
	Gas      uint64      `json:"gas"`
	Fee      *big.Int    `json:"fee_wei"`
}

// Outcome is what became of a plan.
type Outcome struct {
	Transactions []Transaction `json:"transactions"`
	Claimed      uint256.Int   `json:"claimed"` // cogs
	Failed       []Refused     `json:"failed,omitempty"`
}

// NewSender makes what sends claims as the settings say.
func NewSender(desk *Desk, settings *Settings, key *ecdsa.PrivateKey, progress io.Writer) (*Sender, error) {
	price, err := settings.maxPrice()
	if err != nil {
		return nil, err
	}
	return &Sender{Desk: desk, Key: key, Batch: settings.Batch, MaxPrice: price, Patience: settings.Timeout, Progress: progress}, nil
}

// Address is the account that claims.
func (s *Sender) Address() common.Address { return crypto.PubkeyToAddress(s.Key.PublicKey) }

// idlePause is how long to wait between two looks at the account.
const idlePause = 500 * time.Millisecond

// WaitIdle waits until all transactions of the account are in blocks. A transaction of an earlier run that is still
// under way would make ours fail. Look at the books afterwards.
func (s *Sender) WaitIdle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.Patience)
	defer cancel()
	node := s.Desk.Chain.node
	for told := false; ; {
		done, err := node.NonceAt(ctx, s.Address(), nil)
		if err != nil {
			return fmt.Errorf("the transactions of %s cannot be read: %w", s.Address(), err)
		}
		pending, err := node.PendingNonceAt(ctx, s.Address())
		if err != nil {
			return fmt.Errorf("the transactions of %s cannot be read: %w", s.Address(), err)
		}
		if pending <= done {
			return nil
		}
		if !told {
			fmt.Fprintf(s.Progress, "waiting for %d transactions of %s that are not in a block yet\n", pending-done, s.Address())
			told = true
		}
		select {
		case <-time.After(idlePause):
		case <-ctx.Done():
			return fmt.Errorf("%d transactions of %s are not in a block after %s: speed them up with your wallet, or wait and try again; "+
				"nothing was sent", pending-done, s.Address(), s.Patience)
		}
	}
}

// Execute does what the plan says. The outcome counts also beside an error.
func (s *Sender) Execute(ctx context.Context, plan *Plan) (*Outcome, error) {
	outcome := &Outcome{Transactions: []Transaction{}}
	for passed := plan.passed; len(passed) > 0; {
		count := min(len(passed), AtOnce)
		if err := s.Desk.Books.Settle(ctx, passed[:count]); err != nil {
			fmt.Fprintf(s.Progress, "claims that are on chain stay listed until next time: %v\n", err)
			break
		}
		passed = passed[count:]
	}
	if err := s.affordable(ctx, plan); err != nil {
		return outcome, err
	}
	for items := plan.Items; len(items) > 0; {
		count := min(len(items), s.Batch)
		if err := s.batch(ctx, items[:count], outcome); err != nil {
			return outcome, err
		}
		items = items[count:]
	}
	return outcome, nil
}

// affordable finds out before anything is changed whether the account can pay for the gas.
func (s *Sender) affordable(ctx context.Context, plan *Plan) error {
	if len(plan.Items) == 0 {
		return nil
	}
	if s.Batch < 1 || s.Batch > AtOnce {
		return fmt.Errorf("%d claims in one transaction: choose 1 to %d", s.Batch, AtOnce)
	}
	if _, err := s.priced(ctx); err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	quote, err := s.Desk.Quote(ctx, plan, s.Batch)
	if err != nil {
		return err
	}
	balance, err := s.Desk.Chain.node.BalanceAt(ctx, s.Address(), nil)
	if err != nil {
		return fmt.Errorf("the ether of %s cannot be read: %w", s.Address(), err)
	}
	if balance.Cmp(quote.Fee) < 0 {
		return fmt.Errorf("%s has %s ether and the gas costs about %s: send it some; nothing was changed", s.Address(), Ether(balance), Ether(quote.Fee))
	}
	return nil
}

// priced is whether the price of gas lets us send, and the bound to send with, nil for none.
func (s *Sender) priced(ctx context.Context) (*big.Int, error) {
	if s.MaxPrice == nil {
		return nil, nil
	}
	head, err := s.Desk.Chain.node.HeaderByNumber(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("the price of gas could not be read: %w", err)
	}
	if head.BaseFee == nil { // a chain without EIP-1559, where the node says the price
		return nil, nil
	}
	if head.BaseFee.Cmp(s.MaxPrice) > 0 {
		return nil, fmt.Errorf("gas costs %s gwei now, more than claims.max_gas_price, %s", Gwei(head.BaseFee), Gwei(s.MaxPrice))
	}
	return s.MaxPrice, nil
}

// batch claims some channels in one transaction.
func (s *Sender) batch(ctx context.Context, items []Item, outcome *Outcome) error {
	var start []uint256.Int
	var names []Name
	for i := range items {
		if items[i].Resumed {
			names = append(names, Name{Channel: items[i].Channel, Nonce: items[i].Nonce})
		} else {
			start = append(start, items[i].Channel)
		}
	}
	if len(start) > 0 {
		started, refused, err := s.Desk.Books.Start(ctx, start)
		if err != nil {
			return fmt.Errorf("claims cannot be started: %w", err)
		}
		outcome.Failed = append(outcome.Failed, refused...)
		for i := range started {
			names = append(names, Name{Channel: started[i].Channel, Nonce: started[i].Nonce})
		}
	}
	if len(names) == 0 {
		return nil
	}
	claims, refused, err := s.Desk.Books.Send(ctx, names)
	if err != nil {
		return fmt.Errorf("claims were started and cannot be made final, run the command again: %w", err)
	}
	outcome.Failed = append(outcome.Failed, refused...)
	var orders []blockchain.ClaimOrder
	for i := range claims {
		if reason := s.doubt(&claims[i]); reason != "" {
			outcome.Failed = append(outcome.Failed, Refused{Channel: claims[i].Channel, Reason: reason})
			continue
		}
		orders = append(orders, blockchain.ClaimOrder{
			Channel: claims[i].Channel, Actual: claims[i].Spent, Planned: claims[i].Signed, Signature: claims[i].Signature,
		})
	}
	return s.submit(ctx, orders, outcome)
}

// doubt says why the contract would not take a claim, "" when it would. One such claim would fail all of a batch.
func (s *Sender) doubt(claim *channelstate.Claim) string {
	message := blockchain.ClaimMessage(s.Desk.Chain.escrow.Address(), &claim.Channel, &claim.Nonce, &claim.Signed)
	signer, err := blockchain.RecoverSigner(message, claim.Signature)
	switch {
	case !claim.Sent:
		return "its claim is not final"
	case err != nil || signer != claim.Sender && signer != claim.Signer:
		return "the stored signature is not that of the channel's signer or sender"
	case claim.Spent.Gt(&claim.Signed):
		return "more was spent than was signed"
	}
	return ""
}

// submit sends claims in one transaction and waits until it is in a block. When the contract refuses, it halves them
// to find the claim it does not take.
func (s *Sender) submit(ctx context.Context, orders []blockchain.ClaimOrder, outcome *Outcome) error {
	if len(orders) == 0 {
		return nil
	}
	transaction, err := s.sign(ctx, orders)
	switch {
	case err != nil && isRevert(err) && len(orders) == 1:
		outcome.Failed = append(outcome.Failed, Refused{Channel: orders[0].Channel, Reason: "the contract refuses the claim: " + err.Error()})
		return nil
	case err != nil && isRevert(err):
		half := len(orders) / 2
		if err := s.submit(ctx, orders[:half], outcome); err != nil {
			return err
		}
		return s.submit(ctx, orders[half:], outcome)
	case err != nil:
		return fmt.Errorf("the claims are ready and cannot be sent, run the command again: %w", err)
	}
	if err := s.Desk.Chain.node.SendTransaction(ctx, transaction); err != nil {
		return fmt.Errorf("the claims are ready and cannot be sent, run the command again: %w", err)
	}
	fmt.Fprintf(s.Progress, "sent %s, claims of %d channels\n", transaction.Hash(), len(orders))
	done, err := s.mined(ctx, transaction)
	if err != nil {
		return err
	}
	done.Channels = len(orders)
	for i := range orders {
		done.Claimed.Add(&done.Claimed, &orders[i].Actual)
	}
	outcome.Transactions = append(outcome.Transactions, *done)
	outcome.Claimed.Add(&outcome.Claimed, &done.Claimed)
	return nil
}

// sign makes the transaction; the node tries it and estimates its gas.
func (s *Sender) sign(ctx context.Context, orders []blockchain.ClaimOrder) (*types.Transaction, error) {
	chainID, err := s.Desk.Chain.node.ChainID(ctx)
	if err != nil {
		return nil, err
	}
	options := bind.NewKeyedTransactor(s.Key, chainID)
	options.Context, options.NoSend = ctx, true
	if options.GasFeeCap, err = s.priced(ctx); err != nil {
		return nil, err
	}
	return s.Desk.Chain.escrow.MultiClaim(options, orders)
}

// isRevert tells a claim the contract does not take from a node that cannot be asked.
func isRevert(err error) bool { return strings.Contains(strings.ToLower(err.Error()), "revert") }

func (s *Sender) mined(ctx context.Context, transaction *types.Transaction) (*Transaction, error) {
	waiting, cancel := context.WithTimeout(ctx, s.Patience)
	defer cancel()
	receipt, err := bind.WaitMined(waiting, s.Desk.Chain.node, transaction.Hash())
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return nil, fmt.Errorf("transaction %s is not in a block after %s; it may still get there: watch it with mpegate claims watch, "+
			"then run the command again for the rest", transaction.Hash(), s.Patience)
	case err != nil:
		return nil, fmt.Errorf("what became of transaction %s is not known, run the command again: %w", transaction.Hash(), err)
	case receipt.Status != types.ReceiptStatusSuccessful:
		return nil, fmt.Errorf("transaction %s failed in block %s: nothing was paid, its claims are kept; run the command again",
			transaction.Hash(), receipt.BlockNumber)
	}
	done := &Transaction{Hash: transaction.Hash(), Block: receipt.BlockNumber.Uint64(), Gas: receipt.GasUsed, Fee: new(big.Int)}
	if receipt.EffectiveGasPrice != nil {
		done.Fee.Mul(receipt.EffectiveGasPrice, new(big.Int).SetUint64(receipt.GasUsed))
	}
	return done, nil
}
