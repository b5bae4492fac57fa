package tidy

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "lockstep"

// pure lists the packages that are functions: no clock, randomness, I/O, goroutine, lock, log call, order of a map.
var pure = []string{
	"smr", "smr/replica", "smr/session", "smr/wire", "internal/failover", "internal/kv", "internal/resp", "internal/acl",
	"internal/invariant",
	"internal/script",
}

// pureModules lists modules that a pure package may import nevertheless, and why.
var pureModules = map[string][]string{
	// The Lua virtual machine executes what it is given. What of it reaches the world (its os, io, math.random and
	// channel libraries, print, the addresses of tables) is not opened: internal/script has libraries of its own.
	"internal/script": {"github.com/yuin/gopher-lua"},
}

// arrows says which packages of this module each package may import. Arrows point downwards: cmd, shells, pure cores,
// smr; shells never import each other.
var arrows = map[string][]string{
	"smr":                {},
	"smr/replica":        {"smr", "internal/invariant", "internal/mutant"},
	"smr/session":        {"smr", "internal/invariant", "internal/mutant"},
	"smr/wire":           {"smr", "internal/invariant", "internal/mutant"},
	"smr/page":           {"smr", "internal/view"},
	"smr/client":         {"smr", "smr/session", "smr/wire", "smr/page", "log", "internal/atonce", "internal/invariant", "internal/obs", "internal/speaker", "internal/turn"},
	"log":                {"smr", "internal/atonce", "internal/filelock", "internal/invariant", "internal/mutant"},
	"proto":              {},
	"internal/invariant": {},
	"internal/resp":      {},
	"internal/acl":       {},
	"internal/failover":  {"smr", "internal/invariant", "internal/mutant"},
	"internal/script":    {"internal/resp", "internal/script/meter"},
	"internal/kv":        {"smr", "internal/script", "internal/script/meter", "internal/acl", "internal/kv/alike", "internal/view", "internal/keyhash", "internal/anycase", "internal/resp", "internal/invariant", "internal/mutant"},
	"internal/mutant":    {},
	"internal/release":   {},
	"internal/level":     {},
	"internal/view":      {},
	"internal/steady":    {},
	"internal/keyhash":   {},
	"internal/place":     {},
	"internal/atonce":    {},
	"internal/anycase":   {},
	"internal/eventloop": {"internal/atonce"},
	"internal/speaker":   {},
	"internal/turn":      {},
	"internal/pause":     {},
	"internal/apart":     {"internal/place"},
	"internal/granter":   {},
	"internal/wholefile": {},
	"internal/filelock":  {},
	"internal/obs":       {"smr"},
	"internal/trust":     {"internal/wholefile"},
	"internal/replicator": {
		"internal/trust", "smr", "smr/replica", "smr/wire", "smr/page", "log", "proto", "internal/archive", "internal/archive/s3", "internal/fault", "internal/invariant", "internal/level", "internal/locate", "internal/obs", "internal/pause", "internal/speaker", "internal/turn", "internal/wholefile",
	},
	"internal/kvnode": {
		"internal/trust", "smr", "smr/client", "smr/session", "log", "proto", "internal/anycase", "internal/eventloop", "internal/kv", "internal/checkpoint", "internal/resp", "internal/acl", "internal/invariant", "internal/obs", "internal/transfer", "internal/nearest", "internal/logtext",
		"internal/apart", "internal/archive/s3", "internal/backup", "internal/level",
	},
	"internal/checkpoint": {"smr", "internal/place", "internal/granter", "internal/kv", "internal/invariant"},
	"internal/archive":    {"smr", "log", "internal/mutant"},
	"internal/archive/s3": {"internal/archive"},
	"internal/backup":     {"smr", "log", "internal/archive", "internal/checkpoint", "internal/kv", "internal/mutant"},
	"internal/transfer":   {"smr", "proto", "internal/trust", "internal/checkpoint", "internal/pause"},
	"internal/rdb":        {"internal/kv", "internal/resp"},
	"internal/confmaster": {"internal/trust", "smr", "proto", "internal/failover", "internal/filelock", "internal/granter", "internal/resp", "internal/fault", "internal/invariant", "internal/level", "internal/obs", "internal/pause", "internal/web"},
	"internal/fault":      {"proto"},

	"internal/bytesize": {},
	"internal/markup":   {},
	"internal/nearest":  {},
	"internal/slack":    {},
	"internal/daemon":   {"internal/trust", "internal/fault", "internal/level", "internal/slack", "internal/release", "internal/obs", "internal/bytesize", "internal/nearest"},

	"internal/locate":  {},
	"internal/drift":   {"internal/acl", "proto"},
	"internal/logtext": {"smr", "internal/kv"},
	"internal/web":     {"smr", "proto", "internal/drift", "internal/drill/plan", "internal/drill/report", "internal/obs", "internal/trust"},

	// Tools around the running system.
	"internal/admin":          {"internal/trust", "internal/locate", "proto", "internal/pause"},
	"internal/local":          {"internal/trust", "internal/place", "internal/filelock", "smr", "proto", "internal/admin", "internal/wholefile"},
	"internal/bench":          {"internal/trust", "proto", "internal/admin", "internal/local", "internal/pause", "internal/bench/floor", "internal/bench/parts"},
	"internal/ctl":            {"internal/trust", "internal/locate", "smr", "log", "proto", "internal/admin", "internal/bytesize", "internal/drift", "internal/logtext", "internal/nearest", "internal/pause", "internal/wholefile", "internal/acl", "internal/local", "internal/bench", "internal/bench/floor", "internal/chaos", "internal/drill", "internal/drill/plan", "internal/drill/report", "internal/release", "internal/archive", "internal/backup", "internal/checkpoint", "internal/kv", "internal/rdb", "internal/resp", "internal/transfer", "internal/archive/s3"},
	"internal/drill":          {"internal/drill/plan", "internal/drill/report", "internal/trust", "internal/filelock", "proto", "internal/admin", "internal/local", "internal/chaos", "internal/fault", "internal/pause", "internal/wholefile", "internal/release"},
	"internal/drill/plan":     {"proto"},
	"internal/drill/report":   {"internal/markup"},
	"internal/bench/floor":    {"internal/place", "internal/slack"},
	"internal/bench/parts":    {"smr", "log", "internal/kv"},
	"internal/e2e":            {"internal/trust", "smr", "log", "proto", "internal/admin", "internal/local"},
	"internal/tidy":           {},
	"internal/deploy":         {}, // its tests run the programs
	"internal/deploy/probe":   {},
	"internal/deploy/release": {"internal/release"},

	// Proof: whatever exists may be taken apart.
	"internal/sim": {
		"smr", "smr/replica", "smr/session", "smr/wire", "log", "log/simfs", "internal/failover", "internal/kv", "internal/resp",
		"internal/acl", "internal/invariant", "internal/mutant", "internal/archive", "internal/backup", "internal/checkpoint",
	},
	"internal/explore": {"smr", "smr/replica", "internal/failover", "internal/invariant", "internal/mutant"},
	"internal/score":   {"internal/sim", "internal/explore", "internal/mutant"},
	"internal/chaos":   {"internal/pause", "internal/trust", "smr", "smr/wire", "log", "proto", "internal/admin", "internal/local", "internal/markup", "internal/resp"},

	"log/simfs":             {"log"},
	"internal/script/meter": {},
	"internal/kv/oracle":    {"smr", "internal/kv", "internal/kv/alike", "internal/resp"},
	"internal/kv/alike":     {"internal/resp"},

	"cmd/replicator": {"internal/trust", "internal/replicator", "internal/bytesize", "internal/daemon", "internal/release", "internal/obs", "log", "smr"},
	"cmd/kvnode":     {"internal/trust", "internal/kvnode", "internal/bytesize", "internal/daemon", "internal/release", "internal/obs", "smr"},
	"cmd/confmaster": {"internal/trust", "internal/confmaster", "internal/daemon", "internal/release", "internal/obs", "smr"},
	"cmd/smrctl":     {"internal/ctl"},
	"cmd/smrsim":     {"internal/sim", "internal/mutant"},
	"cmd/smrmutants": {"internal/score"},
}

// testOnly lists modules that only test files may import.
var testOnly = []string{
	"github.com/redis/go-redis", "github.com/redis/rueidis", "pgregory.net/rapid", "go.uber.org/goleak", "github.com/rogpeppe/go-internal", "github.com/chromedp", "golang.org/x/net/dns",
}

// heavy lists packages that no program may use, because with them the linker keeps every exported method of every type.
var heavy = []string{"html/template", "text/template", "golang.org/x/net/trace"}

// What could go wrong: a core that begins to know sockets, or two shells that hold on to each other, and after a year
// nothing can be simulated or read alone. Every import of every file is held against the table.
func TestImportsPointDownwards(t *testing.T) {
	for _, p := range loadModule(t) {
		for _, problem := range checkImports(p) {
			t.Error(problem)
		}
	}
}

func checkImports(p *sourcePackage) []string {
	var problems []string
	allowed, known := arrows[p.path]
	if !known {
		return []string{p.dir + ": package " + p.path + " has no row in the table of arrows (internal/tidy): add one, with what it may import"}
	}
	for _, f := range p.files {
		for _, spec := range f.syntax.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				problems = append(problems, f.at(spec.Pos())+err.Error())
				continue
			}
			if problem := checkImport(p, f, path, allowed); problem != "" {
				problems = append(problems, f.at(spec.Pos())+problem)
			}
		}
	}
	return problems
}

func checkImport(p *sourcePackage, f *sourceFile, path string, allowed []string) string {
	own, isOwn := strings.CutPrefix(path, module+"/")
	switch {
	case f.isTest:
		return "" // tests may look from outside at whatever they need
	case isOwn && !slices.Contains(allowed, own):
		return p.path + " imports " + own + ", which is not below it"
	case isOwn:
		return ""
	case slices.Contains(heavy, path):
		return p.path + " imports " + path + ", which makes a program a fifth larger: internal/markup writes pages"
	case slices.ContainsFunc(pureModules[p.path], func(module string) bool { return strings.HasPrefix(path, module) }):
		return ""
	case isPure(p.path) && strings.Contains(path, "."):
		return p.path + " is pure and imports " + path + ": the standard library only"
	}
	for _, prefix := range testOnly {
		if strings.HasPrefix(path, prefix) {
			return path + " is for tests only"
		}
	}
	return ""
}

func isPure(path string) bool { return slices.Contains(pure, path) }
