package kvnode

import (
	"crypto/sha1" // #nosec G505 -- a name of 40 digits as Redis has it, of nothing secret
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/resp"
	"lockstep/smr"
)

// replicationID returns 40 hex digits that name the history of the group.
func (n *Node) replicationID() string {
	sum := sha1.Sum([]byte(n.config.Cluster + "/" + n.config.Group)) // #nosec G401 -- a name of 40 digits as Redis has it, of nothing secret
	return hex.EncodeToString(sum[:])
}

// masterAddress returns where clients reach the KV node of the master. Port 0 means that only its host is known.
func (n *Node) masterAddress(status smr.Status) (name string, port int) {
	if address, ok := n.config.Peers[status.Master]; ok {
		if name, port, err := splitHostPort(address); err == nil {
			return name, port
		}
	}
	name, _, _ = splitHostPort(status.MasterAddr)
	return name, 0
}

// replica is another member, as clients know it.
type replica struct {
	host string
	port int
}

// replicas returns the other members, ordered by name, as a master sees them: it is told how many of them stream and not which,
// and hence names none unless all do.
func (n *Node) replicas() []replica {
	var list []replica
	for _, node := range slices.Sorted(maps.Keys(n.config.Peers)) {
		if host, port, err := splitHostPort(n.config.Peers[node]); err == nil && node != n.config.Node {
			list = append(list, replica{host, port})
		}
	}
	if int64(len(list)) != n.slaves.Load() {
		return nil
	}
	return list
}

// roleCommand is ROLE. A slave knows its master.
func roleCommand(c *conn, _ [][]byte) {
	n, r := c.node, &c.reply
	status := n.log.Status()
	if status.Role == smr.RoleMaster {
		r.Array(3)
		r.BulkString("master")
		r.Int(int64(status.Commit))
		replicas := n.replicas()
		r.Array(len(replicas))
		for _, other := range replicas {
			r.Array(3)
			r.BulkString(other.host)
			r.BulkString(strconv.Itoa(other.port))
			r.BulkString(strconv.FormatUint(uint64(status.Commit), 10))
		}
		return
	}
	name, port := n.masterAddress(status)
	state := "connected"
	switch {
	case status.Master == "":
		state = "connect"
	case n.catchingUp(status):
		state = "sync"
	}
	r.Array(5)
	r.BulkString("slave")
	r.BulkString(name)
	r.Int(int64(port))
	r.BulkString(state)
	r.Int(int64(n.Applied()))
}

// waitPoll is how often WAIT asks again how many copies there are.
const waitPoll = 5 * time.Millisecond

// waitCommand is WAIT numreplicas timeout: how many replicas besides the master hold this connection's writes
// durably. It waits for numreplicas, at most for timeout ms; 0 is for ever.
func waitCommand(c *conn, args [][]byte) {
	wanted, ok := resp.ParseInt(args[1])
	if !ok {
		c.reply.Error(errInteger)
		return
	}
	if replicas, ok := c.waitReplicas(wanted, args[2]); ok {
		c.reply.Int(replicas)
	}
}

// waitReplicas waits until so many members besides one hold this connection's writes, at most for the timeout, and returns how
// many do; false after an error reply, or at the end of the node.
func (c *conn) waitReplicas(wanted int64, milliseconds []byte) (replicas int64, ok bool) {
	timeout, ok := resp.ParseInt(milliseconds)
	switch {
	case !ok || timeout > int64(1<<62)/int64(time.Millisecond):
		c.reply.Error("ERR timeout is not an integer or out of range")
		return 0, false
	case timeout < 0:
		c.reply.Error("ERR timeout is negative")
		return 0, false
	}
	deadline := c.node.now() + time.Duration(timeout)*time.Millisecond
	if timeout == 0 {
		deadline = 1<<63 - 1
	}
	for {
		copies, err := c.countCopies(deadline)
		if err == nil {
			replicas = int64(max(copies-1, 0))
		}
		if errors.Is(err, errStopped) {
			return 0, false
		}
		if replicas >= wanted || c.tx.executing || c.node.now() >= deadline || !c.pause(min(waitPoll, deadline-c.node.now())) {
			return replicas, true
		}
	}
}

// copiesAnswer is what a count of copies brought.
type copiesAnswer struct {
	copies int
	err    error
}

// errNoCount: nobody told the number of copies in time.
var errNoCount = errors.New("the master did not tell how many copies there are")

// countCopies asks how many members hold this connection's last write, at most until the deadline.
func (c *conn) countCopies(deadline time.Duration) (int, error) {
	answer := make(chan copiesAnswer, 1)
	c.node.log.CountCopies(c.lastWrite, func(copies int, err error) { answer <- copiesAnswer{copies, err} })
	timer := time.NewTimer(max(deadline-c.node.now(), 0))
	defer timer.Stop()
	select {
	case got := <-answer:
		return got.copies, got.err
	case <-timer.C:
		return 0, errNoCount
	case <-c.node.stopped:
		c.dead = true
		return 0, errStopped
	}
}

// pause waits, and reports whether the connection goes on: the node runs and the client is there.
func (c *conn) pause(duration time.Duration) bool {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-timer.C:
		return !c.node.stopping.Load() && !c.peerGone() && !c.halfClosed()
	case <-c.node.stopped:
		c.dead = true
		return false
	}
}

// digest returns the digest of the state and the LSN it belongs to.
func (c *conn) digest() (sum string, lsn smr.LSN, err error) {
	if err := c.linearize(); err != nil {
		return "", 0, err
	}
	sum, lsn = c.node.digest()
	return sum, lsn, nil
}

// digest waits until no frame is half executed: there is no LSN that the state would belong to.
func (n *Node) digest() (sum string, lsn smr.LSN) {
	n.frame.RLock()
	defer n.frame.RUnlock()
	n.lock.RLock()
	defer n.lock.RUnlock()
	digest := n.machine.Digest()
	return hex.EncodeToString(digest[:]), n.machine.Applied()
}

// smrDigest is SMR DIGEST: the LSN up to which the state is executed, and its digest there.
func smrDigest(c *conn, _ [][]byte) {
	sum, lsn, err := c.digest()
	if err != nil {
		c.reply.Error(c.node.unreadable(err))
		return
	}
	c.reply.Array(2)
	c.reply.Int(int64(lsn))
	c.reply.BulkString(sum)
}

// smrStatus is SMR STATUS: a map of what the section Smr of INFO shows.
func smrStatus(c *conn, _ [][]byte) {
	w := &infoWriter{}
	c.node.lock.RLock()
	w.keyspace.Now, w.keyspace.Sessions = c.node.machine.Now(), c.node.machine.Stats().Sessions
	c.node.lock.RUnlock()
	c.node.infoSmr(w)
	lines := strings.Split(strings.TrimSuffix(w.b.String(), "\r\n"), "\r\n")
	c.reply.Map(len(lines))
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		c.reply.BulkString(strings.TrimPrefix(name, "smr_"))
		c.reply.BulkString(value)
	}
}
