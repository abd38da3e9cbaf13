// Package snetd turns a settings file of the peer daemon (snetd, repository singnet/snet-daemon v6) into ours.
// What each of its keys means, and which it never reads, is in the project's spec/settings.md.
package snetd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parse reads the file as the peer does: by its extension, JSON without one, and keys in any case.
func parse(name string, data []byte) (map[string]any, error) {
	values := map[string]any{}
	switch extension := strings.ToLower(filepath.Ext(name)); extension {
	case ".yaml", ".yml":
		if err := yaml.Unmarshal(data, &values); err != nil {
			return nil, fmt.Errorf("%s is not YAML: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
		}
	case ".toml", ".hcl", ".tfvars", ".ini", ".properties", ".props", ".prop", ".env", ".dotenv":
		return nil, fmt.Errorf("%s is a %s file: turn it into JSON or YAML first (`snetd init-full` shows the shape)", name, extension)
	default:
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.UseNumber()
		if err := decoder.Decode(&values); err != nil {
			return nil, fmt.Errorf("%s is not a JSON object: %w", name, err)
		}
		if _, err := decoder.Token(); err != io.EOF {
			return nil, fmt.Errorf("%s: there is more text after the end of the object", name)
		}
	}
	lower := map[string]any{}
	lowerKeys(values, lower)
	return lower, nil
}

// lowerKeys copies the values under lower-case keys; "log.level" at the top level is log: {level}.
func lowerKeys(from, to map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(from)) {
		value := from[key]
		target := to
		path := strings.Split(strings.ToLower(key), ".")
		for _, name := range path[:len(path)-1] {
			section, ok := target[name].(map[string]any)
			if !ok {
				section = map[string]any{}
				target[name] = section
			}
			target = section
		}
		last := path[len(path)-1]
		if section, ok := value.(map[string]any); ok {
			existing, ok := target[last].(map[string]any)
			if !ok {
				existing = map[string]any{}
			}
			lowerKeys(section, existing)
			value = existing
		}
		target[last] = value
	}
}

// values is the peer's file with a note of what was read from it.
type values struct {
	tree map[string]any
	used map[string]bool
}

// get gives the value of a dotted key, nil when it is not in the file.
func (v *values) get(key string) any {
	v.used[key] = true
	var node any = v.tree
	for name := range strings.SplitSeq(key, ".") {
		section, ok := node.(map[string]any)
		if !ok {
			return nil
		}
		node = section[name]
	}
	return node
}

func (v *values) has(key string) bool { return v.get(key) != nil }

// text gives a value as the peer's library does, whatever its type in the file.
func (v *values) text(key, otherwise string) string {
	switch value := v.get(key).(type) {
	case nil, map[string]any, []any:
		return otherwise
	default:
		return strings.TrimSpace(fmt.Sprint(value))
	}
}

func (v *values) boolean(key string, otherwise bool) bool {
	switch strings.ToLower(v.text(key, "")) {
	case "":
		return otherwise
	case "true", "1", "t":
		return true
	default:
		return false
	}
}

func (v *values) list(key string) []string {
	var list []string
	switch value := v.get(key).(type) {
	case []any:
		for _, item := range value {
			list = append(list, strings.TrimSpace(fmt.Sprint(item)))
		}
	case string:
		list = strings.Fields(value)
	}
	return list
}

// leaves lists the dotted keys of the file that stand for a value.
func (v *values) leaves() []string {
	var list []string
	collectLeaves(v.tree, "", &list)
	slices.Sort(list)
	return list
}

func collectLeaves(section map[string]any, prefix string, list *[]string) {
	for name, value := range section {
		if inner, ok := value.(map[string]any); ok && len(inner) > 0 {
			collectLeaves(inner, prefix+name+".", list)
			continue
		}
		*list = append(*list, prefix+name)
	}
}
