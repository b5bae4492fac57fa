package bench

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What could go wrong: the floor is measured under another load than the row that it is held against, or on other systems, so that its ratios say nothing.
func TestFloorHasTheLoadsOfItsRows(t *testing.T) {
	for _, r := range floorRows() {
		rows, err := ChooseRows([]string{r.name}, false)
		if err != nil || len(rows) != 1 {
			t.Fatal(rows, err)
		}
		want := map[string]bool{r.systems[0]: true, r.systems[len(r.systems)-1]: true}
		for _, system := range rows[0].Systems {
			if !want[system] {
				t.Errorf("row %s compares %q, the floor stands beside %q", r.name, rows[0].Systems, r.systems)
			}
		}
		for _, system := range r.systems {
			if _, err := FindSystem(system); err != nil {
				t.Errorf("%s: %v", r.name, err)
			}
		}
		about := strings.ToLower(rows[0].About)
		if r.name == "set-os-p16" {
			continue // its text is that of the row before it
		}
		if many := strings.Contains(about, "50 connections"); many != (r.load.Connections == 50) || strings.Contains(about, "pipeline 16") != (r.load.Pipeline == 16) ||
			strings.Contains(about, "p50") != (r.figure.unit == p50.unit) || strings.Contains(about, "90 % get") != (r.load.Command == "mix") {
			t.Errorf("row %s is %q, the floor's load %v", r.name, rows[0].About, r.load)
		}
	}
	e := &Env{Rounds: 1, Time: time.Second, Kills: 1, Progress: func(string) {}}
	if _, _, err := RunFloor(context.Background(), e, []string{"set", "nosuch"}, "r"); err == nil || !strings.Contains(err.Error(), `"nosuch"`) {
		t.Errorf("a row that there is not: %v", err)
	}
}

func exampleFloor() []FloorCell {
	var cells []FloorCell
	for _, r := range floorRows()[:3] {
		var measured []Cell
		for i, system := range r.systems {
			measured = append(measured, Cell{Load: r.load, System: system, Place: "master", Rate: float64(10_000 * (i + 1)), CPU: 20.26, Latency: Latency{P50: float64(500 + 100*i)}})
		}
		if r.name == "set-p16" { // no redis-server is here
			measured = measured[1:]
		}
		cells = append(cells, r.beside(measured, "at least 3.00")...)
	}
	return cells
}

// What could go wrong: a ratio is turned round, is of rates where the row is of p50, or a page has a table that is none.
func TestFloorIsRecorded(t *testing.T) {
	page := filepath.Join(t.TempDir(), "performance.md")
	if err := os.WriteFile(page, []byte("# Page\n<!-- floor:begin -->\nold\n<!-- floor:end -->\nbehind\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := exampleReport().RecordFloor(page, exampleFloor()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "report", "floor.md")
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
		t.Errorf("the page differs from %s: if that is meant, run with -update and look at it\n%s", golden, got)
	}
}
