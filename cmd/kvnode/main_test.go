package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"lockstep/internal/daemon"
	"lockstep/smr"
)

// Wrong usage must be told, all of it at once, with exit code 2; help and version are no failures.
func TestUsage(t *testing.T) {
	fine := "--replicator-dir d --cluster c --node n1 "
	for _, test := range []struct {
		arguments string
		code      int
		want      []string
	}{
		{"--help", daemon.ExitDone, []string{"Usage: kvnode", `default "127.0.0.1:6379"`, "-write-timeout time", "default 10s", "Exit code: 0"}},
		{"--version", daemon.ExitDone, []string{"kvnode "}},
		{"", daemon.ExitUsage, []string{"replicator directory is missing", "cluster id is missing", "node name", "Try kvnode --help"}},
		{fine + "--listen nonsense", daemon.ExitUsage, []string{"nonsense", "host:port"}},
		{fine + "--maxclients 0 --query-buffer 1KiB", daemon.ExitUsage, []string{"maxclients 0", "query buffer of 1024 bytes"}},
		{fine + "--output-buffer x", daemon.ExitUsage, []string{"is no number of bytes"}},
		{fine + "--peers n1", daemon.ExitUsage, []string{"write node=host:port"}},
		{fine + "--peers n1=x", daemon.ExitUsage, []string{"address of peer n1"}},
		{fine + "--log-format xml", daemon.ExitUsage, []string{"use text or json"}},
		{fine + "--nonsense", daemon.ExitUsage, []string{"nonsense"}},
		{fine + "--requirepass geheim", daemon.ExitUsage, []string{"everybody on this machine can read a command line"}},
		{fine + "--admin 10.0.0.1:7400", daemon.ExitUsage, []string{"admin 10.0.0.1:7400: other hosts may reach it", "--insecure"}},
		{fine + "--tls-cert x", daemon.ExitUsage, []string{"tls-ca, tls-key is missing"}},
		{fine + "--tls-listen :6380 --tls-listen-auth maybe", daemon.ExitUsage, []string{"use no, optional or required"}},
		{fine + "--http-tls on", daemon.ExitUsage, []string{"it needs --http"}},
		{fine + "word", daemon.ExitUsage, []string{`unexpected argument "word"`}},
	} {
		var out bytes.Buffer
		if code := run(context.Background(), strings.Fields(test.arguments), &out, &out); code != test.code {
			t.Errorf("%q: exit code %d, want %d", test.arguments, code, test.code)
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
	if err := program.Parse(strings.Fields("--replicator-dir d --cluster c --node n1 --listen [::1]:7 --write-timeout 1500ms " +
		"--query-buffer 1MiB --output-buffer 2GiB --peers n1=a:1,n2=b:2 --slowlog-slower-than 1ms")); err != nil {
		t.Fatal(err)
	}
	if err := config.Validate(); err != nil {
		t.Error(err)
	}
	if config.WriteTimeout != 1500*time.Millisecond || config.MaxQuery != 1<<20 || config.MaxOutput != 2<<30 ||
		config.Peers[smr.NodeID("n2")] != "b:2" || config.SlowerThan != time.Millisecond || config.Group != "g1" {
		t.Errorf("%+v", *config)
	}
}

// A port in use, and a file in place of the replicator's directory, must be named, with exit code 1.
func TestFailure(t *testing.T) {
	var out bytes.Buffer
	arguments := []string{"--replicator-dir", "main_test.go", "--cluster", "c", "--node", "n1", "--listen", "127.0.0.1:0"}
	if code := run(context.Background(), arguments, &out, &out); code != daemon.ExitFailed || !strings.Contains(out.String(), "main_test.go is no directory") {
		t.Errorf("exit code %d:\n%s", code, out.String())
	}
}

// A node without a replicator beside it serves what needs none, and stops when it is told to.
func TestStopsWithoutReplicator(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	var out bytes.Buffer
	dir := t.TempDir()
	go func() {
		ended <- run(ctx, []string{"--replicator-dir", dir, "--cluster", "c", "--node", "n1", "--listen", "127.0.0.1:0"}, &out, &out)
	}()
	cancel()
	if code := <-ended; code != daemon.ExitDone {
		t.Errorf("exit code %d", code)
	}
}
