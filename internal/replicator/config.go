package replicator

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"lockstep/internal/fault"
	"lockstep/internal/level"
	"lockstep/internal/locate"
	"lockstep/internal/obs"
	"lockstep/internal/trust"
	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/replica"
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
	// Join, if set, are configuration masters (gRPC, host:port) with which this replica registers itself.
	Join []string
	// AnnounceManage is ManageAddr as the configuration masters reach it, for Join; default: ManageAddr as it was bound.
	AnnounceManage string
	// Socket is the unix socket for the KV node beside this replicator; default: DIR/local.sock.
	Socket string

	// FileSize is the size of the data part of a log file in bytes, a power of two; default log.DefaultFileSize.
	FileSize int64
	// Sync says when a byte counts as durable here; default smr.SyncAlways.
	Sync smr.SyncMode
	// SyncMillis and SyncBytes bound what smr.SyncInterval may leave unsynced; defaults 100 ms and 4 MiB.
	SyncMillis int
	SyncBytes  int64

	// Keep says how much of the log, and of logs that were set aside, stays.
	Keep Keep
	// Archive says where what is committed is archived; default nowhere.
	Archive Archive

	// Lease is how long slaves are asked not to answer a fence, so that a master may be read without asking anybody (S11):
	// a fail-over after the death of a master's process waits for it. Default DefaultLease; NoLease: every read asks the members.
	Lease   time.Duration
	NoLease bool

	// MaxClients and MaxSlaves bound the connections on the data port; defaults 256 and 64.
	MaxClients int
	MaxSlaves  int

	// AllowDrills lets operators make faults in this process on purpose, for a limited time (internal/fault).
	AllowDrills bool
	// Keeper holds the certificate of this replicator; nil: no connection has TLS, and everybody is trusted.
	Keeper *trust.Keeper

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
	// drills makes faults on order, local serves the KV node beside; withDefaults makes both.
	drills *fault.Agent
	local  *local
	// gauges counts what passes; withDefaults makes it.
	gauges *gauges
	// started, if set, is given the node before its goroutines run; for tests.
	started func(*node)
	// highest is the feature level that this program can; withDefaults: level.Highest().
	highest int
}

// Keep says what stays on the disk. Nothing of the log goes that the KV node beside needs to start again, whatever this says.
type Keep struct {
	// Bytes of the newest log always stay; default 256 MiB.
	Bytes int64
	// Age is how long a byte of the log stays at least; 0: no matter how young.
	Age time.Duration
	// LagBytes bounds what is kept for slaves that lag or are away; default 1 GiB. Who is further behind needs an image.
	LagBytes int64
	// Quarantined is how many damaged or lost logs are kept as evidence, the newest ones; default 2.
	Quarantined int
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
	DefaultLease      = 200 * time.Millisecond

	DefaultKeepBytes       = 256 << 20
	DefaultLagBytes        = 1 << 30
	DefaultKeepQuarantined = 2
)

// maxSocketPath is what a unix socket's address holds on Linux, in bytes.
const maxSocketPath = 107

// maxKeepBytes and maxKeepAge bound Keep.
const (
	maxKeepBytes = 1 << 50
	maxKeepAge   = 366 * 24 * time.Hour
)

// A lease below minLease would lapse between two heartbeats; one above maxLease is refused by slaves.
const (
	minLease = 100 * time.Millisecond
	maxLease = smr.MaxLeaseTicks * replica.TickMillis * time.Millisecond
)

// leaseTicks is Lease as the core takes it.
func (c Config) leaseTicks() int {
	if c.NoLease {
		return 0
	}
	return int(c.Lease / (replica.TickMillis * time.Millisecond))
}

// trimPolicy is Keep as the core takes it.
func (c Config) trimPolicy() replica.TrimPolicy {
	return replica.TrimPolicy{
		Grain: smr.LSN(c.FileSize), KeepBytes: smr.LSN(c.Keep.Bytes), LagBytes: smr.LSN(c.Keep.LagBytes),
		KeepTicks: uint64(c.Keep.Age / (replica.TickMillis * time.Millisecond)),
	}
}

// maxName bounds the name of a cluster or group in bytes, as the wire and the log files do.
const maxName = 255

// withDefaults returns c with all defaults filled in.
func (c Config) withDefaults() Config {
	if c.Socket == "" {
		c.Socket = filepath.Join(c.Dir, "local.sock")
	}
	if c.highest == 0 {
		c.highest = level.Highest()
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
	if c.Lease == 0 {
		c.Lease = DefaultLease
	}
	if c.MaxClients == 0 {
		c.MaxClients = DefaultMaxClients
	}
	if c.MaxSlaves == 0 {
		c.MaxSlaves = DefaultMaxSlaves
	}
	if c.Keep.Bytes == 0 {
		c.Keep.Bytes = DefaultKeepBytes
	}
	if c.Keep.LagBytes == 0 {
		c.Keep.LagBytes = DefaultLagBytes
	}
	if c.Keep.Quarantined == 0 {
		c.Keep.Quarantined = DefaultKeepQuarantined
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.fs == nil {
		c.fs = log.OS{}
	}
	if c.drills == nil {
		c.local = newLocal()
		c.drills = newAgent(c, c.local)
		if c.AllowDrills {
			c.fs = drillFS{c.fs, c.drills.SyncDelay}
		}
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
	for _, addr := range c.Join {
		if !locate.Several(addr) {
			checkAddress(addr, "join", bad)
		} else if err := locate.Check(addr); err != nil {
			bad("join: %v", err)
		}
	}
	if c.AnnounceManage != "" {
		checkAddress(c.AnnounceManage, "announce-manage", bad)
	}
	if host, _, err := net.SplitHostPort(c.ManageAddr); err == nil && isWildcard(host) && len(c.Join) > 0 && c.AnnounceManage == "" {
		bad("announce-manage: manage listens on every address (%q): name the one that configuration masters reach", c.ManageAddr)
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
	if c.Lease < minLease || c.Lease > maxLease {
		bad("lease: %v: use %v to %v, or 0 for none", c.Lease, minLease, maxLease)
	}
	if c.Keep.Bytes < 1 || c.Keep.Bytes > maxKeepBytes {
		bad("log-keep-bytes: %d: use 1 to %d", c.Keep.Bytes, int64(maxKeepBytes))
	}
	if c.Keep.LagBytes < 1 || c.Keep.LagBytes > maxKeepBytes {
		bad("log-lag-cap: %d: use 1 to %d", c.Keep.LagBytes, int64(maxKeepBytes))
	}
	if c.Keep.Age < 0 || c.Keep.Age > maxKeepAge {
		bad("log-keep-age: %v: use 0 to %v", c.Keep.Age, maxKeepAge)
	}
	if c.Keep.Quarantined < 1 || c.Keep.Quarantined > 1000 {
		bad("keep-quarantined: %d: use 1 to 1000", c.Keep.Quarantined)
	}
	c.Archive.withDefaults().validate(bad)
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
	if (what == "announce" || what == "announce-manage" || what == "join") && isWildcard(host) {
		bad("%s: %q names no host that others can reach", what, address)
	}
}

func isWildcard(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}
