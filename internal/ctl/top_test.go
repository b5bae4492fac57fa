package ctl

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func exampleTop() *topView {
	rate, ops, ms := 1234.0, int64(5000), 1.25
	return &topView{Time: "2026-11-21T10:00:00.000Z", at: time.Unix(0, 0), Confmasters: []topPeer{{"c1", true, true}, {"c2", false, true}, {"c3", false, false}},
		Groups: []topGroup{{Name: "g1", State: "degraded", Detail: "n3 is down", Master: "n1", Epoch: 7, Copies: 2, Replicas: []topReplica{
			{Node: "n1", Role: "master", Commit: 400, Applied: 400, BytesRate: &rate, Ops: &ops, ReadMs: &ms},
			{Node: "n2", Role: "slave", Commit: 400, Applied: 350, Lag: 50},
			{Node: "n3", Role: "down", Commit: 300, Applied: 300, Lag: 100},
		}}}}
}

// What could go wrong: lines that are wider or more than the terminal, so that the screen rolls; an order that is not the one asked for.
func TestTopFitsItsTerminal(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {40, 6}, {20, 3}, {200, 60}} {
		x := &top{screen: &screen{out: &bytes.Buffer{}, format: "table"}, order: "node"}
		lines := x.render(exampleTop(), size[0], size[1])
		if len(lines) > size[1] {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, l := range lines {
			if utf8.RuneCountInString(l) > size[0] {
				t.Errorf("%v: line of %d characters: %q", size, utf8.RuneCountInString(l), l)
			}
		}
		if size[0] == 80 && !strings.Contains(strings.Join(lines, "\n"), "READ MS") {
			t.Errorf("a column is cut off at 80 characters:\n%s", strings.Join(lines, "\n"))
		}
	}
}

func TestTopKeys(t *testing.T) {
	x := &top{screen: &screen{out: &bytes.Buffer{}, format: "table"}, order: "node"}
	first := func() string {
		for i, l := range x.render(exampleTop(), 80, 24) {
			if strings.HasPrefix(l, "NODE") {
				return x.render(exampleTop(), 80, 24)[i+1][:2]
			}
		}
		return ""
	}
	if first() != "n1" {
		t.Errorf("by node: %s first", first())
	}
	x.press('r')
	if first() != "n3" {
		t.Errorf("reversed: %s first", first())
	}
	x.press('r')
	x.press('s')
	x.press('s')
	if x.order != "lag" || first() != "n3" {
		t.Errorf("by %s: %s first", x.order, first())
	}
	x.press('p')
	if !x.paused || !strings.Contains(x.render(exampleTop(), 80, 24)[0], "PAUSED") {
		t.Error("p does not pause")
	}
	for _, key := range []byte{'q', 3} {
		if x.press(key) {
			t.Errorf("key %d does not end it", key)
		}
	}
}
