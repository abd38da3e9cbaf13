package envoy

import (
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestLogWriter(t *testing.T) {
	core, lines := observer.New(zap.DebugLevel)
	w := newLogWriter(zap.New(core))
	for _, piece := range []string{
		"info main starting\nwarn", "ing config odd\n", "\n", "critical main it's over\n",
		"terminate called without a format\n", "error upstream " + strings.Repeat("x", 2*maxLogLine), "y\n",
		"debug http 'snet-payment-channel-signature-bin', 'c2lnbmF0dXJl' 'snet-payment-channel-id', '7'\n", "error last without an end",
	} {
		if n, err := w.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	w.flush()
	want := []struct {
		level           zapcore.Level
		component, text string
	}{
		{zap.InfoLevel, "main", "starting"},
		{zap.WarnLevel, "config", "odd"},
		{zap.ErrorLevel, "main", "it's over"},
		{zap.WarnLevel, "", "terminate called without a format"},
		{zap.ErrorLevel, "upstream", strings.Repeat("x", maxLogLine-len("error upstream "))},
		{zap.DebugLevel, "http", "'snet-payment-channel-signature-bin', '...' 'snet-payment-channel-id', '7'"},
		{zap.ErrorLevel, "last", "without an end"},
	}
	got := lines.All()
	if len(got) != len(want) {
		t.Fatalf("%d lines: %v", len(got), got)
	}
	for i, line := range want {
		if got[i].Level != line.level || got[i].Message != line.text || got[i].ContextMap()["component"] != line.component {
			t.Errorf("line %d: %v", i, got[i])
		}
	}
	if words := w.lastWords(); !strings.HasPrefix(words, "it's over; xxx") || !strings.HasSuffix(words, "; without an end") {
		t.Errorf("last words: %.50q", words)
	}
}

// FuzzRedaction: no value after a -bin name survives, in the form of Envoy's debug log.
func FuzzRedaction(f *testing.F) {
	f.Add("name", "c2lnbmF0dXJl")
	f.Fuzz(func(t *testing.T, name, value string) {
		if len(value) < 12 || strings.Trim(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=,") != "" ||
			strings.HasPrefix(value, "value") || strings.Contains(name, value) {
			t.Skip()
		}
		core, lines := observer.New(zap.DebugLevel)
		w := newLogWriter(zap.New(core))
		_, _ = w.Write([]byte("debug http \\'" + strings.ReplaceAll(name, "\n", "") + "-bin\\', \\'" + value + "\\'\n"))
		for _, line := range lines.All() {
			if strings.Contains(line.Message, value) {
				t.Fatalf("%q is in %q", value, line.Message)
			}
		}
	})
}
