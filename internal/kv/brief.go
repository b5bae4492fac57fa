package kv

import (
	"bytes"

	"lockstep/internal/resp"
)

const (
	// briefBytes is how large the values may be of a command that Brief lets pass: some ten microseconds to read.
	briefBytes = 32 << 10
	// briefRange is how many elements it may read of a larger one, briefStart how far they may be from its beginning.
	briefRange, briefStart = 128, 1024
	// briefKeys is how many keys are looked at.
	briefKeys = 16
)

// sized are commands that only read, and whose time is bounded by the sizes of the values of their keys, as FirstKey, LastKey and Step describe them.
// ranged are those that read elements from one rank up to another.
var (
	sized = setOf("bitcount", "bitpos", "dump", "georadius_ro", "georadiusbymember_ro", "geosearch", "getrange", "hgetall", "hkeys", "hvals",
		"lindex", "lpos", "lrange", "sdiff", "sinter", "smembers", "substr", "sunion", "xrange", "xrevrange", "zrange", "zrangebylex", "zrangebyscore",
		"zrevrange", "zrevrangebylex", "zrevrangebyscore")
	ranged = setOf("lrange", "zrange", "zrevrange")
)

// promptWrites are commands that change something and take little time, though Fast does not say so of them.
var promptWrites = setOf("del", "geoadd", "lmove", "mset", "msetnx", "psetex", "rename", "rpoplpush", "set", "setex")

// Promptness judges payloads, of which many may name the same command one behind the other. The zero value is ready.
type Promptness struct{ known []byte }

// Prompt reports whether a request with that payload takes little time whatever the values are: some microseconds, and as long as it takes to copy what
// the payload holds. It says no of what it does not know.
func (p *Promptness) Prompt(payload []byte) bool {
	r := payloadReader{rest: payload}
	if format, _ := r.format(); format != formatCommand || r.count("arguments", 1) == 0 {
		return false
	}
	name := r.bytes()
	if r.err != nil {
		return false
	}
	if p.known != nil && bytes.Equal(name, p.known) {
		return true
	}
	c := Lookup(name)
	if c == nil || c.Flags&Write == 0 || c.Flags&Fast == 0 && !promptWrites[c.Name] {
		return false
	}
	p.known = name
	return true
}

// Brief reports whether a command that only reads, and that Fast does not say of, would nevertheless take little time: some ten microseconds. It takes 0.1 to 0.2 us for
// each key. args must have passed CheckArity. Whoever calls it holds the machine as for a read; the values may have grown when the command is executed.
func (m *Machine) Brief(database int, c *Command, args [][]byte) bool {
	if !c.sized {
		return false
	}
	last := c.LastKey
	if last < 0 {
		last += len(args)
	}
	if last >= c.FirstKey+briefKeys*c.Step {
		return false
	}
	left := int64(briefBytes)
	for i := c.FirstKey; i <= last; i += c.Step {
		e := m.databases[database].keys.find(args[i])
		if e == nil {
			continue
		}
		if e.value.held&heldCold != 0 {
			return false
		}
		if left -= e.value.size(); left < 0 {
			return c.ranged && briefRanks(args)
		}
	}
	return true
}

// briefRanks reports whether LRANGE, ZRANGE or ZREVRANGE with these arguments reads few elements near to the beginning. With BYSCORE and BYLEX ranks are scores.
func briefRanks(args [][]byte) bool {
	const from, to, options = 2, 3, 4
	if len(args) > options && (len(args) > options+1 || !isWord(args[options], "withscores")) {
		return false
	}
	first, ok := resp.ParseInt(args[from])
	last, whole := resp.ParseInt(args[to])
	return ok && whole && 0 <= first && first <= briefStart && last >= 0 && last-first < briefRange
}
