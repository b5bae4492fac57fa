package ctl

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write the outputs in testdata/golden anew; review the difference line by line")

// TestMain lets the test binary be smrctl, too: the golden tests run it as a process of its own. The contexts of whoever runs
// the tests must not change what they do.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "smrctl.process" { // a script has set up its own
		for _, name := range []string{contextVariable, contextFileVariable, "NO_COLOR"} {
			os.Unsetenv(name)
		}
		os.Setenv("XDG_CONFIG_HOME", "/nonexistent")
	}
	testscript.Main(m, map[string]func(){
		"smrctl.process": func() { os.Exit(Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// varying are the parts of outputs that differ from run to run, and what stands for them.
var varying = []struct {
	pattern *regexp.Regexp
	stands  string
}{
	{regexp.MustCompile(`\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?\b`), "TIME"},
	{regexp.MustCompile(`\b20\d\d-\d\d-\d\d\b`), "DATE"},
	{regexp.MustCompile(`go1\.\d+(\.\d+)?\S*`), "GOVERSION"},
	{regexp.MustCompile(`\b(linux|darwin)/(amd64|arm64)\b`), "PLATFORM"},
	{regexp.MustCompile(`/\S*/smrctl\.process`), "/usr/bin/smrctl"},
	{regexp.MustCompile(`smrctl\.process`), "smrctl"},
	{regexp.MustCompile(`is \S+ old`), "is AGE old"},
	{regexp.MustCompile(`\bsmrctl \d+\.\d+\.\d+\S* \S+`), "smrctl VERSION"},
}

// The outputs of smrctl, whole, against a cluster of fakes whose figures do not change. What could go wrong: an output that
// scripts and people rely upon changes and nobody notices. `go test ./internal/ctl -run Golden -update` writes them anew.
func TestGolden(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/golden",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			fake := startFake(t)
			env.Values[fakeKey{}] = fake
			env.Setenv("TZ", "UTC")
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir+"/config")
			env.Setenv("CONFMASTER", fake.addr)
			env.Setenv("AT", "--confmaster="+fake.addr)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"smrctl": goldenRun,
			"fake": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Value(fakeKey{}).(*fakeCluster).change(ts, args)
			},
		},
	})
}

type fakeKey struct{}

// goldenRun is "smrctl CODE ARG…": it must end with that exit code. What varies is replaced in its outputs.
func goldenRun(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("smrctl.process", args[1:]...)
	code := 0
	if err != nil {
		code = 1
		if text, found := strings.CutPrefix(err.Error(), "exit status "); found {
			code, err = strconv.Atoi(text)
			ts.Check(err)
		}
	}
	stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	if code != want {
		ts.Fatalf("smrctl %s: exit code %d, want %d\n%s%s", strings.Join(args[1:], " "), code, want, stdout, stderr)
	}
	settle := func(text string) string {
		for addr, name := range ts.Value(fakeKey{}).(*fakeCluster).names() {
			text = strings.ReplaceAll(text, addr, name)
		}
		text = strings.ReplaceAll(text, ts.Getenv("WORK"), "WORK")
		for _, v := range varying {
			text = v.pattern.ReplaceAllString(text, v.stands)
		}
		return text
	}
	_, err = ts.Stdout().Write([]byte(settle(stdout)))
	ts.Check(err)
	_, err = ts.Stderr().Write([]byte(settle(stderr)))
	ts.Check(err)
}
