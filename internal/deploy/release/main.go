// Command release builds what is given out: static programs for linux/amd64 and linux/arm64, packed with units, sample settings and
// the install script, a bill of materials for each, and SHA256SUMS. `make release` runs it.
//
// Two builds of one commit give the same bytes, on any machine: no paths, no build ids, no clock, no C compiler; times inside of
// the archives are the commit's. With -check it builds a second time, from a checkout elsewhere and with an empty build cache, and
// compares.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lockstep/internal/release"
)

// programs are what an archive holds, in its order.
var programs = []string{"confmaster", "kvnode", "replicator", "smrctl"}

var architectures = []string{"amd64", "arm64"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run does what the arguments say and returns the exit code.
func run(ctx context.Context, arguments []string, stdout, stderr io.Writer) int {
	set := flag.NewFlagSet("release", flag.ContinueOnError)
	set.SetOutput(stderr)
	out := set.String("out", "dist", "`directory` for what is built; what is in it is replaced")
	check := set.Bool("check", false, "build a second time, elsewhere and from nothing, and compare (some minutes)")
	if err := set.Parse(arguments); err != nil || set.NArg() > 0 {
		fmt.Fprintln(stderr, "Usage: release [-out DIR] [-check], in the root of the source tree")
		return 2
	}
	if err := build(ctx, *out, *check, stdout); err != nil {
		fmt.Fprintf(stderr, "release: %v\n", err)
		return 1
	}
	return 0
}

// commit is what is being released.
type commit struct {
	hash  string
	when  time.Time
	dirty bool // the tree has other changes
}

func build(ctx context.Context, out string, check bool, stdout io.Writer) error {
	head, err := headCommit(ctx)
	if err != nil {
		return err
	}
	if check && head.dirty {
		return errors.New("the tree has changes that are not committed, and the second build is of the commit: commit them first")
	}
	if head.dirty {
		fmt.Fprintln(stdout, "warning: the tree has changes that are not committed; the programs say so in --version")
	}
	if err := os.RemoveAll(out); err != nil {
		return fmt.Errorf("empty %s: %w", out, err)
	}
	if err := produce(ctx, ".", out, head, nil, stdout); err != nil {
		return err
	}
	sums, err := os.ReadFile(filepath.Join(out, "SHA256SUMS"))
	if err != nil {
		return fmt.Errorf("read the sums: %w", err)
	}
	if check {
		fmt.Fprintln(stdout, "building a second time, elsewhere and from nothing")
		again, err := rebuild(ctx, head, stdout)
		if err != nil {
			return fmt.Errorf("second build: %w", err)
		}
		if again != string(sums) {
			return fmt.Errorf("two builds differ:\n%s\n%s", sums, again)
		}
		fmt.Fprintln(stdout, "both builds are the same, byte for byte")
	}
	_, err = stdout.Write(sums)
	return err
}

// rebuild builds the commit in a directory of its own with an empty cache and returns the sums.
func rebuild(ctx context.Context, head commit, stdout io.Writer) (string, error) {
	dir, err := os.MkdirTemp("", "lockstep-release-")
	if err != nil {
		return "", fmt.Errorf("make a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	tree := filepath.Join(dir, "tree")
	// A clone, no worktree: in one of those Go does not find the commit.
	if _, err := output(ctx, ".", nil, "git", "clone", "--quiet", "--no-checkout", ".", tree); err != nil {
		return "", err
	}
	if _, err := output(ctx, tree, nil, "git", "checkout", "--quiet", "--detach", head.hash); err != nil {
		return "", err
	}
	if err := produce(ctx, tree, filepath.Join(dir, "out"), head, []string{"GOCACHE=" + filepath.Join(dir, "cache")}, stdout); err != nil {
		return "", err
	}
	content, err := os.ReadFile(filepath.Join(dir, "out", "SHA256SUMS"))
	return string(content), err
}

// produce builds and packs everything of the tree into out.
func produce(ctx context.Context, tree, out string, head commit, env []string, stdout io.Writer) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return fmt.Errorf("directory %s: %w", out, err)
	}
	for _, architecture := range architectures {
		name := fmt.Sprintf("lockstep-%s-linux-%s", release.Version, architecture)
		fmt.Fprintln(stdout, "building", name)
		bin := filepath.Join(out, "linux-"+architecture)
		if err := os.MkdirAll(bin, 0o755); err != nil {
			return fmt.Errorf("make a directory: %w", err)
		}
		if err := compile(ctx, tree, bin, architecture, env); err != nil {
			return err
		}
		if err := pack(tree, bin, filepath.Join(out, name+".tar.gz"), name, head.when); err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
		if err := writeBill(bin, filepath.Join(out, name+".cdx.json"), head); err != nil {
			return fmt.Errorf("bill of materials of %s: %w", name, err)
		}
	}
	return writeSums(out)
}

// compile builds the programs into bin.
func compile(ctx context.Context, tree, bin, architecture string, env []string) error {
	arguments := []string{"build", "-trimpath", "-tags=grpcnotrace", "-buildvcs=true", "-ldflags=-s -w -buildid=", "-o", bin + "/"}
	for _, program := range programs {
		arguments = append(arguments, "./cmd/"+program)
	}
	env = append([]string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + architecture, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT="}, env...)
	_, err := output(ctx, tree, env, "go", arguments...)
	return err
}

func headCommit(ctx context.Context) (commit, error) {
	hash, err := output(ctx, ".", nil, "git", "rev-parse", "HEAD")
	if err != nil {
		return commit{}, err
	}
	stamp, err := output(ctx, ".", nil, "git", "show", "-s", "--format=%ct", "HEAD")
	if err != nil {
		return commit{}, err
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return commit{}, fmt.Errorf("time of the commit: %w", err)
	}
	changes, err := output(ctx, ".", nil, "git", "status", "--porcelain")
	if err != nil {
		return commit{}, err
	}
	return commit{hash: hash, when: time.Unix(seconds, 0).UTC(), dirty: changes != ""}, nil
}

// output runs a command to its end and returns what it printed, without blanks around it.
func output(ctx context.Context, dir string, env []string, name string, arguments ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, arguments...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var problems strings.Builder
	cmd.Stderr = &problems
	content, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(arguments, " "), err, problems.String())
	}
	return strings.TrimSpace(string(content)), nil
}

// writeSums writes SHA256SUMS of every file directly in out and of the programs, in the form of sha256sum.
func writeSums(out string) error {
	names, err := filepath.Glob(filepath.Join(out, "*"))
	if err != nil {
		return fmt.Errorf("list %s: %w", out, err)
	}
	for _, architecture := range architectures {
		for _, program := range programs {
			names = append(names, filepath.Join(out, "linux-"+architecture, program))
		}
	}
	slices.Sort(names)
	var text strings.Builder
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			continue
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("sum: %w", err)
		}
		relative, err := filepath.Rel(out, name)
		if err != nil {
			return fmt.Errorf("sum: %w", err)
		}
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(content), relative)
	}
	if err := os.WriteFile(filepath.Join(out, "SHA256SUMS"), []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("write sums: %w", err)
	}
	return nil
}
