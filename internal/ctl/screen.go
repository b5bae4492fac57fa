package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

// screen is where a command shows things: results on out, remarks about what is going on on notes.
type screen struct {
	out, notes io.Writer
	format     string // one of formats
	colours    bool
	compact    bool // JSON on one line, YAML as documents: one result follows another
	contexts   contextFlags
	patience   time.Duration // of the whole command, 0: no bound
	release    func()        // of the context with that bound
}

// formats are the forms of output: table and wide for people (wide leaves nothing out), json and yaml for programs, with the
// same names.
var formats = []string{"table", "wide", "json", "yaml"}

// prepare checks what holds for all commands, before one runs.
func (s *screen) prepare(command *cobra.Command) error {
	if !slices.Contains(formats, s.format) {
		return usage("output %q%s: use table, wide, json or yaml", s.format, didYouMean(s.format, formats))
	}
	if s.patience < 0 {
		return usage("--timeout %v is negative: use 0 for no bound", s.patience)
	}
	if s.patience > 0 {
		ctx, cancel := context.WithTimeout(command.Context(), s.patience)
		command.SetContext(ctx)
		s.release = cancel
	}
	file, isFile := s.out.(*os.File)
	s.colours = s.human() && isFile && isTerminal(file) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return s.contexts.fill(command)
}

// human reports whether the output is for people.
func (s *screen) human() bool { return s.format == "table" || s.format == "wide" }

// wide reports whether nothing shall be left out.
func (s *screen) wide() bool { return s.format == "wide" }

func isTerminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// note shows a remark.
func (s *screen) note(line string) { fmt.Fprintln(s.notes, line) }

// show writes value for programs, or lets table write it for people.
func (s *screen) show(value any, table func()) error {
	if s.human() {
		table()
		return nil
	}
	return s.encode(value, s.compact)
}

// line writes one of several values for programs (JSON on one line), or text for people.
func (s *screen) line(value any, text string) {
	if s.human() {
		fmt.Fprintln(s.out, text)
		return
	}
	if err := s.encode(value, true); err != nil {
		s.note(err.Error())
	}
}

// encode writes value as JSON or YAML. Both have the same names in the same order: YAML is made of the JSON.
func (s *screen) encode(value any, one bool) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if !one {
		encoder.SetIndent("", "  ")
	}
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	if s.format == "yaml" {
		return s.encodeYAML(text.Bytes(), one)
	}
	_, err := s.out.Write(text.Bytes())
	return err
}

func (s *screen) encodeYAML(text []byte, one bool) error {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil { // JSON is YAML in another style
		return fmt.Errorf("write YAML: %w", err)
	}
	plain(&document)
	if one {
		s.printf("---\n")
	}
	encoder := yaml.NewEncoder(s.out)
	encoder.SetIndent(2)
	return errors.Join(encoder.Encode(&document), encoder.Close())
}

// plain takes the style of JSON away: quotes come back where a string needs them.
func plain(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, child := range n.Content {
		plain(child)
	}
}

func (s *screen) printf(format string, args ...any) { fmt.Fprintf(s.out, format, args...) }

// Colours of the terminal.
const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (s *screen) paint(colour, text string) string {
	if !s.colours || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// stateColour tells a good word from a bad one.
func stateColour(state string) string {
	switch state {
	case "ok", "master", "reached":
		return green
	case "degraded", "electing", "creating", "learner", "fenced", "none", "not measured":
		return yellow
	case "unavailable", "down", "missed":
		return red
	}
	return ""
}

// table writes rows in columns; the first row is the heading. Numbers stand to the right.
func (s *screen) table(rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for number, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			blanks := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			shown := cell
			if number == 0 {
				shown = s.paint(bold, cell)
			} else if colour := stateColour(cell); colour != "" {
				shown = s.paint(colour, cell)
			}
			if isNumber(rows, i) {
				line.WriteString(blanks + shown)
			} else {
				line.WriteString(shown + blanks)
			}
			line.WriteString("  ")
		}
		s.printf("%s\n", strings.TrimRight(line.String(), " "))
	}
}

// isNumber reports whether every cell of the column below the heading is a number or empty.
func isNumber(rows [][]string, column int) bool {
	digits := false
	for _, row := range rows[1:] {
		for _, c := range row[column] {
			if (c < '0' || c > '9') && c != '.' && c != '-' {
				return false
			}
			digits = true
		}
	}
	return digits
}
