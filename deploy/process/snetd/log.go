package snetd

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// fileTimes are the parts of a file name pattern that stand for the time of the start, with a separator before.
var fileTimes = regexp.MustCompile(`[._-]?%[YmdHMS]`)

func (c *conversion) log() {
	level, comment := c.text("log.level", "info"), ""
	switch level {
	case "debug", "info", "warn", "error":
	case "warning":
		level = "warn"
	default:
		level, comment = "error", fmt.Sprintf("log.level was %q", level)
	}
	c.set("log.level", level, comment)
	if c.text("log.formatter.type", "text") == "json" {
		c.set("log.format", "json")
	} else {
		c.set("log.format", "console")
	}
	c.set("log.time_format", c.text("log.formatter.timestamp_format", "2006-01-02T15:04:05.999Z07:00"))
	c.set("log.time_zone", c.text("log.timezone", "UTC"))
	var outputs []string
	for _, output := range c.list("log.output.type") {
		if slices.Contains([]string{"file", "stdout", "stderr"}, output) && !slices.Contains(outputs, output) {
			outputs = append(outputs, output)
		}
	}
	if len(outputs) == 0 {
		outputs = []string{"file", "stdout"}
	}
	c.set("log.output", outputs)
	c.logFile(slices.Contains(outputs, "file"))
	for _, hook := range c.list("log.hooks") {
		c.explain("log."+strings.ToLower(hook), laterHooks+notCopied)
	}
}

func (c *conversion) logFile(used bool) {
	pattern, link := c.text("log.output.file_pattern", ""), c.text("log.output.current_link", "")
	size := c.text("log.output.max_size_in_mb", "10")
	age := c.text("log.output.max_age_in_days", "7")
	count := c.text("log.output.rotation_count", "0")
	if !used {
		return
	}
	path, comment := logPath(pattern)
	c.set("log.file.path", path, comment)
	if link != "" && filepath.Clean(link) != filepath.Clean(path) {
		c.set("log.file.link", link)
	}
	c.set("log.file.max_size", number(size, 10)+"MiB")
	c.setNumber("log.file.max_age_days", age, 7)
	c.setNumber("log.file.max_backups", count, 0)
}

// logPath gives the file name without the time of the start. The peer's default name is not taken over, because its
// current_link of that name leads to the old daemon's file.
func logPath(pattern string) (path, comment string) {
	if pattern == "" {
		return "./mpegate.log", ""
	}
	path = fileTimes.ReplaceAllString(pattern, "")
	if base := filepath.Base(path); base == "" || strings.HasPrefix(base, ".") {
		path = filepath.Join(filepath.Dir(pattern), "mpegate.log")
	}
	if path != pattern {
		comment = "the old daemon put the time of its start into the name; files are renamed with the time when they are full here"
	}
	return path, comment
}

func number(text string, otherwise int) string {
	if value, err := strconv.Atoi(text); err == nil && value >= 0 {
		return strconv.Itoa(value)
	}
	return strconv.Itoa(otherwise)
}

func (c *conversion) setNumber(key, text string, otherwise int) {
	value, _ := strconv.Atoi(number(text, otherwise)) // number gives digits only
	c.set(key, value)
}
