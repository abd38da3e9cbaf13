package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/process"
)

func newTokens(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "tokens",
		Short: "Change the key of prepaid tokens",
		Example: `  mpegate tokens rotate --config mpegate.yaml
  mpegate tokens rotate --revoke --config mpegate.yaml`,
		Args: noArguments,
		RunE: showHelp,
	}
	command.AddCommand(newTokensRotate(environment))
	return command
}

func newTokensRotate(environment []string) *cobra.Command {
	command := &cobra.Command{
		Use:   "rotate [--revoke]",
		Short: "Sign prepaid tokens with a new key from now on",
		Long: `Rotate makes a new key for prepaid tokens, for all replicas that share the channel state. Tokens of the old key stay
good until they expire, so no client notices. With --revoke they are refused within seconds, which is for a key that
has leaked: clients then get an error once and ask for a new token. What they have paid for stays theirs in any case.

The command asks a running mpegate at its admin address (admin.address of the settings). It is not needed, and does
nothing, where payment.token_secret is set: then the secret is changed in the settings.`,
		Example: `  mpegate tokens rotate --config mpegate.yaml
  mpegate tokens rotate --admin 10.0.0.5:7390 --revoke --json`,
		Args: noArguments,
	}
	addSettingFlags(command, process.RoleAuthz)
	revoke := command.Flags().Bool("revoke", false, "refuse all tokens given out so far")
	asJSON := command.Flags().Bool("json", false, "print the result as JSON")
	command.RunE = func(command *cobra.Command, _ []string) error {
		address, err := adminAddress(command, environment)
		if err != nil {
			return err
		}
		done, err := rotateTokens(command.Context(), address, *revoke)
		if err != nil {
			return err
		}
		if *asJSON {
			return json.NewEncoder(command.OutOrStdout()).Encode(done)
		}
		printRotated(command.OutOrStdout(), done)
		return nil
	}
	return command
}

// adminAddress is where a running mpegate answers: --admin, which needs no settings, or that of the settings.
func adminAddress(command *cobra.Command, environment []string) (string, error) {
	address, err := command.Flags().GetString("admin")
	if err != nil {
		return "", err
	}
	if address == "" {
		settings, err := loadSettings(command, environment, "", process.RoleAuthz)
		if err != nil {
			return "", err
		}
		address = settings.Admin.Address
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		return "", usageError{fmt.Errorf("admin.address is %q: give the address of the running mpegate by --admin HOST:PORT", address)}
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

const adminTimeout = 15 * time.Second

func rotateTokens(ctx context.Context, address string, revoke bool) (process.Rotated, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	body, err := json.Marshal(process.Rotate{Revoke: revoke})
	if err != nil {
		return process.Rotated{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+process.RotatePath, bytes.NewReader(body))
	if err != nil {
		return process.Rotated{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return process.Rotated{}, fmt.Errorf("no mpegate answers at admin.address %s: start it, or name the running one by --admin: %w", address, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return process.Rotated{}, err
	}
	if response.StatusCode != http.StatusOK {
		return process.Rotated{}, fmt.Errorf("the mpegate at %s has not changed the key: %s", address, strings.TrimSpace(string(text)))
	}
	var done process.Rotated
	if err := json.Unmarshal(text, &done); err != nil || done.SignsFrom.IsZero() {
		return process.Rotated{}, errors.Join(fmt.Errorf("what answers at %s is no mpegate", address), err)
	}
	return done, nil
}

func printRotated(output io.Writer, done process.Rotated) {
	if done.AcceptedUntil == nil {
		fmt.Fprintln(output, "prepaid tokens are signed with a new key; those of the old one are refused, by all replicas within seconds")
		return
	}
	fmt.Fprintf(output, "prepaid tokens are signed with a new key from %s on; those of the old one are good until %s\n",
		done.SignsFrom.Format(time.RFC3339), done.AcceptedUntil.Format(time.RFC3339))
}
