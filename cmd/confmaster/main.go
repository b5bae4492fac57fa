// Command confmaster is a configuration master: three of them detect failures, fence, elect and reconfigure.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"lockstep/internal/confmaster"
	"lockstep/internal/daemon"
	"lockstep/internal/obs"
	"lockstep/internal/trust"
)

func main() { daemon.Main(daemon.Half, run) }

// run does what the arguments say and returns the exit code.
func run(ctx context.Context, arguments []string, stdout, stderr io.Writer) int {
	program, _ := describe()
	return program.Execute(ctx, arguments, stdout, stderr)
}

// describe returns the program and the configuration that its flags fill.
func describe() (*daemon.Program, *confmaster.Config) {
	config := confmaster.Config{Logger: slog.Default()}
	program := daemon.New("confmaster", "--dir DIR --cluster ID --id N --peers 1=HOST:PORT,…",
		"One of 1, 3 or 5 configuration masters: they detect failures, fence, elect and reconfigure.")
	set := program.Flags
	set.StringVar(&config.Dir, "dir", "", "`directory` of its state; created if missing (required)")
	set.StringVar(&config.Cluster, "cluster", "", "cluster `id`: peers and replicators of another one are refused (required)")
	set.BoolVar(&config.New, "new", false, "take an empty --dir: the cluster is being founded. Without it one that has lost its directory is refused")
	set.Uint64Var(&config.ID, "id", 0, "own `number` among --peers (required)")
	peers := set.String("peers", "", "all configuration masters, own one included, as `1=host:port,2=host:port,…` of their gRPC servers (required)")
	set.StringVar(&config.Sentinel, "sentinel", "", "`host:port` where Redis clients ask for the master by the Sentinel protocol; empty for nowhere")
	set.StringVar(&config.SentinelAnnounce, "sentinel-announce", "", "`host:port` of --sentinel as others reach it, if that differs")
	set.BoolVar(&config.AllowDrills, "allow-drills", false, "let operators make faults in this process on purpose (smrctl drill): kill it, or pause it for two minutes at most. Needs a supervisor that starts it again")
	set.BoolVar(&config.Web, "web", true, "show the web page at --http: whoever reaches it may look; changes need a certificate and --http-tls")
	set.StringVar(&config.Drills, "drills", "", "`directory` in which smrctl keeps reports of drills, for the web page; empty for none")
	config.SentinelAuth = trust.AuthRequired
	set.StringVar(&config.SentinelTLS, "sentinel-tls", "", "`host:port` where Redis clients ask for the master with TLS, beside --sentinel or instead of it; needs --tls-cert")
	set.Func("sentinel-tls-auth", "whether clients at --sentinel-tls show a certificate of --tls-ca: `mode` no, optional or required (default required)", func(text string) (err error) {
		config.SentinelAuth, err = trust.ParseAuth(text)
		return err
	})
	millis := func(name string, target *time.Duration, standard time.Duration, usage string) {
		*target = standard
		set.Func(name, fmt.Sprintf("%s, in `milliseconds` (default %d)", usage, standard.Milliseconds()), func(text string) error {
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
	program.Check = func() (err error) {
		if *peers != "" {
			if config.Peers, err = confmaster.ParsePeers(*peers); err != nil {
				return fmt.Errorf("--peers: %w", err)
			}
		}
		return config.Validate()
	}
	program.Identity = func() trust.Identity {
		return trust.Identity{Cluster: config.Cluster, Role: trust.Confmaster, Name: (&confmaster.Peer{ID: config.ID}).Name()}
	}
	program.Inner = func() []daemon.Port {
		for _, peer := range config.Peers {
			if peer.ID == config.ID {
				return []daemon.Port{{Flag: "peers", Addr: peer.Addr}}
			}
		}
		return nil
	}
	program.Labels = func() []any { return []any{"confmaster", config.ID} }
	program.Run = func(ctx context.Context, logger *slog.Logger, observer *obs.Observer) error {
		config.Logger = logger.With("confmaster", config.ID)
		config.Observer = observer
		config.Keeper = program.Keeper
		return confmaster.Run(ctx, config)
	}
	return program, &config
}
