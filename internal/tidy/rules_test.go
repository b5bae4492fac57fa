package tidy

import (
	"fmt"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var want = regexp.MustCompile(`// want "([^"]+)"`)

// What could go wrong: a rule that finds nothing looks exactly like a clean module. The fixtures break every rule; each
// breach must be found on its line, and nothing else.
func TestRulesFindWhatBreaksThem(t *testing.T) {
	dir := filepath.Join("testdata", "rules")
	fixtures := loadFixtures(t, dir)
	arrows["fixture"] = []string{"smr"}
	defer delete(arrows, "fixture")

	var found []string
	for _, name := range []string{"impure.go", "house.go", "house_test.go", "imports.go"} {
		p := &sourcePackage{path: "fixture", dir: dir, files: []*sourceFile{fixtures[name]}}
		switch name {
		case "impure.go":
			info, err := typesOf(p, nil)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, checkPurity(p, info)...)
		case "imports.go":
			found = append(found, checkImports(p)...)
		default:
			found = append(found, checkFile(p.files[0])...)
		}
	}
	for name, f := range fixtures {
		for i, line := range f.lines {
			expected := want.FindStringSubmatch(line)
			at := fmt.Sprintf("%s:%d: ", f.name, i+1)
			hits := 0
			for _, problem := range found {
				if !strings.HasPrefix(problem, at) {
					continue
				}
				if expected == nil || !strings.Contains(problem, expected[1]) {
					t.Errorf("unexpected: %s", problem)
				}
				hits++
			}
			if expected != nil && hits == 0 {
				t.Errorf("%s line %d: not found: %s", name, i+1, expected[1])
			}
		}
	}
}

// A package without documentation, with an empty name, outside the table of arrows, or with an endless file is found.
func TestRulesForWholePackages(t *testing.T) {
	fixtures := loadFixtures(t, filepath.Join("testdata", "rules"))
	f := *fixtures["house.go"]
	f.lines = make([]string, maxLines+1)
	syntax := *f.syntax
	name := *syntax.Name
	name.Name = "util"
	syntax.Name = &name
	f.syntax = &syntax
	p := &sourcePackage{path: "internal/util", dir: "internal/util", files: []*sourceFile{&f}}
	problems := strings.Join(append(checkHouse(p), checkImports(p)...), "\n")
	for _, part := range []string{"name that says nothing", "no doc.go", "cannot be read in a sitting", "no row in the table of arrows"} {
		if !strings.Contains(problems, part) {
			t.Errorf("not found: %s in\n%s", part, problems)
		}
	}
}

func loadFixtures(t *testing.T, dir string) map[string]*sourceFile {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	files := make(map[string]*sourceFile)
	for _, entry := range entries {
		f, err := loadFile(set, filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = f
	}
	return files
}
