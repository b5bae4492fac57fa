package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"lockstep/internal/bytesize"
	"lockstep/internal/daemon"
	"lockstep/internal/kvnode"
	"lockstep/internal/obs"
	"lockstep/internal/release"
	"lockstep/internal/trust"
	"lockstep/smr"
)

// maxSize bounds flags that are numbers of bytes.
const maxSize = 1 << 40

func main() {
	if len(os.Args) == 2 && os.Args[1] == kvnode.ImageWriter { // by a KV node
		kvnode.ServeImageWriter()
		return
	}
	daemon.Main(daemon.All, run)
}

// run does what the arguments say and returns the exit code.
func run(ctx context.Context, arguments []string, stdout, stderr io.Writer) int {
	program, _ := describe()
	return program.Execute(ctx, arguments, stdout, stderr)
}

// describe returns the program and the configuration that its flags fill.
func describe() (*daemon.Program, *kvnode.Config) {
	config := kvnode.DefaultConfig()
	config.Version = release.String()
	config.Images.Apart = true
	program := daemon.New("kvnode", "--replicator-dir DIR --cluster ID --node NAME",
		"Serves the Redis protocol from the committed log of a group. Any node takes any command.")
	program.Check = func() error { return config.Validate() }
	program.Labels = func() []any { return []any{"group", config.Group, "node", string(config.Node)} }
	program.Run = func(ctx context.Context, logger *slog.Logger, observer *obs.Observer) error {
		config.Logger = logger
		config.Observer = observer
		config.Keeper = program.Keeper
		return kvnode.Run(ctx, config)
	}
	program.Identity = func() trust.Identity {
		return trust.Identity{Cluster: config.Cluster, Role: trust.KVNode, Name: string(config.Node)}
	}
	program.Inner = func() []daemon.Port { return []daemon.Port{{Flag: "admin", Addr: config.Admin.Listen}} }
	program.Secret = []string{"requirepass"}
	set := program.Flags
	set.StringVar(&config.ReplicatorDir, "replicator-dir", "", "data `directory` of the replicator beside this node; its socket DIR/local.sock is used (required)")
	set.StringVar(&config.Cluster, "cluster", "", "`id` of the cluster; a replicator of another one is refused (required)")
	set.StringVar(&config.Group, "group", config.Group, "`name` of the replicated group")
	set.StringVar((*string)(&config.Node), "node", "", "`name` of the replica that this node belongs to: a-z, 0-9, '-' and '.' (required)")
	set.StringVar(&config.Listen, "listen", config.Listen, "`host:port` for Redis clients without TLS; port 0 takes a free one, \"\" is none")
	set.StringVar(&config.TLS.Listen, "tls-listen", "", "`host:port` for Redis clients with TLS, beside --listen or instead of it")
	set.StringVar(&config.TLS.Files.Cert, "tls-listen-cert", "", "`file` with the certificate that Redis clients see (PEM) (default --tls-cert)")
	set.StringVar(&config.TLS.Files.Key, "tls-listen-key", "", "`file` with the key of --tls-listen-cert (PEM) (default --tls-key)")
	set.StringVar(&config.TLS.Files.CA, "tls-listen-ca", "", "`file` with the CAs of certificates that Redis clients show (PEM) (default --tls-ca)")
	set.Func("tls-listen-auth", "whether Redis clients at --tls-listen show a certificate: `mode` no, optional or required (default required)", func(text string) (err error) {
		config.TLS.Auth, err = trust.ParseAuth(text)
		return err
	})
	set.StringVar(&config.Announce, "announce", "", "`host:port` of --listen as others reach it, or of --tls-listen (default: --listen as it was bound, or --tls-listen without it)")
	set.Func("peers", "where the KV nodes of the group are, for INFO and ROLE: `node=host:port,...` (default unknown)", func(text string) (err error) {
		config.Peers, err = parsePeers(text)
		return err
	})
	set.BoolVar(&config.AllowRemote, "allow-remote", false, "let clients of other hosts in without a password: switch protected mode off")
	set.StringVar(&config.RequirePass, "requirepass", "", "only in --config: `password` of the default user until CONFIG SET or ACL SETUSER gives it another; the same on every node")
	set.Func("masters", "gRPC addresses of the configuration masters, for FAILOVER: `host:port,...`", func(text string) error {
		config.Masters = strings.Split(text, ",")
		return nil
	})
	set.DurationVar(&config.WriteTimeout, "write-timeout", config.WriteTimeout, "`time` until a write that was sent and not confirmed is answered -UNCERTAIN, like 500ms or 10s")
	set.DurationVar(&config.RefuseAfter, "refuse-after", config.RefuseAfter, "`time` without a writable master until new writes are refused with -NOREPLICAS")
	set.IntVar(&config.MaxClients, "maxclients", config.MaxClients, "most `connections` of clients")
	set.DurationVar(&config.IdleTimeout, "timeout", config.IdleTimeout, "`time` until a silent client is closed; 0 is never")
	set.DurationVar(&config.KeepAlive, "tcp-keepalive", config.KeepAlive, "`time` of silence until a client is probed; 0 is never")
	set.Var(bytesize.Flag(&config.MaxQuery, maxSize), "query-buffer", "most `bytes` of one request, or with KiB, MiB, GiB")
	set.Var(bytesize.Flag(&config.MaxOutput, maxSize), "output-buffer", "most `bytes` of replies that wait for one client, or with KiB, MiB, GiB; beyond them it is cut")
	set.DurationVar(&config.SlowerThan, "slowlog-slower-than", config.SlowerThan, "execution `time` from which a command is kept in the slow log")
	set.DurationVar(&config.Grace, "grace", config.Grace, "`time` that a stop waits for commands in flight")
	set.StringVar(&config.Images.Dir, "data", "", "`directory` for images of the state, from which this node starts again; without one it executes the log from its beginning")
	set.DurationVar(&config.Images.Every, "image-every", config.Images.Every, "`time` after which an image is taken, if anything has happened")
	set.Var(bytesize.Flag(&config.Images.LogBytes, maxSize), "image-log", "`bytes` of log after which an image is taken, or with KiB, MiB, GiB")
	set.Var(bytesize.Flag(&config.Images.TierMemory, maxSize), "tier-memory", "`bytes` of memory for the process, or with MiB, GiB: values used least are read from the last image; needs --data; 0 keeps all in memory")
	set.StringVar(&config.Archive.Where, "archive", "", "existing `directory`, or s3://BUCKET/PREFIX, into which images are archived, that of the replicators; needs --data")
	set.Var(bytesize.Flag(&config.Archive.LogBytes, maxSize), "archive-image-log", "`bytes` of log behind the newest archived image after which another one is archived, or with KiB, MiB, GiB")
	set.DurationVar(&config.Archive.Every, "archive-image-every", config.Archive.Every, "`time` after which an image is archived")
	set.DurationVar(&config.Archive.Keep.Age, "archive-keep-age", 0, "`time` to every moment of which the archive can still be restored, like 720h: what is older goes; 0 keeps all")
	set.Var(bytesize.Flag(&config.Archive.Keep.Bytes, maxSize), "archive-keep-bytes", "most `bytes` of the archive, or with MiB, GiB: the oldest goes; 0 is no bound")
	set.IntVar(&config.Archive.Keep.Images, "archive-keep-images", 0, "most `images` in the archive: the oldest goes; 0 is no bound")
	set.StringVar(&config.Admin.Listen, "admin", config.Admin.Listen, "`host:port` of the management service (gRPC), where peers fetch images; port 0 takes a free one, \"\" is none. On all addresses (0.0.0.0) peers are told the host of --announce")
	set.IntVar(&config.Admin.Senders, "image-senders", config.Admin.Senders, "most `peers` that fetch an image at once")
	set.Var(bytesize.Flag(&config.Admin.BytesPerSecond, maxSize), "image-rate", "most `bytes` a second of images sent, or with KiB, MiB, GiB; 0 is no bound")
	return program, &config
}

// parsePeers reads node=host:port,... .
func parsePeers(text string) (map[smr.NodeID]string, error) {
	peers := make(map[smr.NodeID]string)
	for _, entry := range strings.Split(text, ",") {
		node, address, ok := strings.Cut(strings.TrimSpace(entry), "=")
		if !ok {
			return nil, fmt.Errorf("%q: write node=host:port", entry)
		}
		if err := smr.CheckNodeID(node); err != nil {
			return nil, err
		}
		peers[smr.NodeID(node)] = address
	}
	return peers, nil
}
