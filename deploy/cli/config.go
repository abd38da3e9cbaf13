package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/process"
)

func newConfig(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "config",
		Short: "Check settings, list them, print Envoy's configuration, import settings and state of snetd",
		Example: `  mpegate config check mpegate.yaml
  mpegate config reference`,
		Args: noArguments,
		RunE: showHelp,
	}
	command.AddCommand(newConfigCheck(environment), newConfigEnvoy(environment), newConfigImport(), newConfigImportState(environment), newConfigReference())
	return command
}

func newConfigCheck(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check settings and report every fault at once",
		Long: `Check reads the settings as serve would (file, MPEGATE_… variables, flags) and reports every fault with its
place, the value and the fix. It asks no node and starts nothing. Exit status 0 when the settings are good, else 1.`,
		Example: `  mpegate config check mpegate.yaml
  mpegate config check --role authz --config mpegate.yaml`,
		Args: optionalFile,
	}
	addSettingFlags(command, process.RoleServe)
	roleFlag := command.Flags().String("role", "serve", "the command these settings are for: serve or authz")
	command.RunE = func(command *cobra.Command, args []string) error {
		role, err := parseRole(*roleFlag)
		if err != nil {
			return err
		}
		settings, err := loadSettings(command, environment, strings.Join(args, ""), role)
		if err != nil {
			return err
		}
		output := command.OutOrStdout()
		fmt.Fprintln(output, "settings are good")
		for _, line := range settings.Summary(role) {
			fmt.Fprintln(output, "  "+line)
		}
		for _, warning := range settings.Warnings() {
			fmt.Fprintln(output, "  warning: "+warning)
		}
		return nil
	}
	return command
}

func parseRole(text string) (process.Role, error) {
	switch text {
	case "serve":
		return process.RoleServe, nil
	case "authz":
		return process.RoleAuthz, nil
	}
	return 0, usageError{fmt.Errorf("--role is %q: write serve or authz", text)}
}

func optionalFile(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usageError{fmt.Errorf("takes at most one settings file, got %s", strings.Join(args, " "))}
	}
	return nil
}

func newConfigEnvoy(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "envoy [FILE]",
		Short: "Print Envoy's configuration for these settings",
		Long: `Envoy prints the bootstrap configuration that serve would give to Envoy, for an Envoy that runs on its own beside
mpegate authz. Without authz.address it asks for decisions at ` + process.DefaultAuthzAddress + `, where mpegate authz listens.`,
		Example: `  mpegate config envoy mpegate.yaml > envoy.yaml
  envoy --mode validate -c envoy.yaml`,
		Args: optionalFile,
		RunE: func(command *cobra.Command, args []string) error {
			settings, err := loadSettings(command, environment, strings.Join(args, ""), process.RoleServe)
			if err != nil {
				return err
			}
			text, err := settings.EnvoyConfig()
			if err != nil {
				return err
			}
			_, err = command.OutOrStdout().Write(text)
			return err
		},
	}
	addSettingFlags(command, process.RoleServe)
	return command
}

func newConfigReference() *cobra.Command {
	command := &cobra.Command{
		Use:   "reference",
		Short: "List every setting with its type, default, environment variable and meaning",
		Example: `  mpegate config reference
  mpegate config reference --markdown > settings.md`,
		Args: noArguments,
	}
	markdown := command.Flags().Bool("markdown", false, "print a Markdown table")
	command.RunE = func(command *cobra.Command, _ []string) error {
		if *markdown {
			return process.WriteMarkdownReference(command.OutOrStdout())
		}
		return writeReference(command.OutOrStdout())
	}
	return command
}

func writeReference(output io.Writer) error {
	table := tabwriter.NewWriter(output, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "SETTING\tTYPE\tDEFAULT\tMEANING")
	for _, setting := range process.Reference() {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", setting.Key, setting.Type, setting.Default, setting.Help)
	}
	fmt.Fprintln(table, "\nThe environment variable of a.b_c is MPEGATE_A_B_C. It wins over the settings file, a flag wins over both.")
	return table.Flush()
}
