package e2e_test

import (
	"bytes"
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/mpegate/mpegate/e2e/harness"
)

// TestDemo runs the README's first command.
func TestDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var output bytes.Buffer
	command := exec.CommandContext(ctx, harness.Binary(t), "demo")
	command.Dir = t.TempDir()
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		t.Fatalf("demo: %v\n%s", err, &output)
	}
	if !bytes.Contains(output.Bytes(), []byte("Every step held")) {
		t.Errorf("the demo ended without its last line:\n%s", &output)
	}
}
