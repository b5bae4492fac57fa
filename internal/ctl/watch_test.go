package ctl

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// lineCounter takes output and calls enough once it has so many lines.
type lineCounter struct {
	mu     sync.Mutex
	text   bytes.Buffer
	wanted int
	enough func()
}

func (l *lineCounter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(b)
	if strings.Count(l.text.String(), "\n") >= l.wanted {
		l.enough()
	}
	return len(b), nil
}

// What could go wrong: watching or following ends after the first look, or does not end with Ctrl-C, or ends as a failure; with -o
// json a look takes several lines.
func TestWatchingEndsWithItsContext(t *testing.T) {
	home := t.TempDir()
	makeLog(t, filepath.Join(home, "log"))
	addr := serve(t, &confmaster{cluster: example()})
	for line, prefix := range map[string]string{
		"status -o json --watch --interval 50ms --confmaster " + addr:     `{"groups":`,
		"group list -o json --watch --interval 50ms --confmaster " + addr: `{"groups":`,
		"explain -o json --watch --interval 50ms --confmaster " + addr:    `{"decisions":`,
		"log tail --follow -n 3 -o json " + home:                          `{"lsn":`,
	} {
		ctx, cancel := context.WithCancel(context.Background())
		out := &lineCounter{wanted: 3, enough: cancel}
		var problems bytes.Buffer
		if code := Run(ctx, strings.Fields(line), out, &problems); code != 0 {
			t.Errorf("smrctl %s: exit code %d: %s", line, code, problems.String())
		}
		for l := range strings.Lines(out.text.String()) {
			if !strings.HasPrefix(l, prefix) {
				t.Errorf("smrctl %s: line %q", line, l)
			}
		}
	}
}
