package kvnode

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"lockstep/internal/obs"
	"lockstep/internal/transfer"
	"lockstep/internal/trust"
	"lockstep/smr"
)

// Config of one KV node process.
type Config struct {
	// ReplicatorDir is the data directory of the replicator beside this node; its socket is found there. No default.
	ReplicatorDir string
	// Cluster is the cluster id; a replicator of another cluster is refused. No default.
	Cluster string
	// Group is the replicated log that this node executes. Default "g1".
	Group string
	// Node is the name of the replica that this node belongs to. No default.
	Node smr.NodeID
	// Listen is where clients connect without TLS, host:port; "" for nowhere. Default 127.0.0.1:6379, as redis-server.
	Listen string
	// Announce is what others are told to connect to. Default: Listen, or else TLS.Listen, with the port that was bound.
	Announce string
	// Peers tells where the KV nodes of the group are, by node, for what INFO and ROLE say about the master.
	// Default: unknown.
	Peers map[smr.NodeID]string
	// AllowRemote lets clients of other hosts in without a password: it switches protected mode off.
	AllowRemote bool
	// RequirePass is the password of the default user, as long as the group's own settings give it none. It must be
	// the same on every node. Default: none.
	RequirePass string
	// Masters are the gRPC addresses of the configuration masters, for FAILOVER. Default: none, FAILOVER is refused.
	Masters []string
	// WriteTimeout is how long a write that was sent may stay unanswered before the client is told that its
	// outcome is unknown, and how long a read waits until it can be linearizable. Default 10 s: longer than any
	// fail-over.
	WriteTimeout time.Duration
	// RefuseAfter is how long the group may be unable to write before new writes are refused at once.
	// Default 5 s: longer than a fail-over, so that one is a pause and not an error.
	RefuseAfter time.Duration
	// IdleTimeout closes connections that say nothing for so long. Default 0: never, as redis-server.
	IdleTimeout time.Duration
	// MaxClients bounds the connections. Default 10000, as redis-server.
	MaxClients int
	// MaxQuery bounds the bytes of one request, and so of what is read ahead of a connection. Default 96 MiB:
	// a value of smr.MaxPayload and its arguments.
	MaxQuery int
	// MaxOutput bounds the bytes of replies that wait for one connection; one that exceeds it is cut. Default
	// 256 MiB, as the limit of redis-server for replicas.
	MaxOutput int
	// KeepAlive is the period of TCP keep-alives that find dead peers. Default 300 s, as redis-server.
	KeepAlive time.Duration
	// SlowerThan is the execution time from which a command is kept in the slow log. Default 10 ms, as redis-server.
	SlowerThan time.Duration
	// Grace is how long a stop waits for commands in flight. Default 5 s.
	Grace time.Duration
	// TLS is a port for clients with TLS, beside Listen or instead of it. Default: none.
	TLS ClientTLS
	// Keeper holds the certificate of this node for inner connections; nil: they have no TLS, and everybody is trusted.
	Keeper *trust.Keeper
	// Admin is the management port (gRPC): images, state.
	Admin AdminConfig
	// Images says where images of the state are kept, and when they are taken.
	Images ImageConfig
	// Archive says where images are archived, and when.
	Archive ArchiveConfig
	// Version is what INFO says of this program. Default "unknown".
	Version string
	// Logger gets the events. Default slog.Default().
	Logger *slog.Logger
	// Observer shows this node to people and programs. Default: nobody is shown anything.
	Observer *obs.Observer
}

// ClientTLS is a port for clients with TLS.
type ClientTLS struct {
	Listen string      // host:port; "" for none
	Files  trust.Files // certificate for clients, and the CA of theirs; default: that of Config.Keeper
	Auth   trust.Auth  // whether clients show certificates
}

// AdminConfig of the management port of a KV node.
type AdminConfig struct {
	// Listen is host:port. Default 127.0.0.1:0, a free port of the loopback interface: peers on other machines cannot
	// fetch images then. Empty: there is none.
	Listen string
	// Senders bounds how many peers fetch images at once. Default 2.
	Senders int
	// BytesPerSecond bounds what all of them get together, at least 64 KiB; 0 is no bound. Default 64 MiB: half of a
	// gigabit line, or of a slow disk, stays for clients.
	BytesPerSecond int64
}

// DefaultConfig returns the defaults named in the comments of Config.
func DefaultConfig() Config {
	return Config{
		Group:        "g1",
		Listen:       "127.0.0.1:6379",
		WriteTimeout: 10 * time.Second,
		RefuseAfter:  5 * time.Second,
		MaxClients:   10000,
		MaxQuery:     96 << 20,
		MaxOutput:    256 << 20,
		KeepAlive:    300 * time.Second,
		SlowerThan:   10 * time.Millisecond,
		Grace:        5 * time.Second,
		Admin:        AdminConfig{Listen: "127.0.0.1:0", Senders: 2, BytesPerSecond: 64 << 20},
		TLS:          ClientTLS{Auth: trust.AuthRequired},
		Images:       ImageConfig{LogBytes: 256 << 20, Every: 15 * time.Minute},
		Archive:      ArchiveConfig{LogBytes: 4 << 30, Every: 24 * time.Hour},
		Version:      "unknown",
		Logger:       slog.Default(),
	}
}

// minImageLog is the least that ImageConfig.LogBytes may be.
const minImageLog = 64 << 10

// minBuffers is the least that MaxQuery and MaxOutput may be, in bytes.
const minBuffers = 64 << 10

// Validate returns all problems of the configuration at once.
func (c Config) Validate() error {
	var problems []error
	complain := func(wrong bool, format string, values ...any) {
		if wrong {
			problems = append(problems, fmt.Errorf(format, values...))
		}
	}
	complain(c.ReplicatorDir == "", "replicator directory is missing: name the data directory of the replicator beside this node")
	complain(c.Cluster == "", "cluster id is missing")
	complain(c.Group == "", "group is missing")
	if err := smr.CheckNodeID(string(c.Node)); err != nil {
		problems = append(problems, err)
	}
	if err := c.checkListen(); err != nil {
		problems = append(problems, err)
	}
	if c.Admin.Listen != "" {
		if _, _, err := splitHostPort(c.Admin.Listen); err != nil {
			problems = append(problems, fmt.Errorf("management address: %w", err))
		}
	}
	complain(c.Admin.Senders < 1, "%d peers that may fetch an image at once: use at least 1", c.Admin.Senders)
	complain(c.Admin.BytesPerSecond < 0 || c.Admin.BytesPerSecond > 0 && c.Admin.BytesPerSecond < transfer.MinRate,
		"images at %d bytes a second: use at least %d, or 0 for no bound", c.Admin.BytesPerSecond, transfer.MinRate)
	complain(c.Images.LogBytes < minImageLog, "an image for every %d bytes of the log: use at least %d", c.Images.LogBytes, minImageLog)
	complain(c.Images.Every < time.Second, "an image every %v: use at least 1s", c.Images.Every)
	complain(c.Images.TierMemory > 0 && c.Images.Dir == "", "values can only leave the memory for images: name a directory for them, or let tier memory be 0")
	complain(c.Images.TierMemory < 0 || c.Images.TierMemory > 0 && c.Images.TierMemory < minTierMemory,
		"%d bytes of memory for the process: use at least %d, or 0 for no bound", c.Images.TierMemory, minTierMemory)
	c.Archive.check(c.Images, complain)
	if c.Announce != "" {
		if _, _, err := splitHostPort(c.Announce); err != nil {
			problems = append(problems, fmt.Errorf("announced address: %w", err))
		}
	}
	for _, node := range slices.Sorted(maps.Keys(c.Peers)) {
		if _, _, err := splitHostPort(c.Peers[node]); err != nil {
			problems = append(problems, fmt.Errorf("address of peer %s: %w", node, err))
		}
	}
	complain(c.WriteTimeout < 10*time.Millisecond, "write timeout %v: use at least 10ms", c.WriteTimeout)
	complain(c.RefuseAfter < 10*time.Millisecond, "refuse-after %v: use at least 10ms", c.RefuseAfter)
	complain(c.IdleTimeout < 0, "idle timeout %v is negative", c.IdleTimeout)
	complain(c.MaxClients < 1, "maxclients %d: use at least 1", c.MaxClients)
	complain(c.MaxQuery < minBuffers, "query buffer of %d bytes: use at least %d", c.MaxQuery, minBuffers)
	complain(c.MaxOutput < minBuffers, "output buffer of %d bytes: use at least %d", c.MaxOutput, minBuffers)
	complain(c.Grace < 0, "grace %v is negative", c.Grace)
	return errors.Join(problems...)
}

// checkListen checks the address. One that others can reach is no mistake: protected mode looks after it.
func (c Config) checkListen() error {
	if c.Listen == "" && c.TLS.Listen == "" {
		return errors.New("listen address: there is none, neither with TLS nor without")
	}
	for _, port := range []struct{ what, address string }{{"listen address", c.Listen}, {"listen address with TLS", c.TLS.Listen}} {
		if _, _, err := splitHostPort(port.address); port.address != "" && err != nil {
			return fmt.Errorf("%s: %w", port.what, err)
		}
	}
	return c.TLS.Files.Check("tls-listen-")
}

func splitHostPort(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("%q: use host:port", address)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%q: port is not 0 to 65535", address)
	}
	return host, port, nil
}

// socketPath returns where the replicator's local socket is.
func (c Config) socketPath() string { return filepath.Join(c.ReplicatorDir, "local.sock") }
