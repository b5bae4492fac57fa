package replicator

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"

	"lockstep/internal/obs"
	"lockstep/log"
	"lockstep/smr"
)

// Config of a replicator process. The zero value of a field with a default stands for the default; Validate names
// every problem at once.
type Config struct {
	// Dir holds everything this replica must not lose: DIR/log, DIR/state. It is made if it is missing (mode 0700).
	Dir string
	// Cluster, Group and Node say who this replica is. They are written into Dir when it is made, and a directory of
	// another identity is refused.
	Cluster string
	Group   string
	Node    string
	// DataAddr is where slaves and KV nodes connect, host:port. Port 0 takes any free one.
	DataAddr string
	// AnnounceAddr is DataAddr as others reach it, for KV nodes; default: DataAddr as it was bound.
	AnnounceAddr string
	// ManageAddr is where the configuration master connects (gRPC), host:port.
	ManageAddr string
	// Socket is the unix socket for the KV node beside this replicator; default: DIR/local.sock.
	Socket string

	// FileSize is the size of the data part of a log file in bytes, a power of two; default log.DefaultFileSize.
	FileSize int64
	// Sync says when a byte counts as durable here; default smr.SyncAlways.
	Sync smr.SyncMode
	// SyncMillis and SyncBytes bound what smr.SyncInterval may leave unsynced; defaults 100 ms and 4 MiB.
	SyncMillis int
	SyncBytes  int64

	// MaxClients and MaxSlaves bound the connections on the data port; defaults 256 and 64.
	MaxClients int
	MaxSlaves  int

	// Version is shown in ReplicaState.
	Version string
	// Logger gets the events; default slog.Default().
	Logger *slog.Logger
	// Observer shows this replicator to people and programs; default: nobody is shown anything.
	Observer *obs.Observer
	// Ready, if set, is called once, from Run's goroutine, when all ports listen.
	Ready func(Endpoints)

	// fs is the file system of log and state; tests put faults in. Default log.OS.
	fs log.FS
	// gauges counts what passes; withDefaults makes it.
	gauges *gauges
	// started, if set, is given the node before its goroutines run; for tests.
	started func(*node)
}

// Endpoints are the addresses that a replicator listens on.
type Endpoints struct {
	Data, Manage net.Addr
	Socket       string
}

// Defaults of Config.
const (
	DefaultSyncMillis = 100
	DefaultSyncBytes  = 4 << 20
	DefaultMaxClients = 256
	DefaultMaxSlaves  = 64
)

// maxSocketPath is what a unix socket's address holds on Linux, in bytes.
const maxSocketPath = 107

// maxName bounds the name of a cluster or group in bytes, as the wire and the log files do.
const maxName = 255

// withDefaults returns c with all defaults filled in.
func (c Config) withDefaults() Config {
	if c.Socket == "" {
		c.Socket = filepath.Join(c.Dir, "local.sock")
	}
	if c.FileSize == 0 {
		c.FileSize = log.DefaultFileSize
	}
	if c.SyncMillis == 0 {
		c.SyncMillis = DefaultSyncMillis
	}
	if c.SyncBytes == 0 {
		c.SyncBytes = DefaultSyncBytes
	}
	if c.MaxClients == 0 {
		c.MaxClients = DefaultMaxClients
	}
	if c.MaxSlaves == 0 {
		c.MaxSlaves = DefaultMaxSlaves
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.fs == nil {
		c.fs = log.OS{}
	}
	if c.gauges == nil {
		c.gauges = newGauges(c.Group, c.Node)
		c.fs = c.gauges.watch(c.fs)
	}
	return c
}

// Validate returns all problems of c at once, nil if there are none.
func (c Config) Validate() error {
	c = c.withDefaults()
	var problems []error
	bad := func(format string, arguments ...any) { problems = append(problems, fmt.Errorf(format, arguments...)) }
	if c.Dir == "" {
		bad("dir: name the directory of this replica")
	}
	checkName(c.Cluster, "cluster", bad)
	checkName(c.Group, "group", bad)
	if err := smr.CheckNodeID(c.Node); err != nil {
		bad("node: %w", err)
	}
	checkAddress(c.DataAddr, "data", bad)
	checkAddress(c.ManageAddr, "manage", bad)
	if c.AnnounceAddr != "" {
		checkAddress(c.AnnounceAddr, "announce", bad)
	} else if host, _, err := net.SplitHostPort(c.DataAddr); err == nil && isWildcard(host) {
		bad("announce: data listens on every address (%q): name the one that KV nodes of other machines reach", c.DataAddr)
	}
	if c.Dir != "" && len(c.Socket) > maxSocketPath {
		bad("socket: the path %q has %d bytes, the system takes %d: choose a shorter one", c.Socket, len(c.Socket), maxSocketPath)
	}
	if c.FileSize < log.MinFileSize || c.FileSize > log.MaxFileSize || c.FileSize&(c.FileSize-1) != 0 {
		bad("file-size: %d bytes: use a power of two from %d to %d", c.FileSize, log.MinFileSize, log.MaxFileSize)
	}
	if c.Sync > smr.SyncOS {
		bad("sync: unknown mode %s", c.Sync)
	}
	if c.SyncMillis < 1 || c.SyncMillis > 60_000 {
		bad("sync-interval-ms: %d: use 1 to 60000", c.SyncMillis)
	}
	if c.SyncBytes < 1 || c.SyncBytes > 1<<30 {
		bad("sync-bytes: %d: use 1 to %d", c.SyncBytes, 1<<30)
	}
	if c.MaxClients < 1 || c.MaxClients > 10_000 {
		bad("max-clients: %d: use 1 to 10000", c.MaxClients)
	}
	if c.MaxSlaves < 1 || c.MaxSlaves > 1000 {
		bad("max-slaves: %d: use 1 to 1000", c.MaxSlaves)
	}
	return errors.Join(problems...)
}

func checkName(name, what string, bad func(string, ...any)) {
	if name == "" || len(name) > maxName {
		bad("%s: a name of %d bytes: use 1 to %d", what, len(name), maxName)
	}
	for _, c := range name {
		if c < '!' || c > '~' {
			bad("%s: %q: use printable ASCII without spaces", what, name)
			return
		}
	}
}

func checkAddress(address, what string, bad func(string, ...any)) {
	if address == "" {
		bad("%s: name an address, host:port", what)
		return
	}
	if len(address) > maxName {
		bad("%s: an address of %d bytes: use at most %d", what, len(address), maxName)
		return
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		bad("%s: %q is no address: %w", what, address, err)
		return
	}
	if number, err := net.LookupPort("tcp", port); err != nil || number > 65535 {
		bad("%s: %q has no possible port", what, address)
	}
	if what == "announce" && isWildcard(host) {
		bad("announce: %q names no host that others can reach", address)
	}
}

func isWildcard(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}
