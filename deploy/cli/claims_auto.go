package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/desk"
)

func newClaimsAuto(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "auto",
		Short: "Go on claiming what nears its expiration or is worth the gas",
		Long: `Auto runs until it is stopped. Every claims.every it claims the channels that expire within claims.near blocks, and
those with at least claims.least cogs unclaimed. Claims in progress are sent in any case. A round that fails is told
and tried again in the next one. It may be stopped and killed at any time, and run beside mpegate serve or elsewhere,
but only once: two of it would send the same claims, of which the contract takes one.
` + whereBooks,
		Example: `  mpegate claims auto --keystore key.json --password-file password.txt --least 500000000 --config mpegate.yaml
  mpegate claims auto --key-file key.txt --every 1h --near 20000 --max-gas-price 1.5 --config mpegate.yaml`,
		Args: noArguments,
	}
	addDeskFlags(command)
	addClaimFlags(command, claimFlags)
	addClaimFlags(command, loopFlags)
	command.RunE = func(command *cobra.Command, _ []string) error {
		place, settings, err := deskPlace(command, environment)
		if err != nil {
			return err
		}
		if place.Key, err = settings.Claims.Key(); err != nil {
			return err
		}
		if place.Key == nil {
			return usageError{errNoKey}
		}
		ctx := command.Context()
		for {
			// The books are open only during a round: nobody else could open an embedded folder.
			err := atDesk(ctx, place, func(opened *desk.Opened) error { return claimRound(command, opened, place, &settings.Claims) })
			if err != nil && ctx.Err() == nil {
				fmt.Fprintf(command.ErrOrStderr(), "%s not everything was claimed: %v\n", now(), err)
			}
			select {
			case <-time.After(settings.Claims.Every):
			case <-ctx.Done():
				return nil
			}
		}
	}
	return command
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }

// claimRound claims once what the settings say.
func claimRound(command *cobra.Command, opened *desk.Opened, place *desk.Place, settings *desk.Settings) error {
	ctx, output := command.Context(), command.OutOrStdout()
	sender, err := desk.NewSender(opened.Desk, settings, place.Key, output)
	if err != nil {
		return err
	}
	if err := sender.WaitIdle(ctx); err != nil {
		return err
	}
	report, err := opened.LookForClaims(ctx)
	if err != nil {
		return err
	}
	wish := desk.Wish{Payee: sender.Address(), Near: settings.Near}
	if wish.Near == 0 {
		wish.Near = report.Terms.Threshold
	}
	if wish.Least, err = settings.LeastCogs(); err != nil {
		return err
	}
	outcome, err := sender.Execute(ctx, desk.NewPlan(report, &wish))
	for i := range outcome.Transactions {
		done := &outcome.Transactions[i]
		fmt.Fprintf(output, "%s claimed %s cogs of %d channels in block %d, %s: %d gas, %s ether\n",
			now(), done.Claimed.Dec(), done.Channels, done.Block, done.Hash, done.Gas, desk.Ether(done.Fee))
	}
	for i := range outcome.Failed {
		fmt.Fprintf(output, "%s channel %s was not claimed: %s\n", now(), outcome.Failed[i].Channel.Dec(), outcome.Failed[i].Reason)
	}
	return err
}
