package ctl

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"lockstep/internal/local"
)

// What could go wrong: a dry run starts or makes something, or does not look at what the real one refuses.
func TestUpDryRunChangesNothing(t *testing.T) {
	port, release, err := local.ReservePorts(local.Options{Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	dir := filepath.Join(t.TempDir(), "c")
	run := func(args ...string) (stdout, stderr string, code int) {
		var out, notes bytes.Buffer
		code = Run(context.Background(), append([]string{"up", "--dry-run", "--dir", dir}, args...), &out, &notes)
		return out.String(), notes.String(), code
	}
	stdout, stderr, code := run("--port", strconv.Itoa(port))
	if code != exitDone || strings.Count(stdout, "would be done: start ") != 9 || !strings.Contains(stdout, "found a new cluster in "+dir+": 3 replicas, copies 2") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is there: %v", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := run("--port", strconv.Itoa(port)); code != exitFailed || !strings.Contains(stderr, dir) {
		t.Errorf("a directory of somebody else: exit code %d\n%s", code, stderr)
	}
}
