package bench

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files of this package anew")

// exampleReport has everything that files show: two systems, rounds, an open loop, several numbers of connections, slices in
// which nothing happened, errors, and rows of every verdict.
func exampleReport() *Report {
	r := &Report{
		Begun: time.Date(2026, 11, 21, 13, 4, 5, 0, time.UTC), Revision: "0.1.0 abc", Machine: "2 cores", Load: "1 2 3 before, 3 2 1 after", Redis: "Redis server v=7",
		Rounds: 2, Seconds: 2, Took: 12.5,
		Figures: []Figure{
			newFigure(Row{Name: "set", About: "a | b", Goal: Goal{Bound: 3, AtLeast: true}}, Outcome{Value: 3.5, Low: 3, High: 4, Measured: "7/s by 2/s", Notes: []string{"p50 < 3"}}, nil),
			newFigure(Row{Name: "pause", About: "pause", Goal: Goal{Bound: 50, Unit: "ms"}}, Outcome{Value: 80, Errors: 2}, nil),
			newFigure(Row{Name: "other", About: "other", Goal: Goal{Bound: 1}}, Outcome{}, errors.New("no \"redis\",\nat all")),
		},
	}
	for round := range 2 {
		for i, system := range []string{LockstepAlways, RedisAlways} {
			s := Sample{Row: "set", System: system, Place: "master", Round: round, CPU: 12.5, Memory: 1 << 20, Written: 100, Kinds: map[string]float64{"kvnode": 7}}
			s.Result = &Result{
				Load: loadOf("set", 50, 16), Begun: r.Begun, Seconds: 2.9, Operations: 3000, Rate: 1000, Errors: map[string]uint64{"READONLY": 2},
				Latency: Latency{Mean: 110, P50: 100, P90: 200, P99: 900, P999: 950, Max: 1000}, Empty: 1, Late: 5, OwnCPU: 0.7,
				Slices: []Slice{{At: 0, Operations: uint64(1000 + 500*i + 100*round), P50: 100, P99: 900, Max: 1000}, {At: 1}, {At: 2, Operations: 900, Failed: 2, P50: 120, P99: 20_000, Max: 30_000}},
			}
			r.Samples = append(r.Samples, s)
			for _, connections := range []int{1, 100} {
				other := s
				result := *s.Result
				result.Load.Connections = connections
				result.Rate *= float64(connections) / 10
				result.Slices = nil
				other.Row, other.Result = "curve", &result
				r.Samples = append(r.Samples, other)
			}
		}
	}
	return r
}

// What could go wrong: a change of the program changes what others read out of its files. Look at the pictures when they change.
func TestFilesOfAReport(t *testing.T) {
	dir := t.TempDir()
	r := exampleReport()
	plots, err := r.Write(dir)
	if err != nil || strings.Join(plots, " ") != "curve.svg set.svg" {
		t.Fatal(plots, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "page.md"), []byte(r.Markdown([]string{"performance/set.svg"})), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"report.json", "figures.csv", "samples.csv", "timeline.csv", "curve.svg", "set.svg", "page.md"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", "report", name)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from %s: if that is meant, run with -update and look at it\n%s", name, golden, got)
		}
		checkForm(t, name, got)
	}
}

// checkForm checks that a file is what its name says, and tables have as many cells in each line.
func checkForm(t *testing.T, name string, content []byte) {
	t.Helper()
	switch filepath.Ext(name) {
	case ".csv":
		if _, err := csv.NewReader(bytes.NewReader(content)).ReadAll(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	case ".json":
		var back Report
		if err := json.Unmarshal(content, &back); err != nil || len(back.Figures) != 3 || len(back.Samples) != 12 || back.Samples[0].Latency.P50 != 100 {
			t.Errorf("%s: %v", name, err)
		}
	case ".svg":
		for decoder := xml.NewDecoder(bytes.NewReader(content)); ; {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if bytes.Contains(content, []byte("NaN")) || bytes.Contains(content, []byte("Inf")) {
			t.Errorf("%s has places that there are not", name)
		}
	}
}

// Charts of nothing, of one point and of zeros must not divide by nothing.
func TestChartsOfLittle(t *testing.T) {
	for _, points := range [][]Point{nil, {{1, 0}}, {{0, 0}, {0, 0}}, {{5, 7}}, {{1, 1e-3}, {1e6, 1e9}}} {
		for _, log := range []bool{false, true} {
			chart := Chart{Title: "a < b & c", XLog: log, Panels: []Panel{{Title: "p", Log: log, Lines: []Line{{Name: "l", Points: points}}}, {}}}
			checkForm(t, "x.svg", chart.SVG())
		}
	}
}

func TestRecordPutsTheTableBetweenItsMarks(t *testing.T) {
	page := filepath.Join(t.TempDir(), "performance.md")
	write := func(text string) {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := exampleReport()
	write("# Page\n")
	if err := r.Record(page, "figures"); err == nil || !strings.Contains(err.Error(), "figures:begin") {
		t.Errorf("a page without marks: %v", err)
	}
	write("# Page\n<!-- figures:begin -->\nold\n<!-- figures:end -->\nbehind\n<!-- compare:begin -->\n<!-- compare:end -->\n")
	cells := []Cell{cellOf(r.Samples[:1])}
	cells[0].Load = r.Samples[0].Load
	for range 2 { // twice is as once
		if err := errors.Join(r.Record(page, "figures"), r.RecordCells(page, "compare", cells)); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(page)
	text := string(content)
	if err != nil || strings.Contains(text, "old") || !strings.HasPrefix(text, "# Page\n<!-- figures:begin -->") || strings.Count(text, "| set |") != 1 ||
		!strings.Contains(text, "<!-- figures:end -->\nbehind\n<!-- compare:begin -->") || strings.Count(text, "| SET, 64 bytes") != 1 {
		t.Errorf("%v\n%s", err, text)
	}
	for line := range strings.Lines(text) {
		if cells := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|"); strings.HasPrefix(line, "| set") && cells != 8 {
			t.Errorf("%d bars in %s", cells, line)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(page), "performance", "set.svg")); err != nil {
		t.Error(err)
	}
}

// What could go wrong: what became worse is called better, or noise is called news.
func TestWhatMovedAgainstABaseline(t *testing.T) {
	least, most := Goal{Bound: 1, AtLeast: true}, Goal{Bound: 1}
	rows := []Row{{Name: "up", Goal: least}, {Name: "down", Goal: least}, {Name: "slow", Goal: most}, {Name: "quick", Goal: most},
		{Name: "same", Goal: most}, {Name: "spread", Goal: most}, {Name: "new", Goal: most}, {Name: "gone", Goal: most}}
	values := map[string]Outcome{"up": {Value: 2}, "down": {Value: 0.5}, "slow": {Value: 2}, "quick": {Value: 0.5}, "same": {Value: 1.1}, "spread": {Value: 2, Low: 0.9, High: 3}, "new": {Value: 1}}
	r := &Report{}
	for _, row := range rows {
		var err error
		if row.Name == "gone" {
			err = ErrNoRedis
		}
		r.Figures = append(r.Figures, newFigure(row, values[row.Name], err))
	}
	before := Baseline{Values: map[string]float64{"up": 1, "down": 1, "slow": 1, "quick": 1, "same": 1, "spread": 1, "gone": 1}}
	var words []string
	for _, m := range r.Compare(before, rows) {
		words = append(words, m.Name+" "+m.Word)
	}
	if got := strings.Join(words, ", "); got != "up better, down worse, slow worse, quick better, same as before, spread as before, new new, gone not measured" {
		t.Error(got)
	}
	path := filepath.Join(t.TempDir(), "sub", "baseline.json")
	if err := r.Baseline().Write(path); err != nil {
		t.Fatal(err)
	}
	back, err := LoadBaseline(path)
	if _, kept := back.Values["gone"]; err != nil || kept || back.Values["down"] != 0.5 {
		t.Errorf("%+v, %v", back, err)
	}
	if none, err := LoadBaseline(path + "x"); err != nil || len(none.Values) != 0 {
		t.Errorf("no baseline: %v", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadBaseline(path); err == nil {
		t.Error("half a baseline is taken")
	}
}
