// Package cli holds the commands of mpegate, one file a command.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/process"
)

// The exit statuses of every command.
const (
	statusDone   = 0
	statusFailed = 1
	statusUsage  = 2
)

// usageError is a fault in how a command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errShown fails a command that has already said why.
var errShown = errors.New("failed")

// Run runs the command that the arguments name and returns the exit status: 0 done, 1 failed, 2 wrong usage.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot(os.Environ())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return statusDone
	}
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "%s: %v\nSee %s --help\n", command.CommandPath(), err, command.CommandPath())
		return statusUsage
	}
	if !errors.Is(err, errShown) {
		fmt.Fprintf(stderr, "%s: %v\n", command.CommandPath(), err)
	}
	return statusFailed
}

func newRoot(environment []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "mpegate",
		Short: "Sell calls to an AI service: Envoy in front, payment channels behind",
		Long: `mpegate lets the owner of an AI service sell calls to it. Envoy takes the calls, mpegate checks that each
carries a payment on a channel of SingularityNET's MultiPartyEscrow contract, and the service sees paid calls only.`,
		Example: `  mpegate demo                                     # the whole system on this machine, nothing to configure
  mpegate config import snetd.config.json --output mpegate.yaml
  mpegate config check mpegate.yaml
  mpegate serve --config mpegate.yaml`,
		Version:       process.BuildVersion(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArguments,
		RunE:          showHelp,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetVersionTemplate("mpegate {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newServe(environment), newAuthz(environment), newConfig(environment), newTokens(environment), newChannels(environment),
		newClaims(environment), newFreeCalls(environment), newDemo(), newDemoService())
	return root
}

func showHelp(command *cobra.Command, _ []string) error { return command.Help() }

// noArguments is cobra.NoArgs with our exit status and the nearest command's name.
func noArguments(command *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	command.SuggestionsMinimumDistance = 2
	if near := command.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("; did you mean %s %s?", command.CommandPath(), near[0])
	}
	if command.HasSubCommands() {
		return usageError{fmt.Errorf("there is no command %q%s", args[0], hint)}
	}
	return usageError{fmt.Errorf("takes no arguments, got %s", strings.Join(args, " "))}
}

func oneArgument(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("takes one argument, %s; got %d", what, len(args))}
		}
		return nil
	}
}
