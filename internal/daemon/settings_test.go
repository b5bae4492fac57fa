package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lockstep/internal/obs"

	"lockstep/internal/bytesize"
)

// sample is a program with a flag of every kind.
type sample struct {
	*Program
	listen string
	wait   time.Duration
	query  int
	remote bool
	peers  []string
	ran    bool
}

func newSample() *sample {
	s := &sample{Program: New("sample", "--listen ADDR", "Does nothing.")}
	s.Flags.StringVar(&s.listen, "listen", "127.0.0.1:1", "`host:port` to listen on")
	s.Flags.DurationVar(&s.wait, "write-timeout", time.Second, "`time` to wait")
	s.Flags.Var(bytesize.Flag(&s.query, 1<<40), "query-buffer", "most `bytes`")
	s.Flags.BoolVar(&s.remote, "allow-remote", false, "let others in")
	s.Flags.Func("peers", "who else, a|b (default nobody)", func(text string) error {
		s.peers = strings.Split(text, ",")
		return nil
	})
	s.Check = func() error { return nil }
	s.Labels = func() []any { return []any{"node", "n1"} }
	s.Run = func(context.Context, *slog.Logger, *obs.Observer) error { s.ran = true; return nil }
	return s
}

// settings writes a file of settings.
func settings(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sample.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What could go wrong: a value is read with its quotes or its comment, a line of YAML is not understood, or the file
// wins over the command line.
func TestSettingsAreRead(t *testing.T) {
	path := settings(t, "\ufeff# a sample\n---\nlisten = 10.0.0.1:6379   # the inner network\nwrite-timeout: 250ms\r\n"+
		"query-buffer: \"64MiB\"  # quoted\n\n  allow-remote = true\npeers = 'n1=a:1,n2=#b:2'\n")
	s := newSample()
	if err := s.Parse([]string{"--config", path, "--write-timeout", "3s"}); err != nil {
		t.Fatal(err)
	}
	if s.listen != "10.0.0.1:6379" || s.wait != 3*time.Second || s.query != 64<<20 || !s.remote || strings.Join(s.peers, "+") != "n1=a:1+n2=#b:2" {
		t.Errorf("%+v", s)
	}
}

// What could go wrong: a typo is passed over, and the operator believes in a setting that is not there. Each mistake
// must be told with its line, all of them at once, and nothing may run.
func TestMistakesInSettings(t *testing.T) {
	path := settings(t, "lisen = x\nWrite_Timeout = 1s\nwrite-timeout = soon\nlisten\nlisten = a:1\nlisten = b:1\nversion = true\n"+
		"query-buffer = \"1\npeers = 'a' b\ncompletely-else = 1\n- item\n")
	s := newSample()
	var out bytes.Buffer
	if code := s.Execute(context.Background(), []string{"--config", path}, &out, &out); code != ExitUsage || s.ran {
		t.Errorf("exit code %d, ran %v", code, s.ran)
	}
	for _, part := range []string{
		path + `:1: there is no setting "lisen": is it "listen"?`, `:2: there is no setting "Write_Timeout": is it "write-timeout"?`,
		":3: write-timeout = soon: ", `:4: "listen" is no setting: write name = value`, `:6: "listen" stands in line 5 already`,
		`:7: "version" belongs on the command line`, `:8: "1 has no end quote`, `:9: "b" stands behind the value`,
		`:10: there is no setting "completely-else": see --help`, `:11: "- item" is no setting`,
	} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("does not say %q:\n%s", part, out.String())
		}
	}
	for name, path := range map[string]string{"missing": filepath.Join(t.TempDir(), "none"), "a directory": t.TempDir(), "endless": "/dev/zero"} {
		var out bytes.Buffer
		if code := newSample().Execute(context.Background(), []string{"--config", path}, &out, &out); code != ExitUsage || !strings.Contains(out.String(), path) {
			t.Errorf("%s: exit code %d: %s", name, code, out.String())
		}
	}
}

// What could go wrong: any text at all ends the process instead of being refused.
func FuzzSettings(f *testing.F) {
	f.Add("listen = a:1 # x\nwrite-timeout: \"1s\"")
	f.Add("'\n=\n:\n\"\\\n a = 'b'c\n\ufeff")
	f.Fuzz(func(t *testing.T, text string) {
		for line := range strings.Lines(text) {
			name, value, err := cutSetting(line)
			if err != nil && err.Error() == "" || err == nil && name != "" && !strings.Contains(line, name) {
				t.Errorf("%q: %q %q %v", line, name, value, err)
			}
			if err == nil && name != "" {
				if err := checkSetting(newSample().Flags, name, 0); err != nil && err.Error() == "" {
					t.Errorf("%q: an error without words", name)
				}
			}
		}
	})
}

// What could go wrong: the page on settings says something else than the program.
func TestReference(t *testing.T) {
	s := newSample()
	text := s.Reference()
	for _, line := range []string{
		"## sample\n\nDoes nothing.\n\n    sample --listen ADDR [flags]\n",
		"| `listen` | host:port | `127.0.0.1:1` | host:port to listen on |\n", "| `write-timeout` | time | `1s` | time to wait |\n",
		"| `allow-remote` | true or false | `false` | let others in |\n", "| `peers` | value | nobody | who else, a\\|b |\n", "| `log-level` | level | info |",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("lacks %q:\n%s", line, text)
		}
	}
	page := settings(t, "before\n<!-- sample: begin -->\nold\n<!-- sample: end -->\nbehind\n")
	if err := s.CheckReference(page, false); err == nil || !strings.Contains(err.Error(), "make docs") {
		t.Errorf("an old page: %v", err)
	}
	if err := s.CheckReference(page, true); err != nil {
		t.Error(err)
	}
	content, err := os.ReadFile(page)
	if err != nil || string(content) != "before\n<!-- sample: begin -->\n"+text+"<!-- sample: end -->\nbehind\n" {
		t.Errorf("%s, %v", content, err)
	}
	if err := s.CheckReference(page, false); err != nil {
		t.Error(err)
	}
	if err := s.CheckReference(settings(t, "nothing"), true); err == nil {
		t.Error("a page without the section is taken")
	}
}
