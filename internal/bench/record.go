package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Markdown is the table of the report for a page. plots are links to pictures beside the page, by their titles.
func (r *Report) Markdown(plots []string) string {
	var b strings.Builder
	r.writeWhen(&b)
	fmt.Fprintf(&b, "Medians of %d rounds of %g s; in brackets the least and the greatest round.\n\n", r.Rounds, r.Seconds)
	b.WriteString("| row | what | figure | goal | | measured | again |\n|---|---|---|---|---|---|---|\n")
	for _, f := range r.Figures {
		shown, measured := f.Shown, f.Measured
		if f.Low != f.High {
			shown += fmt.Sprintf(" (%.2f to %.2f)", f.Low, f.High)
		}
		if f.Why != "" {
			measured = strings.TrimSpace(measured + " " + f.Why)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | `%s` |\n", f.Name, cellText(f.About), shown, f.Goal, f.Verdict, cellText(measured), f.Command)
	}
	b.WriteString("\nLatencies, CPU and memory behind them:\n\n")
	for _, f := range r.Figures {
		for _, note := range f.Notes {
			fmt.Fprintf(&b, "- %s: %s\n", f.Name, cellText(note))
		}
	}
	writeLinks(&b, plots)
	return b.String()
}

func writeLinks(b *strings.Builder, plots []string) {
	if len(plots) == 0 {
		return
	}
	b.WriteString("\nPlots:")
	for i, plot := range plots {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(b, " [%s](%s)", strings.TrimSuffix(filepath.Base(plot), ".svg"), plot)
	}
	b.WriteString(".\n")
}

// cellText makes text fit for a cell of a table.
func cellText(text string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(text)
}

// Record writes the table between the marks of the page for it, and the plots of the report into the directory beside the page
// that is named as the page is. name tells the marks of several tables apart.
func (r *Report) Record(page, name string) error {
	return r.record(page, name, func(plots []string) string { return r.Markdown(plots) })
}

// RecordCells is Record for a comparison.
func (r *Report) RecordCells(page, name string, cells []Cell) error {
	return r.record(page, name, func(plots []string) string { return r.markdownCells(cells, plots) })
}

func (r *Report) record(page, name string, text func(plots []string) string) error {
	dir := strings.TrimSuffix(page, filepath.Ext(page))
	files, links := make(map[string][]byte), []string{}
	charts := r.Charts()
	for _, chart := range sortedKeys(charts) {
		files[chart+".svg"] = charts[chart].SVG()
		links = append(links, filepath.Base(dir)+"/"+chart+".svg")
	}
	if err := replaceBetween(page, name, text(links)); err != nil {
		return err
	}
	if len(files) == 0 {
		return nil
	}
	return writeFiles(dir, files)
}

func (r *Report) markdownCells(cells []Cell, plots []string) string {
	var b strings.Builder
	r.writeWhen(&b)
	fmt.Fprintf(&b, "Medians of %d rounds of %g s; the ratio is that of rates, to the first system under the same load.\n\n", r.Rounds, r.Seconds)
	b.WriteString("| load | system | clients at | ops/s | ratio | p50 us | p99 us | p99.9 us | max us | CPU us/op | MiB | failed |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range cells {
		fmt.Fprintf(&b, "| %s | %s | %s | %.0f | %.2f | %.0f | %.0f | %.0f | %.0f | %.2f | %.0f | %d |\n", c.Load, c.System, c.Place, c.Rate, c.Ratio,
			c.Latency.P50, c.Latency.P99, c.Latency.P999, c.Latency.Max, c.CPU, c.Memory/(1<<20), c.Failed)
	}
	writeLinks(&b, plots)
	return b.String()
}

// writeWhen says when, of what, and on what the report was measured.
func (r *Report) writeWhen(b *strings.Builder) {
	fmt.Fprintf(b, "Measured %s, revision `%s`, on %s. Load average of the machine (1, 5, 15 minutes): %s. ", r.Begun.Format("2006-01-02 15:04 MST"), r.Revision, r.Machine, r.Load)
	if r.Redis != "" {
		fmt.Fprintf(b, "%s. ", r.Redis)
	}
}

// replaceBetween puts text between <!-- NAME:begin --> and <!-- NAME:end --> of a file.
func replaceBetween(path, name, text string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	first, last := []byte("<!-- "+name+":begin -->\n"), []byte("<!-- "+name+":end -->")
	before, rest, found := bytes.Cut(content, first)
	_, after, closed := bytes.Cut(rest, last)
	if !found || !closed {
		return fmt.Errorf("record: %s has no lines %q and %q", path, bytes.TrimSpace(first), last)
	}
	whole := slices.Concat(before, first, []byte("\n"+text+"\n"), last, after)
	if err := os.WriteFile(path, whole, 0o644); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}

// Baseline is what rows came to before.
type Baseline struct {
	Revision string             `json:"revision"`
	Machine  string             `json:"machine"`
	Load     string             `json:"load_average"`
	Values   map[string]float64 `json:"values"`
}

// Move is a row beside its baseline.
type Move struct {
	Name   string  `json:"name"`
	Before float64 `json:"before"`
	Now    float64 `json:"now"`
	Change float64 `json:"change"` // per cent of before
	Word   string  `json:"word"`   // "better", "worse", "as before", "new", "not measured"
}

// noise is the share by which a ratio on a shared machine moves for no reason.
const noise = 0.2

// LoadBaseline reads a baseline. There need not be one: then everything is new.
func LoadBaseline(path string) (Baseline, error) {
	var b Baseline
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &b)
	}
	if err != nil {
		return b, fmt.Errorf("baseline %s: %w", path, err)
	}
	return b, nil
}

// Baseline is what later runs of the same rows are compared with.
func (r *Report) Baseline() Baseline {
	b := Baseline{Revision: r.Revision, Machine: r.Machine, Load: r.Load, Values: make(map[string]float64)}
	for _, f := range r.Figures {
		if f.Verdict != NotMeasured {
			b.Values[f.Name] = math.Round(f.Value*1000) / 1000
		}
	}
	return b
}

// Write writes the baseline to a file.
func (b Baseline) Write(path string) error {
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the baseline: %w", err)
	}
	return writeFiles(filepath.Dir(path), map[string][]byte{filepath.Base(path): append(text, '\n')})
}

// Compare says what moved: by more than a fifth, and out of what the rounds themselves spread over.
func (r *Report) Compare(b Baseline, rows []Row) []Move {
	atLeast := make(map[string]bool)
	for _, row := range rows {
		atLeast[row.Name] = row.Goal.AtLeast
	}
	moves := []Move{}
	for _, f := range r.Figures {
		before, known := b.Values[f.Name]
		m := Move{Name: f.Name, Before: before, Now: f.Value, Change: 100 * by(f.Value-before, before)}
		spread := f.Low != f.High && f.Low <= before && before <= f.High
		switch {
		case f.Verdict == NotMeasured:
			m.Word, m.Change = NotMeasured, 0
		case !known:
			m.Word = "new"
		case math.Abs(m.Change) <= 100*noise || spread:
			m.Word = "as before"
		case f.Value > before == atLeast[f.Name]:
			m.Word = "better"
		default:
			m.Word = "worse"
		}
		moves = append(moves, m)
	}
	return moves
}
