package tidy

import (
	"fmt"
	"go/ast"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// maxLines bounds a file written by hand, in lines. STYLE.md asks for about 700; this is where reading ends.
const maxLines = 900

// emptyNames say nothing about what a package is for.
var emptyNames = []string{"util", "utils", "common", "types", "helpers", "helper", "manager", "base", "misc", "shared"}

// What could go wrong: rules that nobody checks are forgotten one exception at a time.
func TestHouseRules(t *testing.T) {
	for _, p := range loadModule(t) {
		for _, problem := range checkHouse(p) {
			t.Error(problem)
		}
	}
}

func checkHouse(p *sourcePackage) []string {
	problems := checkPackage(p)
	for _, f := range p.files {
		if f.generated {
			continue
		}
		problems = append(problems, checkFile(f)...)
	}
	return problems
}

// checkPackage checks the package's name and that it says what it is for.
func checkPackage(p *sourcePackage) []string {
	var problems []string
	if name := strings.TrimSuffix(p.name(), "_test"); slices.Contains(emptyNames, name) {
		problems = append(problems, p.dir+": package "+name+" has a name that says nothing")
	}
	sources := 0
	for _, f := range p.files {
		if !f.isTest {
			sources++
		}
	}
	documented := slices.ContainsFunc(p.files, func(f *sourceFile) bool {
		place := filepath.Base(f.name) == "doc.go" || p.name() == "main" || sources == 1 && !f.isTest
		return place && f.syntax.Doc != nil && len(f.syntax.Doc.Text()) > 40
	})
	if !documented {
		problems = append(problems, p.dir+": package "+p.name()+" has no doc.go that says what it is for")
	}
	return problems
}

// The patterns are put together so that this file does not match them.
var (
	mark       = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	namedMark  = regexp.MustCompile(`\bTO` + `DO\([a-z][a-z0-9-]*\): .{20,}`)
	unfinished = regexp.MustCompile(`(?i)\bnot ` + `implemented\b`)
)

func checkFile(f *sourceFile) []string {
	var problems []string
	if len(f.lines) > maxLines {
		problems = append(problems, fmt.Sprintf("%s: %d lines: more than %d cannot be read in a sitting", f.name, len(f.lines), maxLines))
	}
	for _, group := range f.syntax.Comments {
		for _, comment := range group.List {
			if mark.MatchString(comment.Text) && !namedMark.MatchString(comment.Text) {
				problems = append(problems, f.at(comment.Pos())+"a mark needs a name, a reason and the condition under which it goes away")
			}
		}
	}
	ast.Inspect(f.syntax, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.BasicLit:
			if unfinished.MatchString(n.Value) && !f.isTest {
				problems = append(problems, f.at(n.Pos())+"something is unfinished")
			}
		case *ast.FuncDecl:
			if n.Name.Name == "init" && n.Recv == nil {
				problems = append(problems, f.at(n.Pos())+"no init: what happens before Run cannot be read or tested")
			}
		case *ast.SelectorExpr:
			if problem := checkSelector(f, n); problem != "" {
				problems = append(problems, f.at(n.Pos())+problem)
			}
		}
		return true
	})
	return problems
}

// checkSelector finds skipped tests and sleeping.
func checkSelector(f *sourceFile, n *ast.SelectorExpr) string {
	left, ok := n.X.(*ast.Ident)
	if !ok {
		return ""
	}
	switch name := n.Sel.Name; {
	case slices.Contains([]string{"internal/e2e/programs_test.go", "internal/e2e/web_test.go", "internal/deploy/programs_test.go", "internal/rdb/redis_test.go"}, filepath.ToSlash(f.name)):
		// programs of others, which are not everywhere; nothing is installed for a test
	case f.isTest && (name == "Skip" || name == "Skipf" || name == "SkipNow") && (left.Name == "t" || left.Name == "b" || left.Name == "f" || left.Name == "tb"):
		return "a skipped test shows nothing"
	case !f.isTest && left.Name == "time" && name == "Sleep":
		return "nobody may sleep: wait for what must become true"
	}
	return ""
}
