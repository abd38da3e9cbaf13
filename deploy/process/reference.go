package process

import (
	"fmt"
	"io"
	"reflect"
	"sort"
	"strings"
	"time"
)

// EnvironmentPrefix begins the name of every environment variable that is a setting.
const EnvironmentPrefix = "MPEGATE_"

// Setting describes one setting: what a settings file, an environment variable and the reference page call it.
type Setting struct {
	Key         string // dotted, as in a settings file
	Environment string
	Type        string // text, list, number, duration, size, true or false
	Default     string
	Help        string
	Secret      bool // never shown; has a <key>_file form

	secretFile string // the key whose value this setting's file holds
	index      []int  // field of Settings
	valueType  reflect.Type
}

// Reference lists every setting, in the order of the settings struct.
func Reference() []Setting { return append([]Setting(nil), knownSettings...) }

var knownSettings, settingsByKey = buildReference()

func buildReference() ([]Setting, map[string]*Setting) {
	defaults := DefaultSettings()
	var list []Setting
	collectSettings(reflect.ValueOf(defaults).Elem(), "", nil, &list)
	byKey := make(map[string]*Setting, len(list))
	for i := range list {
		byKey[list[i].Key] = &list[i]
	}
	return list, byKey
}

func collectSettings(value reflect.Value, prefix string, index []int, list *[]Setting) {
	for i := range value.NumField() {
		field := value.Type().Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("koanf"), ",")
		if !field.IsExported() || name == "-" || (name == "" && options == "") {
			continue
		}
		fieldIndex := append(append([]int(nil), index...), i)
		key := prefix + name
		if field.Type.Kind() == reflect.Struct {
			if options == "squash" {
				key = strings.TrimSuffix(prefix, ".")
			}
			collectSettings(value.Field(i), key+".", fieldIndex, list)
			continue
		}
		setting := Setting{
			Key: key, Environment: environmentName(key), Type: typeName(key, field.Type),
			Default: showDefault(key, value.Field(i)), Help: helpFor(key, field.Tag.Get("help")),
			Secret: field.Tag.Get("secret") == "true" || secretKeys[key], index: fieldIndex, valueType: field.Type,
		}
		*list = append(*list, setting)
		if setting.Secret {
			*list = append(*list, Setting{
				Key: key + "_file", Environment: environmentName(key + "_file"), Type: "path", secretFile: key,
				Help: "File that holds " + key + "; a line break at its end is cut.", valueType: reflect.TypeFor[string](),
			})
		}
	}
}

func environmentName(key string) string {
	return EnvironmentPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

var durationType = reflect.TypeFor[time.Duration]()

// isSize says whether a number counts bytes, so that it may be written as 4MiB.
func isSize(key string, valueType reflect.Type) bool {
	switch valueType.Kind() {
	case reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64:
		return valueType != durationType && (sizeKeys[key] || strings.HasSuffix(key, "_size") || strings.HasSuffix(key, "_bytes"))
	}
	return false
}

func typeName(key string, valueType reflect.Type) string {
	switch {
	case valueType == durationType:
		return "duration"
	case isSize(key, valueType):
		return "size"
	}
	switch valueType.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Slice:
		return "list"
	case reflect.Map:
		return "map"
	case reflect.Float32, reflect.Float64:
		return "number"
	default:
		return "whole number"
	}
}

func showDefault(key string, value reflect.Value) string {
	switch {
	case value.Type() == durationType:
		return showDuration(time.Duration(value.Int()))
	case isSize(key, value.Type()):
		if value.CanInt() {
			return showSize(uint64(value.Int()))
		}
		return showSize(value.Uint())
	case value.Kind() == reflect.Slice:
		parts := make([]string, value.Len())
		for i := range parts {
			parts[i] = fmt.Sprint(value.Index(i).Interface())
		}
		return strings.Join(parts, ",")
	case value.Kind() == reflect.Map:
		return ""
	}
	return fmt.Sprint(value.Interface())
}

// showDuration drops the zero units that Duration.String writes: 2m instead of 2m0s.
func showDuration(duration time.Duration) string {
	text := duration.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// nearest gives the candidate most like the name, or "" when none is like it.
func nearest(name string, candidates []string) string {
	sort.Strings(candidates)
	best, bestDistance := "", len(name)/3+1
	for _, candidate := range candidates {
		if distance := editDistance(strings.ToLower(name), strings.ToLower(candidate)); distance < bestDistance {
			best, bestDistance = candidate, distance
		}
	}
	return best
}

// editDistance is the number of letters to insert, delete or replace (Levenshtein).
func editDistance(from, to string) int {
	row := make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(from) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(to) {
			cost := diagonal
			if from[i] != to[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(to)]
}

// WriteMarkdownReference writes the settings as a Markdown table, for the README and the reference page.
func WriteMarkdownReference(output io.Writer) error {
	var text strings.Builder
	text.WriteString("| Setting | Type | Default | Environment variable | Meaning |\n|---|---|---|---|---|\n")
	code := func(value string) string {
		if value == "" {
			return ""
		}
		return "`" + value + "`"
	}
	for _, setting := range knownSettings {
		fmt.Fprintf(&text, "| `%s` | %s | %s | `%s` | %s |\n", setting.Key, setting.Type, code(setting.Default), setting.Environment,
			strings.ReplaceAll(setting.Help, "|", "\\|"))
	}
	_, err := io.WriteString(output, text.String())
	return err
}
