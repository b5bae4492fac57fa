package kvnode

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"lockstep/internal/resp"
)

// Users made on one node hold on all; each may do what the rules say, in Redis' words; and who is removed is cut.
func TestUsersHoldOnEveryNode(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	a, b := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	a.expect("ACL SETUSER alice on >secret ~k* &c* +@all -@dangerous", "+OK\r\n")
	eventually(t, "the other node knows her", func() bool { return strings.Contains(b.do("ACL USERS"), "alice") })
	b.expect("AUTH alice wrong", "-WRONGPASS invalid username-password pair or user is disabled.\r\n")
	b.expect("AUTH alice secret", "+OK\r\n")
	b.expect("ACL WHOAMI", "$5\r\nalice\r\n")
	b.expect("SET k1 1", "+OK\r\n")
	b.expect("GET x", "-NOPERM No permissions to access a key\r\n")
	b.expect("FLUSHALL", "-NOPERM User alice has no permissions to run the 'flushall' command\r\n")
	b.expect("CONFIG SET maxclients 5", "-NOPERM User alice has no permissions to run the 'config|set' command\r\n")
	b.expect("PUBLISH d x", "-NOPERM No permissions to access a channel\r\n")
	b.expect("PUBLISH c x", ":0\r\n")
	b.send("MULTI", "SET k2 1", "SET x 1", "EXEC")
	b.want("+OK\r\n", "+QUEUED\r\n", "-NOPERM No permissions to access a key\r\n", "-EXECABORT Transaction discarded because of previous errors.\r\n")
	if got := a.do("ACL LIST"); !strings.Contains(got, "user alice on sanitize-payload #2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b ~k* resetchannels &c* +@all -@dangerous") {
		t.Error(got)
	}
	if got := b.do("ACL LOG"); !strings.HasPrefix(got, "-NOPERM") {
		t.Error(got)
	}
	b.expect("SUBSCRIBE c1", "*3\r\n"+confirmation("subscribe", "c1", 1))
	a.expect("ACL SETUSER alice resetchannels", "+OK\r\n")
	b.want("")
	a.expect("ACL DELUSER alice nobody", ":1\r\n")
	a.expect("ACL DELUSER default", "-ERR The 'default' user cannot be removed\r\n")
}

// What could go wrong: a user logs in on a node that lags behind, and is refused although he was acknowledged, or let in with
// a password that was taken from him.
func TestLoginWaitsForUsersThatWereAcknowledged(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	a, b := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	waiting := func() bool { return g.nodes[1].node.applied.waiting.Load() == 1 }
	for _, c := range []struct{ change, ask, reply string }{
		{"ACL SETUSER alice on >old +@all", "AUTH alice old", "+OK\r\n"},
		{"ACL SETUSER alice <old >new", "AUTH alice old", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"},
		{"ACL SETUSER bob", "ACL USERS", "*3\r\n$5\r\nalice\r\n$3\r\nbob\r\n$7\r\ndefault\r\n"},
		{"ACL DELUSER bob", "ACL GETUSER bob", "$-1\r\n"},
		{"ACL SETUSER carol ~c", "ACL DRYRUN carol GET d", "$54\r\nUser carol has no permissions to run the 'get' command\r\n"},
		{"ACL SETUSER carol +get >pw", "ACL SETUSER carol <pw", "+OK\r\n"},
		{"ACL SETUSER dora", "CLIENT KILL USER dora", ":0\r\n"},
		{"CONFIG SET requirepass pw", "AUTH pw", "+OK\r\n"},
	} {
		g.set(func() { g.nodes[1].lagging = true })
		if got := a.do(c.change); got[0] == '-' {
			t.Fatalf("%s: %s", c.change, got)
		}
		b.send(c.ask)
		eventually(t, c.ask+" waits", waiting)
		g.set(func() { g.nodes[1].lagging = false })
		b.want(c.reply)
	}
	// Nobody can tell what is new: what is known here must do.
	g.set(func() { g.noReads = true })
	b.expect("AUTH alice new", "+OK\r\n")
	b.expect("AUTH alice old", "-WRONGPASS invalid username-password pair or user is disabled.\r\n")
}

// What could go wrong: a node that starts from an older state, or from none, lets clients in without a password that the group wants, and they stay in.
func TestNodeThatStartsAsksWhoMayUseIt(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	g.nodes[1].lagging = true
	a, address := dial(t, g.serve(t, 0)), g.serve(t, 1)
	a.expect("SET k 1", "+OK\r\n")
	a.expect("ACL SETUSER default resetpass >pw", "+OK\r\n")
	commands := []string{"GET k", "SET k 2", "PUBLISH c x", "SUBSCRIBE c", "MONITOR", "KEYS *", "EVAL 'return 1' 0", "ACL SETUSER eve on nopass +@all ~*", "MULTI", "WATCH k",
		"CONFIG GET *", "CLIENT LIST", "CLIENT TRACKING ON", "SLOWLOG GET", "FLUSHALL", "DEBUG OBJECT k", "SHUTDOWN"}
	var clients []*redisClient
	for range commands {
		clients = append(clients, dial(t, address))
		clients[len(clients)-1].expect("PING", "+PONG\r\n")
	}
	g.set(func() { g.noReads = true })
	for i, c := range clients {
		if got := c.do(commands[i]); !strings.HasPrefix(got, "-MASTERDOWN node n2 cannot ask its group who may use it") {
			t.Errorf("%s where the group cannot tell: %q", commands[i], got)
		}
	}
	stale := dial(t, address)
	stale.expect("READONLY", "+OK\r\n")
	stale.expect("GET k", "$-1\r\n") // an older state was asked for, and given
	g.set(func() { g.noReads = false })
	for i, c := range clients {
		c.send(commands[i])
	}
	eventually(t, "they wait", func() bool { return g.nodes[1].node.applied.waiting.Load() == int32(len(clients)) })
	g.set(func() { g.nodes[1].lagging = false })
	for _, c := range append(clients, stale) {
		if c != stale {
			c.want("-NOAUTH Authentication required.\r\n")
		}
		c.expect("GET k", "-NOAUTH Authentication required.\r\n")
		c.expect("AUTH pw", "+OK\r\n")
		c.expect("GET k", "$1\r\n1\r\n")
	}
}

// What could go wrong: who logs in with an old password where the group cannot be asked stays in when it can be asked again; or is left on a connection of which it
// believes that it is logged in, and on which nothing is ever answered but NOAUTH.
func TestLogInThatNobodyCouldConfirmIsJudgedAgain(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	a, address := dial(t, g.serve(t, 0)), g.serve(t, 1)
	a.expect("ACL SETUSER alice on >old >kept ~* +@all", "+OK\r\n")
	a.expect("ACL SETUSER default resetpass", "+OK\r\n")
	old, kept, again := dial(t, address), dial(t, address), dial(t, address)
	old.expect("GET k", "-NOAUTH Authentication required.\r\n")
	g.set(func() { g.nodes[1].lagging = true })
	a.expect("ACL SETUSER alice <old", "+OK\r\n")
	g.set(func() { g.noReads = true })
	for c, password := range map[*redisClient]string{old: "old", kept: "kept", again: "old"} {
		c.expect("AUTH alice "+password, "+OK\r\n")
		c.expect("PING", "+PONG\r\n")
		if got := c.do("SET k 1"); !strings.HasPrefix(got, "-MASTERDOWN") {
			t.Errorf("%s: %q", password, got)
		}
	}
	g.set(func() { g.noReads, g.nodes[1].lagging = false, false })
	again.expect("AUTH alice kept", "+OK\r\n")
	again.expect("SET k 1", "+OK\r\n")
	old.expect("SET k 1", "-NOAUTH The password that this connection has given is valid no more: connect and log in again.\r\n")
	if _, err := old.r.ReadByte(); err != io.EOF {
		t.Errorf("behind it comes %v, no end of the connection", err)
	}
	kept.expect("SET k 2", "+OK\r\n")
	kept.expect("ACL WHOAMI", "$5\r\nalice\r\n")
}

// What a script is denied stands in ACL LOG of the node that was asked, once, whether it reads or writes.
func TestDenialsInScriptsAreLogged(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	address := g.serve(t, 1)
	a, b, admin := dial(t, g.serve(t, 0)), dial(t, address), dial(t, address)
	a.expect("ACL SETUSER bob on nopass ~k* +@all -get", "+OK\r\n")
	b.expect("AUTH bob x", "+OK\r\n")
	for _, c := range []struct{ script, reply, entry string }{
		{`return redis.call("get","k")`, "-ERR ACL failure in script: User bob has no permissions to run the 'get' command script: ", "command lua get"},
		{`return redis.call("set","x","1")`, "-ERR ACL failure in script: No permissions to access a key script: ", "key lua x"},
		{`return redis.call("publish","d","1")`, "-ERR ACL failure in script: No permissions to access a channel script: ", "channel lua d"},
	} {
		for _, command := range []string{"EVAL", "EVAL_RO"} {
			admin.expect("ACL LOG RESET", "+OK\r\n")
			if got := b.do(command + " '" + c.script + "' 0"); !strings.HasPrefix(got, c.reply) {
				t.Errorf("%s %s: %q", command, c.script, got)
			}
			admin.send("ACL LOG")
			entries, _, err := resp.Decode(admin.next())
			if err != nil || len(entries.Items) != 1 {
				t.Fatalf("%s %s: %v in the log, %v", command, c.script, entries, err)
			}
			e := entries.Items[0].Items
			if got := e[3].Text + " " + e[5].Text + " " + e[7].Text; got != c.entry || e[9].Text != "bob" || e[1].Int != 1 {
				t.Errorf("%s %s: logged %q of %q, %d times", command, c.script, got, e[9].Text, e[1].Int)
			}
		}
	}
	b.expect(`EVAL 'return redis.acl_check_cmd("get","k")' 0`, "$-1\r\n") // a question is no attempt
	admin.expect("ACL LOG RESET", "+OK\r\n")
	a.expect("ACL LOG", "*0\r\n")
}

// Whoever has lost his rights loses them at once, in the middle of a pipeline and in a transaction that was queued before.
func TestRightsEndAtOnce(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	admin, c := dial(t, address), dial(t, address)
	admin.expect("ACL SETUSER bob on nopass ~* +@all", "+OK\r\n")
	c.expect("AUTH bob x", "+OK\r\n")
	c.send("MULTI", "SET k 1")
	c.want("+OK\r\n", "+QUEUED\r\n")
	admin.expect("ACL SETUSER bob -set", "+OK\r\n")
	c.expect("EXEC", "-EXECABORT Transaction discarded because of: NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. "+
		"This command is no longer allowed for the following reason: User bob has no permissions to run the 'set' command\r\n")
	c.send("SET k 1", "ACL SETUSER bob -get", "GET k")
	c.want("-NOPERM User bob has no permissions to run the 'set' command\r\n", "+OK\r\n", "-NOPERM User bob has no permissions to run the 'get' command\r\n")
	admin.expect("GET k", "$-1\r\n")
	admin.do("ACL DELUSER bob")
	c.want("")
}

// Before a password is given almost nothing is allowed, and little may be sent.
func TestPassword(t *testing.T) {
	g := newFakeGroup(t, 1, func(c *Config) { c.RequirePass = "pw" })
	address := g.serve(t, 0)
	c := dial(t, address)
	c.expect("GET k", "-NOAUTH Authentication required.\r\n")
	if got := c.do("HELLO 3"); !strings.HasPrefix(got, "-NOAUTH HELLO must be called") {
		t.Error(got)
	}
	c.expect("AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled.\r\n")
	flood := dial(t, address)
	flood.Write([]byte("*11\r\n"))
	flood.want("-ERR Protocol error: unauthenticated multibulk length\r\n", "")
	flood = dial(t, address)
	flood.Write([]byte("*1\r\n$20000\r\n"))
	flood.want("-ERR Protocol error: unauthenticated bulk length\r\n", "")
	c.expect("AUTH pw", "+OK\r\n")
	c.expect("SET k "+strings.Repeat("x", 20000), "+OK\r\n")
	c.expect("CONFIG SET requirepass other", "+OK\r\n")
	c.expect("GET none", "$-1\r\n") // whoever is in stays in
	other := dial(t, address)
	other.expect("AUTH pw", "-WRONGPASS invalid username-password pair or user is disabled.\r\n")
	if got := other.do("HELLO 3 AUTH default other SETNAME me"); got[0] != '%' {
		t.Error(got)
	}
	other.expect("CLIENT GETNAME", "$2\r\nme\r\n")
	other.expect("RESET", "+RESET\r\n")
	other.expect("GET k", "-NOAUTH Authentication required.\r\n")
}

// Without a password, strangers are refused, unless protected mode is off.
func TestProtectedMode(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	n := g.nodes[0].node
	stranger := fakeAddress{address: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}}
	if !n.protectedFrom(stranger) || n.protectedFrom(fakeAddress{address: &net.TCPAddr{IP: net.IPv6loopback}}) {
		t.Error("protected mode lets strangers in, or keeps this machine out")
	}
	c := dial(t, g.serve(t, 0))
	c.expect("CONFIG SET protected-mode no", "+OK\r\n")
	if n.protectedFrom(stranger) {
		t.Error("protected mode cannot be switched off")
	}
	c.expect("CONFIG SET protected-mode yes requirepass x", "+OK\r\n")
	if n.protectedFrom(stranger) {
		t.Error("a stranger cannot even give the password")
	}
}

type fakeAddress struct {
	net.Conn
	address net.Addr
}

func (f fakeAddress) RemoteAddr() net.Addr { return f.address }

// CONFIG GET * shows each parameter once, and each can be set to what it shows unless Redis, too, has it fixed.
func TestSettingsCanBeSetToWhatTheyShow(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	c := dial(t, g.serve(t, 0))
	seen := make(map[string]bool)
	for _, s := range g.nodes[0].node.settings.all {
		if seen[s.name] {
			t.Errorf("%s is there twice", s.name)
		}
		seen[s.name] = true
		got := c.do(fmt.Sprintf("CONFIG SET %s %q", s.name, s.get()))
		if got != "+OK\r\n" && !strings.HasSuffix(got, "can't set immutable config\r\n") {
			t.Errorf("%s: %s", s.name, got)
		}
	}
}
