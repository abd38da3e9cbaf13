package translator

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

// packed is a file of a test's archive.
type packed struct {
	name, text string
	kind       byte // 0 is a plain file
	link       string
}

func pack(t testing.TB, files ...packed) []byte {
	t.Helper()
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, file := range files {
		header := &tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.text)), Typeflag: file.kind, Linkname: file.link}
		if file.kind == tar.TypeXGlobalHeader {
			header = &tar.Header{Typeflag: file.kind, PAXRecords: map[string]string{"comment": "x"}}
		}
		if err := writer.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write([]byte(file.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

const (
	mainProto  = `syntax = "proto3"; package p; import "types.proto"; service S { rpc M(T) returns (T); }`
	typesProto = `syntax = "proto3"; package p; import "google/protobuf/empty.proto"; message T { int64 a = 1; }`
	soloProto  = `syntax = "proto3"; package p; message T { int64 a = 1; } service S { rpc M(T) returns (T); }`
)

func TestArchives(t *testing.T) {
	tooMany := []packed{{name: "a.proto", text: soloProto}}
	for i := range maxEntries {
		tooMany = append(tooMany, packed{name: fmt.Sprint("f", i)})
	}
	for _, c := range []struct {
		name  string
		data  []byte
		fault string // "" for an archive that is good
	}{
		{"tar", pack(t, packed{name: "main.proto", text: mainProto}, packed{name: "types.proto", text: typesProto}), ""},
		{"tar.gz", gzipped(pack(t, packed{name: "main.proto", text: mainProto}, packed{name: "types.proto", text: typesProto})), ""},
		{"names with a dot before", pack(t, packed{name: "./main.proto", text: mainProto}, packed{name: "./types.proto", text: typesProto}), ""},
		{"a folder around it", pack(t, packed{name: "v1/", kind: tar.TypeDir}, packed{name: "v1/main.proto", text: mainProto}, packed{name: "v1/types.proto", text: typesProto}), ""},
		{"other files", pack(t, packed{name: "README", text: "x"}, packed{name: "._a.proto", text: "\x00"}, packed{name: "a.proto", text: soloProto}), ""},
		{"a comment of git", pack(t, packed{kind: tar.TypeXGlobalHeader}, packed{name: "a.proto", text: soloProto}), ""},
		{"a copy of a well-known type", pack(t, packed{name: "a.proto", text: soloProto}, packed{name: "google/protobuf/empty.proto", text: "rubbish"}), ""},
		{"nothing", nil, "neither"},
		{"rubbish", []byte("rubbish"), "neither"},
		{"rubbish in gzip", gzipped([]byte("rubbish")), "cannot be used"},
		{"half an archive", pack(t, packed{name: "a.proto", text: strings.Repeat(" ", 2000)})[:1000], "cannot be used"},
		{"no .proto file", pack(t, packed{name: "README", text: "x"}), "no .proto file"},
		{"a folder above", pack(t, packed{name: "../a.proto", text: soloProto}), "leads out"},
		{"a folder above, hidden", pack(t, packed{name: "a/../../a.proto", text: soloProto}), "leads out"},
		{"an absolute path", pack(t, packed{name: "/etc/a.proto", text: soloProto}), "no relative path"},
		{"a path of another system", pack(t, packed{name: `..\a.proto`, text: soloProto}), "no relative path"},
		{"a drive", pack(t, packed{name: "c:a.proto", text: soloProto}), "no relative path"},
		{"a symbolic link", pack(t, packed{name: "a.proto", kind: tar.TypeSymlink, link: "/etc/passwd"}), "link"},
		{"a hard link", pack(t, packed{name: "a.proto", kind: tar.TypeLink, link: "b.proto"}), "link"},
		{"a device", pack(t, packed{name: "a.proto", kind: tar.TypeChar}), "link"},
		{"twice the same", pack(t, packed{name: "a.proto", text: soloProto}, packed{name: "./a.proto", text: soloProto}), "twice"},
		{"too deep", pack(t, packed{name: strings.Repeat("d/", maxDepth+1) + "a.proto", text: soloProto}), "deeper"},
		{"too many entries", pack(t, tooMany...), "more than 10000 entries"},
		{"too much", gzipped(pack(t, packed{name: "a.proto", text: strings.Repeat(" ", maxSourceBytes+1)})), "more than"},
		{"too much of other things", gzipped(pack(t, packed{name: "a", text: strings.Repeat(" ", maxArchiveBytes)}, packed{name: "a.proto", text: soloProto})), "unpacked it has more than"},
		{"a fault in a file", pack(t, packed{name: "a.proto", text: "syntax = \"proto3\";\nmessage {"}), "a.proto:2"},
		{"an import that is missing", pack(t, packed{name: "main.proto", text: mainProto}), "types.proto"},
		{"no service", pack(t, packed{name: "types.proto", text: typesProto}), "no service"},
	} {
		t.Run(c.name, func(t *testing.T) {
			paths, err := ParseDefinition(t.Context(), c.data)
			if c.fault == "" {
				if err != nil || len(paths) != 1 || paths[0] != "/p.S/M" {
					t.Errorf("%v, %v", paths, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("the error is %v, want %q", err, c.fault)
			}
		})
	}
}

func TestLocalDefinitions(t *testing.T) {
	folder := t.TempDir()
	write := func(name string, data []byte) string {
		t.Helper()
		place := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return place
	}
	write("protos/main.proto", []byte(mainProto))
	write("protos/types.proto", []byte(typesProto))
	write("protos/.git/a.proto", []byte("rubbish"))
	d, err := loadLocal(t.Context(), filepath.Join(folder, "protos"))
	if err != nil {
		t.Fatal(err)
	}
	set := new(descriptorpb.FileDescriptorSet)
	for _, name := range []string{"main.proto", "types.proto"} { // well-known types may be left out
		file, err := d.files.FindFileByPath(name)
		if err != nil {
			t.Fatal(err)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
	}
	compiled, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	set.File = set.File[:1]
	incomplete, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	for place, good := range map[string]bool{
		filepath.Join(folder, "protos"): true,
		write("service.tar.gz", gzipped(pack(t, packed{name: "a.proto", text: soloProto}))): true,
		write("service.binpb", compiled):      true,
		write("incomplete.binpb", incomplete): false,
		write("rubbish", []byte("rubbish")):   false,
		filepath.Join(folder, "missing"):      false,
		os.DevNull:                            false,
	} {
		d, err := loadLocal(t.Context(), place)
		if good != (err == nil) || good && d.methods["/p.S/M"] == nil {
			t.Errorf("%s: %v", place, err)
		}
	}
	if err := os.Symlink(filepath.Join(folder, "service.binpb"), filepath.Join(folder, "protos", "link.proto")); err != nil {
		t.Fatal(err)
	}
	if _, err := loadLocal(t.Context(), filepath.Join(folder, "protos")); err == nil || !strings.Contains(err.Error(), "link") {
		t.Errorf("a link in the folder: %v", err)
	}
}

// Whatever is published, the answer is a definition or an error.
func FuzzDefinition(f *testing.F) {
	f.Add(pack(f, packed{name: "main.proto", text: mainProto}, packed{name: "types.proto", text: typesProto}))
	f.Add(gzipped(pack(f, packed{name: "v1/a.proto", text: soloProto})))
	f.Add([]byte("\x0a\x07\x0a\x05a.txt"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if paths, err := ParseDefinition(t.Context(), data); (err == nil) != (len(paths) > 0) {
			t.Fatalf("%v, %v", paths, err)
		}
	})
}
