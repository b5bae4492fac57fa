package ctl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lockstep/internal/acl"
	"lockstep/internal/admin"
	"lockstep/internal/drift"
	"lockstep/proto"
)

func newUser(s *screen) *cobra.Command {
	return group("user", "Users of the Redis protocol (ACL), the same on every node", newUserList(s), newUserGet(s), newUserSet(s), newUserDelete(s))
}

func newFunction(s *screen) *cobra.Command {
	return group("function", "Function libraries (FUNCTION LOAD), the same on every node", newFunctionList(s), newFunctionGet(s), newFunctionLoad(s), newFunctionDelete(s))
}

// sharedLine is a user or a function library: replicated, so one value for all nodes.
type sharedLine struct {
	Name    string `json:"name"`
	Version uint64 `json:"version"` // that brought it, 0: made by a client
	State   string `json:"state"`   // as wanted, drift, not on record, removed
	Value   string `json:"value"`
}

// sharedLines lists the users or libraries.
func (s *standing) sharedLines(kind string) []sharedLine {
	lines := []sharedLine{}
	for _, name := range s.Names(kind) {
		line := sharedLine{Name: name, State: "not on record"}
		var have *proto.NodeSetting
		for i := range s.Nodes {
			if have == nil {
				have = s.Nodes[i].Of(kind, name)
			}
		}
		if item := s.Find(kind, name); item != nil {
			line.Version, line.Value, line.State = item.GetVersion(), item.GetValue(), "as wanted"
			if item.GetRemoved() {
				line.State = "removed"
			}
			for i := range s.Nodes {
				if s.Difference(&s.Nodes[i], item) != nil {
					line.State = "drift"
				}
			}
		}
		if have != nil {
			line.Value = have.GetValue()
		}
		if line.State == "removed" && have == nil {
			continue
		}
		lines = append(lines, line)
	}
	return lines
}

func (s *standing) sharedLine(kind, what, name string) (sharedLine, error) {
	for _, line := range s.sharedLines(kind) {
		if line.Name == name {
			return line, nil
		}
	}
	if err := s.FirstError(); err != nil {
		return sharedLine{}, err
	}
	return sharedLine{}, unknownName(what, name, s.Names(kind))
}

func newUserList(s *screen) *cobra.Command {
	return lookSettings(s, &cobra.Command{Use: "list", Short: "List the users; hashes of passwords are shortened", Args: cobra.NoArgs}, kindUser,
		func(now *standing, _ []string) error {
			lines := now.sharedLines(kindUser)
			rows := [][]string{{"USER", "VERSION", "STATE", "RULES"}}
			for i := range lines {
				l := &lines[i]
				l.Value = drift.HideHashes(l.Value)
				rows = append(rows, []string{l.Name, decimal(l.Version), l.State, l.Value})
			}
			return s.show(map[string]any{"group": now.Group, "users": lines}, func() { s.table(rows) })
		})
}

func newUserGet(s *screen) *cobra.Command {
	return lookSettings(s, &cobra.Command{Use: "get NAME", Short: "Show the rules of a user, as ACL SETUSER takes them", Args: cobra.ExactArgs(1)}, kindUser,
		func(now *standing, args []string) error {
			line, err := now.sharedLine(kindUser, "user", args[0])
			if err != nil {
				return err
			}
			return s.show(line, func() { s.printf("%s\n", line.Value) })
		})
}

func newUserSet(s *screen) *cobra.Command {
	var passwordFile string
	command := &cobra.Command{
		Use:   "set NAME RULE…",
		Short: "Make a user, or change one, with the rules of ACL SETUSER",
		Long: `Rules are applied to the user as it is now; begin with reset to start anew. Passwords are hashed here: only hashes reach the
configuration masters and the log. As an argument a password is seen in the list of processes: --password-file keeps it out.

` + aboutSettings,
		Example: "  smrctl user set app on '~app:*' +@all -@dangerous --password-file /run/app.password",
		Args:    cobra.MinimumNArgs(1),
	}
	settingCommand(s, command, func(_ context.Context, _ *admin.Client, _ string, args []string) (*proto.ChangeSettings, error) {
		for i, word := range args {
			args[i] = strings.TrimPrefix(word, ruleMark)
		}
		rules := args[1:]
		if passwordFile != "" {
			password, err := readPassword(command.InOrStdin(), passwordFile)
			if err != nil {
				return nil, err
			}
			rules = append(rules, ">"+password)
		}
		if len(rules) == 0 {
			return nil, usage("no rules: give some, as ACL SETUSER takes them, or --password-file")
		}
		sealed := make([]string, len(rules))
		for i, rule := range rules {
			sealed[i] = acl.Seal(rule)
		}
		return &proto.ChangeSettings{Settings: []*proto.Setting{{Kind: kindUser, Name: args[0], Value: strings.Join(sealed, " ")}}}, nil
	})
	command.Flags().StringVar(&passwordFile, "password-file", "", "`file` whose first line is a password to add; - is the standard input")
	return command
}

// ruleMark stands before a rule that would be taken for a flag. No argument of a program holds this byte.
const ruleMark = "\x00"

// markRules puts ruleMark before the rules of `user set` that take something away: -@dangerous, -config, -debug|object. A rule is longer than
// a flag of one letter, and begins with one hyphen.
func markRules(args []string) []string {
	at := slices.Index(args, "user")
	if at < 0 || at+1 == len(args) || args[at+1] != "set" {
		return args
	}
	marked := slices.Clone(args)
	for i, word := range marked {
		if i > at+1 && len(word) > 2 && word[0] == '-' && word[1] != '-' {
			marked[i] = ruleMark + word
		}
	}
	return marked
}

// maxPassword bounds what is read of a password file, in bytes.
const maxPassword = 4096

func readPassword(stdin io.Reader, path string) (string, error) {
	from := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		defer file.Close()
		from = file
	}
	text, err := io.ReadAll(io.LimitReader(from, maxPassword))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	password := strings.TrimSuffix(string(line), "\r")
	if password == "" || strings.ContainsAny(password, " \t") {
		return "", fmt.Errorf("read the password: the first line of %s is empty or has blanks", path)
	}
	return password, nil
}

// removeShared makes a command that removes users or libraries everywhere.
func removeShared(s *screen, command *cobra.Command, kind, what string) *cobra.Command {
	return settingCommand(s, command, func(ctx context.Context, client *admin.Client, group string, args []string) (*proto.ChangeSettings, error) {
		now, err := settingsNow(ctx, client, group, kind)
		if err != nil {
			return nil, err
		}
		change := &proto.ChangeSettings{}
		for _, name := range args {
			if _, err := now.sharedLine(kind, what, name); err != nil {
				return nil, err
			}
			change.Settings = append(change.Settings, &proto.Setting{Kind: kind, Name: name, Removed: true})
		}
		return change, nil
	})
}

func newUserDelete(s *screen) *cobra.Command {
	return removeShared(s, &cobra.Command{Use: "delete NAME…", Short: "Remove users from every node; their connections are cut", Args: cobra.MinimumNArgs(1)}, kindUser, "user")
}

func newFunctionList(s *screen) *cobra.Command {
	return lookSettings(s, &cobra.Command{Use: "list", Short: "List the function libraries", Args: cobra.NoArgs}, kindFunction,
		func(now *standing, _ []string) error {
			type library struct {
				Name    string `json:"name"`
				Version uint64 `json:"version"`
				State   string `json:"state"`
				Bytes   int    `json:"bytes"`
				SHA256  string `json:"sha256"`
			}
			list := []library{}
			rows := [][]string{{"LIBRARY", "VERSION", "STATE", "BYTES", "SHA256"}}
			for _, l := range now.sharedLines(kindFunction) {
				list = append(list, library{l.Name, l.Version, l.State, len(l.Value), fmt.Sprintf("%x", sha256.Sum256([]byte(l.Value)))})
				rows = append(rows, []string{l.Name, decimal(l.Version), l.State, fmt.Sprint(len(l.Value)), drift.ShortDigest(l.Value)})
			}
			return s.show(map[string]any{"group": now.Group, "libraries": list}, func() { s.table(rows) })
		})
}

func newFunctionGet(s *screen) *cobra.Command {
	return lookSettings(s, &cobra.Command{Use: "get NAME", Short: "Show the code of a function library", Args: cobra.ExactArgs(1)}, kindFunction,
		func(now *standing, args []string) error {
			line, err := now.sharedLine(kindFunction, "function library", args[0])
			if err != nil {
				return err
			}
			return s.show(line, func() { s.printf("%s\n", strings.TrimSuffix(line.Value, "\n")) })
		})
}

// libraryLine is the first line of a function library.
var libraryLine = regexp.MustCompile(`^#![a-z]+[^\n]*\bname=([A-Za-z0-9_]+)`)

// maxLibrary bounds the code of a library, in bytes: what the configuration masters keep.
const maxLibrary = 128 << 10

func newFunctionLoad(s *screen) *cobra.Command {
	command := &cobra.Command{
		Use:   "load FILE",
		Short: "Load a function library on every node, in place of one of that name",
		Long: "The first line names the library, as FUNCTION LOAD wants it: #!lua name=LIBRARY. FILE - is the standard input, with --yes or --dry-run.\n\n" +
			aboutSettings,
		Args: cobra.ExactArgs(1),
	}
	return settingCommand(s, command, func(_ context.Context, _ *admin.Client, _ string, args []string) (*proto.ChangeSettings, error) {
		code, err := readLibrary(command.InOrStdin(), args[0])
		if err != nil {
			return nil, err
		}
		match := libraryLine.FindSubmatch(code)
		if match == nil {
			return nil, fmt.Errorf("%s does not begin with a line `#!lua name=LIBRARY`", args[0])
		}
		return &proto.ChangeSettings{Settings: []*proto.Setting{{Kind: kindFunction, Name: string(match[1]), Value: string(code)}}}, nil
	})
}

// readLibrary reads the code of a library from a file, or from the standard input for -.
func readLibrary(stdin io.Reader, path string) ([]byte, error) {
	from := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read the library: %w", err)
		}
		defer file.Close()
		from = file
	}
	code, err := io.ReadAll(io.LimitReader(from, maxLibrary+1))
	if err != nil {
		return nil, fmt.Errorf("read the library: %w", err)
	}
	if len(code) > maxLibrary {
		return nil, fmt.Errorf("read the library: %s has more than the %d bytes that are possible", path, maxLibrary)
	}
	return code, nil
}

func newFunctionDelete(s *screen) *cobra.Command {
	return removeShared(s, &cobra.Command{Use: "delete NAME…", Short: "Remove function libraries from every node", Args: cobra.MinimumNArgs(1)}, kindFunction, "function library")
}
