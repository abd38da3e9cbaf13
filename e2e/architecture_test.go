package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/mpegate/mpegate"

// mayImport is the table of DESIGN.md section 1: what the non-test code of a top-level folder may import of the others.
var mayImport = map[string][]string{
	"blockchain":   {},
	"channelstate": {"blockchain"},
	"envoy":        {},
	"authz":        {"channelstate", "blockchain", "envoy"},
	"translator":   {"channelstate", "blockchain", "envoy"},
	"deploy":       {"authz", "translator", "channelstate", "blockchain", "envoy"},
	"e2e":          {"deploy", "authz", "translator", "channelstate", "blockchain", "envoy"},
}

// The parts that one package of a folder must not know, whatever its folder may import.
var mustNotImport = map[string][]string{
	"blockchain":   {"go.etcd.io/", "github.com/envoyproxy/"},
	"channelstate": {"github.com/envoyproxy/"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func TestImportsRunInOneDirection(t *testing.T) {
	packages := listPackages(t)
	if len(packages) < 10 {
		t.Fatalf("go list found %d packages: the test looks at the wrong place", len(packages))
	}
	for _, pkg := range packages {
		folder := topFolder(pkg.ImportPath)
		allowed, known := mayImport[folder]
		if !known {
			t.Errorf("%s: folder %q is not one of DESIGN.md section 1", pkg.ImportPath, folder)
			continue
		}
		for _, imported := range pkg.Imports {
			if other := topFolder(imported); strings.HasPrefix(imported, modulePath+"/") && other != folder && !slices.Contains(allowed, other) {
				t.Errorf("%s imports %s: %s may import only %v", pkg.ImportPath, imported, folder, allowed)
			}
			for _, forbidden := range mustNotImport[folder] {
				if strings.HasPrefix(imported, forbidden) {
					t.Errorf("%s imports %s: %s does not know %s", pkg.ImportPath, imported, folder, forbidden)
				}
			}
		}
	}
}

func TestTopLevelIsExactlyAsDesigned(t *testing.T) {
	want := []string{"LICENSE", "README.md", "Taskfile.yml", "authz", "blockchain", "channelstate", "deploy", "e2e", "envoy", "go.mod", "go.sum"}
	if hasGoFiles("../translator") {
		want = append(want, "translator")
	}
	seen := map[string]bool{}
	for _, file := range trackedFiles(t) {
		name, _, _ := strings.Cut(file, "/")
		if !strings.HasPrefix(name, ".") {
			seen[name] = true
		}
	}
	for name := range seen {
		if !slices.Contains(want, name) {
			t.Errorf("%s stands at the top level, which holds only %v", name, want)
		}
	}
	for _, name := range want {
		if !seen[name] {
			t.Errorf("%s is missing at the top level", name)
		}
	}
}

func TestFilesStayReadable(t *testing.T) {
	const mostLines, mostMainLines = 420, 60
	for _, file := range trackedFiles(t) {
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, ".pb.go") {
			continue
		}
		lines := countLines(t, filepath.Join("..", file))
		if lines > mostLines {
			t.Errorf("%s has %d lines; split it by subject (at most about 400)", file, lines)
		}
		if file == "deploy/cmd/mpegate/main.go" && lines >= mostMainLines {
			t.Errorf("%s has %d lines; what it does belongs into deploy/cli (under %d)", file, lines, mostMainLines)
		}
	}
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	var packages []goPackage
	decoder := json.NewDecoder(bytes.NewReader(run(t, "go", "list", "-json=ImportPath,Imports", modulePath+"/...")))
	for {
		var pkg goPackage
		err := decoder.Decode(&pkg)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, pkg)
	}
}

// trackedFiles lists the files of the checkout that git knows or would take, by paths from its top.
func trackedFiles(t *testing.T) []string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not here: the tree may hold files that are not ours")
	}
	if err := exec.Command("git", "rev-parse").Run(); err != nil {
		t.Skip("not a git checkout: the tree may hold files that are not ours")
	}
	output := run(t, "git", "-C", "..", "ls-files", "--cached", "--others", "--exclude-standard")
	var files []string
	for file := range strings.Lines(string(output)) {
		file = strings.TrimSpace(file)
		if _, err := os.Stat(filepath.Join("..", file)); err == nil {
			files = append(files, file)
		}
	}
	return files
}

func run(t *testing.T, name string, arguments ...string) []byte {
	t.Helper()
	var complaint bytes.Buffer
	command := exec.Command(name, arguments...)
	command.Stderr = &complaint
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arguments, " "), err, &complaint)
	}
	return output
}

func topFolder(importPath string) string {
	folder, _, _ := strings.Cut(strings.TrimPrefix(importPath, modulePath+"/"), "/")
	return folder
}

func hasGoFiles(folder string) bool {
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	return err == nil && len(files) > 0
}

func countLines(t *testing.T, path string) int {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 1<<20)
	lines := 0
	for scanner.Scan() {
		lines++
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}
