package kv

import (
	"math"

	"lockstep/internal/resp"
)

// Work of commands inside of scripts. A script is ended by the instructions that it has used (Engine.work), and a command that looks
// at a million elements is one instruction to the virtual machine. So each command is charged, before it is executed, for what it is
// about to touch, in instructions: a function of its arguments and of the state, and therefore the same on every replica. What it replies
// is charged for by the engine.

const (
	// workBytes is how many bytes of a value count for one instruction where all of its elements are visited: about one small element.
	workBytes = 32
	// copyBytes is the same where memory is only copied or skipped.
	copyBytes = 512
	// packedBytes bounds what is searched of a value that is found by hashing unless it is small.
	packedBytes = 64 << 10
	// workPacked is how many bytes of a small value count for one instruction.
	workPacked = 128
)

// whole marks commands that visit all elements, or all bytes, of their values.
var whole = setOf("bitcount", "bitop", "bitpos", "copy", "dump", "geosearch", "geosearchstore", "georadius", "georadius_ro",
	"georadiusbymember", "georadiusbymember_ro", "linsert", "lpos", "lrem", "object", "pfcount", "pfdebug", "pfmerge", "sdiff", "sdiffstore",
	"sinter", "sintercard", "sinterstore", "sort", "sort_ro", "sunion", "sunionstore", "xautoclaim", "xinfo", "xpending", "zdiff", "zdiffstore",
	"zinter", "zintercard", "zinterstore", "zrangestore", "zunion", "zunionstore")

// weights are of those that do more than look: they compare, or make an element anew.
var weights = map[string]int64{
	"copy": 4, "pfcount": 8, "pfmerge": 8, "sdiff": 4, "sdiffstore": 4, "sinter": 2, "sinterstore": 4, "sort": 16, "sort_ro": 16, "sunion": 4, "sunionstore": 4,
	"zdiff": 4, "zdiffstore": 4, "zinter": 4, "zinterstore": 4, "zrangestore": 4, "zunion": 4, "zunionstore": 4,
}

// lengthened marks commands that make a string as long as argument 2 says: in bits or in bytes.
var lengthened = map[string]int64{"setbit": 8, "setrange": 1}

// skipped marks commands that pass over parts of a value without looking at them, or move it in memory.
var skipped = setOf("append", "bitfield", "del", "getset", "lindex", "lrange", "lset", "ltrim", "setbit", "setrange", "unlink", "xread", "xreadgroup",
	"xrange", "xrevrange", "xtrim", "xadd")

func setOf(names ...string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

// work returns what the command of this call costs, in instructions of a script.
func (c call) work(command *Command) int64 {
	total := int64(0)
	add := func(n int64) { total = min(total+max(n, 0), math.MaxInt64/4) }
	switch command.Name {
	case "keys":
		add(int64(c.db.keys.size) * int64(1+len(c.args[1])/8))
	case "flushdb":
		add(int64(c.db.keys.size))
	case "flushall":
		for _, d := range &c.m.databases {
			add(int64(d.keys.size))
		}
	case "scan", "hscan", "sscan", "zscan":
		for i := 2; i+1 < len(c.args); i++ {
			if n, ok := resp.ParseInt(c.args[i+1]); ok && c.is(i, "count") {
				add(min(n, int64(c.db.keys.size)+c.valueBytes(c.args[1])/workBytes))
			}
		}
	case "lcs":
		// Each byte of one string is compared with each of the other.
		add(c.valueBytes(c.args[1]) * c.valueBytes(c.args[2]) / 8)
	case "restore":
		add(int64(len(c.args[3])) / 4)
	}
	if unit := lengthened[command.Name]; unit > 0 {
		if n, ok := resp.ParseInt(c.args[2]); ok {
			add(min(n/unit, maxString) / workPacked)
		}
	}
	keys, _ := command.Keys(c.args, nil)
	for _, key := range keys {
		switch size := c.valueBytes(key); {
		case weights[command.Name] > 0:
			add(size / workBytes * weights[command.Name])
		case whole[command.Name]:
			add(size / workBytes)
		case skipped[command.Name]:
			add(size/copyBytes + packedWork(size))
		default:
			add(packedWork(size))
		}
	}
	return total
}

// packedWork returns what finding an element costs: a small value may be searched from its beginning, a large one is a table or a tree.
func packedWork(size int64) int64 {
	if size > packedBytes {
		return 0
	}
	return size / workPacked
}

// valueBytes returns what the key and its value take by the machine's estimate, in bytes; 0 if it is not there.
func (c call) valueBytes(key []byte) int64 {
	if e := c.db.keys.find(key); e != nil {
		return e.value.size()
	}
	return 0
}
