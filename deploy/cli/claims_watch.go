package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/desk"
)

// watchClaims tells of each change until no claim is in progress.
func watchClaims(command *cobra.Command, opened *desk.Opened, every time.Duration, asJSON bool) error {
	ctx, output := command.Context(), command.OutOrStdout()
	seen := map[desk.Name]string{}
	for {
		claims, err := claimsOf(ctx, opened, true)
		if err != nil {
			return err
		}
		left := 0
		for i := range claims {
			claim := &claims[i]
			name := desk.Name{Channel: claim.Channel, Nonce: claim.Nonce}
			if claim.State != desk.ClaimOnChain && claim.State != desk.ClaimLost {
				left++
			} else if seen[name] == "" {
				continue // over before we looked
			}
			if seen[name] == claim.State {
				continue
			}
			seen[name] = claim.State
			if asJSON {
				err = json.NewEncoder(output).Encode(claim)
			} else {
				_, err = fmt.Fprintf(output, "channel %s, nonce %s: %s cogs %s\n", claim.Channel.Dec(), claim.Nonce.Dec(), claim.Spent.Dec(), claim.State)
			}
			if err != nil {
				return err
			}
		}
		if left == 0 {
			if !asJSON {
				fmt.Fprintln(output, "no claim is in progress")
			}
			return nil
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return nil // somebody has seen enough
		}
	}
}
