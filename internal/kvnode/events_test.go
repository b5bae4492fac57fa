package kvnode

import (
	"fmt"
	"testing"
)

// Events of commands that take a key out, move it, or write over one that is there: as redis-server 7.0 tells them.
func TestEventsOfKeysThatGo(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	c, listener := dial(t, address), dial(t, address)
	c.expect("CONFIG SET notify-keyspace-events AEn", "+OK\r\n")
	listener.expect("PSUBSCRIBE __keyevent@0__:*", "*3\r\n"+confirmation("psubscribe", "__keyevent@0__:*", 1))
	for _, step := range []struct {
		command string
		events  []string // each an event and a key
	}{
		{"SET a 1", []string{"new", "a", "set", "a"}},
		{"RENAME a b", []string{"new", "b", "rename_from", "a", "rename_to", "b"}},
		{"RENAMENX b a", []string{"new", "a", "rename_from", "b", "rename_to", "a"}},
		{"DEL a nothing", []string{"del", "a"}},
		{"SADD s 1 2", []string{"new", "s", "sadd", "s"}},
		{"SUNIONSTORE s s", []string{"sunionstore", "s"}},
		{"ZUNIONSTORE z 1 s", []string{"new", "z", "zunionstore", "z"}},
		{"ZINTERSTORE z 1 z", []string{"zinterstore", "z"}},
		{"SINTERSTORE s s none", []string{"del", "s"}},
		{"UNLINK z", []string{"del", "z"}},
	} {
		if got := c.do(step.command); got[0] == '-' {
			t.Fatalf("%s: %s", step.command, got)
		}
		for i := 0; i < len(step.events); i += 2 {
			channel, key := "__keyevent@0__:"+step.events[i], step.events[i+1]
			listener.want(fmt.Sprintf("*4\r\n$8\r\npmessage\r\n$16\r\n__keyevent@0__:*\r\n$%d\r\n%s\r\n$1\r\n%s\r\n", len(channel), channel, key))
		}
	}
}
