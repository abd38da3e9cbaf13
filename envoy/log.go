package envoy

import (
	"bytes"
	"regexp"
	"strings"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logFormat makes Envoy write one line an event: level, component, text.
const logFormat = "%l %n %v"

// maxLogLine bounds what is kept of one line.
const maxLogLine = 8 << 10

// logWriter turns what Envoy writes into log entries.
type logWriter struct {
	logger *zap.Logger

	mutex sync.Mutex
	part  []byte   // of a line
	last  []string // the latest errors
}

// maxLastWords is how many errors are kept to explain an end.
const maxLastWords = 3

func newLogWriter(logger *zap.Logger) *logWriter { return &logWriter{logger: logger} }

func (w *logWriter) Write(data []byte) (int, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	written := len(data)
	for {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			w.keep(data)
			return written, nil
		}
		w.keep(data[:end])
		w.line()
		data = data[end+1:]
	}
}

// flush ends the last line.
func (w *logWriter) flush() {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.line()
}

// lastWords are the latest errors that Envoy wrote.
func (w *logWriter) lastWords() string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return strings.Join(w.last, "; ")
}

func (w *logWriter) keep(data []byte) {
	room := maxLogLine - len(w.part)
	w.part = append(w.part, data[:min(room, len(data))]...)
}

// spendable finds the values of headers with binary values, in each of the forms in which Envoy's debug and
// trace logs print them: 'name', 'value' and key=name value=value and key: "name"\n value: "value", escaped.
var spendable = regexp.MustCompile(`(?i)(-bin(?:\\n|value|[^A-Za-z0-9+/])+)[A-Za-z0-9+/=,]+`)

func (w *logWriter) line() {
	text := strings.TrimSpace(string(w.part))
	w.part = w.part[:0]
	if text == "" {
		return
	}
	// At debug level Envoy prints whole requests.
	text = spendable.ReplaceAllString(text, "${1}...")
	level, component := zapcore.WarnLevel, ""
	if word, rest, found := strings.Cut(text, " "); found {
		if known, ok := zapLevels[word]; ok {
			level = known
			component, text, _ = strings.Cut(rest, " ")
		}
	}
	if level >= zapcore.ErrorLevel {
		w.last = append(w.last, text)
		w.last = w.last[max(0, len(w.last)-maxLastWords):]
	}
	if entry := w.logger.Check(level, text); entry != nil {
		entry.Write(zap.String("component", component))
	}
}

var zapLevels = map[string]zapcore.Level{
	"trace": zapcore.DebugLevel, "debug": zapcore.DebugLevel, "info": zapcore.InfoLevel,
	"warning": zapcore.WarnLevel, "error": zapcore.ErrorLevel, "critical": zapcore.ErrorLevel,
}
