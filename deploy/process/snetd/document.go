package snetd

import (
	"bytes"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is the settings file being written: sections in order, a comment at each setting that needs one.
type document struct {
	root *yaml.Node
	left []leftOut
}

type leftOut struct{ keys, why string }

func newDocument() *document { return &document{root: &yaml.Node{Kind: yaml.MappingNode}} }

// set adds a setting by its dotted key. A short comment stands beside the value, a long one above.
func (d *document) set(key string, value any, comments ...string) {
	node := d.root
	path := strings.Split(key, ".")
	for _, name := range path[:len(path)-1] {
		node = sectionOf(node, name)
	}
	var valueNode yaml.Node
	if err := valueNode.Encode(value); err != nil {
		panic(fmt.Sprintf("%s: %v", key, err)) // only text, numbers, booleans and lists of text come here
	}
	if valueNode.Kind == yaml.SequenceNode && len(valueNode.Content) == 0 {
		valueNode.Style = yaml.FlowStyle
	}
	keyNode := &yaml.Node{Kind: yaml.ScalarNode, Value: path[len(path)-1]}
	comment := strings.Join(comments, "\n")
	if len(comment) > 60 || strings.Contains(comment, "\n") || valueNode.Kind == yaml.SequenceNode {
		keyNode.HeadComment = wrapComment(comment)
	} else if comment != "" {
		valueNode.LineComment = "# " + comment
	}
	node.Content = append(node.Content, keyNode, &valueNode)
}

func sectionOf(node *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == name {
			return node.Content[i+1]
		}
	}
	section := &yaml.Node{Kind: yaml.MappingNode}
	node.Content = append(node.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, section)
	return section
}

// leave notes keys of the old file that become no setting, and why.
func (d *document) leave(keys, why string) { d.left = append(d.left, leftOut{keys, why}) }

const commentWidth = 110

func wrapComment(text string) string {
	if text == "" {
		return ""
	}
	var lines []string
	for paragraph := range strings.SplitSeq(text, "\n") {
		line := "#"
		for word := range strings.FieldsSeq(paragraph) {
			if len(line)+1+len(word) > commentWidth && line != "#" {
				lines = append(lines, line)
				line = "#"
			}
			line += " " + word
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// render writes the head, the settings with a blank line between sections, and what was left out.
func (d *document) render(head string) ([]byte, error) {
	var body bytes.Buffer
	encoder := yaml.NewEncoder(&body)
	encoder.SetIndent(2)
	if err := encoder.Encode(d.root); err != nil {
		return nil, err
	}
	var text strings.Builder
	text.WriteString(wrapComment(head) + "\n")
	for line := range strings.Lines(body.String()) {
		if line[0] != ' ' && line[0] != '#' && line[0] != '-' {
			text.WriteString("\n")
		}
		text.WriteString(line)
	}
	if len(d.left) > 0 {
		text.WriteString("\n# Of the old file these are not carried over:\n")
		for _, left := range d.left {
			for i, line := range strings.Split(wrapComment(left.keys+": "+left.why), "\n") {
				if i == 0 {
					text.WriteString("#  -" + strings.TrimPrefix(line, "#") + "\n")
				} else {
					text.WriteString("#   " + strings.TrimPrefix(line, "#") + "\n")
				}
			}
		}
	}
	return []byte(text.String()), nil
}
