package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What could go wrong: a run of some rows replaces the table of all of them; a name that is misspelt is left out in silence.
func TestSomeRowsAreNoTable(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	const text = "before\n<!-- mutants: begin; written by make mutants -->\nall rows\n<!-- mutants: end -->\nbehind\n"
	if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"-only", "no-rewind", "-page", page}, "all rows have to be run"},
		{[]string{"-only", "no-rewind,no-rewnd"}, `no row is called "no-rewnd"`},
		{[]string{"-only", ","}, `no row is called ""`},
	} {
		var out, problems bytes.Buffer
		if code := run(test.args, &out, &problems); code != 2 || !strings.Contains(problems.String(), test.says) {
			t.Errorf("%v: exit code %d, %s%s", test.args, code, out.String(), problems.String())
		}
	}
	if content, err := os.ReadFile(page); err != nil || string(content) != text {
		t.Errorf("the page is now %q, %v", content, err)
	}
}
