package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// kinds lists all binaries that a cluster needs.
var kinds = []Kind{KindReplicator, KindKVNode, KindConfmaster}

// ErrNoBinaries: there are no binaries, and none can be built.
var ErrNoBinaries = errors.New("binaries not found")

// FindBinaries returns the directory with the binaries of the cluster: beside, if they stand there; else target, into
// which they are built from the module that the current directory belongs to.
func FindBinaries(ctx context.Context, beside, target string, progress func(string)) (string, error) {
	missing := missingBinaries(beside)
	if len(missing) == 0 {
		return beside, nil
	}
	root, ok := moduleRoot()
	if !ok {
		return "", fmt.Errorf("%w: %s lacks %s, and this is not the source tree: run smrctl from the directory with go.mod, or put the binaries beside it",
			ErrNoBinaries, beside, strings.Join(missing, ", "))
	}
	progress(fmt.Sprintf("building binaries into %s", target))
	if err := Build(ctx, root, target); err != nil {
		return "", err
	}
	return target, nil
}

func missingBinaries(dir string) []string {
	var missing []string
	for _, kind := range kinds {
		info, err := os.Stat(filepath.Join(dir, string(kind)))
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			missing = append(missing, string(kind))
		}
	}
	return missing
}

// moduleRoot finds the source tree of Lockstep at or above the current directory.
func moduleRoot() (string, bool) {
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil {
			first, _, _ := strings.Cut(string(content), "\n")
			return dir, strings.TrimSpace(first) == "module lockstep"
		}
		if filepath.Dir(dir) == dir {
			return "", false
		}
		dir = filepath.Dir(dir)
	}
}

// Build builds all commands of the source tree root into target, with further flags for go build.
func Build(ctx context.Context, root, target string, flags ...string) error {
	if err := os.MkdirAll(target, 0o750); err != nil {
		return fmt.Errorf("make directory for binaries: %w", err)
	}
	target, err := filepath.Abs(target)
	if err != nil {
		return fmt.Errorf("directory for binaries: %w", err)
	}
	arguments := append([]string{"build", "-o", target + string(filepath.Separator)}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(arguments, "./cmd/...")...) // #nosec G204 -- flags that smrctl sets, without a shell
	cmd.Dir = root
	if !slices.Contains(flags, "-race") { // which needs C; the Makefile has the reason
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}
