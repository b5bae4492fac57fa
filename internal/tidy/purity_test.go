package tidy

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// impurePackages may not be imported by a pure package at all.
var impurePackages = []string{
	"crypto/rand", "os", "os/exec", "os/signal", "net", "net/http", "sync", "sync/atomic", "log", "log/slog", "syscall", "context",
	"math/rand", "hash/maphash", "runtime", "unsafe", "io/ioutil", "path/filepath", "testing",
}

// impureCalls may not be made by a pure package: package path and function.
var impureCalls = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Local", "LoadLocation"},
	"fmt":  {"Print", "Println", "Printf", "Scan", "Scanln", "Scanf"},
	"maps": {"Keys", "Values", "All", "Collect"},
	// Not New, NewPCG and NewChaCha8, whose numbers follow from the seed.
	"math/rand/v2": {
		"ExpFloat64", "Float32", "Float64", "Int", "Int32", "Int32N", "Int64", "Int64N", "IntN", "N", "NormFloat64", "Perm", "Shuffle",
		"Uint", "Uint32", "Uint32N", "Uint64", "Uint64N", "UintN",
	},
}

// What could go wrong: a clock, a random number or the order of a map gets into a core, two replicas differ, and a
// failing simulation cannot be replayed. Every file of the pure packages is searched for the ways in.
func TestPurePackagesAreFunctions(t *testing.T) {
	packages := loadModule(t)
	for _, p := range packages {
		if !isPure(p.path) {
			continue
		}
		info, err := typesOf(p, packages)
		if err != nil {
			t.Errorf("%s: %v", p.path, err)
			continue
		}
		for _, problem := range checkPurity(p, info) {
			t.Error(problem)
		}
	}
}

// unsafePackages are those that may use package unsafe, apart from tests and generated files.
var unsafePackages = []string{"internal/view", "internal/atonce"}

// What could go wrong: memory is misread by some package that nobody has looked at for that.
func TestUnsafeStandsInFewPlaces(t *testing.T) {
	found := make(map[string]bool)
	for _, p := range loadModule(t) {
		for _, f := range p.files {
			if f.isTest || f.generated {
				continue
			}
			for _, spec := range f.syntax.Imports {
				if name, err := strconv.Unquote(spec.Path.Value); err != nil || name == "unsafe" {
					found[p.path] = true
				}
			}
		}
	}
	for path := range found {
		if !slices.Contains(unsafePackages, path) {
			t.Errorf("%s imports unsafe", path)
		}
	}
	if len(found) != len(unsafePackages) {
		t.Errorf("unsafe is imported by %v, and may be by %v", found, unsafePackages)
	}
}

func checkPurity(p *sourcePackage, info *types.Info) []string {
	var problems []string
	for _, f := range p.files {
		if f.isTest {
			continue
		}
		note := func(pos token.Pos, problem string) { problems = append(problems, f.at(pos)+problem) }
		for _, spec := range f.syntax.Imports {
			if name, _ := strconv.Unquote(spec.Path.Value); slices.Contains(impurePackages, name) {
				note(spec.Pos(), "a pure package imports "+name)
			}
		}
		ast.Inspect(f.syntax, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.GoStmt:
				note(n.Pos(), "a pure package starts a goroutine")
			case *ast.SelectStmt:
				note(n.Pos(), "a pure package waits on channels")
			case *ast.ChanType:
				note(n.Pos(), "a pure package uses a channel")
			case *ast.SelectorExpr:
				if called := impureCall(n, info); called != "" {
					note(n.Pos(), "a pure package uses "+called)
				}
			case *ast.CallExpr:
				if name, ok := n.Fun.(*ast.Ident); ok && (name.Name == "print" || name.Name == "println") && info.Uses[name] == types.Universe.Lookup(name.Name) {
					note(n.Pos(), "a pure package prints")
				}
			case *ast.RangeStmt:
				if isMap(info, n.X) && !saysWhyOrderIsFine(f, n) {
					note(n.Pos(), "a pure package ranges over a map: keep a sorted slice, or say on this line in a comment why the order does not matter")
				}
			}
			return true
		})
	}
	return problems
}

// impureCall returns what of impureCalls is named by the selector.
func impureCall(n *ast.SelectorExpr, info *types.Info) string {
	left, ok := n.X.(*ast.Ident)
	if !ok {
		return ""
	}
	name, ok := info.Uses[left].(*types.PkgName)
	if !ok {
		return ""
	}
	if slices.Contains(impureCalls[name.Imported().Path()], n.Sel.Name) {
		return name.Imported().Path() + "." + n.Sel.Name
	}
	return ""
}

func isMap(info *types.Info, x ast.Expr) bool {
	kind := info.TypeOf(x)
	if kind == nil {
		return false
	}
	switch under := kind.Underlying().(type) {
	case *types.Map:
		return true
	case *types.Interface: // a type parameter: its core type may be a map
		for i := range under.NumEmbeddeds() {
			if union, ok := under.EmbeddedType(i).(*types.Union); ok {
				for j := range union.Len() {
					if _, ok := union.Term(j).Type().Underlying().(*types.Map); ok {
						return true
					}
				}
			}
		}
	}
	return false
}

// saysWhyOrderIsFine reports whether the line carries a comment with the word order, or one that it is sorted below.
func saysWhyOrderIsFine(f *sourceFile, n *ast.RangeStmt) bool {
	line := f.lines[f.set.Position(n.Pos()).Line-1]
	_, comment, found := strings.Cut(line, "//")
	return found && (strings.Contains(comment, "order") || strings.Contains(comment, "sorted"))
}

// typesOf checks the types of p, which imports the standard library and packages of this module.
func typesOf(p *sourcePackage, all []*sourcePackage) (*types.Info, error) {
	info := &types.Info{Types: make(map[ast.Expr]types.TypeAndValue), Uses: make(map[*ast.Ident]types.Object), Defs: make(map[*ast.Ident]types.Object)}
	_, err := (&moduleImporter{std: importer.ForCompiler(p.files[0].set, "gc", compiled), all: all, done: make(map[string]*types.Package)}).check(p, info)
	return info, err
}

// exports finds the compiled packages that the pure packages import, of the standard library and of other modules.
var exports = sync.OnceValues(func() (map[string]string, error) {
	args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}}={{.Export}}"}
	for _, p := range pure {
		args = append(args, module+"/"+p)
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("list compiled packages: %w", err)
	}
	files := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		name, file, _ := strings.Cut(strings.TrimSpace(line), "=")
		files[name] = file
	}
	return files, nil
})

// compiled opens what the compiler exported of a package.
func compiled(name string) (io.ReadCloser, error) {
	files, err := exports()
	if err != nil {
		return nil, err
	}
	file := files[name]
	if file == "" {
		out, err := exec.Command("go", "list", "-export", "-f", "{{.Export}}", name).Output()
		if err != nil {
			return nil, fmt.Errorf("find compiled package %s: %w", name, err)
		}
		file = strings.TrimSpace(string(out))
	}
	return os.Open(file)
}

// moduleImporter finds packages of this module in their parsed files and all others as compiled by the go command.
type moduleImporter struct {
	std  types.Importer
	all  []*sourcePackage
	done map[string]*types.Package
}

func (m *moduleImporter) Import(name string) (*types.Package, error) {
	own, isOwn := strings.CutPrefix(name, module+"/")
	if !isOwn {
		return m.std.Import(name)
	}
	if m.done[own] != nil {
		return m.done[own], nil
	}
	for _, p := range m.all {
		if p.path == own {
			return m.check(p, nil)
		}
	}
	return nil, &notFound{path.Join(module, own)}
}

func (m *moduleImporter) check(p *sourcePackage, info *types.Info) (*types.Package, error) {
	var files []*ast.File
	for _, f := range p.files {
		// Of files that exclude each other by build constraints only those of an ordinary build are taken.
		built, err := build.Default.MatchFile(p.dir, filepath.Base(f.name))
		if err != nil {
			return nil, err
		}
		if !f.isTest && built {
			files = append(files, f.syntax)
		}
	}
	checked, err := (&types.Config{Importer: m}).Check(path.Join(module, filepath.ToSlash(p.path)), p.files[0].set, files, info)
	m.done[p.path] = checked
	return checked, err
}

type notFound struct{ path string }

func (e *notFound) Error() string { return "package " + e.path + " not found" }
