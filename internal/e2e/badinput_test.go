package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	listedPackage = regexp.MustCompile(`\binternal/[a-z0-9]+`)
	listedTest    = regexp.MustCompile(`\bTest[A-Z][A-Za-z]+`)
)

// What could go wrong: the list of what is tested in doc.go names a test that is no more, and nobody notices that something is not covered.
func TestBadInputIsTestedWhereItSays(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, list, found := strings.Cut(string(content), "// # Bad input")
	list, _, ended := strings.Cut(list, "// TestBadInputIsTestedWhereItSays")
	if !found || !ended {
		t.Fatal("doc.go has no list of bad input")
	}
	count := 0
	for line := range strings.Lines(list) {
		for _, part := range strings.Split(line, ";") {
			names := listedTest.FindAllString(part, -1)
			if len(names) == 0 {
				continue
			}
			dir := listedPackage.FindString(part)
			if dir == "" {
				t.Errorf("%q names no package", part)
				continue
			}
			files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
			if err != nil || len(files) == 0 {
				t.Errorf("%s has no tests: %v", dir, err)
			}
			var source strings.Builder
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				source.Write(text)
			}
			for _, name := range names {
				if count++; !strings.Contains(source.String(), "\nfunc "+name+"(t *testing.T)") {
					t.Errorf("%s has no %s", dir, name)
				}
			}
		}
	}
	if count < 20 {
		t.Errorf("only %d tests are listed", count)
	}
}
