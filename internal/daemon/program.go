package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"golang.org/x/sync/errgroup"

	"lockstep/internal/fault"
	"lockstep/internal/level"
	"lockstep/internal/obs"
	"lockstep/internal/release"
	"lockstep/internal/slack"
	"lockstep/internal/trust"
)

// Exit codes.
const (
	ExitDone   = 0 // stopped in good order, or answered what was asked
	ExitFailed = 1
	ExitUsage  = 2 // wrong usage, or a program that is too old for its cluster: only somebody who changes that can help
)

// With --pprof: waiting is sampled once for so much of it, and one of so many waits for a lock.
const (
	blockRate = 100 * time.Microsecond
	mutexRate = 100
)

// Share is how many of the machine's processors a program's Go code may run on at once, unless GOMAXPROCS in its environment says something.
type Share int

const (
	// All, but at least two, is for programs in which an event loop waits: it holds one of them meanwhile, and the others have to do with what is left. With
	// one processor in all, each message for another goroutine waits up to 2 ms until the scheduler's monitor takes it away from the loop.
	All Share = iota
	// Half of them, but at least one, is for programs whose time goes into system calls, not into Go code: waking a second processor for a moment
	// costs more than it brings, most of all on virtual machines (docs/performance-notes.md).
	Half
)

// Main runs a program with the arguments and the output of this process until it ends or is told to by SIGTERM or
// SIGINT, and exits with its code.
func Main(share Share, run func(ctx context.Context, arguments []string, stdout, stderr io.Writer) int) {
	fault.Helper() // does not return in a helper
	slack.Take()
	limitMemory(memlimit.FromCgroup)
	share.take(os.Getenv("GOMAXPROCS") != "")
	syscall.Umask(0o077) // what it writes is nobody else's, whatever a library asks for
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// take sets the share, unless it was chosen.
func (s Share) take(chosen bool) {
	switch have := runtime.GOMAXPROCS(0); {
	case chosen:
	case s == Half:
		runtime.GOMAXPROCS(max(1, have/2))
	case have < 2:
		runtime.GOMAXPROCS(2)
	}
}

// memoryShare is how much of the memory that this process and those that it begins may take (a container's, a unit's) Go's runtime may have: the rest is for
// the program itself, for the page cache, and for the process that writes an image.
const memoryShare = 0.85

// limitMemory lets the collector work harder, rather than the kernel end the process, when garbage is all that is too much. GOMEMLIMIT in the environment
// says otherwise; without a limit nothing changes.
func limitMemory(limit memlimit.Provider) {
	_, _ = memlimit.Set(memlimit.WithProvider(limit), memlimit.WithRatio(memoryShare)) // a limit that cannot be read is none
}

// Program is one of the servers, as its main package describes it.
type Program struct {
	// Flags are the program's own flags, bound to its configuration. New adds those that all programs share.
	Flags *flag.FlagSet
	// Check returns all problems of the configuration at once. It is called after the flags were read.
	Check func() error
	// Run does the program's work until ctx ends, which is no error. The Subject that it gives to the observer is what
	// --http shows.
	Run func(ctx context.Context, logger *slog.Logger, observer *obs.Observer) error
	// Labels are keys and values that tell this process from others of the same program, for the log. They are asked
	// for after Check.
	Labels func() []any
	// Identity says who this process is, as its certificate must say too. It is asked for after Check.
	Identity func() trust.Identity
	// Inner lists where it listens for other processes of the cluster and for operators: whoever reaches such a port without TLS
	// can do everything. It is asked for after Check.
	Inner func() []Port
	// Secret are flags whose values everybody on the machine could read on a command line: they are taken from --config only.
	Secret []string
	// Keeper holds the certificate when Run is called; nil without TLS.
	Keeper *trust.Keeper

	name, usage, about string
	common             common
}

// Port is where a program listens.
type Port struct{ Flag, Addr string }

// common are the flags that all programs share.
type common struct {
	config    string // path of a file with settings
	http      string // host:port, "" for nowhere
	profiles  bool
	version   bool
	files     trust.Files
	httpTLS   string // off, on, mutual
	insecure  bool
	logFormat string
	logLevel  slog.Level
}

// New returns a program without flags of its own. usage is what its first line of help shows behind the name, about is
// a sentence on what it does.
func New(name, usage, about string) *Program {
	p := &Program{Flags: flag.NewFlagSet(name, flag.ContinueOnError), name: name, usage: usage, about: about}
	set := p.Flags
	set.SetOutput(io.Discard)
	set.Usage = func() {} // a mistake is answered in two lines
	set.StringVar(&p.common.config, "config", "", "`file` of settings, one `name = value` a line, named as these flags; what the command line says wins")
	set.StringVar(&p.common.http, "http", "", "`host:port` for /metrics, /livez and /readyz (HTTP); empty for nowhere")
	set.BoolVar(&p.common.profiles, "pprof", false, "offer /debug/pprof/ on --http, and note where goroutines wait, which costs a little")
	set.StringVar(&p.common.files.CA, "tls-ca", "", "`file` with the CAs whose certificates are accepted (PEM); with it, --tls-cert and --tls-key all inner connections speak TLS, and both sides show who they are")
	set.StringVar(&p.common.files.Cert, "tls-cert", "", "`file` with the certificate of this process (PEM); a new one is taken without a restart")
	set.StringVar(&p.common.files.Key, "tls-key", "", "`file` with the key of --tls-cert (PEM), which others may not read")
	set.StringVar(&p.common.httpTLS, "http-tls", "off", "--http with TLS: off, on, or mutual (`mode`), where those who ask show a certificate of --tls-ca")
	set.BoolVar(&p.common.insecure, "insecure", false, "let inner ports without TLS be reached from other hosts: whoever reaches them can read and change everything")
	set.StringVar(&p.common.logFormat, "log-format", "text", "`format` of log lines on stderr: text or json")
	set.Func("log-level", "least `level` of log lines: debug, info, warn, error (default info)", func(text string) error {
		return p.common.logLevel.UnmarshalText([]byte(text))
	})
	set.BoolVar(&p.common.version, "version", false, "print the version and exit")
	return p
}

// Execute does what the arguments say and returns the exit code.
func (p *Program) Execute(ctx context.Context, arguments []string, stdout, stderr io.Writer) int {
	err := p.Parse(arguments)
	switch {
	case errors.Is(err, flag.ErrHelp):
		p.help(stderr)
		return ExitDone
	case err != nil:
		fmt.Fprintf(stderr, "%s: %v\nTry %s --help.\n", p.name, err, p.name)
		return ExitUsage
	case p.common.version:
		fmt.Fprintln(stdout, p.name, release.String())
		return ExitDone
	}
	if err := errors.Join(p.Check(), p.checkTLS()); err != nil {
		fmt.Fprintf(stderr, "%s: these flags do not work:\n  %s\nTry %s --help.\n",
			p.name, strings.ReplaceAll(err.Error(), "\n", "\n  "), p.name)
		return ExitUsage
	}
	logger := p.logger(stderr)
	if err := p.observed(ctx, logger); err != nil {
		logger.Error(p.name+" failed", append(p.Labels(), "error", err.Error())...)
		if errors.Is(err, level.ErrTooLow) {
			return ExitUsage // starting it again changes nothing
		}
		return ExitFailed
	}
	logger.Info(p.name+" stopped", p.Labels()...)
	return ExitDone
}

// observed runs the program and, beside it, what shows it to the world: HTTP and the service manager.
func (p *Program) observed(outer context.Context, logger *slog.Logger) error {
	if err := p.openKeeper(logger); err != nil {
		return err
	}
	manager := openManager(logger)
	defer manager.close()
	observer := obs.New(p.name, release.String(), manager.ready)
	group, ctx := errgroup.WithContext(outer)
	inner, done := context.WithCancel(context.WithoutCancel(ctx)) // is there until the program has ended
	if p.common.http != "" {
		listener, err := net.Listen("tcp", p.common.http)
		if err != nil {
			done()
			return fmt.Errorf("listen for HTTP (--http): %w", err)
		}
		switch p.common.httpTLS {
		case "on":
			listener = p.Keeper.Listen(listener, trust.AuthNo)
		case "mutual":
			listener = p.Keeper.Listen(listener, trust.AuthRequired)
		}
		observer.Address, observer.Secure = listener.Addr().String(), p.common.httpTLS != "off"
		logger.Info("http", append(p.Labels(), "address", listener.Addr().String())...)
		if p.common.profiles {
			runtime.SetBlockProfileRate(int(blockRate))
			runtime.SetMutexProfileFraction(mutexRate)
		}
		group.Go(func() error { return observer.Serve(inner, listener, p.common.profiles) })
	}
	if p.Keeper != nil {
		observer.Certificate(p.Keeper.Ends)
		group.Go(func() error { p.Keeper.Run(inner); return nil })
	}
	group.Go(func() error { manager.watchdog(inner, observer.Live); return nil })
	stopping := sync.OnceFunc(manager.stopping)
	unhook := context.AfterFunc(ctx, stopping)
	defer unhook()
	defer stopping() // at the latest now; waits if the hook is at it
	group.Go(func() error { defer done(); return p.Run(ctx, logger, observer) })
	return group.Wait()
}

// Parse reads the arguments into the flags. It returns flag.ErrHelp if help was asked for.
func (p *Program) Parse(arguments []string) error {
	if err := p.Flags.Parse(arguments); err != nil {
		return err
	}
	if p.Flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", p.Flags.Arg(0))
	}
	var open error
	p.Flags.Visit(func(f *flag.Flag) {
		if slices.Contains(p.Secret, f.Name) {
			open = fmt.Errorf("%s: everybody on this machine can read a command line: put it into a file that others may not read, and name that with --config", f.Name)
		}
	})
	if open != nil {
		return open
	}
	if p.common.config != "" && !p.common.version {
		if err := readSettings(p.Flags, p.common.config); err != nil {
			return err
		}
	}
	if p.common.http != "" {
		if _, _, err := net.SplitHostPort(p.common.http); err != nil {
			return fmt.Errorf("http %q: use host:port", p.common.http)
		}
	}
	switch {
	case p.common.profiles && p.common.http == "":
		return errors.New("pprof: give --http the address where to offer it")
	case p.common.logFormat != "text" && p.common.logFormat != "json":
		return fmt.Errorf("log-format %q: use text or json", p.common.logFormat)
	}
	return nil
}

func (p *Program) help(w io.Writer) {
	fmt.Fprintf(w, "Usage: %s %s [flags]\n\n%s\n"+
		"Exit code: 0 stopped in good order, 1 failed, 2 wrong usage or too old for the cluster. SIGTERM and SIGINT stop it.\n\nFlags:\n", p.name, p.usage, p.about)
	p.Flags.SetOutput(w)
	p.Flags.PrintDefaults()
	p.Flags.SetOutput(io.Discard)
}

func (p *Program) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: p.common.logLevel}
	if p.common.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
