package e2e_test

import (
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/mpegate/mpegate/e2e/harness"
)

var update = flag.Bool("update", false, "write the settings table of the README again")

// TestReadmeListsTheSettings compares the README's table with what the binary says.
func TestReadmeListsTheSettings(t *testing.T) {
	const path, begin, end = "../README.md", "-update -->\n", "<!-- end of settings -->"
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	table, err := exec.Command(harness.Binary(t), "config", "reference", "--markdown").Output()
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(content), begin)
	written, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatal("the README has no marks around its settings table")
	}
	if written == string(table) {
		return
	}
	if !*update {
		t.Fatal("the README's settings are not those of the binary; write them again with: go test ./e2e -run TestReadme -update")
	}
	if err := os.WriteFile(path, []byte(before+begin+string(table)+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
