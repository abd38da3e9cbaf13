package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/holiman/uint256"
	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/desk"
)

func newClaimsSend(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "send [--yes]",
		Short: "Claim what was spent, some channels a transaction",
		Long: `Send claims what clients have spent on their channels, and nothing of what they have only signed. Without --yes it
shows what it would claim and about what the gas costs, and changes nothing. With --yes it needs the key of the
group's payment address, which must have ether for the gas; the money arrives in the contract's balance of that address.

Claims are started and made final in the channel state before their transaction leaves, and are kept until they are on
chain. When the command is interrupted at any point, run it again: it goes on with what was started, and nothing is
lost or paid twice. While a channel's claim is in progress no second one of it is started. Clients are served all along.
` + whereBooks,
		Example: `  mpegate claims send --config mpegate.yaml
  mpegate claims send --yes --keystore key.json --password-file password.txt --config mpegate.yaml
  mpegate claims send --yes --key-file key.txt --channel 42 --channel 43 --max-gas-price 1.5 --json`,
		Args: noArguments,
	}
	addDeskFlags(command)
	yes := command.Flags().Bool("yes", false, "send the claims; without it this is a dry run")
	names := command.Flags().StringSlice("channel", nil, "claim only this channel; may be given several times")
	least := command.Flags().String("least", "1", "claim only channels with at least so many cogs; claims in progress are always sent")
	addClaimFlags(command, claimFlags)
	asJSON := jsonFlag(command)
	command.RunE = func(command *cobra.Command, _ []string) error {
		wish := desk.Wish{}
		if err := wish.Least.SetFromDecimal(*least); err != nil {
			return usageError{fmt.Errorf("--least is %q: write a number of cogs", *least)}
		}
		var only []uint256.Int
		for _, name := range *names {
			id, err := channelID(name)
			if err != nil {
				return err
			}
			only = append(only, *id)
		}
		place, settings, err := deskPlace(command, environment)
		if err != nil {
			return err
		}
		if place.Key, err = settings.Claims.Key(); err != nil {
			return err
		}
		if *yes && place.Key == nil {
			return usageError{errNoKey}
		}
		return atDesk(command.Context(), place, func(opened *desk.Opened) error {
			if !*yes {
				return dryRun(command, opened, wish, settings.Claims.Batch, only, *asJSON)
			}
			sender, err := desk.NewSender(opened.Desk, &settings.Claims, place.Key, command.ErrOrStderr())
			if err != nil {
				return err
			}
			return sendClaims(command, sender, wish, only, *asJSON)
		})
	}
	return command
}

var errNoKey = errors.New("claims are sent with the key of the payment address: give --keystore and --password-file, or --key-file")

func dryRun(command *cobra.Command, opened *desk.Opened, wish desk.Wish, batch int, only []uint256.Int, asJSON bool) error {
	report, err := opened.LookForClaims(command.Context(), only...)
	if err != nil {
		return err
	}
	wish.Payee = report.Terms.PaymentAddress
	plan := desk.NewPlan(report, &wish)
	quote, err := opened.Quote(command.Context(), plan, batch)
	if err != nil {
		return err
	}
	output := command.OutOrStdout()
	if asJSON {
		return printJSON(output, &struct {
			*desk.Plan
			Quote *desk.Quote `json:"quote"`
		}{plan, quote})
	}
	if err := printPlan(output, plan); err != nil || len(plan.Items) == 0 {
		return err
	}
	fmt.Fprintf(output, "\n%d channels, %s cogs, transactions: %d; about %d gas, at %s gwei %s ether\n", len(plan.Items), plan.Total.Dec(),
		quote.Transactions, quote.Gas, desk.Gwei(quote.Price), desk.Ether(quote.Fee))
	if quote.Problem != "" {
		fmt.Fprintln(output, "With --yes the claims that the contract refuses are left out:", quote.Problem)
	}
	fmt.Fprintln(output, "This was a dry run, nothing was changed. To claim, add --yes and the key.")
	return nil
}

func printPlan(output io.Writer, plan *desk.Plan) error {
	if len(plan.Items) == 0 {
		fmt.Fprintln(output, "nothing to claim")
	} else if err := table(output, func(row func(...string)) {
		row("CHANNEL", "NONCE", "CLAIM", "SIGNED", "")
		for i := range plan.Items {
			item, note := &plan.Items[i], ""
			if item.Resumed {
				note = "started before"
			}
			row(item.Channel.Dec(), item.Nonce.Dec(), item.Actual.Dec(), item.Planned.Dec(), note)
		}
	}); err != nil {
		return err
	}
	printRefused(output, plan.Skipped)
	return nil
}

func printRefused(output io.Writer, refused []desk.Refused) {
	for i := range refused {
		fmt.Fprintf(output, "channel %s is left out: %s\n", refused[i].Channel.Dec(), refused[i].Reason)
	}
}

func sendClaims(command *cobra.Command, sender *desk.Sender, wish desk.Wish, only []uint256.Int, asJSON bool) error {
	ctx := command.Context()
	if err := sender.WaitIdle(ctx); err != nil {
		return err
	}
	report, err := sender.Desk.LookForClaims(ctx, only...)
	if err != nil {
		return err
	}
	wish.Payee = sender.Address()
	plan := desk.NewPlan(report, &wish)
	outcome, err := sender.Execute(ctx, plan)
	output := command.OutOrStdout()
	if asJSON {
		err = errors.Join(err, printJSON(output, &struct {
			*desk.Outcome
			Skipped []desk.Refused `json:"skipped,omitempty"`
		}{outcome, plan.Skipped}))
	} else {
		printOutcome(output, plan, outcome)
	}
	if err == nil && len(outcome.Failed) > 0 {
		return errShown
	}
	return err
}

func printOutcome(output io.Writer, plan *desk.Plan, outcome *desk.Outcome) {
	printRefused(output, plan.Skipped)
	for i := range outcome.Failed {
		fmt.Fprintf(output, "channel %s was not claimed: %s\n", outcome.Failed[i].Channel.Dec(), outcome.Failed[i].Reason)
	}
	if len(outcome.Transactions) == 0 {
		if len(outcome.Failed) == 0 {
			fmt.Fprintln(output, "nothing to claim")
		}
		return
	}
	for i := range outcome.Transactions {
		done := &outcome.Transactions[i]
		fmt.Fprintf(output, "%s in block %d: %d channels, %s cogs; %d gas, %s ether\n", done.Hash, done.Block, done.Channels, done.Claimed.Dec(),
			done.Gas, desk.Ether(done.Fee))
	}
	fmt.Fprintf(output, "claimed %s cogs\n", outcome.Claimed.Dec())
}
