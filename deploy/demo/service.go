package demo

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/mpegate/mpegate/deploy/demo/sample"
)

// ServiceReadyPrefix begins the line that RunService prints once it listens; the address follows.
const ServiceReadyPrefix = "the sample service listens on "

// RunService runs the sample service alone, as the demo's own process for it.
func RunService(ctx context.Context, address string, output io.Writer) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("the sample service cannot listen on %s: %w", address, err)
	}
	fmt.Fprintln(output, ServiceReadyPrefix+listener.Addr().String())
	return sample.Serve(ctx, listener)
}
