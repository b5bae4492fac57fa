package kvnode

import (
	"crypto/sha1" // #nosec G505 -- DEBUG DIGEST-VALUE is for comparing
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/smr"
)

// debugSubcommand is one of DEBUG. Redis has no table for them either: whatever does not fit is answered by one error.
type debugSubcommand struct {
	arity int // as in kv.Command
	run   func(c *conn, args [][]byte)
}

func debugSubcommands() map[string]debugSubcommand {
	accepted := func(c *conn, _ [][]byte) { c.reply.OK() }
	return map[string]debugSubcommand{
		"aof-flush-sleep":            {3, accepted},
		"change-repl-id":             {2, accepted},
		"client-enforce-reply-list":  {3, accepted},
		"dict-resizing":              {3, accepted},
		"digest":                     {2, debugDigest},
		"digest-value":               {-2, debugDigestValue},
		"error":                      {3, func(c *conn, args [][]byte) { c.reply.Error(oneLine(args[2])) }},
		"help":                       {2, helpWith(debugHelp)},
		"htstats":                    {-3, debugTables},
		"htstats-key":                {-3, debugTable},
		"listpack":                   {3, debugListpack},
		"loadaof":                    {2, debugReload},
		"log":                        {3, debugLog},
		"object":                     {-3, debugObject},
		"pause-cron":                 {3, accepted},
		"populate":                   {-3, debugPopulate},
		"protocol":                   {3, debugProtocol},
		"quicklist-packed-threshold": {3, debugThreshold},
		"reload":                     {-2, debugReload},
		"replybuffer":                {-3, accepted},
		"set-active-expire":          {3, debugActiveExpire},
		"set-disable-deny-scripts":   {3, accepted},
		"sdslen":                     {3, debugLengths},
		"sleep":                      {3, debugSleep},
		"stringmatch-len":            {4, debugMatch},
	}
}

// debugCommand is DEBUG subcommand [...].
var debugCommand = func() func(*conn, [][]byte) {
	table := debugSubcommands()
	return func(c *conn, args [][]byte) { c.debug(table, args) }
}()

func (c *conn) debug(table map[string]debugSubcommand, args [][]byte) {
	s, found := table[strings.ToLower(string(args[1]))]
	if !found || len(args) != s.arity && (s.arity > 0 || len(args) < -s.arity) {
		c.reply.Error(unknownSubcommand("DEBUG", args[1]))
		return
	}
	s.run(c, args)
}

// oneLine makes an error of a text, which may not break the protocol.
func oneLine(text []byte) string {
	return strings.NewReplacer("\r", " ", "\n", " ").Replace(strings.TrimPrefix(string(text), "-"))
}

// debugReload is DEBUG RELOAD and DEBUG LOADAOF: what was acknowledged is in the log, of which the state is a function.
func debugReload(c *conn, args [][]byte) {
	for _, arg := range args[2:] {
		if !isWord(arg, "merge") && !isWord(arg, "noflush") && !isWord(arg, "nosave") {
			c.reply.Error("ERR DEBUG RELOAD only supports the MERGE, NOFLUSH and NOSAVE options.")
			return
		}
	}
	if c.readable() {
		c.reply.OK()
	}
}

func debugLog(c *conn, args [][]byte) {
	c.node.logger.Warn("debug log", "message", string(args[2][:min(len(args[2]), maxClientText)]))
	c.reply.OK()
}

// debugThreshold is DEBUG QUICKLIST-PACKED-THRESHOLD size: the nodes of lists are as large as they are.
func debugThreshold(c *conn, args [][]byte) {
	if _, err := parseMemory(string(args[2])); err != nil {
		c.reply.Error("ERR argument must be a memory value bigger than 1 and smaller than 4gb")
		return
	}
	c.reply.OK()
}

// debugTables is DEBUG HTSTATS database [full].
func debugTables(c *conn, args [][]byte) {
	number, ok := resp.ParseInt(args[2])
	switch {
	case !ok:
		c.reply.Error(errInteger)
		return
	case number < 0 || number >= kv.Databases:
		c.reply.Error("ERR Out of range database")
		return
	case !c.readable():
		return
	}
	c.node.lock.RLock()
	size := c.node.machine.DBSize(int(number))
	c.node.lock.RUnlock()
	c.reply.Verbatim("txt", fmt.Sprintf("[Dictionary HT]\n number of elements: %d\n", size))
}

// lookUp returns the type and the encoding of a key; false, with the reply written, if it is not there or nothing can be read.
func (c *conn) lookUp(key []byte) (kind, encoding string, size int, found bool) {
	if !c.readable() {
		return "", "", 0, false
	}
	n, envelope := c.node, c.envelope()
	envelope.NoTouch = true
	n.lock.RLock()
	kind, encoding = n.look(envelope, "type", key).Text, n.look(envelope, "object", "encoding", key).Text
	if count := map[string]string{"string": "strlen", "hash": "hlen", "set": "scard", "zset": "zcard", "list": "llen", "stream": "xlen"}[kind]; count != "" {
		size = int(n.look(envelope, count, key).Int)
	}
	n.lock.RUnlock()
	if kind == "none" {
		c.reply.Error("ERR no such key")
		return "", "", 0, false
	}
	return kind, encoding, size, true
}

// debugTable is DEBUG HTSTATS-KEY key [full].
func debugTable(c *conn, args [][]byte) {
	_, encoding, size, found := c.lookUp(args[2])
	switch {
	case !found:
	case encoding != "hashtable" && encoding != "skiplist":
		c.reply.Error("ERR The value stored at the specified key is not represented using an hash table")
	default:
		c.reply.Verbatim("txt", fmt.Sprintf("Hash table 0 stats:\n number of elements: %d\n", size))
	}
}

// debugListpack is DEBUG LISTPACK key: nothing is printed anywhere, but it tells whether the key holds one.
func debugListpack(c *conn, args [][]byte) {
	_, encoding, size, found := c.lookUp(args[2])
	switch {
	case !found:
	case encoding != "listpack":
		c.reply.Error("ERR Not a listpack encoded object.")
	default:
		c.reply.Simple(fmt.Sprintf("Listpack of %d entries", size))
	}
}

// debugLengths is DEBUG SDSLEN key: a string takes what it holds, nothing is reserved.
func debugLengths(c *conn, args [][]byte) {
	kind, encoding, size, found := c.lookUp(args[2])
	switch {
	case !found:
	case kind != "string" || encoding == "int":
		c.reply.Error("ERR Not an sds encoded string.")
	default:
		c.reply.Simple(fmt.Sprintf("key_sds_len:%d, key_sds_avail:0, key_zmalloc: %d, val_sds_len:%d, val_sds_avail:0, val_zmalloc: %d",
			len(args[2]), len(args[2]), size, size))
	}
}

// maxMatched bounds the text of DEBUG STRINGMATCH-LEN, in bytes.
const maxMatched = 64 << 20

// debugMatch is DEBUG STRINGMATCH-LEN length pattern: whether a text of so many letters a matches.
func debugMatch(c *conn, args [][]byte) {
	length, ok := resp.ParseInt(args[2])
	if !ok || length < 0 || length > maxMatched {
		c.reply.Error("ERR value is out of range, must be positive")
		return
	}
	n := int64(0)
	if kv.Glob(string(args[3]), strings.Repeat("a", int(length))) {
		n = 1
	}
	c.reply.Int(n)
}

const (
	// populateKeys and populateBytes bound one request of DEBUG POPULATE.
	populateKeys  = 1000
	populateBytes = 1 << 20
	// maxPopulated bounds the keys of one DEBUG POPULATE.
	maxPopulated = 100_000_000
)

// debugPopulate is DEBUG POPULATE count [prefix] [size]: it creates the strings prefix:0 and so on that are not there.
func debugPopulate(c *conn, args [][]byte) {
	prefix, size := "key", int64(0)
	count, ok := resp.ParseInt(args[2])
	if ok && len(args) > 3 {
		prefix = string(args[3])
	}
	if ok && len(args) > 4 {
		size, ok = resp.ParseInt(args[4])
	}
	switch {
	case !ok || count < 0 || count > maxPopulated || size < 0 || size > smr.MaxPayload/2:
		c.reply.Error("ERR value is out of range, must be positive")
		return
	case len(args) > 5:
		c.reply.Error(unknownSubcommand("DEBUG", args[1]))
		return
	}
	set, exec := c.node.commands.byName["set"], c.node.commands.byName["exec"]
	for i := int64(0); i < count; {
		tx := new(transaction)
		for bytes := int64(0); i < count && len(tx.commands) < populateKeys && bytes < populateBytes; i++ {
			text := []byte("value:" + strconv.FormatInt(i, 10))
			if size > 0 {
				text = append(text, make([]byte, max(size-int64(len(text)), 0))...)[:size]
			}
			bytes += int64(len(text))
			tx.commands = append(tx.commands, queued{set, [][]byte{[]byte("set"), []byte(prefix + ":" + strconv.FormatInt(i, 10)), text, []byte("nx")}})
		}
		reply := c.execHeld(exec, tx)
		if c.dead {
			return
		}
		if len(reply) == 0 || reply[0] != '*' {
			c.reply.Raw(reply)
			return
		}
	}
	c.reply.OK()
}

// debugDigest is DEBUG DIGEST: what all databases hold, however it is held and in whatever order it came there. Two nodes answer the same at the same
// LSN, and so does a node again as long as nothing changes. (SMR DIGEST covers all that decides the future of the state.)
func debugDigest(c *conn, _ [][]byte) {
	if !c.readable() {
		return
	}
	n := c.node
	n.frame.RLock()
	defer n.frame.RUnlock()
	n.lock.RLock()
	defer n.lock.RUnlock()
	var sum [sha1.Size]byte
	for database := range kv.Databases {
		envelope := kv.Envelope{Database: database, NoTouch: true}
		for _, key := range n.look(envelope, "keys", []byte("*")).Items {
			content, _ := n.contentDigest(envelope, []byte(key.Text))
			mix(&sum, strconv.AppendInt(nil, int64(database), 10), []byte(key.Text), content[:])
		}
	}
	c.reply.Simple(hex.EncodeToString(sum[:]))
}

// debugDigestValue is DEBUG DIGEST-VALUE key ...: the digest of what each holds, zero for those that are not there.
func debugDigestValue(c *conn, args [][]byte) {
	if !c.readable() {
		return
	}
	n, envelope := c.node, c.envelope()
	envelope.NoTouch = true
	c.reply.Array(len(args) - 2)
	n.lock.RLock()
	defer n.lock.RUnlock()
	for _, key := range args[2:] {
		sum, _ := n.contentDigest(envelope, key)
		c.reply.Simple(hex.EncodeToString(sum[:]))
	}
}

// look executes a command that reads. The caller holds the machine.
func (n *Node) look(envelope kv.Envelope, words ...any) resp.Value {
	args := make([][]byte, len(words))
	for i, word := range words {
		switch w := word.(type) {
		case string:
			args[i] = []byte(w)
		case []byte:
			args[i] = w
		}
	}
	var reply resp.Reply
	n.machine.ReadIn(envelope, 0, args, &reply)
	value, _, err := resp.Decode(reply.Buf)
	if err != nil {
		return resp.Value{Null: true}
	}
	return value
}

// contentDigest returns the digest of a key's value and expiry; false if the key is not there. The caller holds the machine.
func (n *Node) contentDigest(envelope kv.Envelope, key []byte) (sum [sha1.Size]byte, found bool) {
	kind := n.look(envelope, "type", key).Text
	switch kind {
	case "none":
		return sum, false
	case "string":
		mix(&sum, []byte(n.look(envelope, "get", key).Text))
	case "list":
		for i, item := range n.look(envelope, "lrange", key, "0", "-1").Items {
			mix(&sum, strconv.AppendInt(nil, int64(i), 10), []byte(item.Text))
		}
	case "set":
		for _, item := range n.look(envelope, "smembers", key).Items {
			mix(&sum, []byte(item.Text))
		}
	case "hash", "zset":
		var pairs []resp.Value
		if kind == "hash" {
			pairs = n.look(envelope, "hgetall", key).Items
		} else {
			pairs = n.look(envelope, "zrange", key, "0", "-1", "withscores").Items
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			mix(&sum, []byte(pairs[i].Text), []byte(pairs[i+1].Text))
		}
	default: // a stream: its entries, in their order
		for _, entry := range n.look(envelope, "xrange", key, "-", "+").Items {
			mix(&sum, texts(entry)...)
		}
	}
	mix(&sum, []byte("type"), []byte(kind))
	if at := n.look(envelope, "pexpiretime", key).Int; at > 0 {
		mix(&sum, []byte("expire"), strconv.AppendInt(nil, at, 10))
	}
	return sum, true
}

// texts returns the texts of a value from left to right.
func texts(v resp.Value) [][]byte {
	list := [][]byte{[]byte(v.Text)}
	for _, item := range v.Items {
		list = append(list, texts(item)...)
	}
	return list
}

// mix adds the digest of some texts to a sum that does not depend on the order of additions.
func mix(sum *[sha1.Size]byte, parts ...[]byte) {
	var b []byte
	for _, part := range parts {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	digest := sha1.Sum(b) // #nosec G401 -- DEBUG DIGEST-VALUE is for comparing
	for i := range sum {
		sum[i] ^= digest[i]
	}
}
