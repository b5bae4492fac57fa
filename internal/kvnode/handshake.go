package kvnode

import (
	"math"
	"strings"
	"time"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/smr"
)

// What this server calls itself. Clients gate features on redis_version.
const (
	redisVersion = "7.2.4"
	serverName   = "lockstep"
)

const (
	errSyntax  = "ERR syntax error"
	errInteger = "ERR value is not an integer or out of range"
	errName    = "ERR Client names cannot contain spaces, newlines or special characters."
)

func pingCommand(c *conn, args [][]byte) {
	if len(args) < 3 && c.reply.Proto == 2 && c.about.listening() {
		c.pingListening(args)
		return
	}
	switch len(args) {
	case 1:
		c.reply.Simple("PONG")
	case 2:
		c.reply.Bulk(args[1])
	default:
		c.reply.Error(kv.WrongArityError("ping"))
	}
}

func echoCommand(c *conn, args [][]byte) { c.reply.Bulk(args[1]) }

// selectCommand is SELECT outside of a transaction.
func selectCommand(c *conn, args [][]byte) {
	n, ok := resp.ParseInt(args[1])
	switch {
	case !ok:
		c.reply.Error(errInteger)
	case n < math.MinInt32 || n > math.MaxInt32:
		c.reply.Error("ERR value is out of range, value must between -2147483648 and 2147483647")
	case n < 0 || n >= kv.Databases:
		c.reply.Error("ERR DB index is out of range")
	default:
		c.setDatabase(int(n))
		c.reply.OK()
	}
}

func (c *conn) setDatabase(n int) {
	c.database = n
	c.about.database.Store(int32(n))
}

// selected returns the database behind a SELECT that the machine has accepted or would; before if it would not.
func selected(args [][]byte, before int) int {
	if len(args) == 2 {
		if n, ok := resp.ParseInt(args[1]); ok && n >= 0 && n < kv.Databases {
			return int(n)
		}
	}
	return before
}

func quitCommand(c *conn, _ [][]byte) {
	c.reply.OK()
	c.closing = true
}

// helloCommand is HELLO [protover [AUTH user password] [SETNAME name]]. Nothing changes unless all of it is right.
func helloCommand(c *conn, args [][]byte) {
	proto := c.reply.Proto
	if len(args) > 1 {
		version, ok := resp.ParseInt(args[1])
		if !ok {
			c.reply.Error("ERR Protocol version is not an integer or out of range")
			return
		}
		if version != 2 && version != 3 {
			c.reply.Error("NOPROTO unsupported protocol version")
			return
		}
		proto = int(version)
	}
	var name, user, password []byte
	named := false
	for i := 2; i < len(args); i++ {
		left := len(args) - 1 - i
		switch {
		case isWord(args[i], "auth") && left >= 2:
			user, password = args[i+1], args[i+2]
			i += 2
		case isWord(args[i], "setname") && left >= 1:
			name, named = args[i+1], true
			if !validName(name) {
				c.reply.Error(errName)
				return
			}
			i++
		default:
			c.reply.Error("ERR Syntax error in HELLO option '" + string(args[i]) + "'")
			return
		}
	}
	if user != nil && !c.authenticate(user, password) {
		return
	}
	if !c.standing.authenticated && c.node.shell.authRequired() {
		c.reply.Error("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time")
		return
	}
	if named {
		c.setName(name)
	}
	c.setProto(proto)
	r := &c.reply
	r.Map(7)
	r.BulkString("server")
	r.BulkString("redis")
	r.BulkString("version")
	r.BulkString(redisVersion)
	r.BulkString("proto")
	r.Int(int64(proto))
	r.BulkString("id")
	r.Int(c.id)
	r.BulkString("mode")
	r.BulkString("standalone")
	r.BulkString("role")
	if c.node.leads() {
		r.BulkString("master")
	} else {
		r.BulkString("replica")
	}
	r.BulkString("modules")
	r.Array(0)
}

func (c *conn) setProto(proto int) {
	c.reply.Proto = proto
	c.about.proto.Store(int32(proto))
}

// leads reports whether the replicator beside this node is the master of the group.
func (n *Node) leads() bool { return n.log.Status().Role == smr.RoleMaster }

// resetCommand brings the connection back to where it was when it was made.
func resetCommand(c *conn, _ [][]byte) {
	c.endTransaction()
	c.leave()
	c.begin()
	c.limitQueries()
	c.mode = replyMode{}
	c.setName(nil)
	c.setProto(2)
	c.setConsistency(consistency{})
	c.copies = 0
	c.setDatabase(0)
	c.about.set(func(a *about) { a.noEvict, a.noTouch, a.readonly = false, false, false })
	c.reply.Simple("RESET")
}

// readonlyCommand and readwriteCommand choose between stale and linearizable reads. Every node takes every command anyway.
func readonlyCommand(c *conn, _ [][]byte) {
	c.setConsistency(consistency{kind: readStale})
	c.reply.OK()
}

func readwriteCommand(c *conn, _ [][]byte) {
	c.setConsistency(consistency{})
	c.reply.OK()
}

// timeCommand answers the clock of this node. In a transaction, TIME is log time.
func timeCommand(c *conn, _ [][]byte) {
	now := time.Now()
	c.reply.Array(2)
	c.reply.BulkInt(now.Unix())
	c.reply.BulkInt(int64(now.Nanosecond() / 1000))
}

func commandCommand(c *conn, args [][]byte) { kv.CommandReply(args, &c.reply) }

// isWord reports whether arg is word (lower case), in any case.
func isWord(arg []byte, word string) bool {
	return len(arg) == len(word) && strings.EqualFold(string(arg), word)
}
