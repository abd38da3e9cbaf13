package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/process"
)

func newServe(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Serve a paid service on this machine: payment decisions and Envoy",
		Long: `Serve runs everything one machine needs to sell calls to a gRPC service: the payment decision, its channel
state, and Envoy as a child process that is started again when it dies. It prints

    mpegate is ready on HOST:PORT

once a call would be answered. The first SIGTERM or SIGINT lets calls under way end (envoy.drain_time) and then stops
in order, a second one ends the process at once.`,
		Example: `  mpegate serve --config mpegate.yaml
  mpegate serve --config mpegate.yaml --listen 0.0.0.0:7000 --log-level debug
  MPEGATE_BLOCKCHAIN_API_KEY_FILE=/run/secrets/node mpegate serve --config mpegate.yaml`,
		Args: noArguments,
		RunE: runRole(environment, process.RoleServe),
	}
	addSettingFlags(command, process.RoleServe)
	return command
}

func newAuthz(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "authz --config FILE",
		Short: "Run the payment decision alone, for an Envoy of your own",
		Long: `Authz answers Envoy's external authorization, takes its access log to give back what failed calls cost, and
serves the channel state to clients. Envoy runs elsewhere: mpegate config envoy prints its configuration.
Whoever reaches authz.address can report calls as failed: keep it on loopback or a private network.`,
		Example: `  mpegate authz --config mpegate.yaml --authz 10.0.0.5:7391
  mpegate config envoy mpegate.yaml > envoy.yaml && envoy -c envoy.yaml`,
		Args: noArguments,
		RunE: runRole(environment, process.RoleAuthz),
	}
	addSettingFlags(command, process.RoleAuthz)
	return command
}

func runRole(environment []string, role process.Role) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, _ []string) error {
		settings, err := loadSettings(command, environment, "", role)
		if err != nil {
			return err
		}
		err = process.Run(command.Context(), process.Options{
			Settings: settings, Role: role, Stdout: command.OutOrStdout(), Stderr: command.ErrOrStderr(),
		})
		if err != nil {
			return fmt.Errorf("stopped: %w", err)
		}
		return nil
	}
}
