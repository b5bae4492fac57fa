package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// What could go wrong: a wrong flag is taken for a failure of the system, is reported one at a time, or help and
// version fail. Seen by exit code and text.
func TestUsage(t *testing.T) {
	good := []string{"--dir", t.TempDir(), "--cluster", "c", "--node", "n1"}
	for name, test := range map[string]struct {
		arguments []string
		code      int
		stdout    []string
		stderr    []string
	}{
		"help":          {[]string{"--help"}, exitDone, nil, []string{"--dir DIR", "-file-size bytes", "(default 64MiB)", "milliseconds", "(default 100)"}},
		"version":       {[]string{"--version"}, exitDone, []string{"replicator "}, nil},
		"nothing":       {nil, exitUsage, nil, []string{"dir: ", "cluster: ", "node: ", "--help"}},
		"unknown flag":  {[]string{"--what"}, exitUsage, nil, []string{"-what"}},
		"argument":      {append(good, "start"), exitUsage, nil, []string{`"start"`}},
		"several":       {append(good, "--file-size", "5000", "--data", "nowhere", "--sync-interval-ms", "-1"), exitUsage, nil, []string{"file-size", "data", "sync-interval-ms"}},
		"bad size":      {append(good, "--file-size", "64 hogsheads"), exitUsage, nil, []string{"64MiB"}},
		"bad sync":      {append(good, "--sync", "never"), exitUsage, nil, []string{"always, interval or os"}},
		"bad format":    {append(good, "--log-format", "xml"), exitUsage, nil, []string{"text or json"}},
		"bad level":     {append(good, "--log-level", "loud"), exitUsage, nil, []string{"log-level"}},
		"port in use":   {append(good, "--data", "127.0.0.1:0", "--manage", "192.0.2.1:1"), exitFailed, nil, []string{"management port"}},
		"wildcard data": {append(good, "--data", ":7100"), exitUsage, nil, []string{"announce"}},
	} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), test.arguments, &stdout, &stderr)
		if code != test.code {
			t.Errorf("%s: exit code %d, want %d: %s", name, code, test.code, stderr.String())
		}
		for _, text := range test.stdout {
			if !strings.Contains(stdout.String(), text) {
				t.Errorf("%s: stdout lacks %q: %s", name, text, stdout.String())
			}
		}
		for _, text := range test.stderr {
			if !strings.Contains(stderr.String(), text) {
				t.Errorf("%s: stderr lacks %q: %s", name, text, stderr.String())
			}
		}
	}
}

// What could go wrong: a size that is printed cannot be read again, or overflows.
func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"4096": 4096, "4KiB": 4096, "64MiB": 64 << 20, "1GiB": 1 << 30, "0": 0} {
		var s size
		if err := s.Set(text); err != nil || int64(s) != want {
			t.Errorf("%q: %d, %v", text, s, err)
		}
		var again size
		if err := again.Set(s.String()); err != nil || again != s {
			t.Errorf("%q is printed as %q", text, s.String())
		}
	}
	for _, text := range []string{"", "-1", "MiB", "9999999999999GiB", "1.5MiB", "1MB"} {
		if err := new(size).Set(text); err == nil {
			t.Errorf("%q is taken for a size", text)
		}
	}
}
