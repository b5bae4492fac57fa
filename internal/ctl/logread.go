package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/logtext"
	"lockstep/log"
	"lockstep/smr"
)

// logRange is the part of a log that a command reads.
type logRange struct{ from, limit uint64 }

func (r *logRange) add(command *cobra.Command) {
	command.Flags().Uint64Var(&r.from, "from", 0, "begin with the first frame at or behind this LSN")
	command.Flags().Uint64Var(&r.limit, "limit", 1<<63, "end before the first frame at or behind this LSN")
}

// read visits the frames of the range.
func (r *logRange) read(ctx context.Context, path string, visit func(smr.Frame) error) error {
	w, err := openWalk(path)
	if err != nil {
		return err
	}
	defer w.reader.Close()
	_, err = w.walk(ctx, func(f smr.Frame) error {
		switch {
		case uint64(f.LSN) < r.from:
			return nil
		case uint64(f.LSN) >= r.limit:
			return errEnough
		}
		return visit(f)
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

func newLogGrep(s *screen) *cobra.Command {
	var reach logRange
	var count int
	var fold bool
	var key string
	command := &cobra.Command{
		Use:   "grep PATTERN PATH",
		Short: "Find requests: a regular expression over commands and their arguments",
		Long:  "Shows the requests of a log that match, as KV nodes read them, one on a line. Exit code 1 if there is none, as grep.\n" + logPath,
		Args:  cobra.ExactArgs(2),
		RunE: work(func(ctx context.Context, args []string) error {
			pattern := args[0]
			if fold {
				pattern = "(?i)" + pattern
			}
			match, err := regexp.Compile(pattern)
			if err != nil {
				return usage("pattern %q: %v", args[0], err)
			}
			hits := 0
			err = reach.read(ctx, args[1], func(f smr.Frame) error {
				return logtext.Requests(f, func(r logtext.Request) error {
					if !matches(&r, match, key) {
						return nil
					}
					line := fmt.Sprintf("%12d.%-3d %s  %s", r.LSN, r.Index, r.Time, r.Line())
					r.ForJSON()
					s.line(r, line)
					if hits++; hits == count {
						return errEnough
					}
					return nil
				})
			})
			if err == nil && hits == 0 {
				err = errors.New("no request matches")
			}
			return err
		}),
	}
	reach.add(command)
	command.Flags().IntVar(&count, "count", 0, "at most so many requests; 0 for all")
	command.Flags().BoolVarP(&fold, "ignore-case", "i", false, "upper and lower case are alike")
	command.Flags().StringVar(&key, "key", "", "only commands with this as an argument, byte by byte")
	return command
}

func matches(r *logtext.Request, match *regexp.Regexp, key string) bool {
	for _, args := range r.Commands {
		if key != "" && !slices.Contains(args[1:], key) {
			continue
		}
		if match.MatchString(logtext.CommandText(args, 0)) {
			return true
		}
	}
	return false
}

func newLogTail(s *screen) *cobra.Command {
	var count int
	var follow, payload bool
	command := &cobra.Command{
		Use:   "tail PATH",
		Short: "Show the last frames of a log, and with --follow those that come",
		Long:  "Shows the last frames of a log as dump does.\n" + logPath,
		Args:  cobra.ExactArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			if count < 1 || count > 1_000_000 {
				return usage("--count %d: use 1 to 1000000", count)
			}
			w, err := openWalk(args[0])
			if err != nil {
				return err
			}
			defer w.reader.Close()
			w.from = w.nearEnd(count)
			var last []smr.LSN
			end, err := w.walk(ctx, func(f smr.Frame) error {
				if last = append(last, f.LSN); len(last) > 2*count {
					last = slices.Clone(last[len(last)-count:])
				}
				return nil
			})
			if err != nil {
				return err
			}
			last = last[max(0, len(last)-count):]
			d := dumper{screen: s, limit: 1 << 63, payload: payload}
			if len(last) > 0 {
				w.from = last[0]
			}
			if end, err = w.walk(ctx, d.visit); err != nil || !follow {
				return err
			}
			return w.follow(ctx, end, d.visit)
		}),
	}
	command.Flags().IntVarP(&count, "count", "n", 10, "so many frames")
	command.Flags().BoolVarP(&follow, "follow", "f", false, "go on with the frames that come, until Ctrl-C")
	command.Flags().BoolVar(&payload, "payload", false, "show the requests too, with the first bytes of what they carry")
	return command
}

// nearEnd returns a frame boundary behind which there are probably at least count frames: the first of the second last file, or
// of the log for many.
func (w *walk) nearEnd(count int) smr.LSN {
	if len(w.files) < 3 || count > 10_000 {
		return 0
	}
	return w.files[len(w.files)-2].FirstFrame
}

// follow visits what is appended behind end, until ctx ends.
func (w *walk) follow(ctx context.Context, end smr.LSN, visit func(smr.Frame) error) error {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil // Ctrl-C is how following ends
		case <-ticker.C:
		}
		if err := w.look(); err != nil {
			return err
		}
		w.from = end
		next, err := w.walk(ctx, visit)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, log.ErrTrimmed):
			return fmt.Errorf("the log was trimmed beyond %d while it was followed: %w", end, err)
		case err != nil:
			return err
		}
		end = max(end, next)
	}
}

// logStats is what stats found.
type logStats struct {
	Start    uint64         `json:"start_lsn"`
	End      uint64         `json:"end_lsn"`
	From     string         `json:"from_time"`
	To       string         `json:"to_time"`
	Frames   int            `json:"frames"`
	Requests int            `json:"requests"`
	Largest  int            `json:"largest_request_bytes"`
	Kinds    []logCount     `json:"kinds"`
	Epochs   []logCount     `json:"epochs"`
	Commands []logCount     `json:"commands"`
	kinds    map[string]int // index into Kinds, and so on
	epochs   map[string]int
	commands map[string]int
}

type logCount struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
	Bytes uint64 `json:"bytes"`
}

func add(list *[]logCount, index map[string]int, name string, bytes int) {
	i, known := index[name]
	if !known {
		i = len(*list)
		index[name] = i
		*list = append(*list, logCount{Name: name})
	}
	(*list)[i].Count++
	(*list)[i].Bytes += uint64(bytes)
}

func (l *logStats) take(f smr.Frame) error {
	at := time.UnixMilli(f.Stamp).UTC().Format(timeForm)
	if l.Frames == 0 {
		l.Start, l.From = uint64(f.LSN), at
	}
	l.Frames, l.Requests, l.End, l.To = l.Frames+1, l.Requests+f.Count, uint64(f.End()), at
	add(&l.Kinds, l.kinds, f.Kind.String(), f.Size())
	add(&l.Epochs, l.epochs, strconv.FormatUint(uint64(f.Epoch), 10), f.Size())
	return logtext.Requests(f, func(r logtext.Request) error {
		l.Largest = max(l.Largest, r.Bytes)
		name := "(nothing)"
		switch {
		case r.Transaction:
			name = "multi"
		case len(r.Commands) > 0:
			name = strings.ToLower(r.Commands[0][0])
		}
		if r.Record {
			name = "record " + name
		}
		add(&l.Commands, l.commands, name, r.Bytes)
		return nil
	})
}

func newLogStats(s *screen) *cobra.Command {
	var reach logRange
	command := &cobra.Command{
		Use:   "stats PATH",
		Short: "Count what a log holds: frames by kind and epoch, requests by command",
		Long:  "Counts frames and requests, and their bytes.\n" + logPath,
		Args:  cobra.ExactArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			l := logStats{Kinds: []logCount{}, Epochs: []logCount{}, Commands: []logCount{}, kinds: map[string]int{}, epochs: map[string]int{}, commands: map[string]int{}}
			if err := reach.read(ctx, args[0], l.take); err != nil {
				return err
			}
			slices.SortStableFunc(l.Commands, func(a, b logCount) int { return cmp.Compare(b.Bytes, a.Bytes) })
			return s.show(l, func() {
				s.printf("%d frames from %d to %d, %s to %s; %d requests, the largest of %d bytes\n", l.Frames, l.Start, l.End, l.From, l.To, l.Requests, l.Largest)
				for _, part := range []struct {
					heading string
					list    []logCount
				}{{"KIND", l.Kinds}, {"EPOCH", l.Epochs}, {"COMMAND", l.Commands}} {
					rows := [][]string{{part.heading, "COUNT", "BYTES"}}
					for _, c := range part.list {
						rows = append(rows, []string{c.Name, strconv.Itoa(c.Count), decimal(c.Bytes)})
					}
					s.table(rows)
				}
			})
		}),
	}
	reach.add(command)
	return command
}

func newLogExport(s *screen) *cobra.Command {
	var reach logRange
	var form, path string
	command := &cobra.Command{
		Use:   "export PATH",
		Short: "Write the requests of a log as JSON lines, or as commands for redis-cli",
		Long: `Writes every request of a log, in order. As json, one object on a line; as commands, what clients sent, one command on a line with MULTI and EXEC
around transactions. Records of the nodes themselves (time-outs, settings) are in the first form only.
` + logPath,
		Args: cobra.ExactArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			if form != "json" && form != "commands" {
				return usage("--form %q%s: use json or commands", form, didYouMean(form, []string{"json", "commands"}))
			}
			out := s.out
			if path != "-" {
				file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
				if err != nil {
					return fmt.Errorf("export: %w", err)
				}
				defer file.Close()
				out = file
			}
			count, database := 0, 0
			to := &screen{out: out, notes: s.notes, format: "json"}
			err := reach.read(ctx, args[0], func(f smr.Frame) error {
				return logtext.Requests(f, func(r logtext.Request) error {
					count++
					if form == "json" {
						r.ForJSON()
						return to.encode(r, true)
					}
					return exportCommands(out, &r, &database)
				})
			})
			if err == nil && path != "-" {
				s.note(fmt.Sprintf("%d requests in %s", count, path))
			}
			return err
		}),
	}
	reach.add(command)
	command.Flags().StringVar(&form, "form", "json", "json or commands")
	command.Flags().StringVar(&path, "file", "-", "`file` to write, which must not exist; - is the standard output")
	complete(command, "form", "json", "commands")
	return command
}

// exportCommands writes a request as commands; database is the one that was selected last.
func exportCommands(out io.Writer, r *logtext.Request, database *int) error {
	if r.Record || len(r.Commands) == 0 {
		return nil
	}
	var lines []string
	if r.Database != *database {
		*database = r.Database
		lines = append(lines, "SELECT "+strconv.Itoa(r.Database))
	}
	if r.Transaction {
		lines = append(lines, "MULTI")
	}
	for _, args := range r.Commands {
		lines = append(lines, logtext.CommandText(args, 0))
	}
	if r.Transaction {
		lines = append(lines, "EXEC")
	}
	_, err := io.WriteString(out, strings.Join(lines, "\n")+"\n")
	return err
}
