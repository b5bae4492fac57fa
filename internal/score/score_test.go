package score

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/internal/explore"
	"lockstep/internal/mutant"
)

const (
	knownFile = "testdata/known.json"
	pageFile  = "../../docs/mutants.md"
)

// What could go wrong: a rule that can be switched off and that nobody tries; a row that nothing is to find; seeds or a scope
// that belong to no row; a page that tells of other rows.
func TestEveryMutantHasARowAndAFinder(t *testing.T) {
	known, err := ReadKnown(knownFile)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	tried := make(map[mutant.Name]bool)
	rows := make(map[string]bool)
	scopes := 0
	for _, r := range Rows() {
		name := r.Name()
		if rows[name] || r.Rule == "" || r.Text == "" {
			t.Errorf("row %q is there twice or says too little", name)
		}
		rows[name] = true
		for _, off := range r.Off {
			tried[off] = true
		}
		p, explored := r.scope()
		if explored {
			scopes++
		}
		seeds, states := known[name].Seeds, known[name].States
		switch {
		case explored && p.Safe != (r.Harmless != ""):
			t.Errorf("%s: the explorer is to find nothing: %v; it is harmless: %q", name, p.Safe, r.Harmless)
		case r.Harmless != "" && len(seeds)+states > 0:
			t.Errorf("%s is harmless and has seeds", name)
		case r.Harmless == "" && len(seeds) == 0 && (r.Unmet == "" || states == 0):
			t.Errorf("%s has no seeds that find it: run make mutants", name)
		}
		if !strings.Contains(string(page), "| `"+name+"` | "+r.Rule+" | "+r.Text+" |") {
			t.Errorf("docs/mutants.md does not tell of %s as it is: run make mutants", name)
		}
	}
	if len(rows) < 24 {
		t.Errorf("%d rows", len(rows))
	}
	for _, n := range mutant.All() {
		if !tried[n] {
			t.Errorf("%v is in no row", n)
		}
	}
	if all := len(explore.AllPlanted()); scopes != all {
		t.Errorf("%d of %d scopes of the explorer belong to a row", scopes, all)
	}
	for name := range known {
		if !rows[name] {
			t.Errorf("seeds for %q, which is no row", name)
		}
	}
}

// What could go wrong: a seed finds something whatever is planted, and the score measures nothing. This is the control: no error
// is planted, and what finds them must find nothing. Whoever breaks one of those rules by hand fails here: for this test it makes
// no difference who planted the error.
func TestWhatFindsMutantsFindsNothingElse(t *testing.T) {
	known, err := ReadKnown(knownFile)
	if err != nil {
		t.Fatal(err)
	}
	problems, err := Control(known)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Error(problem)
	}
}

// What could go wrong: a finding that should fail passes.
func TestFindingsAreJudged(t *testing.T) {
	plain, safe, far := Row{}, Row{Harmless: "x"}, Row{Unmet: "x"}
	for _, test := range []struct {
		f    Finding
		want string
	}{
		{Finding{Row: &plain}, "not found"},
		{Finding{Row: &plain, Seed: 1}, ""},
		{Finding{Row: &plain, Depth: 1}, ""},
		{Finding{Row: &plain, Seed: 1, Problem: "other"}, "other"},
		{Finding{Row: &safe}, ""},
		{Finding{Row: &safe, Seed: 1}, "found, though x"},
		{Finding{Row: &safe, Depth: 1}, "found, though x"},
		{Finding{Row: &far}, "not found"},
		{Finding{Row: &far, Depth: 3}, ""},
	} {
		test.f.judge()
		if test.f.Problem != test.want {
			t.Errorf("%+v: %q", test.f, test.f.Problem)
		}
	}
}

// What could go wrong: writing the table eats what stands around it, or a page without a place for it.
func TestTableReplacesItsBlock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "page.md")
	rows := Rows()
	findings := []Finding{{Row: &rows[0], Seed: 7, Schedules: 7, Faults: 2, Fired: "x"}, {Row: &rows[1], Schedules: 9, States: 5, Depth: 3,
		Fault: "n2 leads epoch 3 without the committed bytes: it has [2*]"}}
	if err := os.WriteFile(name, []byte("before\n"+blockBegin+"old"+blockEnd+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Replace(name, Table(findings, nil, "about")); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, want := range []string{"before\n" + blockBegin, blockEnd + "\nafter\n", "| 7 | 0.0 | 2 | x | - | - |",
		"| not in 9 | 0.0 | - | a replica leads epoch n without the committed bytes | 5 | 3 |"} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, text)
		}
	}
	if err := os.WriteFile(name, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if Replace(name, "x") == nil {
		t.Error("a page without a place was written")
	}
}
