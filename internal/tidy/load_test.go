package tidy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

// sourceFile is one parsed file.
type sourceFile struct {
	name      string // as shown in problems: relative to the module
	lines     []string
	set       *token.FileSet
	syntax    *ast.File
	isTest    bool
	generated bool
}

// at shows a place in the file, as the beginning of a problem.
func (f *sourceFile) at(pos token.Pos) string {
	return fmt.Sprintf("%s:%d: ", f.name, f.set.Position(pos).Line)
}

// sourcePackage is the Go files of one directory.
type sourcePackage struct {
	path  string // import path below the module
	dir   string
	files []*sourceFile
}

func (p *sourcePackage) name() string { return p.files[0].syntax.Name.Name }

// moduleDir is the root of the module, seen from this package.
const moduleDir = "../.."

// loadModule parses every package of the module.
func loadModule(t *testing.T) []*sourcePackage {
	t.Helper()
	byDir := make(map[string]*sourcePackage)
	set := token.NewFileSet()
	err := filepath.WalkDir(moduleDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != moduleDir && (strings.HasPrefix(name, ".") || name == "testdata" || name == "var" || name == "bin") {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != moduleDir {
				return filepath.SkipDir // a module of its own
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := loadFile(set, path)
		if err != nil {
			return err
		}
		dir := filepath.Dir(path)
		if byDir[dir] == nil {
			relative, err := filepath.Rel(moduleDir, dir)
			if err != nil {
				return err
			}
			byDir[dir] = &sourcePackage{path: filepath.ToSlash(relative), dir: dir}
		}
		byDir[dir].files = append(byDir[dir].files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []*sourcePackage
	for _, p := range byDir {
		all = append(all, p)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].path < all[j].path })
	if len(all) < 5 {
		t.Fatalf("found %d packages: the walk misses the module", len(all))
	}
	return all
}

func loadFile(set *token.FileSet, path string) (*sourceFile, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	syntax, err := parser.ParseFile(set, path, content, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	shown := path
	if relative, err := filepath.Rel(moduleDir, path); err == nil {
		shown = relative
	}
	return &sourceFile{
		name: shown, lines: strings.Split(string(content), "\n"), set: set, syntax: syntax,
		isTest: strings.HasSuffix(path, "_test.go"), generated: ast.IsGenerated(syntax),
	}, nil
}
