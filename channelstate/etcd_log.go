package channelstate

import (
	"fmt"
	"runtime"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// serverFault is what made the embedded etcd stop. etcd ends the process when
// the disk fails it; we end its goroutine instead: then writes and reads fail,
// calls are refused with a sentence, and readiness says why.
type serverFault struct {
	raised chan struct{}
	once   sync.Once
	reason error
}

func newServerFault() *serverFault { return &serverFault{raised: make(chan struct{})} }

// OnWrite is called by zap after it has written a fatal entry or a panic.
func (f *serverFault) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	f.once.Do(func() {
		encoded := zapcore.NewMapObjectEncoder()
		for _, field := range fields {
			field.AddTo(encoded)
		}
		f.reason = fmt.Errorf("etcd: %s", entry.Message)
		if cause, ok := encoded.Fields["error"]; ok {
			f.reason = fmt.Errorf("etcd: %s: %v", entry.Message, cause)
		}
		close(f.raised)
	})
	runtime.Goexit()
}

func (f *serverFault) err() error {
	select {
	case <-f.raised:
		return f.reason
	default:
		return nil
	}
}

// etcdLogger gives etcd a quiet voice in our log: while it starts, errors
// only (its warnings then are about how it is embedded); later warnings too;
// all it says when our own log is at debug.
func etcdLogger(logger *zap.Logger, fault *serverFault) (etcd *zap.Logger, started func()) {
	level := zap.NewAtomicLevelAt(zap.ErrorLevel)
	after := zap.WarnLevel
	if logger.Core().Enabled(zap.DebugLevel) {
		level.SetLevel(zap.InfoLevel)
		after = zap.InfoLevel
	}
	options := []zap.Option{zap.WithFatalHook(fault), zap.WithPanicHook(fault), zap.WithCaller(false), zap.AddStacktrace(zap.FatalLevel + 1)}
	quiet := zap.WrapCore(func(core zapcore.Core) zapcore.Core { return levelCore{core, level} })
	return logger.Named("etcd").WithOptions(append(options, quiet)...), func() { level.SetLevel(after) }
}

// levelCore lets through what both the core and the level enable.
type levelCore struct {
	zapcore.Core
	level zap.AtomicLevel
}

func (c levelCore) Enabled(level zapcore.Level) bool {
	return c.level.Enabled(level) && c.Core.Enabled(level)
}

func (c levelCore) With(fields []zapcore.Field) zapcore.Core {
	return levelCore{c.Core.With(fields), c.level}
}

func (c levelCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.level.Enabled(entry.Level) {
		return checked
	}
	return c.Core.Check(entry, checked)
}
