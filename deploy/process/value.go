package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
)

// assign puts a raw value (from a file, the environment or a flag) into the field of a setting. The value is never
// part of the error, because it may be a secret.
func assign(setting *Setting, field reflect.Value, raw any) error {
	switch {
	case setting.valueType == durationType:
		duration, err := parseDuration(raw)
		if err != nil {
			return err
		}
		field.SetInt(int64(duration))
		return nil
	case isSize(setting.Key, setting.valueType):
		return assignSize(field, raw)
	}
	switch setting.valueType.Kind() {
	case reflect.String:
		text, ok := raw.(string)
		if !ok {
			return errors.New("is not text: put it in quotes")
		}
		field.SetString(text)
		return nil
	case reflect.Bool:
		return assignBool(field, raw)
	case reflect.Slice, reflect.Map:
		return assignComposite(field, raw)
	default:
		return assignNumber(field, raw)
	}
}

func parseDuration(raw any) (time.Duration, error) {
	text, ok := raw.(string)
	if !ok {
		if number, err := wholeNumber(raw); err == nil && number == "0" {
			return 0, nil
		}
		return 0, errors.New("is not a duration: write it with a unit, such as 100s, 250ms or 5m")
	}
	duration, err := time.ParseDuration(strings.TrimSpace(text))
	if err != nil {
		return 0, errors.New("is not a duration: write it with a unit, such as 100s, 250ms or 5m")
	}
	return duration, nil
}

func assignBool(field reflect.Value, raw any) error {
	switch value := raw.(type) {
	case bool:
		field.SetBool(value)
		return nil
	case string:
		if parsed, err := strconv.ParseBool(strings.TrimSpace(value)); err == nil {
			field.SetBool(parsed)
			return nil
		}
	}
	return errors.New("is not true or false: write true or false")
}

// wholeNumber gives the decimal text of a raw number.
func wholeNumber(raw any) (string, error) {
	switch value := raw.(type) {
	case int, int64, uint64:
		return fmt.Sprint(value), nil
	case json.Number:
		return value.String(), nil
	case float64:
		if value == math.Trunc(value) && math.Abs(value) < 1<<53 {
			return strconv.FormatInt(int64(value), 10), nil
		}
	case string:
		return strings.ReplaceAll(strings.TrimSpace(value), "_", ""), nil
	}
	return "", errors.New("is not a whole number")
}

func assignNumber(field reflect.Value, raw any) error {
	if kind := field.Kind(); kind == reflect.Float32 || kind == reflect.Float64 {
		number, err := strconv.ParseFloat(fmt.Sprint(raw), 64)
		if err != nil || math.IsNaN(number) || math.IsInf(number, 0) {
			return errors.New("is not a number")
		}
		field.SetFloat(number)
		return nil
	}
	text, err := wholeNumber(raw)
	if err != nil {
		return err
	}
	if field.CanUint() {
		number, err := strconv.ParseUint(text, 10, field.Type().Bits())
		if err != nil {
			return fmt.Errorf("is not a whole number between 0 and %d", uint64(math.MaxUint64)>>(64-field.Type().Bits()))
		}
		field.SetUint(number)
		return nil
	}
	number, err := strconv.ParseInt(text, 10, field.Type().Bits())
	if err != nil {
		return errors.New("is not a whole number")
	}
	field.SetInt(number)
	return nil
}

var sizeUnits = []struct {
	suffix string
	factor uint64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1},
}

// parseSize reads 4MiB, 512KiB, 10MB, or a bare number of bytes.
func parseSize(text string) (uint64, error) {
	text = strings.TrimSpace(text)
	for _, unit := range sizeUnits {
		number, found := strings.CutSuffix(text, unit.suffix)
		if !found {
			continue
		}
		count, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
		if err != nil || count > math.MaxInt64/unit.factor {
			break
		}
		return count * unit.factor, nil
	}
	return 0, errors.New("is not a size: write it in bytes or with a unit, such as 4MiB or 512KiB")
}

// showSize writes a size with the largest binary unit that divides it.
func showSize(size uint64) string {
	for _, unit := range []struct {
		suffix string
		factor uint64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if size != 0 && size%unit.factor == 0 {
			return strconv.FormatUint(size/unit.factor, 10) + unit.suffix
		}
	}
	return strconv.FormatUint(size, 10)
}

func assignSize(field reflect.Value, raw any) error {
	text, ok := raw.(string)
	if !ok {
		number, err := wholeNumber(raw)
		if err != nil {
			return errors.New("is not a size: write it in bytes or with a unit, such as 4MiB or 512KiB")
		}
		text = number
	}
	size, err := parseSize(text)
	if err != nil {
		return err
	}
	if field.CanUint() {
		if field.OverflowUint(size) {
			return errors.New("is too large")
		}
		field.SetUint(size)
		return nil
	}
	if field.OverflowInt(int64(size)) {
		return errors.New("is too large")
	}
	field.SetInt(int64(size))
	return nil
}

// assignComposite decodes a list or a map; text is split at commas, as the environment and flags give it: a,b or
// a=1,b=2.
func assignComposite(field reflect.Value, raw any) error {
	if text, ok := raw.(string); ok {
		if field.Kind() == reflect.Map {
			var err error
			if raw, err = splitMap(text); err != nil {
				return err
			}
		} else {
			raw = splitList(text)
		}
	}
	fresh := reflect.New(field.Type())
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: fresh.Interface(), ErrorUnused: true, TagName: "koanf",
		DecodeHook: mapstructure.ComposeDecodeHookFunc(mapstructure.StringToTimeDurationHookFunc()),
	})
	if err != nil {
		return err
	}
	if err := decoder.Decode(raw); err != nil {
		return fmt.Errorf("cannot be read as a %s: %s", typeName("", field.Type()), decodeFault(err))
	}
	field.Set(fresh.Elem())
	return nil
}

// decodeFault gives the place of a fault in a list or map without its value.
func decodeFault(err error) string {
	var fault *mapstructure.DecodeError
	if !errors.As(err, &fault) {
		return "its shape is different"
	}
	var unconvertible *mapstructure.UnconvertibleTypeError
	if errors.As(fault.Unwrap(), &unconvertible) {
		place := fault.Name()
		if place == "" {
			place = "it"
		}
		return fmt.Sprintf("%s is not %s", place, typeName("", unconvertible.Expected.Type()))
	}
	return "its shape is different"
}

func splitMap(text string) (map[string]any, error) {
	entries := map[string]any{}
	for _, part := range splitList(text) {
		name, value, found := strings.Cut(part, "=")
		if !found {
			return nil, errors.New("is not a map: write NAME=VALUE,NAME=VALUE")
		}
		entries[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return entries, nil
}

func splitList(text string) []string {
	list := []string{}
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}
