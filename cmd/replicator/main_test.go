package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"lockstep/internal/daemon"
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
		"help":          {[]string{"--help"}, daemon.ExitDone, nil, []string{"--dir DIR", "-file-size bytes", "(default 64MiB)", "milliseconds", "(default 100)"}},
		"version":       {[]string{"--version"}, daemon.ExitDone, []string{"replicator "}, nil},
		"nothing":       {nil, daemon.ExitUsage, nil, []string{"dir: ", "cluster: ", "node: ", "--help"}},
		"unknown flag":  {[]string{"--what"}, daemon.ExitUsage, nil, []string{"-what"}},
		"argument":      {append(good, "start"), daemon.ExitUsage, nil, []string{`"start"`}},
		"several":       {append(good, "--file-size", "5000", "--data", "nowhere", "--sync-interval-ms", "-1"), daemon.ExitUsage, nil, []string{"file-size", "data", "sync-interval-ms"}},
		"bad size":      {append(good, "--file-size", "64 hogsheads"), daemon.ExitUsage, nil, []string{"64MiB"}},
		"bad sync":      {append(good, "--sync", "never"), daemon.ExitUsage, nil, []string{"always, interval or os"}},
		"bad format":    {append(good, "--log-format", "xml"), daemon.ExitUsage, nil, []string{"text or json"}},
		"bad level":     {append(good, "--log-level", "loud"), daemon.ExitUsage, nil, []string{"log-level"}},
		"port in use":   {append(good, "--data", "127.0.0.1:0", "--insecure", "--manage", "192.0.2.1:1"), daemon.ExitFailed, nil, []string{"management port"}},
		"wildcard data": {append(good, "--data", ":7100"), daemon.ExitUsage, nil, []string{"announce"}},
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
