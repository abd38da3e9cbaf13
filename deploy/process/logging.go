package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"gopkg.in/natefinch/lumberjack.v2"
)

// LogSettings say what is logged, how and where to.
type LogSettings struct {
	Level      string          `koanf:"level" help:"Least important entries to log: debug, info, warn or error. PUT /log/level on the admin address changes it while running."`
	Format     string          `koanf:"format" help:"console (for people) or json (one object a line)."`
	Output     []string        `koanf:"output" help:"Where to log: stderr, stdout, file or several of them."`
	TimeFormat string          `koanf:"time_format" help:"Layout of time stamps, as Go writes its reference time."`
	TimeZone   string          `koanf:"time_zone" help:"Time zone of time stamps: UTC, Local or a name such as Europe/Zurich."`
	File       LogFileSettings `koanf:"file"`
}

// LogFileSettings say how the log file is kept small.
type LogFileSettings struct {
	Path       string `koanf:"path" help:"The log file, for log.output file."`
	Link       string `koanf:"link" help:"Symbolic link to the log file, made at start; empty for none."`
	MaxSize    int64  `koanf:"max_size" help:"Begin a new file once the current one is this large; the old one is renamed with its time."`
	MaxAgeDays int    `koanf:"max_age_days" help:"Delete renamed files older than this many days; 0 keeps them."`
	MaxBackups int    `koanf:"max_backups" help:"Keep at most this many renamed files; 0 keeps all."`
	Compress   bool   `koanf:"compress" help:"Compress renamed files with gzip."`
}

func defaultLogSettings() LogSettings {
	return LogSettings{
		Level: "info", Format: "console", Output: []string{"stderr"}, TimeFormat: "2006-01-02T15:04:05.000Z07:00", TimeZone: "UTC",
		File: LogFileSettings{Path: "mpegate.log", MaxSize: 10 << 20, MaxAgeDays: 7, Compress: true},
	}
}

// Validate names each setting that cannot be used.
func (s *LogSettings) Validate() error {
	var faults []error
	fault := func(format string, arguments ...any) { faults = append(faults, fmt.Errorf(format, arguments...)) }
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, s.Level) {
		fault("log.level is %q: write debug, info, warn or error", s.Level)
	}
	if s.Format != "console" && s.Format != "json" {
		fault("log.format is %q: write console or json", s.Format)
	}
	if len(s.Output) == 0 {
		fault("log.output is empty: list stderr, stdout or file")
	}
	for _, output := range s.Output {
		if !slices.Contains([]string{"stderr", "stdout", "file"}, output) {
			fault("log.output holds %q: list stderr, stdout or file", output)
		}
	}
	if _, err := time.LoadLocation(s.TimeZone); err != nil {
		fault("log.time_zone is %q, which is not known here: write UTC, Local or a name such as Europe/Zurich", s.TimeZone)
	}
	if s.TimeFormat == "" || time.Unix(0, 0).Format(s.TimeFormat) == time.Unix(86399*366, 1).Format(s.TimeFormat) {
		fault("log.time_format is %q, in which every time looks alike: write a Go layout such as 2006-01-02T15:04:05Z07:00", s.TimeFormat)
	}
	if slices.Contains(s.Output, "file") {
		faults = append(faults, s.File.validate())
	}
	return errors.Join(faults...)
}

func (s *LogFileSettings) validate() error {
	var faults []error
	fault := func(format string, arguments ...any) { faults = append(faults, fmt.Errorf(format, arguments...)) }
	if s.Path == "" {
		fault("log.file.path is empty with log.output file: give the path of the log file")
	}
	if s.Link != "" && filepath.Clean(s.Link) == filepath.Clean(s.Path) {
		fault("log.file.link is %q, the same as log.file.path: give another name or leave it empty", s.Link)
	}
	if s.MaxSize < 1<<20 || s.MaxSize > 1<<40 {
		fault("log.file.max_size is %s: write a size of 1MiB or more, such as 10MiB", showSize(uint64(max(s.MaxSize, 0))))
	}
	if s.MaxAgeDays < 0 {
		fault("log.file.max_age_days is %d: write 0 or more days", s.MaxAgeDays)
	}
	if s.MaxBackups < 0 {
		fault("log.file.max_backups is %d: write 0 or more files", s.MaxBackups)
	}
	return errors.Join(faults...)
}

// Logger is a zap logger with the handle to change its level and the files to close at the end.
type Logger struct {
	*zap.Logger
	Level zap.AtomicLevel
	file  *lumberjack.Logger // nil without a log file
}

// NewLogger makes the logger of the settings. Secrets are taken out of every line.
func NewLogger(settings LogSettings, redactor *Redactor, stdout, stderr io.Writer) (*Logger, error) {
	level, err := zap.ParseAtomicLevel(settings.Level)
	if err != nil {
		return nil, fmt.Errorf("log.level: %w", err)
	}
	location, err := time.LoadLocation(settings.TimeZone)
	if err != nil {
		return nil, fmt.Errorf("log.time_zone: %w", err)
	}
	logger := &Logger{Level: level}
	var outputs []zapcore.WriteSyncer
	for _, output := range settings.Output {
		var target io.Writer
		switch output {
		case "stdout":
			target = stdout
		case "file":
			if logger.file, err = openLogFile(settings.File); err != nil {
				return nil, err
			}
			target = logger.file
		default:
			target = stderr
		}
		outputs = append(outputs, zapcore.AddSync(redactor.Writer(target)))
	}
	core := zapcore.NewCore(logEncoder(settings, location), zapcore.Lock(zapcore.NewMultiWriteSyncer(outputs...)), level)
	logger.Logger = zap.New(core)
	return logger, nil
}

func logEncoder(settings LogSettings, location *time.Location) zapcore.Encoder {
	config := zapcore.EncoderConfig{
		TimeKey: "ts", LevelKey: "level", NameKey: "part", MessageKey: "msg", StacktraceKey: "stack",
		EncodeLevel: zapcore.LowercaseLevelEncoder, EncodeDuration: zapcore.StringDurationEncoder,
		EncodeTime: func(moment time.Time, encoder zapcore.PrimitiveArrayEncoder) {
			encoder.AppendString(moment.In(location).Format(settings.TimeFormat))
		},
	}
	if settings.Format == "json" {
		return zapcore.NewJSONEncoder(config)
	}
	config.ConsoleSeparator = " "
	config.EncodeLevel = zapcore.CapitalLevelEncoder
	return zapcore.NewConsoleEncoder(config)
}

// openLogFile opens the file at once, so that a path that cannot be written is an error at start and not a silent loss.
func openLogFile(settings LogFileSettings) (*lumberjack.Logger, error) {
	file, err := os.OpenFile(settings.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log.file.path cannot be written: %w; give a path in a folder that this user may write", err)
	}
	file.Close()
	if err := linkTo(settings.Path, settings.Link); err != nil {
		return nil, err
	}
	const megabyte = 1 << 20
	return &lumberjack.Logger{
		Filename: settings.Path, MaxSize: int((settings.MaxSize + megabyte - 1) / megabyte),
		MaxAge: settings.MaxAgeDays, MaxBackups: settings.MaxBackups, Compress: settings.Compress,
	}, nil
}

// linkTo makes link a symbolic link to the log file; a file that is no link is never replaced.
func linkTo(path, link string) error {
	if link == "" {
		return nil
	}
	if info, err := os.Lstat(link); err == nil && info.Mode()&os.ModeSymlink == 0 {
		return fmt.Errorf("log.file.link %s exists and is no link: give another name or move it away", link)
	}
	target, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("log.file.link: %w", err)
	}
	os.Remove(link)
	if err := os.Symlink(target, link); err != nil {
		return fmt.Errorf("log.file.link cannot be made: %w; give another path or leave it empty", err)
	}
	return nil
}

// Close flushes the entries and closes the file.
func (l *Logger) Close() error {
	_ = l.Sync() // fails on terminals and pipes, which have nothing to flush
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// sharedWriter makes a writer safe for several users; lines stay whole when each is one Write.
type sharedWriter struct {
	mutex  sync.Mutex
	target io.Writer
}

func (w *sharedWriter) Write(data []byte) (int, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.target.Write(data)
}
