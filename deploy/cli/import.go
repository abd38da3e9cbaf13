package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/process"
	"github.com/mpegate/mpegate/deploy/process/snetd"
)

const largestImport = 4 << 20 // bytes

func newConfigImport() *cobra.Command {
	command := &cobra.Command{
		Use:   "import SNETD_FILE",
		Short: "Turn a settings file of snetd into one of ours",
		Long: `Import reads a settings file of snetd (singnet/snet-daemon, JSON or YAML; - is standard input, JSON) and prints
settings that run the same service with mpegate serve. What has no meaning here, or comes with a later release, stands
at the end as a comment with the reason. SNET_… environment variables are not read.`,
		Example: `  mpegate config import snetd.config.json
  mpegate config import /etc/snet/snetd.config.json --output mpegate.yaml && mpegate serve --config mpegate.yaml`,
		Args: oneArgument("the settings file of snetd"),
	}
	output := command.Flags().StringP("output", "o", "", "write to this new file, readable by its owner only, instead of standard output")
	command.RunE = func(command *cobra.Command, args []string) error {
		if strings.EqualFold(filepath.Ext(*output), ".json") {
			return usageError{fmt.Errorf("--output %s: the settings are YAML with comments; give the file a name that ends in .yaml", *output)}
		}
		data, err := readImport(args[0], command.InOrStdin())
		if err != nil {
			return err
		}
		settings, err := snetd.Import(args[0], data)
		if err != nil {
			return err
		}
		if *output == "" {
			if _, err := command.OutOrStdout().Write(settings); err != nil {
				return err
			}
		} else if err := writePrivate(*output, settings); err != nil {
			return err
		}
		reportImport(command.ErrOrStderr(), *output, settings)
		return nil
	}
	return command
}

func readImport(name string, input io.Reader) ([]byte, error) {
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the file of snetd: %w", err)
		}
		defer file.Close()
		input = file
	}
	data, err := io.ReadAll(io.LimitReader(input, largestImport+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the file of snetd: %w", err)
	}
	if len(data) > largestImport {
		return nil, fmt.Errorf("%s is larger than 4MiB: that is not a settings file", name)
	}
	return data, nil
}

// writePrivate makes a new file for its owner only: it may hold keys.
func writePrivate(name string, data []byte) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("--output: %s exists: give another name or move it away", name)
	}
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	if _, err := file.Write(data); err != nil {
		file.Close()
		return fmt.Errorf("--output: %w", err)
	}
	return file.Close()
}

// reportImport says what serve would still miss.
func reportImport(messages io.Writer, output string, settings []byte) {
	name := output
	if name == "" {
		name = "settings"
	}
	_, err := process.Load(process.Source{File: name, Content: settings}, process.RoleServe)
	if faults := process.Faults(err); len(faults) > 0 {
		fmt.Fprintln(messages, "mpegate config import: mend this before mpegate serve:")
		for _, fault := range faults {
			fmt.Fprintln(messages, "  - "+fault.Error())
		}
		return
	}
	if output != "" {
		fmt.Fprintf(messages, "mpegate config import: wrote %s; now run: mpegate serve --config %s\n", output, output)
	}
}
