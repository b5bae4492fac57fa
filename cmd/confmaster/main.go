// Command confmaster is a configuration master: three of them detect failures, fence, elect and reconfigure.
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
	"syscall"
	"time"

	"lockstep/internal/confmaster"
	"lockstep/internal/release"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	config, version, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		fmt.Fprintf(stderr, "confmaster: %v\nTry confmaster --help.\n", err)
		return exitUsage
	case version:
		fmt.Fprintf(stdout, "confmaster %s\n", release.String())
		return exitDone
	}
	if err := confmaster.Run(ctx, config); err != nil {
		fmt.Fprintf(stderr, "confmaster: %v\n", err)
		return exitFailed
	}
	return exitDone
}

// parse reads the flags.
func parse(args []string, stderr io.Writer) (config confmaster.Config, version bool, err error) {
	flags := flag.NewFlagSet("confmaster", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {} // a mistake is answered in two lines
	flags.StringVar(&config.Dir, "dir", "", "`directory` of its state; created if missing (required)")
	flags.StringVar(&config.Cluster, "cluster", "", "cluster `id`: peers and replicators of another one are refused (required)")
	flags.BoolVar(&config.New, "new", false, "take an empty --dir: the cluster is being founded. Without it one that has lost its directory is refused")
	flags.Uint64Var(&config.ID, "id", 0, "own `number` among --peers (required)")
	peers := flags.String("peers", "", "all configuration masters, own one included, as `1=host:port,2=host:port,…` of their gRPC servers (required)")
	flags.StringVar(&config.Sentinel, "sentinel", "", "`host:port` where Redis clients ask for the master by the Sentinel protocol; empty for nowhere")
	flags.StringVar(&config.SentinelAnnounce, "sentinel-announce", "", "`host:port` of --sentinel as others reach it, if that differs")
	millis := func(name string, target *time.Duration, standard time.Duration, usage string) {
		*target = standard
		flags.Func(name, fmt.Sprintf("%s, in `milliseconds` (default %d)", usage, standard.Milliseconds()), func(text string) error {
			var n int64
			if _, err := fmt.Sscanf(text, "%d", &n); err != nil || fmt.Sprint(n) != text || n < 0 || n > int64(time.Hour/time.Millisecond) {
				return errors.New("give a whole number of milliseconds, at most an hour")
			}
			*target = time.Duration(n) * time.Millisecond
			return nil
		})
	}
	millis("probe-ms", &config.Probe, confmaster.DefaultProbe, "time between two states of a replica")
	millis("suspect-ms", &config.Suspect, confmaster.DefaultSuspect, "silence after which a replica is thought down")
	millis("drop-ms", &config.Drop, confmaster.DefaultDrop, "a member that does not stream for so long leaves the membership")
	millis("lower-ms", &config.Lower, confmaster.DefaultLower, "copies are lowered, down to the group's min_copies, after so long with too few members")
	format := flags.String("log-format", "text", "`format` of log lines on stderr: text or json")
	level := flags.String("log-level", "info", "least `level` of log lines: debug, info, warn, error")
	flags.BoolVar(&version, "version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stderr, "Usage: confmaster --dir DIR --cluster ID --id N --peers 1=HOST:PORT,… [flags]\n\n"+
				"One of 1, 3 or 5 configuration masters: they detect failures, fence, elect and reconfigure.\n"+
				"Exit code: 0 stopped in good order, 1 failed, 2 wrong usage. SIGTERM and SIGINT stop it.\n\nFlags:\n")
			flags.SetOutput(stderr)
			flags.PrintDefaults()
		}
		return config, false, err
	}
	if version {
		return config, true, nil
	}
	if flags.NArg() > 0 {
		return config, false, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *peers != "" {
		if config.Peers, err = confmaster.ParsePeers(*peers); err != nil {
			return config, false, fmt.Errorf("--peers: %w", err)
		}
	}
	var logLevel slog.Level
	if err := logLevel.UnmarshalText([]byte(*level)); err != nil {
		return config, false, fmt.Errorf("--log-level %q: use debug, info, warn or error", *level)
	}
	options := &slog.HandlerOptions{Level: logLevel}
	switch *format {
	case "text":
		config.Logger = slog.New(slog.NewTextHandler(stderr, options))
	case "json":
		config.Logger = slog.New(slog.NewJSONHandler(stderr, options))
	default:
		return config, false, fmt.Errorf("--log-format %q: use text or json", *format)
	}
	config.Logger = config.Logger.With("confmaster", config.ID)
	return config, false, config.Validate()
}
