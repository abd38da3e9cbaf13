// Command generate writes the Go code of every .proto file of the repository,
// beside the file, and needs no protoc: the files are compiled by a library and
// handed to the two generators that go.mod pins as tools.
//
//	go run ./channelstate/proto/generate          write what is missing or stale
//	go run ./channelstate/proto/generate -check   write nothing, print the difference, fail if there is one
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("generate", flag.ContinueOnError)
	flags.SetOutput(stderr)
	check := flags.Bool("check", false, "write nothing; print the difference and fail when generated code is stale")
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	module, err := moduleFolder(ctx)
	if err != nil {
		return err
	}
	generated, err := generate(ctx, module, module)
	if err != nil {
		return err
	}
	if *check {
		return generated.check(stdout)
	}
	return generated.write(stdout)
}

// moduleFolder is where go.mod is, whichever folder the command was started in.
func moduleFolder(ctx context.Context) (string, error) {
	output, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("cannot ask the go command where go.mod is: %w", err)
	}
	file := strings.TrimSpace(string(output))
	if file == "" || file == os.DevNull {
		return "", errors.New("run this inside the repository: no go.mod here or above")
	}
	return filepath.Dir(file), nil
}
