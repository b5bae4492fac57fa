package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// screen is where a command shows things: results on out, remarks about what is going on on notes.
type screen struct {
	out, notes io.Writer
	format     string // table or json
	colours    bool
}

// prepare checks the format and finds out about colours.
func (s *screen) prepare() error {
	if s.format != "table" && s.format != "json" {
		return usage("output %q: use table or json", s.format)
	}
	file, isFile := s.out.(*os.File)
	s.colours = isFile && isTerminal(file) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return nil
}

func isTerminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// note shows a remark.
func (s *screen) note(line string) { fmt.Fprintln(s.notes, line) }

// show writes value as JSON, or lets table write it for people.
func (s *screen) show(value any, table func()) error {
	if s.format == "table" {
		table()
		return nil
	}
	encoder := json.NewEncoder(s.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// line writes value as one line of JSON, or text for people.
func (s *screen) line(value any, text string) {
	if s.format == "table" {
		fmt.Fprintln(s.out, text)
		return
	}
	encoder := json.NewEncoder(s.out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		s.note("write JSON: " + err.Error())
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
	case "ok", "master":
		return green
	case "degraded", "electing", "creating", "learner", "fenced", "none":
		return yellow
	case "unavailable", "down":
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
