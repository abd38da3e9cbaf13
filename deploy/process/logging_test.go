package process

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

func TestLogGoesToEveryOutput(t *testing.T) {
	folder := t.TempDir()
	settings := defaultLogSettings()
	settings.Format, settings.Output = "json", []string{"stdout", "stderr", "file"}
	settings.TimeZone, settings.TimeFormat = "Asia/Tokyo", time.RFC3339
	settings.File.Path, settings.File.Link = filepath.Join(folder, "mpegate.log"), filepath.Join(folder, "current.log")
	var stdout, stderr bytes.Buffer
	logger, err := NewLogger(settings, &Redactor{}, &stdout, &stderr)
	if err != nil {
		t.Fatal(err)
	}
	logger.Named("part").Info("hello", zap.Int("calls", 3))
	logger.Debug("not at this level")
	if err := logger.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(settings.File.Link)
	if err != nil {
		t.Fatal(err)
	}
	if stdout.String() != stderr.String() || stdout.String() != string(file) {
		t.Errorf("outputs differ:\n%s%s%s", &stdout, &stderr, file)
	}
	var entry map[string]any
	if err := json.Unmarshal(file, &entry); err != nil {
		t.Fatalf("%v in %s", err, file)
	}
	if entry["msg"] != "hello" || entry["level"] != "info" || entry["part"] != "part" || entry["calls"] != 3.0 || !strings.HasSuffix(entry["ts"].(string), "+09:00") {
		t.Errorf("entry is %v", entry)
	}
	info, err := os.Stat(settings.File.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the log file has mode %v, %v", info.Mode(), err)
	}
}

func TestLogFileIsRotated(t *testing.T) {
	folder := t.TempDir()
	settings := defaultLogSettings()
	settings.Output, settings.File = []string{"file"}, LogFileSettings{Path: filepath.Join(folder, "mpegate.log"), MaxSize: 1 << 20}
	logger, err := NewLogger(settings, &Redactor{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		logger.Info(strings.Repeat("x", 32<<10))
	}
	if err := logger.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(folder, "mpegate*.log"))
	if err != nil || len(files) != 2 {
		t.Errorf("files are %v, %v", files, err)
	}
}

func TestLogLevelChangesWhileRunning(t *testing.T) {
	var output bytes.Buffer
	logger, err := NewLogger(defaultLogSettings(), &Redactor{}, &output, &output)
	if err != nil {
		t.Fatal(err)
	}
	logger.Debug("before")
	logger.Level.SetLevel(zap.DebugLevel)
	logger.Debug("after")
	if text := output.String(); strings.Contains(text, "before") || !strings.Contains(text, "after") {
		t.Error(text)
	}
}

func TestLogFileFaultsNameTheSetting(t *testing.T) {
	folder := t.TempDir()
	plain := filepath.Join(folder, "plain")
	if err := os.WriteFile(plain, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, file := range map[string]LogFileSettings{
		"log.file.path cannot be written": {Path: filepath.Join(plain, "mpegate.log"), MaxSize: 1 << 20},
		"log.file.link " + plain:          {Path: filepath.Join(folder, "mpegate.log"), Link: plain, MaxSize: 1 << 20},
		"log.file.link cannot be made":    {Path: filepath.Join(folder, "mpegate.log"), Link: filepath.Join(folder, "none", "link"), MaxSize: 1 << 20},
	} {
		settings := defaultLogSettings()
		settings.Output, settings.File = []string{"file"}, file
		if _, err := NewLogger(settings, &Redactor{}, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if text, err := os.ReadFile(plain); err != nil || string(text) != "kept" {
		t.Errorf("a file that is no link was replaced: %q, %v", text, err)
	}
}
