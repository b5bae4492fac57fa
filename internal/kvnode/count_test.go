package kvnode

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"lockstep/internal/resp"
)

// What could go wrong: INFO commandstats and errorstats, which dashboards and test suites read, count an error that a transaction or a
// subcommand met for another command, or a refusal as a call.
func TestErrorsAreCountedWhereTheyBelong(t *testing.T) {
	c := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
	for _, test := range []struct {
		name     string
		commands []string
		want     []string // line of INFO, or its beginning
		absent   []string
	}{
		{"subcommand", []string{"XADD s * f v", "XGROUP CREATECONSUMER s g c"},
			[]string{"cmdstat_xgroup|createconsumer:calls=1 rejected_calls=0,failed_calls=1", "errorstat_NOGROUP:count=1", "cmdstat_xadd:calls=1 rejected_calls=0,failed_calls=0"},
			[]string{"cmdstat_xgroup:"}},
		{"arity of a subcommand", []string{"OBJECT ENCODING", "OBJECT NOSUCH k"}, []string{"cmdstat_object|encoding:calls=0 rejected_calls=1,failed_calls=0", "errorstat_ERR:count=2"}, nil},
		{"transaction", []string{"SET text t", "MULTI", "SET a b", "LPUSH text x", "EXEC"},
			[]string{"cmdstat_set:calls=2 rejected_calls=0,failed_calls=0", "cmdstat_lpush:calls=1 rejected_calls=0,failed_calls=1", "cmdstat_exec:calls=1 rejected_calls=0,failed_calls=0",
				"errorstat_WRONGTYPE:count=1", "total_error_replies:1"}, nil},
		{"refused transaction", []string{"MULTI", "SET", "EXEC"},
			[]string{"cmdstat_set:calls=0 rejected_calls=1,failed_calls=0", "cmdstat_exec:calls=1 rejected_calls=0,failed_calls=1", "errorstat_ERR:count=1", "errorstat_EXECABORT:count=1", "total_error_replies:2"}, nil},
		{"no memory", []string{"CONFIG SET maxmemory 1", "SET a b", "CONFIG SET maxmemory 0"},
			[]string{"cmdstat_set:calls=0 rejected_calls=1,failed_calls=0", "errorstat_OOM:count=1"}, nil},
		{"untimed", []string{"CONFIG SET latency-tracking no", "SET a b", "CONFIG SET latency-tracking yes"},
			[]string{"cmdstat_set:calls=1 rejected_calls=0,failed_calls=0"}, []string{"latency_percentiles_usec_set:"}},
		{"percentiles", []string{"CONFIG SET latency-tracking-info-percentiles \"0.0 50.0 100.0\"", "SET a b"}, []string{"latency_percentiles_usec_set:p0= ,p50= ,p100="}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.t = t
			c.expect("CONFIG RESETSTAT", "+OK\r\n")
			for _, command := range test.commands {
				c.send(command)
				if c.next() == nil {
					t.Fatalf("closed at %s", command)
				}
			}
			c.send("INFO everything")
			reply, _, err := resp.Decode(bytes.Clone(c.next()))
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(reply.Text, "\r\n")
			for _, want := range test.want {
				if !someLine(lines, want) {
					t.Errorf("no line %q in\n%s", want, statistics(lines))
				}
			}
			for _, absent := range test.absent {
				if someLine(lines, absent) {
					t.Errorf("a line %q in\n%s", absent, statistics(lines))
				}
			}
		})
	}
}

// someLine reports whether a line begins with the first word and holds the others behind it, in their order.
func someLine(lines []string, words string) bool {
	for _, line := range lines {
		parts := strings.Fields(words)
		rest, found := strings.CutPrefix(line, parts[0])
		for _, part := range parts[1:] {
			if found {
				_, rest, found = strings.Cut(rest, part)
			}
		}
		if found {
			return true
		}
	}
	return false
}

func statistics(lines []string) string {
	var shown strings.Builder
	for _, line := range lines {
		if strings.HasPrefix(line, "cmdstat_") || strings.HasPrefix(line, "errorstat_") || strings.HasPrefix(line, "latency_") {
			fmt.Fprintln(&shown, line)
		}
	}
	return shown.String()
}
