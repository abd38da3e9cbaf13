package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mpegate/mpegate/deploy/process"
)

const configVariable = "MPEGATE_CONFIG"

// settingFlags are the settings that have a flag of their own.
var settingFlags = []struct{ flag, setting, role string }{
	{"listen", "listen.address", "serve"},
	{"service", "service.endpoint", "serve"},
	{"authz", "authz.address", ""},
	{"admin", "admin.address", ""},
	{"log-level", "log.level", ""},
	{"log-format", "log.format", ""},
}

// addSettingFlags gives a command the flags that say where settings come from.
func addSettingFlags(command *cobra.Command, role process.Role) {
	addConfigFlag(command)
	for _, entry := range settingFlags {
		if entry.role == "serve" && role != process.RoleServe {
			continue
		}
		addSettingFlag(command, entry.flag, entry.setting)
	}
}

func addConfigFlag(command *cobra.Command) {
	command.Flags().StringP("config", "c", "", "settings file, YAML or JSON (or the variable "+configVariable+")")
}

// addSettingFlag gives a command a flag for one setting.
func addSettingFlag(command *cobra.Command, flag, key string) {
	help := ""
	for _, setting := range process.Reference() {
		if setting.Key == key {
			help = strings.TrimSuffix(setting.Help, ".")
		}
	}
	command.Flags().String(flag, "", fmt.Sprintf("%s (setting %s)", help, key))
	if err := command.Flags().SetAnnotation(flag, process.FlagSetting, []string{key}); err != nil {
		panic(err) // only for a flag that does not exist
	}
}

// loadSettings reads and checks the settings of a command. file is the one given as an argument, "" for none.
func loadSettings(command *cobra.Command, environment []string, file string, role process.Role) (*process.Settings, error) {
	flag, _ := command.Flags().GetString("config")
	switch {
	case file != "" && flag != "" && file != flag:
		return nil, usageError{fmt.Errorf("two settings files are given, %s and %s: keep one", file, flag)}
	case file == "" && flag != "":
		file = flag
	case file == "":
		file = variable(environment, configVariable)
	}
	settings, err := process.Load(process.Source{File: file, Environment: environment, Flags: command.Flags()}, role)
	if err != nil {
		return settings, faults(err, file)
	}
	return settings, nil
}

func variable(environment []string, name string) string {
	value := ""
	for _, pair := range environment {
		if text, found := strings.CutPrefix(pair, name+"="); found {
			value = text
		}
	}
	return value
}

// faults lists what is wrong with settings, a line each.
func faults(err error, file string) error {
	list := process.Faults(err)
	var text strings.Builder
	if len(list) == 1 {
		text.WriteString("one setting is wrong:")
	} else {
		fmt.Fprintf(&text, "%d settings are wrong:", len(list))
	}
	for _, fault := range list {
		fmt.Fprintf(&text, "\n  - %s", strings.ReplaceAll(fault.Error(), "\n", "\n    "))
	}
	if file == "" {
		fmt.Fprintf(&text, "\nNo settings file was given: use --config FILE or set %s.", configVariable)
	}
	return errors.New(text.String())
}
