package cli

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/ethereum/go-ethereum/common"
	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/desk"
)

func newFreeCalls(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "freecalls",
		Short: "See who has made free calls, and let users begin again",
		Example: `  mpegate freecalls list --config mpegate.yaml
  mpegate freecalls reset 0x4DCc70c6FCE4064803f0ae0cE48497B3f7182e5D --config mpegate.yaml`,
		Args: noArguments,
		RunE: showHelp,
	}
	command.AddCommand(newFreeCallsList(environment), newFreeCallsReset(environment))
	return command
}

func newFreeCallsList(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "list",
		Short: "List who has made how many free calls",
		Long:  "List shows who has made free calls of the service of the settings. Failed calls are not counted.\n" + whereBooks,
		Example: `  mpegate freecalls list --config mpegate.yaml
  mpegate freecalls list --json`,
		Args: noArguments,
	}
	addDeskFlags(command)
	asJSON := jsonFlag(command)
	command.RunE = func(command *cobra.Command, _ []string) error {
		return withFreeCallers(command, environment, func(_ *desk.Opened, callers []desk.FreeCaller) error {
			output := command.OutOrStdout()
			if *asJSON {
				return printJSON(output, struct {
					FreeCalls []desk.FreeCaller `json:"free_calls"`
				}{append([]desk.FreeCaller{}, callers...)})
			}
			if len(callers) == 0 {
				_, err := fmt.Fprintln(output, "nobody has made a free call")
				return err
			}
			return table(output, func(row func(...string)) {
				row("ADDRESS", "USED", "USER")
				for i := range callers {
					row(callers[i].Address.Hex(), strconv.FormatUint(callers[i].Used, 10), callers[i].User)
				}
			})
		})
	}
	return command
}

func newFreeCallsReset(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "reset ADDRESS [--user ID]",
		Short: "Forget the free calls of one address",
		Long: `Reset forgets the free calls that an address has made of the service of the settings: all its users', or with --user
those of one user whom a trusted signer has named. They have their whole quota again at once, at all replicas.
` + whereBooks,
		Example: `  mpegate freecalls reset 0x4DCc70c6FCE4064803f0ae0cE48497B3f7182e5D --config mpegate.yaml
  mpegate freecalls reset 0x4DCc70c6FCE4064803f0ae0cE48497B3f7182e5D --user alice --json`,
		Args: oneArgument("the address"),
	}
	addDeskFlags(command)
	user := command.Flags().String("user", "", "only this user of the address")
	asJSON := jsonFlag(command)
	command.RunE = func(command *cobra.Command, args []string) error {
		if !common.IsHexAddress(args[0]) {
			return usageError{fmt.Errorf("%q is no address: write 0x and 40 hexadecimal digits", args[0])}
		}
		address := common.HexToAddress(args[0])
		return withFreeCallers(command, environment, func(opened *desk.Opened, callers []desk.FreeCaller) error {
			callers = slices.DeleteFunc(callers, func(caller desk.FreeCaller) bool {
				return caller.Address != address || command.Flags().Changed("user") && caller.User != *user
			})
			if err := opened.ResetFreeCalls(command.Context(), callers); err != nil {
				return err
			}
			if *asJSON {
				return printJSON(command.OutOrStdout(), struct {
					Reset []desk.FreeCaller `json:"reset"`
				}{append([]desk.FreeCaller{}, callers...)})
			}
			calls := uint64(0)
			for i := range callers {
				calls += callers[i].Used
			}
			_, err := fmt.Fprintf(command.OutOrStdout(), "%d free calls of %s are forgotten\n", calls, address)
			return err
		})
	}
	return command
}

// withFreeCallers opens the books for a command about the free calls of the service.
func withFreeCallers(command *cobra.Command, environment []string, work func(*desk.Opened, []desk.FreeCaller) error) error {
	place, settings, err := deskPlace(command, environment)
	if err != nil {
		return err
	}
	return atDesk(command.Context(), place, func(opened *desk.Opened) error {
		callers, err := opened.FreeCallers(command.Context(), settings.Metadata.OrganizationID, settings.Metadata.ServiceID)
		if err != nil {
			return err
		}
		return work(opened, callers)
	})
}
