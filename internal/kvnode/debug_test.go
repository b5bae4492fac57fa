package kvnode

import (
	"strings"
	"testing"
)

// DEBUG DIGEST tells what the databases hold: whatever way it came there, on whichever node, and however often it is asked.
func TestDebugDigestIsOfTheContent(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	a, b := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	zero := "+" + strings.Repeat("0", 40) + "\r\n"
	a.expect("DEBUG DIGEST", zero)
	seen := map[string]string{zero: "nothing"}
	for _, command := range []string{
		"SET text 1", "RPUSH list a b c", "SADD set 1 2 3", "HSET hash f v g w", "ZADD zset 1 a 2 b", "XADD stream 1-1 f v", "SADD other x 1",
		"RPUSH list d", "LSET list 0 z", "SADD set 4", "HSET hash f u", "ZADD zset 3 a", "XADD stream 1-2 f v", "PEXPIREAT text 99999999999999",
		"SELECT 3", "SET text 1",
	} {
		if got := a.do(command); got[0] == '-' {
			t.Fatalf("%s: %s", command, got)
		}
		got := a.do("DEBUG DIGEST")
		if other, found := seen[got]; found && command != "SELECT 3" {
			t.Errorf("%s: the digest is that of %s", command, other)
		}
		seen[got] = command
		b.expect("DEBUG DIGEST", got)
	}
	before := a.do("DEBUG DIGEST")
	b.expect("SMEMBERS set", "*4\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n")
	b.expect("DEL set hash", ":2\r\n")
	b.expect("SADD set 4 3 2 1 x", ":5\r\n")
	b.expect("SREM set x", ":1\r\n")
	b.expect("HSET hash g w f u", ":2\r\n")
	a.expect("DEBUG DIGEST", before)
	a.expect("DEBUG RELOAD", "+OK\r\n")
	a.expect("DEBUG DIGEST", before)
	b.send("COPY set twin", "DEBUG DIGEST-VALUE set", "DEBUG DIGEST-VALUE twin", "DEBUG DIGEST-VALUE hash nothing")
	b.want(":1\r\n")
	sum := string(b.next())
	b.want(sum)
	if got := string(b.next()); !strings.HasSuffix(got, zero) || strings.Contains(got, sum[4:]) {
		t.Errorf("of a hash and nothing: %q", got)
	}
	a.expect("FLUSHALL", "+OK\r\n")
	a.expect("DEBUG DIGEST", zero)
}

func TestDebugPopulate(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	c := dial(t, g.serve(t, 0))
	c.expect("SET key:1 mine", "+OK\r\n")
	c.expect("DEBUG POPULATE 2500", "+OK\r\n")
	c.expect("DBSIZE", ":2500\r\n")
	c.expect("GET key:1", "$4\r\nmine\r\n")
	c.expect("GET key:2499", "$10\r\nvalue:2499\r\n")
	c.expect("DEBUG POPULATE 2 x 10", "+OK\r\n")
	c.expect("GET x:1", "$10\r\nvalue:1\x00\x00\x00\r\n")
	c.expect("DEBUG POPULATE 1 y 3", "+OK\r\n")
	c.expect("GET y:0", "$3\r\nval\r\n")
	for _, wrong := range []string{"DEBUG POPULATE x", "DEBUG POPULATE -1", "DEBUG POPULATE 1 a -1", "DEBUG POPULATE 1 a 1 1", "DEBUG POPULATE", "DEBUG NOTHING", "DEBUG SLEEP", "DEBUG HTSTATS 99"} {
		if got := c.do(wrong); !strings.HasPrefix(got, "-ERR ") {
			t.Errorf("%s: %q", wrong, got)
		}
	}
	c.expect("DEBUG STRINGMATCH-LEN 100000 a*a*a*a*a*b", ":0\r\n")
	c.expect("DEBUG STRINGMATCH-LEN 10 a*", ":1\r\n")
	c.expect("DEBUG ERROR \"MY error\\r\\nx\"", "-MY error  x\r\n")
}
