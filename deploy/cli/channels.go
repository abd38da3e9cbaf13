package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/holiman/uint256"
	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/desk"
	"github.com/mpegate/mpegate/deploy/process"
)

// whereBooks is how every command of the desk finds its data.
const whereBooks = `
The command needs the settings of the service. It asks the mpegate that runs at admin.address for the channel state
(--admin names another one), and reads the chain itself. When nobody listens there, it opens the channel state on its
own: the etcd cluster, or the folder of the embedded etcd, which only one process can have open.`

func newChannels(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "channels",
		Short: "See what clients have signed, spent and left on their channels",
		Example: `  mpegate channels list --config mpegate.yaml
  mpegate channels show 42 --config mpegate.yaml`,
		Args: noArguments,
		RunE: showHelp,
	}
	command.AddCommand(newChannelsList(environment), newChannelsShow(environment))
	return command
}

func newChannelsList(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "list",
		Short: "List the channels that calls were paid on",
		Long: `List shows the channels of the payment group that calls were paid on. Amounts are in cogs. SIGNED and SPENT are those
of the channel's current nonce, UNCLAIMED is what the contract has still to pay, claims in progress included.
States: open; closing (too near to its expiration for calls); expired (its sender can take back what is unclaimed);
settling (a claim is in progress); lost (the money is gone); not ours (the channel pays another address).
` + whereBooks,
		Example: `  mpegate channels list --config mpegate.yaml
  mpegate channels list --unclaimed --json --admin 127.0.0.1:7390`,
		Args: noArguments,
	}
	addDeskFlags(command)
	unclaimed := command.Flags().Bool("unclaimed", false, "only channels with something to claim")
	asJSON := jsonFlag(command)
	command.RunE = func(command *cobra.Command, _ []string) error {
		return withDesk(command, environment, func(opened *desk.Opened) error {
			look := opened.Look
			if *unclaimed {
				look = opened.LookForClaims
			}
			report, err := look(command.Context())
			if err != nil {
				return err
			}
			channels := make([]desk.Channel, 0, len(report.Channels))
			for _, channel := range report.Channels {
				if !*unclaimed || !channel.Unclaimed.IsZero() {
					channel.Claims = nil
					channels = append(channels, channel)
				}
			}
			if *asJSON {
				return printJSON(command.OutOrStdout(), struct {
					Block    uint64         `json:"block"`
					Channels []desk.Channel `json:"channels"`
				}{report.Clock.Block, channels})
			}
			return printChannels(command.OutOrStdout(), channels)
		})
	}
	return command
}

func newChannelsShow(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "show ID",
		Short: "Show one channel and its claims",
		Long:  "Show tells all about one channel: its parties, amounts in cogs, expiration, and its claims.\n" + whereBooks,
		Example: `  mpegate channels show 42 --config mpegate.yaml
  mpegate channels show 42 --json`,
		Args: oneArgument("the id of the channel"),
	}
	addDeskFlags(command)
	asJSON := jsonFlag(command)
	command.RunE = func(command *cobra.Command, args []string) error {
		id, err := channelID(args[0])
		if err != nil {
			return err
		}
		return withDesk(command, environment, func(opened *desk.Opened) error {
			report, err := opened.Look(command.Context(), *id)
			if err != nil {
				return err
			}
			if len(report.Channels) == 0 {
				return fmt.Errorf("no call was paid on channel %s in group %q", id.Dec(), report.Terms.GroupName)
			}
			if *asJSON {
				return printJSON(command.OutOrStdout(), &report.Channels[0])
			}
			return printChannel(command.OutOrStdout(), &report.Channels[0])
		})
	}
	return command
}

// addDeskFlags gives a command of the desk the flags that say where its books are.
func addDeskFlags(command *cobra.Command) {
	addConfigFlag(command)
	addSettingFlag(command, "admin", "admin.address")
	command.Flags().Lookup("admin").Usage = "where the running mpegate answers, HOST:PORT (setting admin.address)"
}

// withDesk opens the books for one command that only reads.
func withDesk(command *cobra.Command, environment []string, work func(*desk.Opened) error) error {
	place, _, err := deskPlace(command, environment)
	if err != nil {
		return err
	}
	return atDesk(command.Context(), place, work)
}

func atDesk(ctx context.Context, place *desk.Place, work func(*desk.Opened) error) (err error) {
	opened, err := desk.Open(ctx, *place)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	return work(opened)
}

// deskPlace says where the books of the settings are.
func deskPlace(command *cobra.Command, environment []string) (*desk.Place, *process.Settings, error) {
	settings, err := loadSettings(command, environment, "", process.RoleAuthz)
	if err != nil {
		return nil, nil, err
	}
	if !settings.Blockchain.Enabled {
		return nil, nil, errors.New("blockchain.enabled is false: there are no channels")
	}
	admin, err := adminAddress(command, environment)
	if err != nil {
		return nil, nil, err
	}
	return &desk.Place{Chain: settings.Blockchain, Metadata: settings.Metadata, State: settings.ChannelState, Free: settings.FreeCalls, Admin: admin}, settings, nil
}

func channelID(text string) (*uint256.Int, error) {
	id, err := uint256.FromDecimal(text)
	if err != nil {
		return nil, usageError{fmt.Errorf("%q is no channel id: write a number such as 42", text)}
	}
	return id, nil
}

func jsonFlag(command *cobra.Command) *bool {
	return command.Flags().Bool("json", false, "print the result as JSON")
}

func printJSON(output io.Writer, value any) error {
	encoder := json.NewEncoder(output)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// table prints lines of cells below each other.
func table(output io.Writer, lines func(row func(cells ...string))) error {
	writer := tabwriter.NewWriter(output, 0, 0, 2, ' ', 0)
	lines(func(cells ...string) { fmt.Fprintln(writer, strings.Join(cells, "\t")) })
	return writer.Flush()
}

func printChannels(output io.Writer, channels []desk.Channel) error {
	if len(channels) == 0 {
		_, err := fmt.Fprintln(output, "no channels")
		return err
	}
	return table(output, func(row func(...string)) {
		row("CHANNEL", "STATE", "SENDER", "NONCE", "SIGNED", "SPENT", "UNCLAIMED", "VALUE", "EXPIRES")
		for i := range channels {
			channel := &channels[i]
			row(channel.ID.Dec(), channel.State, channel.Sender.Hex(), channel.Nonce.Dec(), channel.Signed.Dec(), channel.Spent.Dec(),
				channel.Unclaimed.Dec(), channel.Value.Dec(), expires(channel))
		}
	})
}

func expires(channel *desk.Channel) string {
	text := fmt.Sprintf("in %d blocks", channel.BlocksLeft)
	if channel.BlocksLeft <= 0 {
		text = fmt.Sprintf("%d blocks ago", -channel.BlocksLeft)
	}
	if channel.ExpiresAt != nil {
		text += ", about " + channel.ExpiresAt.Format("2006-01-02 15:04 MST")
	}
	return text
}

func printChannel(output io.Writer, channel *desk.Channel) error {
	if err := table(output, func(row func(...string)) {
		row("channel", channel.ID.Dec())
		row("state", channel.State)
		row("sender", channel.Sender.Hex())
		row("signer", channel.Signer.Hex())
		row("recipient", channel.Recipient.Hex())
		row("nonce", fmt.Sprintf("%s (on chain %s)", channel.Nonce.Dec(), channel.ChainNonce.Dec()))
		row("signed", channel.Signed.Dec()+" cogs")
		row("spent", channel.Spent.Dec()+" cogs")
		row("in progress", channel.InProgress.Dec()+" cogs")
		row("unclaimed", channel.Unclaimed.Dec()+" cogs")
		row("value", channel.Value.Dec()+" cogs")
		row("expires", fmt.Sprintf("%s (block %s)", expires(channel), channel.Expiration.Dec()))
	}); err != nil || len(channel.Claims) == 0 {
		return err
	}
	fmt.Fprintln(output)
	return printClaims(output, channel.Claims)
}
