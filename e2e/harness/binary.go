package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var build struct {
	once   sync.Once
	folder string
	path   string
	err    error
}

// Binary builds the mpegate binary once a test run and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func buildBinary() (string, error) {
	build.once.Do(func() {
		if build.folder, build.err = os.MkdirTemp("", "mpegate-e2e-"); build.err != nil {
			return
		}
		build.path = filepath.Join(build.folder, "mpegate")
		command := exec.Command("go", "build", "-o", build.path, "github.com/mpegate/mpegate/deploy/cmd/mpegate")
		if output, err := command.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("building mpegate: %w\n%s", err, output)
		}
	})
	return build.path, build.err
}

// Main runs a package's tests and removes what Binary made. Call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if build.folder != "" {
		_ = os.RemoveAll(build.folder)
	}
	os.Exit(code)
}
