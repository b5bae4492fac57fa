package score

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// Marks of the generated block.
const (
	blockBegin = "<!-- mutants: begin; written by make mutants -->"
	blockEnd   = "<!-- mutants: end -->"
)

// Table returns the findings as a table in Markdown, below the words that say where it comes from. What was tried by known seeds
// shows the figures of the last search.
func Table(findings []Finding, known Known, about string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n%s\n\n", blockBegin, about)
	b.WriteString("| mutant | rule | what happens in its place | simulator: schedules | seconds | faults | what fired | explorer: states | depth |\n")
	b.WriteString("|---|---|---|---:|---:|---:|---|---:|---:|\n")
	var escaped []string
	for i := range findings {
		f := findings[i]
		schedules, seconds, faults, states, depth := "-", "-", "-", "-", "-"
		if last := known[f.Row.Name()]; f.Recorded || f.Schedules == 0 {
			f.Schedules, f.Seconds = last.Schedules, last.Seconds
		}
		fired := strings.TrimSpace(f.Fired)
		switch {
		case f.Seed != 0:
			schedules, seconds = fmt.Sprint(f.Schedules), fmt.Sprintf("%.1f", f.Seconds)
			if f.Faults >= 0 {
				faults = fmt.Sprint(f.Faults)
			}
		case f.Schedules > 0:
			schedules, seconds = fmt.Sprintf("not in %d", f.Schedules), fmt.Sprintf("%.1f", f.Seconds)
		}
		if f.States > 0 {
			states = fmt.Sprint(f.States)
		}
		if f.Depth > 0 {
			depth = fmt.Sprint(f.Depth)
		}
		if fired == "" {
			fired, _, _ = strings.Cut(f.Fault, ":")
			fired = kindOf(fired)
		}
		if f.Seed == 0 && f.Row.Unmet != "" {
			escaped = append(escaped, fmt.Sprintf("- `%s`: %s.", f.Row.Name(), f.Row.Unmet))
		}
		if f.Row.Harmless != "" {
			fired = "nothing, and nothing may: " + f.Row.Harmless
			if f.States > 0 && f.Depth == 0 {
				depth = "none"
			}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s | %s | %s |\n", f.Row.Name(), f.Row.Rule, f.Row.Text, schedules, seconds, faults,
			fired, states, depth)
	}
	if len(escaped) > 0 {
		fmt.Fprintf(&b, "\nWhy the simulator did not meet these (the explorer did):\n\n%s\n", strings.Join(escaped, "\n"))
	}
	fmt.Fprintf(&b, "\n%s", blockEnd)
	return b.String()
}

// kindOf takes the particulars off what the explorer says.
func kindOf(fault string) string {
	for _, kind := range []string{"leads epoch", "takes"} {
		if _, rest, found := strings.Cut(fault, " "+kind); found {
			words := strings.Fields(rest)
			for i, word := range words {
				if strings.Trim(word, "0123456789,[]*") == "" {
					words[i] = "n"
				}
			}
			return "a replica " + kind + " " + strings.Join(words, " ")
		}
	}
	return fault
}

// Summary says in one line how many were found.
func Summary(findings []Finding) string {
	planted, found, harmless, simulated, explored := 0, 0, 0, 0, 0
	for i := range findings {
		f := &findings[i]
		if f.Row.Harmless != "" {
			harmless++
			continue
		}
		planted++
		if f.Found() {
			found++
		}
		if f.Seed != 0 {
			simulated++
		}
		if f.Depth > 0 {
			explored++
		}
	}
	return fmt.Sprintf("%d of %d planted errors found (%d by the simulator, %d by the explorer); %d more do no harm alone", found, planted,
		simulated, explored, harmless)
}

// Replace puts block into the file name in place of the block that is there.
func Replace(name, block string) error {
	page, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	before, rest, found := bytes.Cut(page, []byte(blockBegin))
	_, after, ended := bytes.Cut(rest, []byte(blockEnd))
	if !found || !ended {
		return fmt.Errorf("%s has no block between %q and %q", name, blockBegin, blockEnd)
	}
	return os.WriteFile(name, append(append(before, block...), after...), 0o644)
}
