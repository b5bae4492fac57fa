package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/session"
)

// Config of a Client. Zero values of optional fields stand for their defaults.
type Config struct {
	Cluster string // cluster id, as the replicators have it
	Group   string
	Node    smr.NodeID
	// Session is drawn anew for every life of the process: with a sequence it is the identity of a request.
	Session smr.SessionID
	// SocketPath is the unix socket of the replicator beside this node.
	SocketPath string
	// KVAddr is where clients reach this node, host:port. The replicator passes it on.
	KVAddr string
	// AdminAddr is where this node lends images, host:port; "" if nowhere. The replicator passes it on.
	AdminAddr string
	// Level is the highest feature level that this program can. The replicators are told, and refuse one that cannot the cluster's.
	Level int
	// Pid is told to the replicator. Default: this process.
	Pid int
	// Applied is where the Machine's state stands, a frame boundary: 0, or the LSN of the checkpoint it was loaded
	// from. Checkpoint is from where it could be started again.
	Applied, Checkpoint smr.LSN
	// Base is that of the image the Machine's state was loaded from, at Applied; nil if there was none. It is held against the log
	// before the first frame is executed.
	Base *log.Base

	// MaxPending and MaxPendingBytes bound what was submitted and is not executed, in requests and bytes. Default
	// 65536, and 256 MiB: several of the largest requests.
	MaxPending, MaxPendingBytes int
	// MaxReads bounds waiting reads. Default 65536.
	MaxReads int
	// RefuseWhenFull: Submit answers Overloaded at once instead of waiting for room. Default false, so that a full
	// client stops whoever reads from sockets.
	RefuseWhenFull bool
	// RefuseAfter is how long the group may have no writable master before requests are refused. Default 5 s: several
	// fail-overs.
	RefuseAfter time.Duration
	// Timeout is how long a caller waits at most. Default 10 s.
	Timeout time.Duration
	// FetchImage gets an image of the state at need.From or above, and returns when it is durable on this node: the newest that is
	// there already, or one from need.Sources. It is called from a goroutine of its own, one call at a time, again after a pause
	// when it has failed, when the log beside no longer reaches back to what is applied, or the master's to the log's end. ctx
	// ends with Run. nil: Run ends with ErrTrimmed in the first case.
	FetchImage func(ctx context.Context, need Need) (Image, error)
	// Dial opens a connection to the replicator of a master: TLS goes here, which has to find that node there. Default
	// net.Dialer.
	Dial func(ctx context.Context, master smr.NodeID, address string) (net.Conn, error)
	// Logger gets state changes. Default slog.Default().
	Logger *slog.Logger
}

const (
	tick = session.TickMillis * time.Millisecond

	batchBytes = 1 << 20 // of requests in one Propose
	// askAfter and deadAfter: a master's connection that is silent is asked for a sign of life, then dropped.
	askAfter, deadAfter = 500 * time.Millisecond, 1500 * time.Millisecond

	handshakePatience = time.Second
	// replicatorPatience is how long the replicator may be silent. It tells its status every second.
	replicatorPatience = 3 * time.Second
	progressEvery      = 100 * time.Millisecond
	// useEvery is how often a master is told that its lease is used. It asks for none if it has heard of nobody for 5 s.
	useEvery = time.Second
	// restEvery is in its place while nothing changes; more than the second after which a group without work notes the time, and half of
	// the 3 s after which the replicator takes a silent KV node for gone.
	restEvery = 1500 * time.Millisecond

	localPauseMin, localPauseMax   = 10 * time.Millisecond, 500 * time.Millisecond
	masterPauseMin, masterPauseMax = 5 * time.Millisecond, 200 * time.Millisecond
	// proofEvery is how often a log that does not reach what was executed is compared with it.
	proofEvery                   = time.Second
	readPauseMin, readPauseMax   = 20 * time.Millisecond, time.Second
	imagePauseMin, imagePauseMax = 100 * time.Millisecond, 5 * time.Second
)

func orDefault[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}

func (c Config) withDefaults() Config {
	orDefault(&c.Pid, os.Getpid())
	orDefault(&c.MaxPending, 1<<16)
	orDefault(&c.MaxPendingBytes, 256<<20)
	orDefault(&c.MaxReads, 1<<16)
	orDefault(&c.RefuseAfter, 5*time.Second)
	orDefault(&c.Timeout, 10*time.Second)
	orDefault(&c.Logger, slog.Default())
	if c.Dial == nil {
		dialer := &net.Dialer{Timeout: handshakePatience}
		c.Dial = func(ctx context.Context, _ smr.NodeID, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	return c
}

// Validate returns all problems of c, after its defaults are filled in.
func (c Config) Validate() error {
	c = c.withDefaults()
	var problems []error
	check := func(fine bool, format string, arguments ...any) {
		if !fine {
			problems = append(problems, fmt.Errorf(format, arguments...))
		}
	}
	const longest = 255 // of a name or an address on the wire
	check(c.Cluster != "" && len(c.Cluster) <= longest, "cluster id of %d bytes: use 1 to %d", len(c.Cluster), longest)
	check(c.Group != "" && len(c.Group) <= longest, "group name of %d bytes: use 1 to %d", len(c.Group), longest)
	if err := smr.CheckNodeID(string(c.Node)); err != nil {
		problems = append(problems, err)
	}
	check(c.SocketPath != "", "the path of the replicator's socket is missing")
	check(len(c.KVAddr) <= longest, "address of %d bytes: at most %d are possible", len(c.KVAddr), longest)
	check(len(c.AdminAddr) <= longest, "administration address of %d bytes: at most %d are possible", len(c.AdminAddr), longest)
	check(c.Level >= 0 && c.Level <= smr.MaxLevel, "feature level %d: use 0 to %d", c.Level, smr.MaxLevel)
	check(c.Base == nil || c.Base.LSN == c.Applied, "the state stands at LSN %d, its image's base at another", c.Applied)
	check(c.Checkpoint <= c.Applied, "checkpoint at LSN %d is above applied %d", c.Checkpoint, c.Applied)
	if err := c.sessionOptions().Validate(); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

func (c Config) sessionOptions() session.Options {
	return session.Options{
		ID:         c.Session,
		MaxPending: c.MaxPending, MaxPendingBytes: c.MaxPendingBytes, MaxReads: c.MaxReads,
		BatchBytes:       batchBytes,
		RefuseAfterTicks: int(c.RefuseAfter / tick), TimeoutTicks: int(c.Timeout / tick),
		AskTicks: int(askAfter / tick), DeadTicks: int(deadAfter / tick),
	}
}

func (c Config) handshake() smr.Handshake {
	return smr.Handshake{Cluster: c.Cluster, Group: c.Group, Node: c.Node, Level: c.Level}
}
