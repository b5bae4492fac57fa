package kvnode

import (
	"fmt"
	"strconv"
	"strings"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
)

// memoryUsage is MEMORY USAGE key [SAMPLES count]: an estimate; every value is looked at as a whole or from its totals.
func memoryUsage(c *conn, args [][]byte) {
	switch {
	case len(args) == 5 && isWord(args[3], "samples"):
		if samples, ok := resp.ParseInt(args[4]); !ok || samples < 0 {
			c.reply.Error(errInteger)
			return
		}
	case len(args) != 3:
		c.reply.Error(errSyntax)
		return
	}
	if !c.readable() {
		return
	}
	c.node.lock.RLock()
	size, ok := c.node.machine.KeySize(c.database, args[2])
	c.node.lock.RUnlock()
	if !ok {
		c.reply.Null()
		return
	}
	c.reply.Int(int64(size))
}

// memoryDoctor judges from what the process takes and what the keyspace needs.
func memoryDoctor(c *conn, _ [][]byte) {
	used, resident := c.node.sampleMemory(), residentBytes()
	if resident > 0 && resident > 3*used && resident > 256<<20 {
		c.reply.Verbatim("txt", "The process takes "+human(resident)+" of memory for "+human(used)+
			" of live objects. Go gives freed memory back within minutes; if it stays so, lower GOGC or set GOMEMLIMIT.\n")
		return
	}
	c.reply.Verbatim("txt", "No memory problem found: "+human(used)+" of live objects, "+human(resident)+" resident.\n")
}

func memoryStats(c *conn, _ [][]byte) {
	if !c.readable() {
		return
	}
	n, r := c.node, &c.reply
	used := n.sampleMemory()
	n.lock.RLock()
	keyspace, scripts := n.machine.Stats(), n.machine.Scripts()
	n.lock.RUnlock()
	dataset := min(keyspace.Memory, used)
	each := int64(0)
	if keyspace.Keys > 0 {
		each = dataset / int64(keyspace.Keys)
	}
	heap, resident, peak := heapOf(), residentBytes(), n.stats.peakMemory.Load()
	percentage := func(part, whole int64) float64 { return 100 * over(part, whole) }
	lines := []struct {
		name  string
		value any
	}{
		{"peak.allocated", peak},
		{"total.allocated", used},
		{"startup.allocated", int64(0)},
		{"replication.backlog", int64(0)},
		{"clients.slaves", int64(0)},
		{"clients.normal", n.clientBytes()},
		{"cluster.links", int64(0)},
		{"aof.buffer", int64(0)},
		{"lua.caches", scripts.EvalMemory},
		{"functions.caches", scripts.Memory - scripts.EvalMemory},
	}
	for i, d := range keyspace.Databases {
		if d.Keys > 0 {
			lines = append(lines, struct {
				name  string
				value any
			}{"db." + strconv.Itoa(i), d})
		}
	}
	for _, line := range []struct {
		name  string
		value any
	}{
		{"overhead.total", used - dataset},
		{"keys.count", int64(keyspace.Keys)},
		{"keys.bytes-per-key", each},
		{"dataset.bytes", dataset},
		{"dataset.percentage", percentage(dataset, used)},
		{"peak.percentage", percentage(used, peak)},
		{"allocator.allocated", heap.allocated},
		{"allocator.active", heap.active},
		{"allocator.resident", heap.resident},
		{"allocator-fragmentation.ratio", over(heap.active, heap.allocated)},
		{"allocator-fragmentation.bytes", heap.active - heap.allocated},
		{"allocator-rss.ratio", over(heap.resident, heap.active)},
		{"allocator-rss.bytes", heap.resident - heap.active},
		{"rss-overhead.ratio", over(resident, heap.resident)},
		{"rss-overhead.bytes", resident - heap.resident},
		{"fragmentation", over(resident, used)},
		{"fragmentation.bytes", resident - used},
	} {
		lines = append(lines, line)
	}
	r.Map(len(lines))
	for _, line := range lines {
		r.BulkString(line.name)
		switch v := line.value.(type) {
		case int64:
			r.Int(v)
		case float64:
			r.Double(v)
		case kv.DatabaseStats:
			r.Map(3)
			r.BulkString("overhead.hashtable.main")
			r.Int(int64(v.Keys) * tableBytes)
			r.BulkString("overhead.hashtable.expires")
			r.Int(int64(v.Expires) * tableBytes)
			r.BulkString("overhead.hashtable.slot-to-keys")
			r.Int(0)
		}
	}
}

// tableBytes is what one key takes in a table, in bytes: the place of the entry and its hash.
const tableBytes = 8

// slowlogGet is SLOWLOG GET [count].
func slowlogGet(c *conn, args [][]byte) {
	count := int64(10)
	if len(args) > 3 {
		c.reply.Error(unknownSubcommand("SLOWLOG", args[1]))
		return
	}
	if len(args) == 3 {
		var ok bool
		if count, ok = resp.ParseInt(args[2]); !ok || count < -1 {
			c.reply.Error("ERR count should be greater than or equal to -1")
			return
		}
	}
	c.node.slow.reply(&c.reply, count)
}

func slowlogLen(c *conn, _ [][]byte) { c.reply.Int(int64(c.node.slow.len())) }

func slowlogReset(c *conn, _ [][]byte) {
	c.node.slow.reset()
	c.reply.OK()
}

func moduleList(c *conn, _ [][]byte) { c.reply.Array(0) }

// moduleLoad and moduleUnload fail as in a redis-server that cannot load the file: code that one node alone has would break the determinism of
// the group.
func moduleLoad(c *conn, args [][]byte) {
	c.node.logger.Warn("no modules", "path", string(args[2][:min(len(args[2]), maxClientText)]), "reason", "a group executes only what every node has")
	c.reply.Error("ERR Error loading the extension. Please check the server logs.")
}

func moduleUnload(c *conn, _ [][]byte) {
	c.reply.Error("ERR Error unloading module: no such module with that name")
}

// debugObject is DEBUG OBJECT key, in the words of Redis. There is no address, and values are never shared.
func debugObject(c *conn, args [][]byte) {
	if !c.readable() {
		return
	}
	n, envelope := c.node, c.envelope()
	envelope.NoTouch = true
	ask := func(words ...string) resp.Value {
		command := make([][]byte, 0, len(words)+1)
		for _, word := range words {
			command = append(command, []byte(word))
		}
		var reply resp.Reply
		n.machine.ReadIn(envelope, 0, append(command, args[2]), &reply)
		value, _, err := resp.Decode(reply.Buf)
		if err != nil {
			return resp.Value{Null: true}
		}
		return value
	}
	n.lock.RLock()
	encoding, dump, idle := ask("object", "encoding"), ask("dump"), ask("object", "idletime")
	now := n.machine.Now()
	n.lock.RUnlock()
	if encoding.Null || dump.Null || encoding.Kind == '-' {
		c.reply.Error("ERR no such key")
		return
	}
	const frame = 1 + 10 // type in front, version and checksum behind
	used := now/1000 - idle.Int
	c.reply.Simple(fmt.Sprintf("Value at:0x0 refcount:1 encoding:%s serializedlength:%d lru:%d lru_seconds_idle:%d",
		encoding.Text, max(len(dump.Text)-frame, 0), used&(1<<24-1), idle.Int))
}

// debugProtocol is DEBUG PROTOCOL type: a reply of each type, for tests of clients.
func debugProtocol(c *conn, args [][]byte) {
	r := &c.reply
	numbers := func(header func(int)) {
		header(3)
		for i := range 3 {
			r.Int(int64(i))
		}
	}
	switch strings.ToLower(string(args[2])) {
	case "string":
		r.BulkString("Hello World")
	case "integer":
		r.Int(12345)
	case "double":
		r.Double(3.141)
	case "null":
		r.Null()
	case "array":
		numbers(r.Array)
	case "set":
		numbers(r.Set)
	case "map":
		r.Map(3)
		for i := range 3 {
			r.Int(int64(i))
			r.Bool(i == 1)
		}
	case "attrib": // stands in front of a reply
		if r.Proto >= 3 {
			r.Raw([]byte("|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n"))
		}
		r.BulkString("Some real reply following the attribute")
	case "push":
		if r.Proto < 3 {
			r.Error("ERR RESP2 is not supported by this command")
			return
		}
		r.Push(2)
		r.BulkString("server-cpu-usage")
		r.Int(42)
		r.BulkString("Some real reply following the push reply")
	case "verbatim":
		r.Verbatim("txt", "This is a verbatim\nstring")
	case "true":
		r.Bool(true)
	case "false":
		r.Bool(false)
	case "bignum":
		r.BigNumber("1234567999999999999999999999999999999")
	default:
		r.Error("ERR Wrong protocol type name. Please use one of the following: " +
			"string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false")
	}
}
