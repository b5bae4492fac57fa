package confmaster

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/failover"
	"lockstep/internal/level"
	"lockstep/internal/obs"
	"lockstep/internal/trust"
)

// Config of a configuration master.
type Config struct {
	Dir     string // state; created 0700 if missing
	New     bool   // an empty Dir is right: the cluster is being founded (see doc.go for the other case)
	Cluster string // cluster id: peers and replicators of another one are refused
	ID      uint64 // own number among Peers, from 1
	// Peers are all configuration masters, this one included: 1, 3 or 5. The set is fixed for the life of the cluster.
	Peers []Peer
	// Sentinel is where Redis clients ask for the master, host:port; "" for nowhere. SentinelAnnounce is what others are
	// told, if it differs.
	Sentinel, SentinelAnnounce string

	Probe   time.Duration // between two states of a replica (100 ms)
	Suspect time.Duration // silence after which a replica is thought down (1 s)
	Drop    time.Duration // a member that does not stream for so long leaves the membership (5 s)
	Lower   time.Duration // copies are lowered, down to min_copies, after so long with too few members (10 s)

	// AllowDrills lets operators make faults in this process on purpose, for a limited time (internal/fault).
	AllowDrills bool
	// SentinelTLS is where Redis clients ask with TLS, SentinelAuth whether they show certificates; "" for nowhere.
	SentinelTLS  string
	SentinelAuth trust.Auth
	// Keeper holds the certificate of this configuration master; nil: no connection has TLS, and everybody is trusted.
	Keeper *trust.Keeper

	// Web shows the web page on the HTTP port; Drills is the directory of smrctl's reports of drills, which it lists, "" for none.
	Web    bool
	Drills string

	Logger *slog.Logger
	// Observer shows this configuration master to people and programs; nil: nobody is shown anything.
	Observer *obs.Observer

	highest int // feature level that this program can; 0: level.Highest()
}

// Peer is one configuration master.
type Peer struct {
	ID   uint64
	Addr string // host:port of its gRPC server
}

// Name is what a configuration master is called, also in its certificate.
func (p *Peer) Name() string { return "c" + strconv.FormatUint(p.ID, 10) }

func (p *Peer) wanted() trust.Wanted { return trust.Wanted{Role: trust.Confmaster, Name: p.Name()} }

func (p *Peer) remote() remote { return remote{p.Addr, p.wanted()} }

// Defaults of Config's durations.
const (
	DefaultProbe   = 100 * time.Millisecond
	DefaultSuspect = time.Second
	DefaultDrop    = 5 * time.Second
	DefaultLower   = 10 * time.Second
)

// ParsePeers reads "1=host:port,2=host:port,3=host:port".
func ParsePeers(text string) ([]Peer, error) {
	var peers []Peer
	for _, part := range strings.Split(text, ",") {
		number, addr, found := strings.Cut(strings.TrimSpace(part), "=")
		id, err := strconv.ParseUint(number, 10, 32)
		if !found || err != nil || id == 0 {
			return nil, fmt.Errorf("peer %q: write it as NUMBER=HOST:PORT, numbers from 1", part)
		}
		peers = append(peers, Peer{ID: id, Addr: addr})
	}
	slices.SortFunc(peers, func(a, b Peer) int { return cmp.Compare(a.ID, b.ID) })
	return peers, nil
}

// Validate returns all problems at once.
func (c *Config) Validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Dir == "" {
		bad("--dir is missing: where to keep the state")
	}
	if c.Cluster == "" || len(c.Cluster) > 128 {
		bad("--cluster must have 1 to 128 bytes, not %d", len(c.Cluster))
	}
	if n := len(c.Peers); n != 1 && n != 3 && n != 5 {
		bad("--peers names %d configuration masters: use 1, 3 or 5", n)
	}
	for i, p := range c.Peers {
		if host, _, err := net.SplitHostPort(p.Addr); err != nil {
			bad("--peers: address %q of %d: %w", p.Addr, p.ID, err)
		} else if isWildcard(host) {
			bad("--peers: address %q of %d names no host that others can reach", p.Addr, p.ID)
		}
		for _, q := range c.Peers[:i] {
			if q.ID == p.ID || q.Addr == p.Addr {
				bad("--peers: %d=%s stands there twice", p.ID, p.Addr)
			}
		}
	}
	if c.self() == nil {
		bad("--id %d is not among --peers", c.ID)
	}
	if host, _, err := net.SplitHostPort(c.Sentinel); c.Sentinel != "" && err != nil {
		bad("--sentinel: address %q: %w", c.Sentinel, err)
	} else if c.Sentinel != "" && c.SentinelAnnounce == "" && isWildcard(host) {
		bad("--sentinel: address %q names no host that others can reach: add --sentinel-announce", c.Sentinel)
	}
	if host, _, err := net.SplitHostPort(c.SentinelTLS); c.SentinelTLS != "" && err != nil {
		bad("--sentinel-tls: address %q: %w", c.SentinelTLS, err)
	} else if c.SentinelTLS != "" && c.Sentinel == "" && c.SentinelAnnounce == "" && isWildcard(host) {
		bad("--sentinel-tls: address %q names no host that others can reach: add --sentinel-announce", c.SentinelTLS)
	}
	if host, _, err := net.SplitHostPort(c.SentinelAnnounce); c.SentinelAnnounce != "" && (err != nil || isWildcard(host)) {
		bad("--sentinel-announce: address %q: give the host:port under which others reach --sentinel", c.SentinelAnnounce)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
		min   time.Duration
	}{
		{"--probe-ms", c.Probe, 20 * time.Millisecond}, {"--suspect-ms", c.Suspect, 100 * time.Millisecond},
		{"--drop-ms", c.Drop, 500 * time.Millisecond}, {"--lower-ms", c.Lower, 500 * time.Millisecond},
	} {
		if d.value < d.min || d.value > time.Hour {
			bad("%s: %v: use %v to 1h", d.name, d.value, d.min)
		}
	}
	if c.Logger == nil {
		bad("there is no logger")
	}
	if c.Suspect < 2*c.Probe {
		bad("--suspect-ms %v is less than two probes of %v: every pause would look like a death", c.Suspect, c.Probe)
	}
	return errors.Join(problems...)
}

// isWildcard reports whether host stands for all addresses of this machine, which nobody can dial.
func isWildcard(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// checkVoters compares voters on record with --peers. They are fixed: a majority of other voters could give an epoch
// out twice.
func (c *Config) checkVoters(voters []uint64) error {
	asked := make([]uint64, 0, len(c.Peers))
	for _, p := range c.Peers {
		asked = append(asked, p.ID)
	}
	known := slices.Sorted(slices.Values(voters))
	if !slices.Equal(known, slices.Sorted(slices.Values(asked))) {
		return fmt.Errorf("the configuration masters of cluster %q are %d, --peers names %d: the set is fixed", c.Cluster, known, asked)
	}
	return nil
}

// restProbe is how long a replica in which nothing moves may wait with its next state: so that three of them fit into Suspect.
func (c *Config) restProbe() time.Duration { return max(c.Probe, c.Suspect/3) }

func (c *Config) self() *Peer { return c.peer(c.ID) }

func (c *Config) peer(id uint64) *Peer {
	for i := range c.Peers {
		if c.Peers[i].ID == id {
			return &c.Peers[i]
		}
	}
	return nil
}

// version of this program, "" if nobody is shown it.
func (c *Config) version() string {
	if c.Observer == nil {
		return ""
	}
	return c.Observer.Version
}

// highestLevel is the highest feature level that this program can.
func (c *Config) highestLevel() int {
	if c.highest != 0 {
		return c.highest
	}
	return level.Highest()
}

// announced is where others find our Sentinel.
func (c *Config) announced() string {
	if c.SentinelAnnounce != "" {
		return c.SentinelAnnounce
	}
	if c.Sentinel == "" {
		return c.SentinelTLS
	}
	return c.Sentinel
}

func (c *Config) options() failover.Options {
	ticks := func(d time.Duration) int { return max(1, int(d/(failover.TickMillis*time.Millisecond))) }
	o := failover.Options{
		Self: c.ID, Level: c.highestLevel(), ProbeTicks: ticks(c.Probe), SuspectTicks: ticks(c.Suspect),
		DropTicks: ticks(c.Drop), LowerTicks: ticks(c.Lower),
	}
	for _, p := range c.Peers {
		o.Voters = append(o.Voters, p.ID)
	}
	return o
}
