package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/rogpeppe/go-internal/diff"
)

// generated is the code that belongs below root, by slash-separated path, and
// the names of the generated files found there.
type generated struct {
	root    string
	code    map[string]string
	present []string
}

// change is one file that is not as the .proto files have it.
type change struct {
	name          string
	before, after []byte
	remove        bool
}

// changes compares what is there with what belongs there, in the order of names.
func (g *generated) changes() ([]change, error) {
	names := slices.Collect(maps.Keys(g.code))
	for _, name := range g.present {
		if _, wanted := g.code[name]; !wanted {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var found []change
	for _, name := range names {
		before, err := os.ReadFile(filepath.Join(g.root, filepath.FromSlash(name)))
		missing := errors.Is(err, fs.ErrNotExist)
		if err != nil && !missing {
			return nil, err
		}
		after, wanted := g.code[name]
		if missing || !wanted || string(before) != after {
			found = append(found, change{name: name, before: before, after: []byte(after), remove: !wanted})
		}
	}
	return found, nil
}

// check prints the difference and fails when there is one.
func (g *generated) check(out io.Writer) error {
	changes, err := g.changes()
	if err != nil {
		return err
	}
	for _, changed := range changes {
		after := changed.name + " (from its .proto)"
		if changed.remove {
			after = changed.name + " (has no .proto)"
		}
		if _, err := out.Write(diff.Diff(changed.name, changed.before, after, changed.after)); err != nil {
			return err
		}
	}
	if len(changes) > 0 {
		return fmt.Errorf("%d generated file(s) are stale: run go run ./channelstate/proto/generate", len(changes))
	}
	return nil
}

// write brings the files up to date and names those it touched.
func (g *generated) write(out io.Writer) error {
	changes, err := g.changes()
	if err != nil {
		return err
	}
	for _, changed := range changes {
		path := filepath.Join(g.root, filepath.FromSlash(changed.name))
		verb := "wrote"
		if changed.remove {
			verb, err = "removed", os.Remove(path)
		} else {
			err = replace(path, changed.after)
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(out, verb, changed.name)
	}
	return nil
}

// replace writes a file whole or not at all, so that a build running meanwhile
// never sees half of it.
func replace(path string, content []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), ".generate-*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name()) // gone already when the rename went well
	_, err = temporary.Write(content)
	err = errors.Join(err, temporary.Chmod(0o644), temporary.Close())
	if err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}
