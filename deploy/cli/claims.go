package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/desk"
)

func newClaims(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "claims",
		Short: "Claim what clients have spent from the contract",
		Example: `  mpegate claims send --config mpegate.yaml                       # a dry run
  mpegate claims send --yes --keystore key.json --password-file password.txt --config mpegate.yaml
  mpegate claims list --config mpegate.yaml`,
		Args: noArguments,
		RunE: showHelp,
	}
	command.AddCommand(newClaimsList(environment), newClaimsSend(environment), newClaimsWatch(environment), newClaimsAuto(environment))
	return command
}

const claimStates = `States: started (refunds may still lower it), sent (final, not on chain yet), on chain, waiting (the chain's nonce is
before it), lost (the chain has other parties for the channel).`

func newClaimsList(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "list [--all]",
		Short: "List claims that are not on chain yet",
		Long: `List shows the claims that were started. SPENT is what the contract is to pay, SIGNED what the client's signature
covers; both in cogs.
` + claimStates + "\n" + whereBooks,
		Example: `  mpegate claims list --config mpegate.yaml
  mpegate claims list --all --json`,
		Args: noArguments,
	}
	addDeskFlags(command)
	all := command.Flags().Bool("all", false, "also those that came on chain lately")
	asJSON := jsonFlag(command)
	command.RunE = func(command *cobra.Command, _ []string) error {
		return withDesk(command, environment, func(opened *desk.Opened) error {
			claims, err := claimsOf(command.Context(), opened, *all)
			if err != nil {
				return err
			}
			if *asJSON {
				return printJSON(command.OutOrStdout(), struct {
					Claims []desk.Claim `json:"claims"`
				}{claims})
			}
			return printClaims(command.OutOrStdout(), claims)
		})
	}
	return command
}

func claimsOf(ctx context.Context, opened *desk.Opened, all bool) ([]desk.Claim, error) {
	report, err := opened.LookForClaims(ctx)
	if err != nil {
		return nil, err
	}
	claims := []desk.Claim{}
	for i := range report.Channels {
		for _, claim := range report.Channels[i].Claims {
			if all || claim.State != desk.ClaimOnChain {
				claims = append(claims, claim)
			}
		}
	}
	return claims, nil
}

func printClaims(output io.Writer, claims []desk.Claim) error {
	if len(claims) == 0 {
		_, err := fmt.Fprintln(output, "no claims")
		return err
	}
	return table(output, func(row func(...string)) {
		row("CHANNEL", "NONCE", "SPENT", "SIGNED", "CLAIM")
		for i := range claims {
			row(claims[i].Channel.Dec(), claims[i].Nonce.Dec(), claims[i].Spent.Dec(), claims[i].Signed.Dec(), claims[i].State)
		}
	})
}

// settingFlag is a flag that gives a setting.
type settingFlag struct{ flag, setting string }

// claimFlags are the settings of claims that have a flag, for sending and for the loop.
var claimFlags = []settingFlag{
	{"keystore", "claims.keystore"},
	{"password-file", "claims.password_file"},
	{"key-file", "claims.key_file"},
	{"batch", "claims.batch"},
	{"max-gas-price", "claims.max_gas_price"},
	{"timeout", "claims.timeout"},
}

// loopFlags are those of the loop alone.
var loopFlags = []settingFlag{
	{"every", "claims.every"},
	{"least", "claims.least"},
	{"near", "claims.near"},
}

func addClaimFlags(command *cobra.Command, list []settingFlag) {
	for _, entry := range list {
		addSettingFlag(command, entry.flag, entry.setting)
	}
}

func newClaimsWatch(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "watch",
		Short: "Wait until all claims are on chain",
		Long: `Watch tells each time the state of a claim changes, and ends when no claim is in progress any more.
` + claimStates + "\n" + whereBooks,
		Example: `  mpegate claims watch --config mpegate.yaml
  mpegate claims watch --every 1m --json`,
		Args: noArguments,
	}
	addDeskFlags(command)
	every := command.Flags().Duration("every", 5*time.Second, "how often to look")
	asJSON := command.Flags().Bool("json", false, "print each change as a line of JSON")
	command.RunE = func(command *cobra.Command, _ []string) error {
		if *every < 100*time.Millisecond {
			return usageError{fmt.Errorf("--every is %s: write a duration such as 5s", *every)}
		}
		return withDesk(command, environment, func(opened *desk.Opened) error {
			return watchClaims(command, opened, *every, *asJSON)
		})
	}
	return command
}
