package acl

import (
	"errors"
	"path"
	"strings"
	"testing"
)

func testTable() *Table {
	match := func(pattern, text string) bool { ok, _ := path.Match(pattern, text); return ok }
	return NewTable([]Command{
		{Name: "auth", Categories: []string{"fast", "connection"}, Open: true},
		{Name: "get", Categories: []string{"read", "string", "fast"}},
		{Name: "set", Categories: []string{"write", "string", "slow"}},
		{Name: "copy", Categories: []string{"write", "keyspace", "slow"}},
		{Name: "select", Categories: []string{"fast", "connection"}},
		{Name: "config", Categories: []string{"slow"}},
		{Name: "config|get", Categories: []string{"admin", "slow", "dangerous"}},
		{Name: "config|set", Categories: []string{"admin", "slow", "dangerous"}},
		{Name: "publish", Categories: []string{"pubsub", "fast"}},
	}, match)
}

// What could go wrong: rules that look applied and are not, or a description that gives other rights than the user has.
// Every step's description is that of redis-server, and is read back.
func TestRulesAreDescribedAsGiven(t *testing.T) {
	const hash = "30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4" // of "pw"
	tests := []struct{ rules, want string }{
		{"", "off sanitize-payload resetchannels -@all"},
		{"on nopass ~* &* +@all", "on nopass sanitize-payload ~* &* +@all"},
		{"on >pw >pw", "on sanitize-payload #" + hash + " resetchannels -@all"},
		{"nopass >pw <pw", "off sanitize-payload resetchannels -@all"},
		{"~a* %R~b* %W~b* %RW~c %r~d &ch*", "off sanitize-payload ~a* ~b* ~c %R~d resetchannels &ch* -@all"},
		{"+@read -get +config|get +SELECT|0", "off sanitize-payload resetchannels -@all +@read -get +config|get +select|0"},
		{"+config|get +config -config|set +config", "off sanitize-payload resetchannels -@all +config"},
		{"+get -get +get", "off sanitize-payload resetchannels -@all +get"},
		{"+@all -@admin", "off sanitize-payload resetchannels +@all -@admin"},
		{"allcommands -@all allkeys resetkeys", "off sanitize-payload resetchannels -@all"},
		{"(+set ~x* &y) (%RW~q -@all)", "off sanitize-payload resetchannels -@all (~x* resetchannels &y -@all +set) (~q resetchannels -@all)"},
		{"( +set  ~x* ) clearselectors skip-sanitize-payload", "off skip-sanitize-payload resetchannels -@all"},
		{"on nopass ~* +@all (~x) reset", "off sanitize-payload resetchannels -@all"},
	}
	table := testTable()
	for _, test := range tests {
		u, err := table.NewUser("u").With(strings.Fields(test.rules))
		if err != nil {
			t.Errorf("%s: %v", test.rules, err)
			continue
		}
		if got := u.Describe(); got != test.want {
			t.Errorf("%s\n got %s\nwant %s", test.rules, got, test.want)
		}
		again, err := table.NewUser("u").With(strings.Fields(u.Describe()))
		if err != nil || again.Describe() != u.Describe() {
			t.Errorf("%s: read back as %v, %v", test.want, again, err)
		}
	}
}

// A wrong rule is refused in Redis' words, and none of the others is applied.
func TestWrongRules(t *testing.T) {
	tests := []struct{ rules, want string }{
		{"on foo", "Error in ACL SETUSER modifier 'foo': Syntax error"},
		{"+foo", "Error in ACL SETUSER modifier '+foo': Unknown command or category name in ACL"},
		{"+@foo", "Error in ACL SETUSER modifier '+@foo': Unknown command or category name in ACL"},
		{"+", "Error in ACL SETUSER modifier '+': Unknown command or category name in ACL"},
		{"+config|foo", "Error in ACL SETUSER modifier '+config|foo': Unknown command or category name in ACL"},
		{"+config|get|x", "Error in ACL SETUSER modifier '+config|get|x': Allowing first-arg of a subcommand is not supported"},
		{"+config|", "Error in ACL SETUSER modifier '+config|': Syntax error"},
		{"-select|0", "Error in ACL SETUSER modifier '-select|0': Unknown command or category name in ACL"},
		{"%~x", "Error in ACL SETUSER modifier '%~x': Syntax error"},
		{"%RR~x", "Error in ACL SETUSER modifier '%RR~x': Syntax error"},
		{"%R", "Error in ACL SETUSER modifier '%R': Syntax error"},
		{"<y", "Error in ACL SETUSER modifier '<y': The password you are trying to remove from the user does not exist"},
		{"#12", "Error in ACL SETUSER modifier '#12': The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"},
		{"(+get", "Unmatched parenthesis in acl selector starting at '(+get'."},
		{"(on)", "Error in ACL SETUSER modifier '(on)': Syntax error"},
		{"~* ~x", "Error in ACL SETUSER modifier '~x': " + errAllKeys.Error()},
		{"&* &x", "Error in ACL SETUSER modifier '&x': " + errAllChannels.Error()},
	}
	users := NewUsers(testTable())
	for _, test := range tests {
		changed, err := users.With("u", strings.Fields(test.rules))
		if err == nil || err.Error() != test.want || changed != nil {
			t.Errorf("%s: %v\nwant %s", test.rules, err, test.want)
		}
	}
	if len(users.All()) != 1 {
		t.Error("a wrong rule made a user")
	}
}

// What could go wrong: somebody does what no rule allows, or a read right serves for a write.
func TestWhoMayDoWhat(t *testing.T) {
	table := testTable()
	key := func(name string, access Access) []Key { return []Key{{[]byte(name), access}} }
	channel := func(name string, pattern bool) []Channel { return []Channel{{[]byte(name), pattern}} }
	tests := []struct {
		rules, command, argument string
		keys                     []Key
		channels                 []Channel
		want                     Denial
		object                   string
	}{
		{"+get ~a*", "get", "a1", key("a1", Read), nil, Allowed, ""},
		{"+get ~a*", "get", "b", key("b", Read), nil, DeniedKey, "b"},
		{"+get ~a*", "set", "a", key("a", Write), nil, DeniedCommand, "set"},
		{"+@all %R~a*", "set", "a", key("a", Write), nil, DeniedKey, "a"},
		{"+@all %R~a* %W~ab*", "set", "ab", key("ab", Write), nil, Allowed, ""},
		{"+@all %R~a* %W~ab*", "set", "ab", key("ab", Read|Write), nil, DeniedKey, "ab"},
		{"+@all %R~a*", "get", "a", key("a", 0), nil, Allowed, ""},
		{"+@all %R~s* %W~d*", "copy", "s", []Key{{[]byte("s"), Read}, {[]byte("d"), Write}}, nil, Allowed, ""},
		{"+@all %R~s* %W~d*", "copy", "d", []Key{{[]byte("d"), Read}, {[]byte("s"), Write}}, nil, DeniedKey, "d"},
		{"+select|0", "select", "0", nil, nil, Allowed, ""},
		{"+select|0", "select", "1", nil, nil, DeniedCommand, "select"},
		{"+select|0 -select", "select", "0", nil, nil, DeniedCommand, "select"},
		{"", "auth", "x", nil, nil, Allowed, ""},
		{"+config -config|set", "config|get", "x", nil, nil, Allowed, ""},
		{"+config -config|set", "config|set", "x", nil, nil, DeniedCommand, "config|set"},
		{"+@slow", "config|set", "x", nil, nil, Allowed, ""},
		{"+@all -@dangerous", "config|set", "x", nil, nil, DeniedCommand, "config|set"},
		{"+publish &c*", "publish", "cx", nil, channel("cx", false), Allowed, ""},
		{"+publish &c*", "publish", "d", nil, channel("d", false), DeniedChannel, "d"},
		{"+publish &c*", "publish", "c*", nil, channel("c*", true), Allowed, ""},
		{"+publish &c*", "publish", "cc*", nil, channel("cc*", true), DeniedChannel, "cc*"},
		{"+get ~a (+set ~b)", "set", "b", key("b", Write), nil, Allowed, ""},
		{"+get ~a (+set ~b)", "set", "a", key("a", Write), nil, DeniedKey, "a"},
		{"+get ~a (+set ~b)", "copy", "a", key("a", Write), nil, DeniedCommand, "copy"},
	}
	for _, test := range tests {
		u, err := table.NewUser("u").With(strings.Fields(test.rules))
		if err != nil {
			t.Fatal(err)
		}
		denial, object := u.Check(Request{Command: table.Lookup(test.command), Args: [][]byte{[]byte(test.command), []byte(test.argument)},
			Keys: test.keys, Channels: test.channels})
		if denial != test.want || object != test.object {
			t.Errorf("%s: %s %s is %v %q, want %v %q", test.rules, test.command, test.argument, denial, object, test.want, test.object)
		}
	}
}

// A set of users that somebody holds must not change under his hands, and the default user cannot be removed.
func TestUsersAreValues(t *testing.T) {
	first := NewUsers(testTable())
	if d := first.Get(Default); !d.Unrestricted() || !d.Accepts(nil) {
		t.Error("the default user may not do everything")
	}
	second, err := first.With("u", []string{"on", ">secret", "+get"})
	if err != nil {
		t.Fatal(err)
	}
	third, err := second.With("u", []string{"+set", "<secret", ">other", "~k", "&c", "(+copy)"})
	if err != nil {
		t.Fatal(err)
	}
	if first.Get("u") != nil || second.Get("u").Describe() != "on sanitize-payload #"+Hash([]byte("secret"))+" resetchannels -@all +get" {
		t.Errorf("an earlier set has changed: %s", second.Get("u").Describe())
	}
	if u := third.Get("u"); u.Accepts([]byte("secret")) || !u.Accepts([]byte("other")) || u.Unrestricted() {
		t.Error("the password was not changed")
	}
	if _, ok := third.Without(Default); ok {
		t.Error("the default user was removed")
	}
	fourth, ok := third.Without("u")
	if !ok || fourth.Get("u") != nil || third.Get("u") == nil {
		t.Error("the user was not removed, or from the earlier set, too")
	}
	off, err := second.With("u", []string{"off"})
	if err != nil || off.Get("u").Accepts([]byte("secret")) {
		t.Error("a user who is off can log in")
	}
	var syntax *SyntaxError
	if _, err := second.With("u", []string{"~a", "bad"}); !errors.As(err, &syntax) || syntax.Rule != "bad" {
		t.Errorf("error %v", err)
	}
}

// A log that one attacker can flush, or that grows, is none.
func TestLogGroupsAndForgets(t *testing.T) {
	var l Log
	for i := range 300 {
		l.Add(Entry{Reason: DeniedKey, Context: "toplevel", Object: "k", User: "u"}, int64(i), 10)
	}
	l.Add(Entry{Reason: DeniedAuth, Context: "toplevel", Object: "auth", User: "u"}, 400, 10)
	entries := l.Entries(100)
	if len(entries) != 2 || entries[1].Count != 300 || entries[1].Updated != 299 || entries[0].Reason != DeniedAuth {
		t.Errorf("%+v", entries)
	}
	l.Add(Entry{Reason: DeniedKey, Context: "toplevel", Object: "k", User: "u"}, 299+groupWindow, 10)
	if e := l.Entries(1)[0]; e.Count != 301 {
		t.Errorf("%+v", e)
	}
	for i := range 30 {
		l.Add(Entry{Object: string(rune('a' + i))}, 0, 10)
	}
	if n := len(l.Entries(100)); n != 10 {
		t.Errorf("%d entries", n)
	}
}

// FuzzRules: no rule may panic, and what is described is read back as the same.
func FuzzRules(f *testing.F) {
	f.Add("on >x ~a* %R~b &c +@read -get (+set ~x)")
	f.Add("(+get ) ( %W~ +config|get)")
	table := testTable()
	f.Fuzz(func(t *testing.T, rules string) {
		u, err := table.NewUser("u").With(strings.Fields(rules))
		if err != nil {
			return
		}
		again, err := table.NewUser("u").With(strings.Fields(u.Describe()))
		if err != nil {
			t.Fatalf("%s: described as %s: %v", rules, u.Describe(), err)
		}
		if again.Describe() != u.Describe() {
			t.Fatalf("%s: described as %s, read back as %s", rules, u.Describe(), again.Describe())
		}
	})
}
