package process

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// Source says where settings come from. A later field wins over an earlier one, and all win over the defaults.
type Source struct {
	File        string         // YAML or JSON; "" for none
	Content     []byte         // of File, where it is not on disk; File is then its name in errors
	Environment []string       // NAME=value, as os.Environ gives it
	Flags       *pflag.FlagSet // only flags with the annotation FlagSetting count, and only when given
}

// FlagSetting is the annotation of a flag that names the setting it gives.
const FlagSetting = "setting"

// otherVariables begin with MPEGATE_ and are not settings: the command line and package envoy read them.
var otherVariables = []string{"MPEGATE_CONFIG", "MPEGATE_ENVOY", "MPEGATE_CACHE"}

// Load reads the settings of the source and checks them. The error joins every fault found, one for each line, and
// never shows a secret. The settings are returned beside an error too, as far as they could be read.
func Load(source Source, role Role) (*Settings, error) {
	loader := &loader{settings: DefaultSettings(), merged: koanf.New("."), origin: map[string]string{}}
	loader.file(source.File, source.Content)
	loader.environment(source.Environment)
	loader.flags(source.Flags)
	loader.assign()
	loader.secretFiles()
	if loader.unreadable {
		return loader.settings, NewRedactor(loader.settings).Error(errors.Join(loader.faults...))
	}
	readable := len(loader.faults) == 0
	if err := loader.settings.Validate(role); err != nil {
		for _, fault := range flatten(err) {
			// A value that could not be read left its default behind, which says nothing about the settings.
			if readable || !loader.defaulted(fault) {
				loader.faults = append(loader.faults, loader.locate(fault))
			}
		}
	}
	return loader.settings, NewRedactor(loader.settings).Error(errors.Join(loader.faults...))
}

type loader struct {
	settings *Settings
	merged   *koanf.Koanf
	origin   map[string]string // where the value of a key was given, for errors
	bad      []string          // keys whose value could not be read
	faults   []error

	unreadable bool // the file as a whole; checking the rest would only tell what is missing
}

func (l *loader) fault(format string, arguments ...any) {
	l.faults = append(l.faults, fmt.Errorf(format, arguments...))
}

func (l *loader) file(name string, content []byte) {
	if name == "" && content == nil {
		return
	}
	values, lines, err := readFile(name, content)
	if err != nil {
		l.faults, l.unreadable = append(l.faults, err), true
		return
	}
	flat := map[string]any{}
	flattenValues(values, "", flat)
	known := map[string]any{}
	for key, value := range flat {
		place := name
		if line := lines.of(key); line > 0 {
			place = fmt.Sprintf("%s:%d", name, line)
		}
		if settingsByKey[key] == nil {
			l.fault("%s: %s", place, unknownSetting(key))
			continue
		}
		if value == nil {
			continue
		}
		known[key] = value
		l.origin[key] = place
	}
	l.unreadable = values == nil && len(lines.duplicates) > 0
	for _, duplicate := range lines.duplicates {
		l.fault("%s:%d: %s is given twice: keep one of the two", name, duplicate.line, duplicate.key)
	}
	sortFaults(l.faults)
	l.merge(known)
}

// merge lays values, keyed by dotted names, over what is there.
func (l *loader) merge(values map[string]any) {
	layer := koanf.New(".")
	if err := layer.Load(confmap.Provider(values, "."), nil); err != nil {
		l.faults = append(l.faults, err)
		return
	}
	if err := l.merged.Merge(layer); err != nil {
		l.faults = append(l.faults, err)
	}
}

// unknownSetting says what may have been meant by a key that is no setting.
func unknownSetting(key string) string {
	for _, setting := range knownSettings {
		if strings.HasPrefix(setting.Key, key+".") {
			return fmt.Sprintf("%s is a section: write its settings below it, such as %s", key, setting.Key)
		}
	}
	if isPeerSetting(key) {
		return fmt.Sprintf("%s is a setting of snetd: turn the whole file into ours with mpegate config import FILE", key)
	}
	if near := nearest(key, settingKeys()); near != "" {
		return fmt.Sprintf("%s is not a setting; did you mean %s?", key, near)
	}
	return fmt.Sprintf("%s is not a setting; see mpegate config reference", key)
}

func settingKeys() []string {
	keys := make([]string, 0, len(knownSettings))
	for _, setting := range knownSettings {
		keys = append(keys, setting.Key)
	}
	return keys
}

// environment takes MPEGATE_… variables. An empty one counts as not given, as container tools pass unset ones so.
func (l *loader) environment(variables []string) {
	byName := make(map[string]*Setting, len(knownSettings))
	names := make([]string, 0, len(knownSettings))
	for i := range knownSettings {
		byName[knownSettings[i].Environment] = &knownSettings[i]
		names = append(names, knownSettings[i].Environment)
	}
	layer := koanf.New(".")
	provider := env.Provider(".", env.Opt{
		Prefix:      EnvironmentPrefix,
		EnvironFunc: func() []string { return variables },
		TransformFunc: func(name, value string) (string, any) {
			setting := byName[name]
			switch {
			case slices.Contains(otherVariables, name) || value == "":
				return "", nil
			case setting == nil:
				hint := "see mpegate config reference"
				if near := nearest(name, names); near != "" {
					hint = "did you mean " + near + "?"
				}
				l.fault("environment: %s is not a setting; %s", name, hint)
				return "", nil
			}
			l.origin[setting.Key] = name
			return setting.Key, value
		},
	})
	if err := layer.Load(provider, nil); err != nil {
		l.faults = append(l.faults, err)
	}
	if err := l.merged.Merge(layer); err != nil {
		l.faults = append(l.faults, err)
	}
}

func (l *loader) flags(flags *pflag.FlagSet) {
	if flags == nil {
		return
	}
	layer := koanf.New(".")
	err := layer.Load(posflag.ProviderWithFlag(flags, ".", layer, func(flag *pflag.Flag) (string, any) {
		keys := flag.Annotations[FlagSetting]
		if !flag.Changed || len(keys) == 0 {
			return "", nil
		}
		l.origin[keys[0]] = "--" + flag.Name
		return keys[0], flag.Value.String()
	}), nil)
	if err != nil {
		l.faults = append(l.faults, err)
	}
	if err := l.merged.Merge(layer); err != nil {
		l.faults = append(l.faults, err)
	}
}

// assign decodes every merged value into its field.
func (l *loader) assign() {
	target := reflect.ValueOf(l.settings).Elem()
	for i := range knownSettings {
		setting := &knownSettings[i]
		if setting.secretFile != "" || !l.merged.Exists(setting.Key) {
			continue
		}
		if err := assign(setting, target.FieldByIndex(setting.index), l.merged.Get(setting.Key)); err != nil {
			shown := ""
			if raw := l.merged.Get(setting.Key); !setting.Secret {
				shown = fmt.Sprintf(" %.80q", fmt.Sprint(raw))
			}
			l.fault("%s: %s%s %w", l.origin[setting.Key], setting.Key, shown, err)
			l.bad = append(l.bad, setting.Key)
		}
	}
}

// secretFiles reads the files that <key>_file settings name.
func (l *loader) secretFiles() {
	target := reflect.ValueOf(l.settings).Elem()
	for i := range knownSettings {
		setting := &knownSettings[i]
		if setting.secretFile == "" || !l.merged.Exists(setting.Key) {
			continue
		}
		name, isText := l.merged.Get(setting.Key).(string)
		secret := settingsByKey[setting.secretFile]
		field := target.FieldByIndex(secret.index)
		switch {
		case !isText:
			l.fault("%s: %s is not text: give the path of a file", l.origin[setting.Key], setting.Key)
		case name == "":
		case l.origin[secret.Key] != "" && !field.IsZero():
			l.fault("%s and %s are both set (%s, %s): keep one of the two",
				secret.Key, setting.Key, l.origin[secret.Key], l.origin[setting.Key])
		default:
			text, warning, err := readSecretFile(name)
			if err != nil {
				l.fault("%s: %s: %w", l.origin[setting.Key], setting.Key, err)
				l.bad = append(l.bad, secret.Key)
				continue
			}
			if warning != "" {
				l.settings.warnings = append(l.settings.warnings, setting.Key+": "+warning)
			}
			if err := assign(secret, field, text); err != nil {
				l.fault("%s: the text in the file %w", setting.Key, err)
				continue
			}
			l.origin[secret.Key] = l.origin[setting.Key]
		}
	}
}

const maximumSecretSize = 64 << 10

// readSecretFile gives the text of a secret's file without the line break at its end.
func readSecretFile(name string) (text, warning string, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", "", fmt.Errorf("cannot read the secret: %w", err)
	}
	if info.IsDir() || info.Size() > maximumSecretSize {
		return "", "", fmt.Errorf("%s is not a file of at most %s: give the file that holds the secret alone", name, showSize(maximumSecretSize))
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return "", "", fmt.Errorf("cannot read the secret: %w", err)
	}
	text = strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if text == "" {
		return "", "", fmt.Errorf("%s is empty: write the secret into it", name)
	}
	if info.Mode().Perm()&0o007 != 0 {
		warning = fmt.Sprintf("everybody on this machine can read %s; chmod 600 %s keeps it private", name, name)
	}
	return text, warning, nil
}

// locate puts where the value was given in front of a fault that names its key.
func (l *loader) locate(fault error) error {
	if place := l.origin[mentionedKey(fault.Error())]; place != "" {
		return fmt.Errorf("%s: %w", place, fault)
	}
	return fault
}

// defaulted says whether a fault is about a setting whose own value could not be read.
func (l *loader) defaulted(fault error) bool {
	return slices.Contains(l.bad, mentionedKey(fault.Error()))
}

// mentionedKey gives the setting that a text names first.
func mentionedKey(text string) string {
	found, at := "", len(text)
	for _, setting := range knownSettings {
		if i := strings.Index(text, setting.Key); i >= 0 && (i < at || i == at && len(setting.Key) > len(found)) {
			found, at = setting.Key, i
		}
	}
	return found
}

// Faults takes the error of Load apart, one fault each.
func Faults(err error) []error { return flatten(err) }

// flatten takes joined errors apart.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var list []error
	for _, part := range joined.Unwrap() {
		list = append(list, flatten(part)...)
	}
	return list
}

// sortFaults orders faults of one file by line; maps have no order of their own.
func sortFaults(faults []error) {
	slices.SortStableFunc(faults, func(a, b error) int {
		return compareNatural(a.Error(), b.Error())
	})
}
