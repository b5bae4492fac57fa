package daemon

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

// Reference is the section of docs/configuration.md on this program: a table of all its flags.
func (p *Program) Reference() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n\n    %s %s [flags]\n\n| setting | value | default | |\n|---|---|---|---|\n", p.name, p.about, p.name, p.usage)
	p.Flags.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		standard := f.DefValue
		if i := strings.LastIndex(usage, " (default "); i >= 0 && strings.HasSuffix(usage, ")") {
			standard, usage = usage[i+len(" (default "):len(usage)-1], usage[:i]
		} else if standard != "" {
			standard = "`" + standard + "`"
		}
		if value == "" {
			value = "true or false"
		}
		cells := []string{"`" + f.Name + "`", value, standard, usage}
		for i, cell := range cells {
			cells[i] = strings.ReplaceAll(cell, "|", "\\|")
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	})
	return b.String()
}

// ErrOutdated: the page is not what the flags say.
var ErrOutdated = errors.New("it is not what the flags say: run make docs")

// CheckReference compares the program's section of the page with its flags, and puts it right if update is asked for.
func (p *Program) CheckReference(page string, update bool) error {
	content, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	first, last := fmt.Appendf(nil, "<!-- %s: begin -->\n", p.name), fmt.Appendf(nil, "<!-- %s: end -->\n", p.name)
	start, end := bytes.Index(content, first), bytes.Index(content, last)
	if start < 0 || end < start {
		return fmt.Errorf("%s has no section between %q and %q", page, first, last)
	}
	start += len(first)
	wanted := p.Reference()
	switch {
	case string(content[start:end]) == wanted:
		return nil
	case !update:
		return fmt.Errorf("section %s of %s: %w", p.name, page, ErrOutdated)
	}
	return os.WriteFile(page, []byte(string(content[:start])+wanted+string(content[end:])), 0o644) // #nosec G306 -- a page of docs in the source tree
}
