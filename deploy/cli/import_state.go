package cli

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/peerstate"
	"github.com/mpegate/mpegate/deploy/process"
)

func newConfigImportState(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "import-state [--from URL]",
		Short: "Take the payment state of snetd over: channels, claims, prepaid and free calls",
		Long: `Import-state reads what snetd keeps in etcd for the payment group of the settings and writes it into our channel
state: what clients have signed and spent, claims in progress, prepaid amounts that are not used, and free calls made.
Without --yes it writes nothing and shows what it would write. Stop snetd first, and mpegate too if its channel state
is an embedded etcd. What our channel state has already is skipped, so that running it twice changes nothing; a
channel that a client has used here is therefore not taken over any more. Amounts are in cogs.`,
		Example: `  mpegate config import-state --from http://127.0.0.1:2379 --config mpegate.yaml        # a dry run
  mpegate config import-state --from http://127.0.0.1:2379 --config mpegate.yaml --yes
  mpegate config import-state --from https://etcd.example:2379 --from-ca ca.pem --from-cert cert.pem --from-key key.pem`,
		Args: noArguments,
	}
	addConfigFlag(command)
	flags := command.Flags()
	var source peerstate.Source
	flags.StringSliceVar(&source.Endpoints, "from", nil, "URLs of the etcd of snetd (default: the storage endpoints of the organization's metadata)")
	flags.StringVar(&source.CAFile, "from-ca", "", "certificate authority of that etcd, PEM")
	flags.StringVar(&source.CertFile, "from-cert", "", "client certificate for that etcd, PEM")
	flags.StringVar(&source.KeyFile, "from-key", "", "key of the client certificate, PEM")
	flags.StringVar(&source.Network, "from-network", "", "blockchain_network_selected of snetd (default: setting blockchain.network)")
	write := flags.Bool("yes", false, "write it into our channel state")
	asJSON := jsonFlag(command)
	command.RunE = func(command *cobra.Command, _ []string) error {
		if (source.CertFile == "") != (source.KeyFile == "") {
			return usageError{errors.New("give both --from-cert and --from-key, or none")}
		}
		settings, err := loadSettings(command, environment, "", process.RoleAuthz)
		if err != nil {
			return err
		}
		if !settings.Blockchain.Enabled {
			return errors.New("blockchain.enabled is false: there are no channels")
		}
		ours := peerstate.Ours{Chain: settings.Blockchain, Metadata: settings.Metadata, State: settings.ChannelState}
		report, err := peerstate.Import(command.Context(), source, ours, *write)
		if report == nil {
			return err
		}
		show := printStateImport
		if *asJSON {
			show = func(output io.Writer, report *peerstate.Report) error { return printJSON(output, report) }
		}
		return errors.Join(show(command.OutOrStdout(), report), err)
	}
	return command
}

func printStateImport(output io.Writer, report *peerstate.Report) error {
	printed := table(output, func(row func(...string)) {
		row("CHANNEL", "NONCE", "SIGNED", "SPENT", "UNUSED", "CLAIMS", "SENDER", "")
		for _, line := range report.Channels {
			skipped := ""
			if line.Skipped != "" {
				skipped = "skipped: " + line.Skipped
			}
			row(line.Channel, line.Nonce, line.Signed, line.Spent, line.Unused, strconv.Itoa(line.Claims), line.Sender, skipped)
		}
		row()
	})
	taken := "TAKEN"
	if !report.Written {
		taken = "TO TAKE"
	}
	sums := table(output, func(row func(...string)) {
		row("KEYS", "READ", taken, "SKIPPED", "SIGNED READ", taken, "SKIPPED", "FREE CALLS READ", taken, "SKIPPED")
		for _, sum := range append(report.Sums, report.Total) {
			row(string(sum.Kind), strconv.Itoa(sum.Read), strconv.Itoa(sum.Taken), strconv.Itoa(sum.Skipped),
				sum.SignedRead.String(), sum.SignedTaken.String(), sum.SignedSkipped.String(),
				sum.CallsRead.String(), sum.CallsTaken.String(), sum.CallsSkipped.String())
		}
		row()
	})
	fmt.Fprintf(output, "channels: signed %s = spent %s + prepaid and not used %s cogs\n", report.Signed, report.Spent, report.Unused)
	for _, reason := range report.Reasons {
		fmt.Fprintf(output, "skipped %d %s, such as %q: %s\n", reason.Keys, reason.Kind, reason.Example, reason.Reason)
	}
	for _, warning := range report.Warnings {
		fmt.Fprintln(output, "warning: "+warning)
	}
	if !report.Written {
		fmt.Fprintln(output, "this was a dry run: nothing was written, add --yes to write it")
	}
	return errors.Join(printed, sums)
}
