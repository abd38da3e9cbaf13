package process

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	yamlnode "go.yaml.in/yaml/v3"
)

const maximumFileSize = 4 << 20

// readFile parses a settings file: JSON by its name, else YAML.
func readFile(name string, data []byte) (map[string]any, keyLines, error) {
	var err error
	if data == nil {
		if data, err = readBounded(name); err != nil {
			return nil, keyLines{}, err
		}
	}
	var values map[string]any
	if strings.EqualFold(filepath.Ext(name), ".json") {
		values, err = parseJSON(data)
	} else {
		values, err = yaml.Parser().Unmarshal(data)
	}
	if err != nil && !strings.Contains(err.Error(), "already defined") {
		return nil, keyLines{}, fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return values, linesOf(data), nil
}

func readBounded(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the settings: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maximumFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the settings: %w", err)
	}
	if len(data) > maximumFileSize {
		return nil, fmt.Errorf("%s is larger than %s: that is not a settings file", name, showSize(maximumFileSize))
	}
	return data, nil
}

func parseJSON(data []byte) (map[string]any, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber() // chain ids and amounts keep all their digits
	var values map[string]any
	err := decoder.Decode(&values)
	if err == nil {
		if _, next := decoder.Token(); next != io.EOF {
			err = errors.New("there is more text after the end of the object")
		}
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		line := 1 + bytes.Count(data[:min(int(syntax.Offset), len(data))], []byte("\n"))
		return nil, fmt.Errorf("line %d: %w", line, err)
	}
	return values, err
}

// keyLines holds where each key of a file stands.
type keyLines struct {
	lines      map[string]int
	duplicates []duplicateKey
}

type duplicateKey struct {
	key  string
	line int
}

// of gives the line of a key or of the nearest section around it, 0 when unknown.
func (k keyLines) of(key string) int {
	for key != "" {
		if line := k.lines[key]; line > 0 {
			return line
		}
		i := strings.LastIndex(key, ".")
		if i < 0 {
			return 0
		}
		key = key[:i]
	}
	return 0
}

// linesOf reads the places of the keys. JSON is YAML here once tabs, which JSON allows only between values, are blanks.
func linesOf(data []byte) keyLines {
	result := keyLines{lines: map[string]int{}}
	var document yamlnode.Node
	if err := yamlnode.Unmarshal(bytes.ReplaceAll(data, []byte("\t"), []byte(" ")), &document); err != nil || len(document.Content) == 0 {
		return result
	}
	result.collect(document.Content[0], "")
	return result
}

func (k *keyLines) collect(node *yamlnode.Node, prefix string) {
	if node.Kind != yamlnode.MappingNode {
		return
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := prefix + node.Content[i].Value
		if _, exists := k.lines[key]; exists {
			k.duplicates = append(k.duplicates, duplicateKey{key, node.Content[i].Line})
		}
		k.lines[key] = node.Content[i].Line
		if settingsByKey[key] == nil {
			k.collect(node.Content[i+1], key+".")
		}
	}
}

// flattenValues turns nested sections into dotted keys; the value of a known setting is kept whole.
func flattenValues(values map[string]any, prefix string, flat map[string]any) {
	for name, value := range values {
		key := prefix + name
		section, isSection := value.(map[string]any)
		switch {
		case settingsByKey[key] != nil:
			flat[key] = value
		case isSection:
			flattenValues(section, key+".", flat)
		case value == nil && isSectionName(key): // a section with all its settings commented out
		default:
			flat[key] = value
		}
	}
}

func isSectionName(key string) bool {
	for _, setting := range knownSettings {
		if strings.HasPrefix(setting.Key, key+".") {
			return true
		}
	}
	return false
}

// compareNatural orders texts so that numbers in them count as numbers: line 9 comes before line 12.
func compareNatural(a, b string) int {
	for a != "" && b != "" {
		digitsA, digitsB := leadingDigits(a), leadingDigits(b)
		if digitsA > 0 && digitsB > 0 {
			numberA, _ := strconv.ParseUint(a[:digitsA], 10, 64)
			numberB, _ := strconv.ParseUint(b[:digitsB], 10, 64)
			if order := cmp.Compare(numberA, numberB); order != 0 {
				return order
			}
			a, b = a[digitsA:], b[digitsB:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func leadingDigits(text string) int {
	return len(text) - len(strings.TrimLeft(text, "0123456789"))
}
