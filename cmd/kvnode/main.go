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

	"lockstep/internal/kvnode"
	"lockstep/internal/release"
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
	config, o, err := parse(arguments, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		fmt.Fprintf(stderr, "kvnode: %v\nTry kvnode --help.\n", err)
		return exitUsage
	case o.version:
		fmt.Fprintln(stdout, "kvnode", config.Version)
		return exitDone
	}
	if err := config.Validate(); err != nil {
		fmt.Fprintf(stderr, "kvnode: these flags do not work:\n  %s\nTry kvnode --help.\n",
			strings.ReplaceAll(err.Error(), "\n", "\n  "))
		return exitUsage
	}
	config.Logger = o.logger(stderr)
	if err := kvnode.Run(ctx, config); err != nil {
		config.Logger.Error("kvnode failed", "group", config.Group, "node", string(config.Node), "error", err.Error())
		return exitFailed
	}
	config.Logger.Info("kvnode stopped", "group", config.Group, "node", string(config.Node))
	return exitDone
}

// options are flags that are not part of the KV node's Config.
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

func parse(arguments []string, stderr io.Writer) (kvnode.Config, options, error) {
	config := kvnode.DefaultConfig()
	config.Version = release.String()
	var o options
	set := flag.NewFlagSet("kvnode", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&config.ReplicatorDir, "replicator-dir", "", "data `directory` of the replicator beside this node; its socket DIR/local.sock is used (required)")
	set.StringVar(&config.Cluster, "cluster", "", "`id` of the cluster; a replicator of another one is refused (required)")
	set.StringVar(&config.Group, "group", config.Group, "`name` of the replicated group")
	set.StringVar((*string)(&config.Node), "node", "", "`name` of the replica that this node belongs to: a-z, 0-9, '-' and '.' (required)")
	set.StringVar(&config.Listen, "listen", config.Listen, "`host:port` for Redis clients; port 0 takes a free one")
	set.StringVar(&config.Announce, "announce", "", "`host:port` of --listen as others reach it (default: --listen as it was bound)")
	set.Func("peers", "where the KV nodes of the group are, for INFO and ROLE: `node=host:port,...` (default unknown)", func(text string) (err error) {
		config.Peers, err = parsePeers(text)
		return err
	})
	set.BoolVar(&config.AllowRemote, "allow-remote", false, "let clients of other hosts in without a password: switch protected mode off")
	set.StringVar(&config.RequirePass, "requirepass", "", "`password` of the default user until CONFIG SET or ACL SETUSER gives it another; the same on every node")
	set.Func("masters", "gRPC addresses of the configuration masters, for FAILOVER: `host:port,...`", func(text string) error {
		config.Masters = strings.Split(text, ",")
		return nil
	})
	set.DurationVar(&config.WriteTimeout, "write-timeout", config.WriteTimeout, "`time` until a write that was sent and not confirmed is answered -UNCERTAIN, like 500ms or 10s")
	set.DurationVar(&config.RefuseAfter, "refuse-after", config.RefuseAfter, "`time` without a writable master until new writes are refused with -NOREPLICAS")
	set.IntVar(&config.MaxClients, "maxclients", config.MaxClients, "most `connections` of clients")
	set.DurationVar(&config.IdleTimeout, "timeout", config.IdleTimeout, "`time` until a silent client is closed; 0 is never")
	set.DurationVar(&config.KeepAlive, "tcp-keepalive", config.KeepAlive, "`time` of silence until a client is probed; 0 is never")
	set.Var((*size)(&config.MaxQuery), "query-buffer", "most `bytes` of one request, or with KiB, MiB, GiB")
	set.Var((*size)(&config.MaxOutput), "output-buffer", "most `bytes` of replies that wait for one client, or with KiB, MiB, GiB; beyond them it is cut")
	set.DurationVar(&config.SlowerThan, "slowlog-slower-than", config.SlowerThan, "execution `time` from which a command is kept in the slow log")
	set.DurationVar(&config.Grace, "grace", config.Grace, "`time` that a stop waits for commands in flight")
	set.StringVar(&config.Images.Dir, "data", "", "`directory` for images of the state, from which this node starts again; without one it executes the log from its beginning")
	set.DurationVar(&config.Images.Every, "image-every", config.Images.Every, "`time` after which an image is taken, if anything has happened")
	set.Func("image-log", "`bytes` of log after which an image is taken, like 256MiB (default 256MiB)", func(text string) error {
		var s size
		err := s.Set(text)
		config.Images.LogBytes = int64(s)
		return err
	})
	set.StringVar(&config.Admin.Listen, "admin", config.Admin.Listen, "`host:port` of the management service (gRPC), where peers fetch images; port 0 takes a free one, \"\" is none")
	set.IntVar(&config.Admin.Senders, "image-senders", config.Admin.Senders, "most `peers` that fetch an image at once")
	set.Func("image-rate", "most `bytes` a second of images sent, like 64MiB; 0 is no bound (default 64MiB)", func(text string) error {
		var rate size
		err := rate.Set(text)
		config.Admin.BytesPerSecond = int64(rate)
		return err
	})
	set.StringVar(&o.logFormat, "log-format", "text", "`format` of log lines on stderr: text or json")
	set.Func("log-level", "least `level` of log lines: debug, info, warn, error (default info)", func(s string) error {
		return o.logLevel.UnmarshalText([]byte(s))
	})
	set.BoolVar(&o.version, "version", false, "print the version and exit")
	set.Usage = func() {
		fmt.Fprint(stderr, "Usage: kvnode --replicator-dir DIR --cluster ID --node NAME [flags]\n\n"+
			"Serves the Redis protocol from the committed log of a group. Any node takes any command.\n"+
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
		return config, o, err
	}
	switch {
	case set.NArg() > 0:
		return config, o, fmt.Errorf("unexpected argument %q", set.Arg(0))
	case o.logFormat != "text" && o.logFormat != "json":
		return config, o, fmt.Errorf("log-format %q: use text or json", o.logFormat)
	}
	return config, o, nil
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

// size is a number of bytes as a flag.
type size int

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
		if err != nil || n < 0 || n > 1<<40/unit.bytes {
			return fmt.Errorf("%q is no number of bytes: write 67108864 or 64MiB", text)
		}
		*s = size(n * unit.bytes)
		return nil
	}
	return nil
}
