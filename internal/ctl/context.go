package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"lockstep/internal/locate"
	"lockstep/internal/trust"
	"lockstep/internal/wholefile"
)

const (
	// contextVariable names the context that is meant, contextFileVariable the file, in place of the usual one.
	contextVariable     = "SMRCTL_CONTEXT"
	contextFileVariable = "SMRCTL_CONFIG"
	// maxContextFile bounds the file, in bytes.
	maxContextFile = 1 << 20
	// contextFlag marks the flags that a context fills in.
	contextFlag = "lockstep_context"
)

// contextFile is the file of contexts: clusters by name.
type contextFile struct {
	Current  string         `yaml:"current,omitempty"`
	Contexts []namedCluster `yaml:"contexts"`
}

// namedCluster says where a cluster is: the directory of one on this machine, or the addresses of its configuration masters.
type namedCluster struct {
	Name        string   `yaml:"name" json:"name"`
	Dir         string   `yaml:"dir,omitempty" json:"dir"`
	Confmasters []string `yaml:"confmasters,omitempty" json:"confmasters"`
	// How smrctl shows who it is there: files, never what is in them.
	CA           string `yaml:"tls-ca,omitempty" json:"tls_ca,omitempty"`
	Cert         string `yaml:"tls-cert,omitempty" json:"tls_cert,omitempty"`
	Key          string `yaml:"tls-key,omitempty" json:"tls_key,omitempty"`
	User         string `yaml:"user,omitempty" json:"user,omitempty"`
	PasswordFile string `yaml:"password-file,omitempty" json:"password_file,omitempty"`
	Current      bool   `yaml:"-" json:"current"`
}

// contextPath is where the file is.
func contextPath() (string, error) {
	if path := os.Getenv(contextFileVariable); path != "" {
		return path, nil
	}
	base, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the file of contexts: %w: set %s", err, contextFileVariable)
	}
	return filepath.Join(base, "lockstep", "smrctl.yaml"), nil
}

// readContexts reads the file; one that is not there is empty.
func readContexts() (*contextFile, error) {
	path, err := contextPath()
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &contextFile{}, nil
	case err != nil:
		return nil, fmt.Errorf("read contexts: %w", err)
	case info.Size() > maxContextFile:
		return nil, fmt.Errorf("read contexts: %s has %d bytes, at most %d are possible", path, info.Size(), maxContextFile)
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("read contexts: others may write %s: take that right away with `chmod 600 %s`", path, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read contexts: %w", err)
	}
	file := &contextFile{}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(file); err != nil && len(bytes.TrimSpace(text)) > 0 {
		return nil, fmt.Errorf("read contexts: %s: %w", path, err)
	}
	return file, file.check(path)
}

func (f *contextFile) check(path string) error {
	for i, c := range f.Contexts {
		if err := c.check(); err != nil {
			return fmt.Errorf("read contexts: %s: %w", path, err)
		}
		if f.find(c.Name) != &f.Contexts[i] {
			return fmt.Errorf("read contexts: %s: %q is there twice", path, c.Name)
		}
	}
	return nil
}

func (c *namedCluster) check() error {
	switch {
	case c.Name == "" || strings.ContainsAny(c.Name, " \t\n/"):
		return fmt.Errorf("context %q: use a name without blanks and slashes", c.Name)
	case (c.Dir == "") == (len(c.Confmasters) == 0):
		return fmt.Errorf("context %q: give it a directory or the addresses of configuration masters", c.Name)
	}
	if err := c.files().Check("tls-"); err != nil {
		return fmt.Errorf("context %q: %w", c.Name, err)
	}
	return checkAddresses("context "+c.Name, c.Confmasters)
}

func (c *namedCluster) files() trust.Files { return trust.Files{CA: c.CA, Cert: c.Cert, Key: c.Key} }

func checkAddresses(what string, addrs []string) error {
	for _, addr := range addrs {
		if err := locate.Check(addr); err != nil {
			return usage("%s: no address: %v", what, err)
		}
	}
	return nil
}

func (f *contextFile) find(name string) *namedCluster {
	for i := range f.Contexts {
		if f.Contexts[i].Name == name {
			return &f.Contexts[i]
		}
	}
	return nil
}

func (f *contextFile) names() []string {
	var names []string
	for _, c := range f.Contexts {
		names = append(names, c.Name)
	}
	return names
}

// choose returns the context of that name.
func (f *contextFile) choose(name string) (*namedCluster, error) {
	if c := f.find(name); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("there is no context %q%s: `smrctl context list` shows them", name, didYouMean(name, f.names()))
}

// write puts the file in place, whole or not at all, readable by its owner only.
func (f *contextFile) write() error {
	path, err := contextPath()
	if err != nil {
		return err
	}
	text, err := yaml.Marshal(f)
	if err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	if err := wholefile.Write(path, text); err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	return nil
}

// contextFlags choose the context of a command line.
type contextFlags struct{ name string }

// ofContext marks a flag as one that a context fills in.
func ofContext(command *cobra.Command, flag string) {
	if err := command.Flags().SetAnnotation(flag, contextFlag, []string{"true"}); err != nil {
		panic(err) // the flag stands above
	}
}

// fill gives the flags of a command about a cluster what the context says, unless they were given.
func (c *contextFlags) fill(command *cobra.Command) error {
	flags := command.Flags()
	var about, given bool
	for _, name := range []string{"dir", "confmaster"} {
		if flag := flags.Lookup(name); flag != nil && flag.Annotations[contextFlag] != nil {
			about, given = true, given || flag.Changed
		}
	}
	switch {
	case !about:
		return nil
	case given && c.name != "":
		return usage("--context %s and the cluster itself are given: leave one away", c.name)
	case given:
		return nil
	}
	file, err := readContexts()
	if err != nil {
		return &failed{err}
	}
	name := c.name
	if name == "" {
		name = os.Getenv(contextVariable)
	}
	if name == "" {
		name = file.Current
	}
	if name == "" {
		return nil
	}
	cluster, err := file.choose(name)
	if err != nil {
		return &failed{err}
	}
	for i, value := range []string{cluster.CA, cluster.Cert, cluster.Key, cluster.User, cluster.PasswordFile} {
		if flag := flags.Lookup(identityFlags[i]); flag != nil && flag.Annotations[contextFlag] != nil && !flag.Changed && value != "" {
			if err := flag.Value.Set(value); err != nil {
				return &failed{err}
			}
		}
	}
	if cluster.Dir != "" {
		return flags.Lookup("dir").Value.Set(cluster.Dir)
	}
	if flags.Lookup("confmaster") == nil {
		return usage("context %s is a cluster elsewhere, and `%s` is about one on this machine: say which with --dir", name, command.CommandPath())
	}
	return flags.Lookup("confmaster").Value.Set(strings.Join(cluster.Confmasters, ","))
}

func completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	file, err := readContexts()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return file.names(), cobra.ShellCompDirectiveNoFileComp
}

func newContext(s *screen) *cobra.Command {
	return group("context", "Name clusters, and choose the one that is meant",
		newContextList(s), newContextUse(s), newContextSet(s), newContextDelete(s))
}

func newContextList(s *screen) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the contexts; the chosen one has a star",
		Args:  cobra.NoArgs,
		RunE: work(func(context.Context, []string) error {
			file, err := readContexts()
			if err != nil {
				return err
			}
			list := []namedCluster{}
			for _, c := range file.Contexts {
				c.Current = c.Name == file.Current
				c.Confmasters = append([]string{}, c.Confmasters...)
				list = append(list, c)
			}
			return s.show(map[string][]namedCluster{"contexts": list}, func() {
				if len(list) == 0 {
					s.printf("No contexts: make one with `smrctl context set NAME --confmaster HOST:PORT,…`.\n")
					return
				}
				rows := [][]string{{"", "NAME", "CLUSTER"}}
				for _, c := range list {
					star := ""
					if c.Current {
						star = "*"
					}
					rows = append(rows, []string{star, c.Name, c.Dir + strings.Join(c.Confmasters, ",")})
				}
				s.table(rows)
			})
		}),
	}
}

// contextChange is the JSON of a change of the file.
type contextChange struct {
	Context string `json:"context"`
	Done    bool   `json:"done"` // false: a dry run
	Text    string `json:"text"`
}

// changeContexts makes a command that changes the file.
func changeContexts(s *screen, command *cobra.Command, change func(file *contextFile, name string) (text string, err error)) *cobra.Command {
	var dryRun bool
	command.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be done, and change nothing")
	command.RunE = work(func(_ context.Context, args []string) error {
		file, err := readContexts()
		if err != nil {
			return err
		}
		text, err := change(file, args[0])
		if err != nil {
			return err
		}
		if !dryRun {
			if err := file.write(); err != nil {
				return err
			}
		}
		result := contextChange{Context: args[0], Done: !dryRun, Text: text}
		return s.show(result, func() {
			if dryRun {
				text = "would be done: " + text
			}
			s.printf("context %s: %s\n", args[0], text)
		})
	})
	command.ValidArgsFunction = completeContexts
	return command
}

func newContextUse(s *screen) *cobra.Command {
	return changeContexts(s, &cobra.Command{
		Use:   "use NAME",
		Short: "Choose the cluster that is meant from now on",
		Args:  cobra.ExactArgs(1),
	}, func(file *contextFile, name string) (string, error) {
		if _, err := file.choose(name); err != nil {
			return "", err
		}
		file.Current = name
		return "chosen", nil
	})
}

func newContextSet(s *screen) *cobra.Command {
	var cluster namedCluster
	command := &cobra.Command{
		Use:   "set NAME",
		Short: "Name a cluster: one on this machine (--dir), or one anywhere (--confmaster)",
		Args:  cobra.ExactArgs(1),
	}
	changeContexts(s, command, func(file *contextFile, name string) (string, error) {
		cluster.Name = name
		if cluster.Dir != "" {
			absolute, err := filepath.Abs(cluster.Dir)
			if err != nil {
				return "", fmt.Errorf("directory %s: %w", cluster.Dir, err)
			}
			cluster.Dir = absolute
		}
		for _, file := range []*string{&cluster.CA, &cluster.Cert, &cluster.Key, &cluster.PasswordFile} {
			if *file != "" {
				absolute, err := filepath.Abs(*file)
				if err != nil {
					return "", fmt.Errorf("file %s: %w", *file, err)
				}
				*file = absolute
			}
		}
		if err := cluster.check(); err != nil {
			return "", &misuse{err}
		}
		text := "made"
		if known := file.find(name); known != nil {
			*known, text = cluster, "changed"
		} else {
			file.Contexts = append(file.Contexts, cluster)
			slices.SortFunc(file.Contexts, func(a, b namedCluster) int { return strings.Compare(a.Name, b.Name) })
		}
		if file.Current == "" {
			file.Current = name
			text += ", and chosen because it is the only one"
		}
		return text, nil
	})
	command.Flags().StringVar(&cluster.Dir, "dir", "", "`directory` of a cluster started by smrctl up")
	flags := command.Flags()
	flags.StringSliceVar(&cluster.Confmasters, "confmaster", nil, "addresses of configuration masters (host:port,… or srv://_lockstep._tcp.domain)")
	flags.StringVar(&cluster.CA, "tls-ca", "", "`file` with the CA of the cluster")
	flags.StringVar(&cluster.Cert, "tls-cert", "", "`file` with the own certificate")
	flags.StringVar(&cluster.Key, "tls-key", "", "`file` with its key")
	flags.StringVar(&cluster.User, "user", "", "`name` to log in with at Redis ports")
	flags.StringVar(&cluster.PasswordFile, "password-file", "", "`file` with the password for Redis ports")
	return command
}

func newContextDelete(s *screen) *cobra.Command {
	return changeContexts(s, &cobra.Command{
		Use:   "delete NAME",
		Short: "Forget a context; the cluster itself is not touched",
		Args:  cobra.ExactArgs(1),
	}, func(file *contextFile, name string) (string, error) {
		if _, err := file.choose(name); err != nil {
			return "", err
		}
		file.Contexts = slices.DeleteFunc(file.Contexts, func(c namedCluster) bool { return c.Name == name })
		text := "forgotten"
		if file.Current == name {
			file.Current = ""
			text += "; no context is chosen now"
		}
		return text, nil
	})
}

// helpTopics are pages of `smrctl help` that are no commands.
func helpTopics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "exit-codes", Short: "What smrctl's exit codes mean", Long: "Exit codes of smrctl:\n\n" + exitCodeText()},
		{Use: "contexts", Short: "How smrctl finds the cluster that is meant", Long: `A command about a cluster takes, in this order:

  1. --dir DIR or --confmaster HOST:PORT,… of the command
  2. --context NAME
  3. the environment variable SMRCTL_CONTEXT
  4. the context chosen with ` + "`smrctl context use NAME`" + `
  5. the cluster in ./` + defaultDir + `

Contexts stand in $XDG_CONFIG_HOME/lockstep/smrctl.yaml (usually ~/.config/lockstep/smrctl.yaml), or in the file that the
environment variable SMRCTL_CONFIG names. Only its owner may read it.`},
	}
}
