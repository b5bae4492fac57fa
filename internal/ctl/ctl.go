package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"lockstep/internal/admin"
	"lockstep/internal/local"
	"lockstep/internal/locate"
	"lockstep/internal/release"
)

// defaultDir is where `up` puts a cluster that has not been given a place.
const defaultDir = "var/lockstep"

// Run executes one command line (without the program's name) and returns the exit code.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	s := &screen{out: stdout, notes: stderr}
	root := newRoot(s)
	root.SetArgs(markRules(args))
	root.SetOut(stdout)
	root.SetErr(stderr)
	command, err := root.ExecuteContextC(ctx)
	if s.release != nil {
		s.release()
	}
	if err == nil {
		return exitDone
	}
	code := exitCode(err)
	fmt.Fprintf(stderr, "smrctl: %v\n", err)
	if code == exitUsage {
		fmt.Fprintf(stderr, "Try `%s --help`.\n", command.CommandPath())
	}
	return code
}

// failed marks an error of work that was attempted; every other error is one of usage.
type failed struct{ err error }

func (f *failed) Error() string { return f.err.Error() }
func (f *failed) Unwrap() error { return f.err }

// work makes a command's RunE of a function whose errors are failures, except those made by usage.
func work(do func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, args []string) error {
		err := do(command.Context(), args)
		var wrong *misuse
		if err == nil || errors.As(err, &wrong) {
			return err
		}
		return &failed{err}
	}
}

// misuse marks an error of usage that only shows once the command runs.
type misuse struct{ error }

func usage(format string, args ...any) error { return &misuse{fmt.Errorf(format, args...)} }

func newRoot(s *screen) *cobra.Command {
	root := &cobra.Command{
		Use:           "smrctl",
		Version:       release.String(),
		Short:         "Run and operate Lockstep clusters",
		Long:          "smrctl runs Lockstep clusters on this machine and operates them anywhere. Which one is meant: --dir or --confmaster of a\ncommand, else the context (`smrctl help contexts`), else the cluster in ./" + defaultDir + ".",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(command *cobra.Command, args []string) error {
			return s.prepare(command)
		},
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&s.format, "output", "o", "table", "form of the output: table, wide, json or yaml")
	flags.DurationVar(&s.patience, "timeout", 0, "give up after this time, with exit code 4; 0: as long as it takes")
	flags.StringVar(&s.contexts.name, "context", "", "the cluster that is meant, by its `name` in the file of contexts (default: $"+contextVariable+", or the one chosen with `smrctl context use`)")
	complete(root, "output", formats...)
	err := root.RegisterFlagCompletionFunc("context", completeContexts)
	if err != nil {
		panic(err) // the flag stands above
	}
	root.SetFlagErrorFunc(suggestFlag)
	root.SuggestionsMinimumDistance = 2
	root.AddCommand(
		newUp(s), newDown(s), newNode(s),
		newStatus(s), newTop(s), newGroup(s), newReplica(s), newSwitchover(s), newLevel(s), newExplain(s),
		newCheckpoint(s), newBackup(s), newRestore(s), newExport(s), newImport(s),
		newConfig(s), newUser(s), newFunction(s), newDigest(s), newEvents(s), newDoctor(s), newDebug(s),
		newLog(s), newDrills(s), newBench(s), newChaos(s), newContext(s), newCert(s), newAudit(s), newWeb(s), newVersion(s),
	)
	root.AddCommand(helpTopics()...)
	return root
}

// complete offers fixed values for a flag to the shell.
func complete(command *cobra.Command, flag string, values ...string) {
	err := command.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag's name is misspelt in this package
	}
}

// group makes a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	command := &cobra.Command{
		Use: use, Short: short,
		RunE: func(command *cobra.Command, args []string) error {
			var names []string
			for _, child := range children {
				names = append(names, child.Name())
			}
			if len(args) > 0 {
				return usage("unknown command %q of %s%s: use one of %s", args[0], command.CommandPath(), didYouMean(args[0], names), strings.Join(names, ", "))
			}
			return usage("a command is missing: use one of %s", strings.Join(names, ", "))
		},
	}
	command.AddCommand(children...)
	return command
}

// where says which cluster a command is about.
type where struct {
	dir         string
	confmasters []string
	identity
}

func (w *where) addDir(command *cobra.Command) {
	command.Flags().StringVar(&w.dir, "dir", defaultDir, "`directory` of a cluster started by smrctl up")
	ofContext(command, "dir")
	if err := command.MarkFlagDirname("dir"); err != nil {
		panic(err) // the flag stands above
	}
}

func (w *where) addAll(command *cobra.Command) {
	w.addDir(command)
	command.Flags().StringSliceVar(&w.confmasters, "confmaster", nil, "addresses of configuration masters (host:port,… or srv://_lockstep._tcp.domain), instead of --dir")
	ofContext(command, "confmaster")
	command.MarkFlagsMutuallyExclusive("dir", "confmaster")
	w.addTLS(command)
}

// dial returns a client of the configuration masters, and the local cluster if it is one.
func (w *where) dial() (*admin.Client, *local.Cluster, error) {
	if len(w.confmasters) > 0 {
		for _, addr := range w.confmasters {
			if err := locate.Check(addr); err != nil {
				return nil, nil, usage("--confmaster %v", err)
			}
		}
		login, err := w.login(nil)
		if err != nil {
			return nil, nil, err
		}
		client, err := admin.New(w.confmasters, login)
		return client, nil, err
	}
	cluster, err := local.Open(w.dir)
	if err != nil {
		return nil, nil, err
	}
	login, err := w.login(cluster)
	if err != nil {
		return nil, nil, err
	}
	client, err := admin.New(cluster.Plan.ConfmasterAddrs(), login)
	return client, cluster, err
}

// dialAnswering returns a client of configuration masters one of which answers.
func (w *where) dialAnswering(ctx context.Context) (*admin.Client, error) {
	client, cluster, err := w.dial()
	if err != nil {
		return nil, err
	}
	if _, err := client.Status(ctx); err != nil {
		client.Close()
		return nil, explainSilence(err, cluster)
	}
	return client, nil
}

// local returns the cluster in the directory that is meant, nil if there is none.
func (w *where) local() *local.Cluster {
	if len(w.confmasters) > 0 {
		return nil
	}
	cluster, err := local.Open(w.dir)
	if err != nil {
		return nil
	}
	return cluster
}

// explainSilence adds to an error of a cluster on this machine which of its processes run.
func explainSilence(err error, cluster *local.Cluster) error {
	if cluster == nil || !errors.Is(err, admin.ErrNoAnswer) {
		return err
	}
	running, total := 0, 0
	for _, p := range cluster.Processes() {
		if total++; p.Pid != 0 {
			running++
		}
	}
	if running == 0 {
		return &quiet{fmt.Sprintf("the cluster in %s does not run: start it with `smrctl up --dir %s`", cluster.Dir, cluster.Dir)}
	}
	return fmt.Errorf("%w\n  %d of %d processes run; logs are in %s", err, running, total, filepath.Join(cluster.Dir, "logs"))
}

// binaries finds the binaries for a cluster in dir: beside smrctl, or those built there before, or built now.
func binaries(ctx context.Context, dir string, s *screen) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find out where smrctl stands: %w", err)
	}
	if resolved, err := filepath.EvalSymlinks(self); err == nil {
		self = resolved
	}
	return local.FindBinaries(ctx, filepath.Dir(self), filepath.Join(dir, "bin"), s.note)
}
