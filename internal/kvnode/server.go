package kvnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"lockstep/internal/resp"
	"lockstep/internal/trust"
	"lockstep/proto"
)

func bgrewriteCommand(c *conn, _ [][]byte) {
	c.reply.Simple("Background append only file rewriting started")
}

// shutdownCommand is SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]: this node ends as after SIGTERM; the group goes on.
func shutdownCommand(c *conn, args [][]byte) {
	words := make(map[string]bool)
	for _, arg := range args[1:] {
		words[strings.ToLower(string(arg))] = true
	}
	for word := range words {
		switch word {
		case "save", "nosave", "now", "force", "abort":
		default:
			c.reply.Error(errSyntax)
			return
		}
	}
	stop := c.node.shell.stop.Load()
	switch {
	case words["abort"] && len(words) > 1, words["save"] && words["nosave"]:
		c.reply.Error(errSyntax)
	case words["abort"]:
		c.reply.Error("ERR No shutdown in progress.")
	case stop == nil:
		c.reply.Error("ERR Errors trying to SHUTDOWN. Check logs.")
	default:
		c.node.logger.Info("shutdown", "client", c.net.RemoteAddr().String())
		c.closing = true
		(*stop)()
	}
}

// replicaofCommand is REPLICAOF and SLAVEOF: who follows whom is not decided here.
func replicaofCommand(c *conn, args [][]byte) {
	if isWord(args[1], "no") && isWord(args[2], "one") {
		if c.node.leads() {
			c.reply.OK()
			return
		}
		c.reply.Error("ERR this node cannot make itself the master: the configuration master decides. Use FAILOVER, or 'smrctl switchover', to hand mastership over; every node takes writes in any case")
		return
	}
	if port, ok := resp.ParseInt(args[2]); !ok || port < 0 || port > 65535 {
		c.reply.Error("ERR Invalid master port")
		return
	}
	c.reply.Error("ERR replicas of a group are not made with REPLICAOF: the configuration master decides who follows whom. See 'smrctl --help' for how a replica is added")
}

const errNoCluster = "ERR This instance has cluster support disabled"

func noCluster(c *conn, _ [][]byte) { c.reply.Error(errNoCluster) }

// failoverPatience bounds how long FAILOVER waits for the configuration master.
const failoverPatience = 10 * time.Second

// failoverRequest is what FAILOVER asks for.
type failoverRequest struct {
	host, port string // of the target; empty: any
	timeout    time.Duration
	force      bool
	abort      bool
}

// parseFailover reads FAILOVER [TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds], or returns the error in Redis' words.
func parseFailover(args [][]byte) (r failoverRequest, problem string) {
	for i := 1; i < len(args); i++ {
		switch left := len(args) - 1 - i; {
		case isWord(args[i], "timeout") && left >= 1 && r.timeout == 0:
			milliseconds, ok := resp.ParseInt(args[i+1])
			switch {
			case !ok:
				return r, errInteger
			case milliseconds <= 0 || milliseconds > int64(time.Hour/time.Millisecond):
				return r, "ERR FAILOVER timeout must be greater than 0"
			}
			r.timeout = time.Duration(milliseconds) * time.Millisecond
			i++
		case isWord(args[i], "abort") && len(args) == 2:
			r.abort = true
		case isWord(args[i], "to") && left >= 2 && r.host == "":
			if _, ok := resp.ParseInt(args[i+2]); !ok {
				return r, errInteger
			}
			r.host, r.port = string(args[i+1]), string(args[i+2])
			i += 2
		case isWord(args[i], "force") && !r.force:
			r.force = true
		default:
			return r, errSyntax
		}
	}
	if r.force && (r.host == "" || r.timeout == 0) {
		return r, "ERR FAILOVER with force option requires both a timeout and target HOST and IP."
	}
	return r, ""
}

// errAborted ends a FAILOVER that FAILOVER ABORT gives up.
var errAborted = errors.New("FAILOVER ABORT was called: nobody waits for it any more; a hand-over that has begun is carried out all the same")

// failoverCommand is FAILOVER: it asks the configuration master to hand mastership over, and is answered when that has happened or was
// refused. FORCE changes nothing: a master that does not give up in time is replaced anyway.
func failoverCommand(c *conn, args [][]byte) {
	request, problem := parseFailover(args)
	if problem != "" {
		c.reply.Error(problem)
		return
	}
	running := &c.node.shell.failover
	if request.abort {
		if cancel := running.Swap(nil); cancel != nil {
			(*cancel)(errAborted)
			c.reply.OK()
			return
		}
		c.reply.Error("ERR No failover in progress.")
		return
	}
	target := ""
	if request.host != "" {
		if target = c.node.nodeAt(net.JoinHostPort(request.host, request.port)); target == "" {
			c.reply.Error("ERR FAILOVER target HOST and PORT is not a replica.")
			return
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	if !running.CompareAndSwap(nil, &cancel) {
		c.reply.Error("ERR FAILOVER already in progress.")
		return
	}
	defer running.CompareAndSwap(&cancel, nil)
	patience := request.timeout
	if patience == 0 {
		patience = failoverPatience
	}
	err := c.node.switchOver(ctx, target, patience)
	switch {
	case context.Cause(ctx) == errAborted:
		c.reply.Error("ERR " + errAborted.Error())
	case err != nil:
		c.reply.Error("ERR " + err.Error())
	default:
		c.reply.OK()
	}
}

// nodeAt returns the name of the node whose clients' address is given, empty if it is unknown.
func (n *Node) nodeAt(address string) string {
	for node, known := range n.config.Peers {
		if known == address {
			return string(node)
		}
	}
	return ""
}

// switchOver asks the configuration masters, one after the other, to make a node (any if it is empty) the master.
func (n *Node) switchOver(ctx context.Context, target string, patience time.Duration) error {
	if len(n.config.Masters) == 0 {
		return errors.New("this node does not know the configuration masters: start it with --masters, or use 'smrctl switchover'")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var problem error
	for _, address := range n.config.Masters {
		connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(n.config.Keeper.Credentials(trust.Wanted{Role: trust.Confmaster})))
		if err != nil {
			problem = err
			continue
		}
		_, err = proto.NewConfmasterClient(connection).Switchover(ctx, &proto.SwitchoverRequest{Group: n.config.Group, To: target})
		connection.Close()
		if err == nil {
			return nil
		}
		problem = err
	}
	return fmt.Errorf("the configuration master did not hand mastership over: %w", problem)
}

// lolwutCommand is LOLWUT [VERSION n] [...]: a line and the version.
func lolwutCommand(c *conn, args [][]byte) {
	width := int64(16)
	if len(args) >= 3 && isWord(args[1], "version") {
		version, ok := resp.ParseInt(args[2])
		if !ok {
			c.reply.Error(errInteger)
			return
		}
		width = max(1, min(version, 40))
	}
	steps := strings.Repeat("[]-", int(width))
	c.reply.Verbatim("txt", steps+"[]\n"+steps+"[]\n\nRedis ver. "+redisVersion+" (lockstep "+c.node.config.Version+")\n")
}

func memoryPurge(c *conn, _ [][]byte) {
	debug.FreeOSMemory()
	c.reply.OK()
}

func memoryMallocStats(c *conn, _ [][]byte) {
	var gc debug.GCStats
	debug.ReadGCStats(&gc)
	c.reply.Verbatim("txt", "Go allocator: "+human(c.node.sampleMemory())+" of live objects, "+human(residentBytes())+" resident, "+
		strconv.FormatInt(gc.NumGC, 10)+" collections, "+gc.PauseTotal.String()+" of pauses in all\n")
}

// maxDebugSleep bounds DEBUG SLEEP.
const maxDebugSleep = 10 * time.Minute

// debugSleep is DEBUG SLEEP seconds: this connection does nothing for so long. Others are not held up.
func debugSleep(c *conn, args [][]byte) {
	seconds, err := strconv.ParseFloat(string(args[2]), 64)
	if err != nil || seconds != seconds || seconds < 0 {
		seconds = 0
	}
	end := c.node.now() + min(time.Duration(min(seconds, maxDebugSleep.Seconds())*float64(time.Second)), maxDebugSleep)
	for c.node.now() < end {
		if !c.pause(min(pausePoll, end-c.node.now())) {
			break
		}
	}
	c.reply.OK()
}

// debugActiveExpire is DEBUG SET-ACTIVE-EXPIRE 0|1. Keys expire by log time, which no single node can stop: it is accepted for
// test suites, and changes nothing.
func debugActiveExpire(c *conn, _ [][]byte) { c.reply.OK() }
