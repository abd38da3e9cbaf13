package translator

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Limits of what a service's definition may hold. They are far above what real services publish.
const (
	maxArchiveBytes = 64 << 20 // of the unpacked archive
	maxSourceBytes  = 16 << 20 // of all .proto files together
	maxEntries      = 10_000
	maxSources      = 2_000
	maxDepth        = 32 // folders
	maxPath         = 512
)

const sourceSuffix = ".proto"

// sources are .proto files by their path, as an import statement would name them.
type sources map[string]string

// sourceCollector gathers .proto files and keeps the limits.
type sourceCollector struct {
	files   sources
	entries int
	bytes   int64
}

func newCollector() *sourceCollector { return &sourceCollector{files: sources{}} }

// place gives the name under which a file is kept, "" for one that is of no interest.
func (c *sourceCollector) place(name string) (string, error) {
	if c.entries++; c.entries > maxEntries {
		return "", fmt.Errorf("it has more than %d entries", maxEntries)
	}
	if err := checkName(name); err != nil {
		return "", err
	}
	clean := path.Clean(name)
	base := path.Base(clean)
	// "._name" is what macOS adds to archives beside each file.
	if !strings.HasSuffix(base, sourceSuffix) || strings.HasPrefix(base, "._") {
		return "", nil
	}
	if _, twice := c.files[clean]; twice {
		return "", fmt.Errorf("%q is in it twice", clean)
	}
	if len(c.files) >= maxSources {
		return "", fmt.Errorf("it has more than %d %s files", maxSources, sourceSuffix)
	}
	return clean, nil
}

func (c *sourceCollector) add(name string, content io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(content, maxSourceBytes-c.bytes+1))
	if err != nil {
		return err
	}
	if c.bytes += int64(len(text)); c.bytes > maxSourceBytes {
		return fmt.Errorf("its %s files have more than %d bytes", sourceSuffix, int64(maxSourceBytes))
	}
	c.files[name] = string(text)
	return nil
}

// checkName refuses what could lead out of the archive or means different things on different systems.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > maxPath:
		return fmt.Errorf("an entry's name has %d bytes, not 1 to %d", len(name), maxPath)
	case strings.ContainsAny(name, "\\\x00") || path.IsAbs(name) || len(name) > 1 && name[1] == ':':
		return fmt.Errorf("the entry %q is no relative path", name)
	case strings.Count(name, "/") > maxDepth:
		return fmt.Errorf("the entry %q is deeper than %d folders", shown(name), maxDepth)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return fmt.Errorf("the entry %q leads out of the archive", name)
		}
	}
	return nil
}

func isGzip(data []byte) bool { return bytes.HasPrefix(data, []byte{0x1f, 0x8b}) }

// isTar looks for the mark that every tar since POSIX 1988 has in its first header.
func isTar(data []byte) bool { return len(data) > 262 && string(data[257:262]) == "ustar" }

// readArchive takes the .proto files out of a tar, compressed with gzip or not (service-types.md section 6).
func readArchive(data []byte) (sources, error) {
	var content io.Reader = bytes.NewReader(data)
	if isGzip(data) {
		inflater, err := gzip.NewReader(content)
		if err != nil {
			return nil, fmt.Errorf("the archive is not gzip data: %w", err)
		}
		content = inflater
	}
	limited := &boundedReader{reader: content, left: maxArchiveBytes}
	collector := newCollector()
	archive := tar.NewReader(limited)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = collector.entry(header, archive)
		}
		if err != nil {
			return nil, fmt.Errorf("the archive cannot be used: %w", err)
		}
	}
	if len(collector.files) == 0 {
		return nil, fmt.Errorf("the archive has no %s file", sourceSuffix)
	}
	return collector.files, nil
}

func (c *sourceCollector) entry(header *tar.Header, content io.Reader) error {
	switch header.Typeflag {
	case tar.TypeXGlobalHeader: // a comment of git archive
		return nil
	case tar.TypeDir:
		if c.entries++; c.entries > maxEntries {
			return fmt.Errorf("it has more than %d entries", maxEntries)
		}
		return checkName(header.Name)
	case tar.TypeReg:
	default:
		return fmt.Errorf("the entry %q is a link or another special file: pack plain files", shown(header.Name))
	}
	name, err := c.place(header.Name)
	if err != nil || name == "" {
		return err
	}
	return c.add(name, content)
}

// boundedReader fails, rather than ends, where its limit is reached.
type boundedReader struct {
	reader io.Reader
	left   int64
}

func (r *boundedReader) Read(buffer []byte) (int, error) {
	if r.left <= 0 {
		return 0, fmt.Errorf("unpacked it has more than %d bytes", int64(maxArchiveBytes))
	}
	buffer = buffer[:min(int64(len(buffer)), r.left)]
	count, err := r.reader.Read(buffer)
	r.left -= int64(count)
	return count, err
}

// readFolder takes the .proto files below a local folder. Links are not followed.
func readFolder(folder string) (sources, error) {
	collector := newCollector()
	err := filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(folder, name)
		if err != nil || relative == "." {
			return err
		}
		if entry.IsDir() {
			if strings.HasPrefix(entry.Name(), ".") {
				return fs.SkipDir
			}
			return checkName(filepath.ToSlash(relative))
		}
		place, err := collector.place(filepath.ToSlash(relative))
		if err != nil || place == "" {
			return err
		}
		if !entry.Type().IsRegular() {
			return fmt.Errorf("%s is a link or another special file: put the file itself there", relative)
		}
		return collector.addFile(place, name)
	})
	if err != nil {
		return nil, fmt.Errorf("the folder %s cannot be used: %w", folder, err)
	}
	if len(collector.files) == 0 {
		return nil, fmt.Errorf("the folder %s has no %s file", folder, sourceSuffix)
	}
	return collector.files, nil
}

func (c *sourceCollector) addFile(place, name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return c.add(place, file)
}
