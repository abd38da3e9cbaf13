// Command mpegate sells calls to an AI service: Envoy in front, payment channels of the MultiPartyEscrow contract behind.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mpegate/mpegate/deploy/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal stops in order; from then on a second one meets the default handling and ends the process at once.
	context.AfterFunc(ctx, stop)
	status := cli.Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	os.Exit(status)
}
