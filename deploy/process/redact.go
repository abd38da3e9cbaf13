package process

import (
	"errors"
	"io"
	"net/url"
	"reflect"
	"regexp"
	"sort"
	"strings"
)

// Redactor takes secrets out of text: the values of secret settings wherever they stand, and credentials in URLs.
type Redactor struct {
	replacer *strings.Replacer // nil when no secret is set
}

const redacted = "(redacted)"

// shortestSecret keeps words of everyday text from being taken for a secret, shortestKey those in the path of a URL.
const (
	shortestSecret = 6
	shortestKey    = 16
)

// urlCredentials are what stands between :// and @, for URLs that no setting gave.
var urlCredentials = regexp.MustCompile(`(://)[^/\s@"'?#]+@`)

// NewRedactor knows the secrets of the settings, in plain and as JSON, URL and quoted text write them.
func NewRedactor(settings *Settings) *Redactor {
	needles := map[string]string{}
	value := reflect.ValueOf(settings).Elem()
	for i := range knownSettings {
		setting := &knownSettings[i]
		if !setting.Secret || setting.secretFile != "" || setting.valueType.Kind() != reflect.String {
			continue
		}
		for part, shown := range secretParts(value.FieldByIndex(setting.index).String()) {
			needles[url.QueryEscape(part)] = shown
			needles[url.PathEscape(part)] = shown
			needles[strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(part)] = shown
			needles[part] = shown
		}
	}
	if len(needles) == 0 {
		return &Redactor{}
	}
	list := make([]string, 0, len(needles))
	for needle := range needles {
		list = append(list, needle)
	}
	// The longest first, so that no part of a secret stays beside a replaced shorter one.
	sort.Slice(list, func(i, j int) bool { return len(list[i]) > len(list[j]) })
	pairs := make([]string, 0, 2*len(list))
	for _, needle := range list {
		pairs = append(pairs, needle, needles[needle])
	}
	return &Redactor{replacer: strings.NewReplacer(pairs...)}
}

// secretParts gives what of a secret value must not be shown, and what stands in its place. Of a URL that is all but
// scheme and host, so that an error still says which node it is about.
func secretParts(value string) map[string]string {
	parts := map[string]string{}
	keep := func(part, shown string, shortest int) {
		if len(part) >= shortest {
			parts[part] = shown
		}
	}
	parsed, err := url.Parse(value)
	if err != nil || parsed.Host == "" {
		keep(value, redacted, shortestSecret)
		return parts
	}
	if parsed.User != nil {
		password, _ := parsed.User.Password()
		keep(parsed.User.Username(), redacted, shortestKey)
		keep(password, redacted, shortestSecret)
		keep(parsed.User.String()+"@"+parsed.Host, redacted+"@"+parsed.Host, 1)
	}
	path := strings.Trim(parsed.EscapedPath(), "/")
	if path != "" {
		keep(parsed.Host+"/"+path, parsed.Host+"/"+redacted, 1)
	}
	for segment := range strings.SplitSeq(path, "/") {
		keep(segment, redacted, shortestKey)
	}
	keep(parsed.RawQuery, redacted, shortestSecret)
	for _, values := range parsed.Query() {
		for _, text := range values {
			keep(text, redacted, shortestKey)
		}
	}
	keep(parsed.Fragment, redacted, shortestSecret)
	return parts
}

// Text gives the text without secrets.
func (r *Redactor) Text(text string) string {
	if r.replacer != nil {
		text = r.replacer.Replace(text)
	}
	if strings.Contains(text, "://") {
		text = urlCredentials.ReplaceAllString(text, "${1}"+redacted+"@")
	}
	return text
}

// Error gives the error with a text without secrets; errors.Is and errors.As see through it.
func (r *Redactor) Error(err error) error {
	if err == nil || r.Text(err.Error()) == err.Error() {
		return err
	}
	if parts := flatten(err); len(parts) > 1 {
		for i := range parts {
			parts[i] = r.Error(parts[i])
		}
		return errors.Join(parts...)
	}
	return &redactedError{text: r.Text(err.Error()), err: err}
}

type redactedError struct {
	text string
	err  error
}

func (e *redactedError) Error() string { return e.text }
func (e *redactedError) Unwrap() error { return e.err }

// Writer gives a writer that takes secrets out of each Write. A caller writes whole lines, as loggers do.
func (r *Redactor) Writer(target io.Writer) io.Writer { return &redactingWriter{r, target} }

type redactingWriter struct {
	redactor *Redactor
	target   io.Writer
}

func (w *redactingWriter) Write(data []byte) (int, error) {
	if _, err := io.WriteString(w.target, w.redactor.Text(string(data))); err != nil {
		return 0, err
	}
	return len(data), nil
}
