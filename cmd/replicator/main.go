package main

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"time"

	"lockstep/internal/bytesize"
	"lockstep/internal/daemon"
	"lockstep/internal/obs"
	"lockstep/internal/release"
	"lockstep/internal/replicator"
	"lockstep/internal/trust"
	"lockstep/log"
	"lockstep/smr"
)

// maxSize bounds flags that are numbers of bytes.
const maxSize = 1 << 62

func main() { daemon.Main(daemon.Half, run) }

// run does what the arguments say and returns the exit code.
func run(ctx context.Context, arguments []string, stdout, stderr io.Writer) int {
	program, _ := describe()
	return program.Execute(ctx, arguments, stdout, stderr)
}

// describe returns the program and the configuration that its flags fill.
func describe() (*daemon.Program, *replicator.Config) {
	cfg := replicator.Config{Version: release.String(), FileSize: log.DefaultFileSize}
	program := daemon.New("replicator", "--dir DIR --cluster ID --node NAME",
		"Keeps one replica of a group's log and ships it: the sidecar of a KV node.")
	program.Check = func() error { return cfg.Validate() }
	program.Labels = func() []any { return []any{"group", cfg.Group, "node", cfg.Node} }
	program.Run = func(ctx context.Context, logger *slog.Logger, observer *obs.Observer) error {
		cfg.Logger = logger
		cfg.Observer = observer
		cfg.Keeper = program.Keeper
		return replicator.Run(ctx, cfg)
	}
	program.Identity = func() trust.Identity {
		return trust.Identity{Cluster: cfg.Cluster, Role: trust.Replicator, Name: cfg.Node}
	}
	program.Inner = func() []daemon.Port {
		return []daemon.Port{{Flag: "data", Addr: cfg.DataAddr}, {Flag: "manage", Addr: cfg.ManageAddr}}
	}
	set := program.Flags
	set.StringVar(&cfg.Dir, "dir", "", "`directory` of this replica: log, hard state, socket; made if missing (required)")
	set.StringVar(&cfg.Cluster, "cluster", "", "`id` of the cluster; peers of another one are refused (required)")
	set.StringVar(&cfg.Group, "group", "g1", "`name` of the replicated group")
	set.StringVar(&cfg.Node, "node", "", "`name` of this replica: a-z, 0-9, '-' and '.' (required)")
	set.StringVar(&cfg.DataAddr, "data", "127.0.0.1:7100", "`host:port` for slaves and KV nodes; port 0 takes a free one")
	set.StringVar(&cfg.AnnounceAddr, "announce", "", "`host:port` of --data as others reach it (default: --data as it was bound; required if --data names no single address)")
	set.StringVar(&cfg.ManageAddr, "manage", "127.0.0.1:7200", "`host:port` for the configuration master (gRPC)")
	set.Func("join", "`addresses` of configuration masters (host:port,… or srv://_lockstep._tcp.domain) with which this replica registers itself as one of the group", func(s string) error {
		cfg.Join = strings.Split(s, ",")
		return nil
	})
	set.StringVar(&cfg.AnnounceManage, "announce-manage", "", "`host:port` of --manage as configuration masters reach it, with --join (default: --manage as it was bound)")
	set.StringVar(&cfg.Socket, "socket", "", "`path` of the unix socket for the KV node beside (default DIR/local.sock)")
	set.Var(bytesize.Flag(&cfg.FileSize, maxSize), "file-size", "data part of a log file in `bytes`, or with KiB, MiB, GiB: a power of two from 4KiB to 1GiB; of new files only")
	set.Func("sync", "when a byte counts as durable: `mode` always (after fdatasync), interval, or os (after the write) (default always)", func(s string) (err error) {
		cfg.Sync, err = smr.ParseSyncMode(s)
		return err
	})
	set.IntVar(&cfg.SyncMillis, "sync-interval-ms", replicator.DefaultSyncMillis, "with --sync interval: most `milliseconds` that bytes stay unsynced")
	cfg.SyncBytes = replicator.DefaultSyncBytes
	set.Var(bytesize.Flag(&cfg.SyncBytes, maxSize), "sync-bytes", "with --sync interval: most `bytes` that stay unsynced, or with KiB, MiB, GiB")
	set.Func("lease", "`time` for which slaves are asked not to elect another master, so that this one is read without asking them: a fail-over after its death waits for it; 100ms to 10s, or 0 for none (default 200ms)", func(s string) (err error) {
		cfg.Lease, err = time.ParseDuration(s)
		cfg.NoLease = err == nil && cfg.Lease == 0
		return err
	})
	cfg.Keep = replicator.Keep{Bytes: replicator.DefaultKeepBytes, LagBytes: replicator.DefaultLagBytes}
	set.Var(bytesize.Flag(&cfg.Keep.Bytes, maxSize), "log-keep-bytes", "newest part of the log that always stays, in `bytes`, or with KiB, MiB, GiB; what is older goes in whole files once the KV node beside has an image above it")
	set.DurationVar(&cfg.Keep.Age, "log-keep-age", 0, "least `time` that a part of the log stays, as 90m or 24h")
	set.Var(bytesize.Flag(&cfg.Keep.LagBytes, maxSize), "log-lag-cap", "most `bytes` of the log that are kept for slaves that lag or are away; who is further behind fetches an image")
	set.IntVar(&cfg.Keep.Quarantined, "keep-quarantined", replicator.DefaultKeepQuarantined, "damaged or lost `logs` that are kept as evidence, the newest ones")
	set.StringVar(&cfg.Archive.Dir, "archive", "", "existing `directory`, or s3://BUCKET/PREFIX?endpoint=HOST:PORT&region=REGION, into which what is committed is archived, for backups and restores to a point in time; the replicas of a group share it")
	set.DurationVar(&cfg.Archive.Every, "archive-every", replicator.DefaultArchiveEvery, "with --archive: most `time` until what is committed is archived")
	set.BoolVar(&cfg.Archive.Compress, "archive-zstd", false, "with --archive: compress it")
	cfg.Archive.LagBytes = replicator.DefaultArchiveLag
	set.Var(bytesize.Flag(&cfg.Archive.LagBytes, maxSize), "archive-lag-cap", "with --archive: most `bytes` of the log that are kept because they are not archived yet, or with KiB, MiB, GiB; beyond them the archive gets a gap")
	set.BoolVar(&cfg.AllowDrills, "allow-drills", false, "let operators make faults in this process on purpose (smrctl drill): kill or pause it and its KV node, cut links, slow or fill its disk, set its log aside; each for two minutes at most. Needs a supervisor that starts it again")
	set.IntVar(&cfg.MaxClients, "max-clients", replicator.DefaultMaxClients, "most `connections` of KV nodes")
	set.IntVar(&cfg.MaxSlaves, "max-slaves", replicator.DefaultMaxSlaves, "most `connections` of slaves")
	return program, &cfg
}
