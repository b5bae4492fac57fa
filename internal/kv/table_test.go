package kv

import (
	"slices"
	"strings"
	"testing"

	"lockstep/internal/resp"
	"lockstep/smr"
)

// The table must say of each command what redis-server says of it: clients and proxies route by it.
func TestTableAgreesWithRedis(t *testing.T) {
	for _, c := range Commands() {
		d, ok := describe(c.Name)
		if !ok || len(d.docs.Items) == 0 {
			t.Errorf("%s is not described", c.Name)
			continue
		}
		info := d.info.Items
		got := []int64{int64(c.Arity), int64(c.FirstKey), int64(c.LastKey), int64(c.Step)}
		want := []int64{info[infoArity].Int, info[infoFirst].Int, info[infoLast].Int, info[infoStep].Int}
		if !slices.Equal(got, want) {
			t.Errorf("%s: arity and keys %v, want %v", c.Name, got, want)
		}
		for name, flag := range map[string]Flag{"write": Write, "denyoom": DenyOOM, "fast": Fast, "movablekeys": Movable, "no_auth": NoAuth, "readonly": Readonly} {
			has := slices.ContainsFunc(info[infoFlags].Items, func(v resp.Value) bool { return v.Text == name })
			if name == "write" && slices.Contains(throughLog, c.Name) || name == "readonly" && c.Name == "lolwut" {
				continue
			}
			if container := info[infoSubcommands].Kind == '*'; has != (c.Flags&flag != 0) && !container { // its subcommands have the flags
				t.Errorf("%s: flag %s is %v in Redis", c.Name, name, has)
			}
		}
		summary, group, since := c.Summary()
		if summary == "" || group == "" || since == "" {
			t.Errorf("%s: %q %q %q", c.Name, summary, group, since)
		}
		if c.Flags&(Write|Readonly) != 0 && (c.run == nil || c.Flags&Local != 0) {
			t.Errorf("%s touches the keyspace and has no function", c.Name)
		}
		if c.Flags&(Write|Readonly|Local) == 0 || c.Flags&Write != 0 && c.Flags&Readonly != 0 {
			t.Errorf("%s belongs nowhere", c.Name)
		}
	}
	if len(commandHelp.Items) < 10 {
		t.Error("COMMAND HELP was not recorded")
	}
}

// throughLog are commands that go through our log, though Redis has no flag for them that says so: what they do reaches all nodes.
var throughLog = []string{"eval", "evalsha", "fcall", "publish", "spublish"}

func TestLookupIgnoresCase(t *testing.T) {
	for _, name := range []string{"get", "GET", "gEt", "zrevrangebyscore", "ZREVRANGEBYSCORE"} {
		if c := Lookup([]byte(name)); c == nil || c.Name != strings.ToLower(name) {
			t.Errorf("%s gave %v", name, c)
		}
	}
	for _, name := range []string{"", "nosuch", "get ", strings.Repeat("x", 1000)} {
		if c := Lookup([]byte(name)); c != nil {
			t.Errorf("%q gave %s", name, c.Name)
		}
	}
	name := []byte("HGetAll")
	if n := testing.AllocsPerRun(100, func() { Lookup(name) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Slots must be those of Redis Cluster: clients compute them too.
func TestSlotsAreThoseOfRedisCluster(t *testing.T) {
	for key, want := range map[string]uint16{
		"": 0, "123456789": 12739, "foo": 12182, "bar": 5061, "{user1000}.following": 3443, "{user1000}.followers": 3443,
		"foo{}{bar}": 8363, "foo{{bar}}zap": 4015, "foo{bar}{zap}": 5061,
	} {
		if got := Slot([]byte(key)); got != want {
			t.Errorf("slot of %q is %d, want %d", key, got, want)
		}
	}
	tests := []struct {
		args string
		want uint16
	}{
		{"get foo", 12182}, {"mget foo foo", 12182}, {"mget foo bar", smr.NoSlot}, {"ping", smr.NoSlot}, {"sintercard 2 {bar}1 {bar}2", 5061},
		{"sintercard 9 a", smr.NoSlot}, {"zunionstore bar 1 bar", 5061}, {"zunionstore bar 1 foo", smr.NoSlot}, {"mset foo 1 foo 2", 12182},
		{"xread count 1 streams foo 0", 12182}, {"xread streams foo bar 0 0", smr.NoSlot}, {"xreadgroup group g c STREAMS bar bar > >", 5061},
		{"xread streams foo", smr.NoSlot}, {"xread count 1 foo 0", smr.NoSlot},
	}
	for _, test := range tests {
		args := bytesOf(strings.Fields(test.args))
		if got := Lookup(args[0]).Slot(args); got != test.want {
			t.Errorf("%s: slot %d, want %d", test.args, got, test.want)
		}
	}
}

// The texts with which Redis refuses what it does not know, to the letter.
func TestUnknownCommandIsQuoted(t *testing.T) {
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"foo"}, "ERR unknown command 'foo', with args beginning with: "},
		{[]string{"foo", "bar", "baz"}, "ERR unknown command 'foo', with args beginning with: 'bar' 'baz' "},
		{[]string{"foo", strings.Repeat("x", 200), "y"}, "ERR unknown command 'foo', with args beginning with: '" + strings.Repeat("x", 128) + "' "},
		{[]string{"foo", strings.Repeat("x", 120), "1234567890"}, "ERR unknown command 'foo', with args beginning with: '" + strings.Repeat("x", 120) + "' '12345' "},
		{[]string{strings.Repeat("f", 300)}, "ERR unknown command '" + strings.Repeat("f", 128) + "', with args beginning with: "},
		{[]string{"a\x00b", "c\x00d"}, "ERR unknown command 'a', with args beginning with: 'c' "},
	}
	for _, test := range tests {
		if got := UnknownCommandError(bytesOf(test.args)); got != test.want {
			t.Errorf("%q\n got %q\nwant %q", test.args, got, test.want)
		}
	}
}
