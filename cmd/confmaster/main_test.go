package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"lockstep/internal/daemon"
)

// What could go wrong: a wrong flag is taken for a failure of the system, or help and version fail. Seen by exit code
// and text.
func TestUsage(t *testing.T) {
	fine := "--dir " + t.TempDir() + " --cluster c --id 1 --peers 1=127.0.0.1:1 "
	for _, test := range []struct {
		arguments string
		code      int
		want      []string
	}{
		{"--help", daemon.ExitDone, []string{"Usage: confmaster --dir DIR", "-suspect-ms milliseconds", "(default 1000)", "Exit code: 0"}},
		{"--version", daemon.ExitDone, []string{"confmaster "}},
		{"", daemon.ExitUsage, []string{"--dir is missing", "--cluster must have", "--peers names 0", "Try confmaster --help"}},
		{fine + "--peers x", daemon.ExitUsage, []string{"--peers: ", "NUMBER=HOST:PORT"}},
		{fine + "--probe-ms 1s", daemon.ExitUsage, []string{"whole number of milliseconds"}},
		{fine + "--log-format xml", daemon.ExitUsage, []string{"text or json"}},
		{fine + "--log-level loud", daemon.ExitUsage, []string{"log-level"}},
		{fine + "word", daemon.ExitUsage, []string{`unexpected argument "word"`}},
		{fine + "--sentinel 192.0.2.1:1 --new", daemon.ExitFailed, []string{"listen for"}},
	} {
		var out bytes.Buffer
		if code := run(context.Background(), strings.Fields(test.arguments), &out, &out); code != test.code {
			t.Errorf("%q: exit code %d, want %d: %s", test.arguments, code, test.code, out.String())
		}
		for _, part := range test.want {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%q: does not say %q:\n%s", test.arguments, part, out.String())
			}
		}
	}
}

// Flags must arrive in the configuration in their units.
func TestParse(t *testing.T) {
	program, config := describe()
	if err := program.Parse(strings.Fields("--dir d --cluster c --id 2 --peers 1=a:1,2=b:2,3=c:3 --suspect-ms 1500")); err != nil {
		t.Fatal(err)
	}
	if err := program.Check(); err != nil {
		t.Error(err)
	}
	if config.Suspect != 1500*time.Millisecond || len(config.Peers) != 3 || config.ID != 2 {
		t.Errorf("%+v", *config)
	}
}
