package ctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What could go wrong: the page on smrctl is older than the program, or leaves a command out.
func TestReferenceIsCurrent(t *testing.T) {
	page, want := filepath.Join("..", "..", "docs", "smrctl.md"), Manual()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(page)
	if err != nil || string(content) != want {
		t.Errorf("%s is not what the commands say (%v): run make docs", page, err)
	}
	for _, command := range []string{"up", "drill run", "config set", "log verify", "top"} {
		if !strings.Contains(want, "\n## smrctl "+command+"\n") {
			t.Errorf("%s is not there", command)
		}
	}
}
