package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"lockstep/internal/nearest"
)

// maxSettings bounds a file of settings, in bytes.
const maxSettings = 1 << 20

// unsettable are flags that make sense on the command line only.
var unsettable = []string{"config", "version", "help"}

// readSettings sets the flags that the file at path names and the command line does not. The file has one setting a
// line, "name = value" or "name: value"; a value may be quoted; '#' begins a comment. All problems are returned at
// once, each with its line.
func readSettings(set *flag.FlagSet, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxSettings+1))
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if len(content) > maxSettings {
		return fmt.Errorf("config: %s has more than %d bytes", path, maxSettings)
	}
	given := make(map[string]bool)
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var problems []error
	lines := make(map[string]int) // where each name stood first
	number := 0
	for line := range strings.Lines(string(content)) {
		number++
		name, value, err := cutSetting(line)
		if name == "" && err == nil {
			continue
		}
		if err == nil {
			err = checkSetting(set, name, lines[name])
		}
		if err == nil {
			lines[name] = number
			if given[name] {
				continue
			}
			if err = set.Set(name, value); err != nil {
				err = fmt.Errorf("%s = %s: %w", name, value, err)
			}
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s:%d: %w", path, number, err))
		}
	}
	return errors.Join(problems...)
}

// cutSetting reads one line; name is empty if it says nothing.
func cutSetting(line string) (name, value string, err error) {
	line = strings.TrimSpace(strings.TrimPrefix(line, "\ufeff"))
	if line == "" || line[0] == '#' || line == "---" {
		return "", "", nil
	}
	end := strings.IndexAny(line, "=:")
	if end <= 0 {
		return "", "", fmt.Errorf("%q is no setting: write name = value", line)
	}
	name, value = strings.TrimSpace(line[:end]), strings.TrimSpace(line[end+1:])
	value, err = cutValue(value)
	return name, value, err
}

// cutValue takes off quotes and a comment behind.
func cutValue(text string) (string, error) {
	if text == "" || text[0] != '"' && text[0] != '\'' {
		if text != "" && text[0] == '#' {
			return "", nil
		}
		for i := 1; i < len(text); i++ {
			if text[i] == '#' && (text[i-1] == ' ' || text[i-1] == '\t') {
				return strings.TrimSpace(text[:i]), nil
			}
		}
		return text, nil
	}
	quote, value, rest := text[0], "", ""
	if quote == '"' {
		prefix, err := strconv.QuotedPrefix(text)
		if err != nil {
			return "", fmt.Errorf("%s has no end quote", text)
		}
		if value, err = strconv.Unquote(prefix); err != nil {
			return "", fmt.Errorf("%s: %w", prefix, err)
		}
		rest = text[len(prefix):]
	} else {
		end := strings.IndexByte(text[1:], '\'')
		if end < 0 {
			return "", fmt.Errorf("%s has no end quote", text)
		}
		value, rest = text[1:end+1], text[end+2:]
	}
	if rest = strings.TrimSpace(rest); rest != "" && rest[0] != '#' {
		return "", fmt.Errorf("%q stands behind the value", rest)
	}
	return value, nil
}

// checkSetting reports a name that cannot be set, or was set before in line first.
func checkSetting(set *flag.FlagSet, name string, first int) error {
	switch {
	case slices.Contains(unsettable, name):
		return fmt.Errorf("%q belongs on the command line", name)
	case first > 0:
		return fmt.Errorf("%q stands in line %d already", name, first)
	case set.Lookup(name) != nil:
		return nil
	}
	if near := nearestFlag(set, name); near != "" {
		return fmt.Errorf("there is no setting %q: is it %q?", name, near)
	}
	return fmt.Errorf("there is no setting %q: see --help", name)
}

// nearestFlag returns the flag whose name differs least from name; none if that would be a guess.
func nearestFlag(set *flag.FlagSet, name string) string {
	var names []string
	set.VisitAll(func(f *flag.Flag) {
		if !slices.Contains(unsettable, f.Name) {
			names = append(names, f.Name)
		}
	})
	return nearest.Name(strings.ReplaceAll(name, "_", "-"), names)
}
