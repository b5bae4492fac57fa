package deploy

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	tree = "../.."
	// patience bounds every wait: the machine may be loaded. Nothing that holds takes as long.
	patience = 2 * time.Minute
)

// programs is a directory with the programs that images and packages hold, built for this run.
var programs string

func TestMain(m *testing.M) {
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ls-deploy-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs = dir
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/confmaster", "./cmd/replicator", "./cmd/kvnode", "./cmd/smrctl", "./internal/deploy/probe")
	build.Dir = tree
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// readFile returns a file of the source tree.
func readFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(tree, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// tryArguments gives a command line to the real program, which must understand every word of it, and do nothing.
func tryArguments(t *testing.T, program string, arguments []string) {
	t.Helper()
	all := append(slices.Clone(arguments), "--version")
	if program == "smrctl" {
		all[len(all)-1] = "--help"
	}
	for i, argument := range all { // what Kubernetes fills in
		argument = strings.ReplaceAll(argument, "$(POD_NAME)", "demo-node-1")
		all[i] = strings.ReplaceAll(argument, "$(POD_INDEX)", "1")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, filepath.Join(programs, program), all...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", program, strings.Join(all, " "), err, out)
	}
}

// What could go wrong: the check of arguments above lets everything pass.
func TestArgumentsThatDoNotExistAreFound(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"kvnode --lisen=1", "confmaster --suspect-ms=soon", "replicator extra", "smrctl group create --replicas=1"} {
		words := strings.Fields(line)
		out, err := exec.Command(filepath.Join(programs, words[0]), append(words[1:], "--version")...).CombinedOutput()
		if err == nil {
			t.Errorf("%s is taken: %s", line, out)
		}
	}
}

// eventually tries until it holds; the last reason is shown if it never does.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// command runs a program to its end and returns what it printed.
func command(env []string, dir, name string, arguments ...string) (string, error) {
	return commandWithin(2*patience, env, dir, name, arguments...)
}

// commandWithin does so with a bound of its own, for builds from nothing.
func commandWithin(limit time.Duration, env []string, dir, name string, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, arguments...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(arguments, " "), err, out.String(), problems.String())
	}
	return out.String(), nil
}

// need skips a test for which the machine lacks a program or a service, and says what was not tried.
func need(t *testing.T, there bool, why string) {
	t.Helper()
	if !there {
		t.Skip(why)
	}
}
