package kvnode

import (
	"slices"
	"strings"
	"testing"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
)

// What could go wrong: COMMAND describes what the server then calls unknown, or hides what it executes; a client that
// builds its methods from COMMAND would believe it.
func TestCommandListIsWhatIsExecuted(t *testing.T) {
	table := newCommandTable()
	var executed []string
	for name, c := range table.byName {
		executed = append(executed, name)
		for sub := range c.sub {
			executed = append(executed, name+"|"+sub)
		}
	}
	reply := resp.Reply{Proto: 3}
	kv.CommandReply([][]byte{[]byte("command"), []byte("list")}, &reply)
	v, _, err := resp.Decode(reply.Buf)
	if err != nil {
		t.Fatal(err)
	}
	var described []string
	for _, item := range v.Items {
		described = append(described, item.Text)
		name, sub, _ := strings.Cut(item.Text, "|")
		if slices.Contains([]string{"command", "function", "object", "script", "xgroup", "xinfo"}, name) { // the machine knows their subcommands
			executed = append(executed, item.Text)
			continue
		}
		info := resp.Reply{Proto: 3}
		kv.CommandReply([][]byte{[]byte("command"), []byte("info"), []byte(item.Text)}, &info)
		one, _, err := resp.Decode(info.Buf)
		if err != nil {
			t.Fatal(err)
		}
		c := table.byName[name]
		if c != nil && sub != "" {
			c = c.sub[sub]
		}
		if arity := one.Items[0].Items[1].Int; c != nil && int64(c.arity) != arity {
			t.Errorf("%s has arity %d and is described with %d", item.Text, c.arity, arity)
		}
	}
	slices.Sort(executed)
	executed = slices.Compact(executed)
	slices.Sort(described)
	for _, name := range executed {
		if !slices.Contains(described, name) {
			t.Errorf("%s is executed and not described", name)
		}
	}
	for _, name := range described {
		if !slices.Contains(executed, name) {
			t.Errorf("%s is described and not executed", name)
		}
	}
}
