package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"lockstep/internal/release"
	"lockstep/internal/replicator"
	"lockstep/log"
	"lockstep/smr"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run does what the arguments say and returns the exit code.
func run(ctx context.Context, arguments []string, stdout, stderr io.Writer) int {
	cfg, o, err := parse(arguments, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		fmt.Fprintf(stderr, "replicator: %v\nTry replicator --help.\n", err)
		return exitUsage
	case o.version:
		fmt.Fprintln(stdout, "replicator", cfg.Version)
		return exitDone
	}
	if err := cfg.Validate(); err != nil {
		fmt.Fprintf(stderr, "replicator: these flags do not work:\n  %s\nTry replicator --help.\n",
			strings.ReplaceAll(err.Error(), "\n", "\n  "))
		return exitUsage
	}
	cfg.Logger = o.logger(stderr)
	if err := replicator.Run(ctx, cfg); err != nil {
		cfg.Logger.Error("replicator failed", "group", cfg.Group, "node", cfg.Node, "error", err)
		return exitFailed
	}
	cfg.Logger.Info("replicator stopped", "group", cfg.Group, "node", cfg.Node)
	return exitDone
}

// options are flags that are not part of the replicator's Config.
type options struct {
	version   bool
	logFormat string
	logLevel  slog.Level
}

func (o options) logger(w io.Writer) *slog.Logger {
	handling := &slog.HandlerOptions{Level: o.logLevel}
	if o.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, handling))
	}
	return slog.New(slog.NewTextHandler(w, handling))
}

func parse(arguments []string, stderr io.Writer) (replicator.Config, options, error) {
	cfg := replicator.Config{Version: release.String(), FileSize: log.DefaultFileSize}
	var o options
	set := flag.NewFlagSet("replicator", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&cfg.Dir, "dir", "", "`directory` of this replica: log, hard state, socket; made if missing (required)")
	set.StringVar(&cfg.Cluster, "cluster", "", "`id` of the cluster; peers of another one are refused (required)")
	set.StringVar(&cfg.Group, "group", "g1", "`name` of the replicated group")
	set.StringVar(&cfg.Node, "node", "", "`name` of this replica: a-z, 0-9, '-' and '.' (required)")
	set.StringVar(&cfg.DataAddr, "data", "127.0.0.1:7100", "`host:port` for slaves and KV nodes; port 0 takes a free one")
	set.StringVar(&cfg.AnnounceAddr, "announce", "", "`host:port` of --data as others reach it (default: --data as it was bound; required if --data names no single address)")
	set.StringVar(&cfg.ManageAddr, "manage", "127.0.0.1:7200", "`host:port` for the configuration master (gRPC)")
	set.Func("join", "`addresses` of configuration masters (host:port,…) with which this replica registers itself as one of the group", func(s string) error {
		cfg.Join = strings.Split(s, ",")
		return nil
	})
	set.StringVar(&cfg.AnnounceManage, "announce-manage", "", "`host:port` of --manage as configuration masters reach it, with --join (default: --manage as it was bound)")
	set.StringVar(&cfg.Socket, "socket", "", "`path` of the unix socket for the KV node beside (default DIR/local.sock)")
	set.Var((*size)(&cfg.FileSize), "file-size", "data part of a log file in `bytes`, or with KiB, MiB, GiB: a power of two from 4KiB to 1GiB; of new files only")
	set.Func("sync", "when a byte counts as durable: `mode` always (after fdatasync), interval, or os (after the write) (default always)", func(s string) (err error) {
		cfg.Sync, err = smr.ParseSyncMode(s)
		return err
	})
	set.IntVar(&cfg.SyncMillis, "sync-interval-ms", replicator.DefaultSyncMillis, "with --sync interval: most `milliseconds` that bytes stay unsynced")
	cfg.SyncBytes = replicator.DefaultSyncBytes
	set.Var((*size)(&cfg.SyncBytes), "sync-bytes", "with --sync interval: most `bytes` that stay unsynced, or with KiB, MiB, GiB")
	cfg.Keep = replicator.Keep{Bytes: replicator.DefaultKeepBytes, LagBytes: replicator.DefaultLagBytes}
	set.Var((*size)(&cfg.Keep.Bytes), "log-keep-bytes", "newest part of the log that always stays, in `bytes`, or with KiB, MiB, GiB; what is older goes in whole files once the KV node beside has an image above it")
	set.DurationVar(&cfg.Keep.Age, "log-keep-age", 0, "least `time` that a part of the log stays, as 90m or 24h")
	set.Var((*size)(&cfg.Keep.LagBytes), "log-lag-cap", "most `bytes` of the log that are kept for slaves that lag or are away; who is further behind fetches an image")
	set.IntVar(&cfg.Keep.Quarantined, "keep-quarantined", replicator.DefaultKeepQuarantined, "damaged or lost `logs` that are kept as evidence, the newest ones")
	set.StringVar(&cfg.Archive.Dir, "archive", "", "existing `directory` into which what is committed is archived, for backups and restores to a point in time; the replicas of a group share it")
	set.DurationVar(&cfg.Archive.Every, "archive-every", replicator.DefaultArchiveEvery, "with --archive: most `time` until what is committed is archived")
	set.BoolVar(&cfg.Archive.Compress, "archive-zstd", false, "with --archive: compress it")
	cfg.Archive.LagBytes = replicator.DefaultArchiveLag
	set.Var((*size)(&cfg.Archive.LagBytes), "archive-lag-cap", "with --archive: most `bytes` of the log that are kept because they are not archived yet, or with KiB, MiB, GiB; beyond them the archive gets a gap")
	set.IntVar(&cfg.MaxClients, "max-clients", replicator.DefaultMaxClients, "most `connections` of KV nodes")
	set.IntVar(&cfg.MaxSlaves, "max-slaves", replicator.DefaultMaxSlaves, "most `connections` of slaves")
	set.StringVar(&o.logFormat, "log-format", "text", "`format` of log lines on stderr: text or json")
	set.Func("log-level", "least `level` of log lines: debug, info, warn, error (default info)", func(s string) error {
		return o.logLevel.UnmarshalText([]byte(s))
	})
	set.BoolVar(&o.version, "version", false, "print the version and exit")
	set.Usage = func() {
		fmt.Fprint(stderr, "Usage: replicator --dir DIR --cluster ID --node NAME [flags]\n\n"+
			"Keeps one replica of a group's log and ships it: the sidecar of a KV node.\n"+
			"Exit code: 0 stopped in good order, 1 failed, 2 wrong usage. SIGTERM and SIGINT stop it.\n\nFlags:\n")
		set.SetOutput(stderr)
		set.PrintDefaults()
		set.SetOutput(io.Discard)
	}
	usage := set.Usage
	set.Usage = func() {} // a mistake is answered in two lines
	if err := set.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			usage()
		}
		return cfg, o, err
	}
	switch {
	case set.NArg() > 0:
		return cfg, o, fmt.Errorf("unexpected argument %q", set.Arg(0))
	case o.logFormat != "text" && o.logFormat != "json":
		return cfg, o, fmt.Errorf("log-format %q: use text or json", o.logFormat)
	}
	return cfg, o, nil
}

// size is a number of bytes as a flag.
type size int64

var units = []struct {
	suffix string
	bytes  int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

func (s *size) String() string {
	for _, unit := range units {
		if *s != 0 && int64(*s)%unit.bytes == 0 {
			return fmt.Sprintf("%d%s", int64(*s)/unit.bytes, unit.suffix)
		}
	}
	return "0"
}

// Set implements flag.Value.
func (s *size) Set(text string) error {
	for _, unit := range units {
		number, found := strings.CutSuffix(text, unit.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || n > 1<<62/unit.bytes {
			return fmt.Errorf("%q is no number of bytes: write 67108864 or 64MiB", text)
		}
		*s = size(n * unit.bytes)
		return nil
	}
	return nil
}
