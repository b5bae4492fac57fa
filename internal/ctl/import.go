package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/admin"
	"lockstep/internal/rdb"
	"lockstep/internal/resp"
	"lockstep/smr"
)

const (
	// importLimit bounds a value that is sent, in bytes: with its key and the words around it it must fit into a request.
	importLimit = smr.MaxPayload - 1<<20
	// importPatience bounds how long the node may take for an answer.
	importPatience = time.Minute
	// importWindow and importBytes bound what is on its way.
	importWindow = 1000
	importBytes  = 16 << 20
	// refusalsShown is how many refused keys are named.
	refusalsShown = 100
)

// imported is what an import did.
type imported struct {
	File      string    `json:"file"`
	Keys      int       `json:"keys"`
	Functions int       `json:"functions"`
	Expired   int       `json:"expired"` // not sent, because their time has passed
	Refused   int       `json:"refused"`
	Refusals  []refusal `json:"refusals"` // the first of them
}

type refusal struct {
	Database int    `json:"db"`
	Key      string `json:"key"`
	Why      string `json:"why"`
}

func newImport(s *screen) *cobra.Command {
	var at where
	var address string
	var replace, dryRun bool
	command := &cobra.Command{
		Use:   "import FILE.rdb",
		Short: "Send everything in an RDB file to a living group",
		Long: `Reads a snapshot file of Redis (up to 7.4) or of smrctl export, and sends its keys and functions to a KV node, pipelined: every
write is replicated like that of any client. Keys that exist are left as they are and named, unless --replace is given. Keys
whose time has passed are left out. What the group cannot hold (values of modules, fields that expire, values above 63 MiB) is
named, too. It fails if anything was refused; what was sent before stays.`,
		Args: cobra.ExactArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			file, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("import: %w", err)
			}
			defer file.Close()
			info, err := file.Stat()
			if err != nil {
				return fmt.Errorf("import: %w", err)
			}
			var login admin.Login
			if address == "" && !dryRun {
				nodes, err := findNodes(ctx, &at, nil, "")
				if err != nil {
					return err
				}
				address, login = nodes.kvAddrs[0], nodes.login
			} else if !dryRun {
				if login, err = at.login(at.local()); err != nil {
					return err
				}
			}
			i := &importer{screen: s, replace: replace, size: info.Size(), shown: s.bytesDone(), result: imported{File: args[0], Refusals: []refusal{}}}
			if i.reader, err = rdb.NewReader(file, importLimit); err != nil {
				return fmt.Errorf("import %s: %w", args[0], err)
			}
			if dryRun {
				i.dry = true
				err = i.each(i.count)
			} else if err = i.connect(ctx, login, address); err == nil {
				err = i.run(ctx)
			}
			i.shown.end()
			if showErr := s.show(i.result, i.show); showErr != nil {
				return showErr
			}
			switch {
			case err != nil && dryRun:
				return fmt.Errorf("import %s: %w", args[0], err)
			case err != nil && strings.HasPrefix(err.Error(), "NOAUTH"):
				return fmt.Errorf("import %s into %s: %w: give --password-file, and --user unless it is the default user's; nothing was sent", args[0], address, err)
			case err != nil:
				return fmt.Errorf("import %s: %w\n  what was sent before is there; the file may be imported again with --replace", args[0], err)
			case i.result.Refused > 0:
				return fmt.Errorf("import %s: %d keys were refused", args[0], i.result.Refused)
			}
			return nil
		}),
	}
	at.addAll(command)
	flags := command.Flags()
	flags.StringVar(&address, "to", "", "`host:port` of the KV node (default: one of the group)")
	at.addLogin(command)
	flags.BoolVar(&replace, "replace", false, "replace keys that exist")
	flags.BoolVar(&dryRun, "dry-run", false, "read the file and tell what would be refused; send nothing")
	return command
}

// importer sends what a file holds to a node. Two goroutines: one sends, one reads the replies, in order.
type importer struct {
	*screen
	reader  *rdb.Reader
	replace bool
	dry     bool  // nothing is sent: what could be is counted
	size    int64 // of the file
	conn    net.Conn
	in      *bufio.Reader
	result  imported
	shown   *progress
}

func (i *importer) show() {
	r := &i.result
	done := "imported"
	if i.dry {
		done = "can be imported unless they exist"
	}
	i.printf("%d keys and %d libraries %s, %d had expired, %d refused\n", r.Keys, r.Functions, done, r.Expired, r.Refused)
	for _, refused := range r.Refusals {
		i.printf("  db %d key %q: %s\n", refused.Database, refused.Key, refused.Why)
	}
	if r.Refused > len(r.Refusals) {
		i.printf("  and %d more\n", r.Refused-len(r.Refusals))
	}
}

func (i *importer) refuse(item rdb.Item, why string) {
	if i.result.Refused++; len(i.result.Refusals) < refusalsShown {
		key := string(item.Key)
		if item.Function != nil {
			key = "(functions)"
		}
		i.result.Refusals = append(i.result.Refusals, refusal{item.Database, key[:min(len(key), 200)], why})
	}
}

// each reads the file. What can be sent is visited.
func (i *importer) each(visit func(rdb.Item) error) error {
	now := time.Now().UnixMilli()
	for {
		item, err := i.reader.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case item.Refused != "":
			i.refuse(item, item.Refused)
		case item.Expire > 0 && item.Expire <= now:
			i.result.Expired++
		default:
			if err := visit(item); err != nil {
				return err
			}
		}
		i.shown.tell("importing", i.reader.Offset(), i.size)
	}
}

// count notes what could be sent.
func (i *importer) count(item rdb.Item) error {
	if item.Function != nil {
		i.result.Functions++
	} else {
		i.result.Keys++
	}
	return nil
}

func (i *importer) connect(ctx context.Context, login admin.Login, address string) error {
	ctx, cancel := context.WithTimeout(ctx, importPatience)
	defer cancel()
	conn, err := login.DialRedis(ctx, address)
	if err != nil {
		return err
	}
	i.conn, i.in = conn, bufio.NewReaderSize(conn, 64<<10)
	return nil
}

// reply reads one reply to a command that answers with a line or a string; it returns the text of an error.
func (i *importer) reply() (string, error) {
	if err := i.conn.SetReadDeadline(time.Now().Add(importPatience)); err != nil {
		return "", err
	}
	line, err := i.in.ReadBytes('\n')
	if err != nil {
		return "", err
	}
	if line[0] == '$' { // FUNCTION LOAD answers with the name of the library
		n, err := strconv.Atoi(strings.TrimSpace(string(line[1:])))
		if err != nil || n < 0 || n > 1<<20 {
			return "", fmt.Errorf("the node answers %q", line)
		}
		more, err := i.in.Discard(n + 2)
		if err != nil {
			return "", fmt.Errorf("the node's answer is cut short after %d bytes: %w", more, err)
		}
		return "", nil
	}
	value, used, err := resp.Decode(line)
	if err != nil || used == 0 {
		return "", fmt.Errorf("the node answers %q", line[:min(len(line), 100)])
	}
	if value.Kind == '-' {
		return value.Text, nil
	}
	return "", nil
}

// run sends everything and waits for all replies. The replies are read when a window of commands is full.
func (i *importer) run(ctx context.Context) error {
	defer i.conn.Close()
	stop := context.AfterFunc(ctx, func() { i.conn.Close() })
	defer stop()
	w := &window{importer: i}
	if err := i.each(w.add); err != nil {
		return errors.Join(err, w.flush())
	}
	return w.flush()
}

// window is what is sent at once: its replies are read while it is written, so that neither side waits for the other.
type window struct {
	*importer
	buffer   []byte
	items    []rdb.Item // with nil for SELECT: neither key nor function
	database int
}

func (w *window) add(item rdb.Item) error {
	if item.Function != nil {
		w.buffer = rdb.AppendCommand(w.buffer, w.functionCommand(item)...)
	} else {
		if item.Database != w.database {
			w.database = item.Database
			w.buffer = rdb.AppendCommand(w.buffer, []byte("SELECT"), strconv.AppendInt(nil, int64(item.Database), 10))
			w.items = append(w.items, rdb.Item{})
		}
		words := rdb.RestoreCommand(item.Key, item.Expire, item.Payload)
		if w.replace {
			words = append(words, []byte("REPLACE"))
		}
		w.buffer = rdb.AppendCommand(w.buffer, words...)
	}
	item.Payload = nil
	if w.items = append(w.items, item); len(w.items) < importWindow && len(w.buffer) < importBytes {
		return nil
	}
	return w.flush()
}

func (w *window) functionCommand(item rdb.Item) [][]byte {
	words := [][]byte{[]byte("FUNCTION"), []byte("LOAD")}
	if w.replace {
		words = append(words, []byte("REPLACE"))
	}
	return append(words, item.Function)
}

// flush sends what is gathered and takes all replies.
func (w *window) flush() error {
	written := make(chan error, 1)
	go func() {
		_, err := w.conn.Write(w.buffer)
		written <- err
	}()
	var failure error
	for _, item := range w.items {
		text, err := w.reply()
		if err != nil {
			failure = err
			w.conn.Close() // ends the writer, too
			break
		}
		switch {
		case text != "" && (item.Key == nil && item.Function == nil || isTransient(text)):
			if failure == nil { // of hundreds that say the same
				failure = errors.New(text)
			}
		case text != "":
			w.refuse(item, text)
		case item.Function != nil:
			w.result.Functions++
		case item.Key != nil:
			w.result.Keys++
		}
	}
	err := <-written
	if failure == nil {
		failure = err
	}
	w.buffer, w.items = w.buffer[:0], w.items[:0]
	return failure
}

// isTransient reports whether an error says nothing about the key but about the group or the connection: the import ends there.
func isTransient(text string) bool {
	code, _, _ := strings.Cut(text, " ")
	switch code {
	case "NOREPLICAS", "UNCERTAIN", "MASTERDOWN", "NOAUTH", "NOPERM", "OOM", "LOADING", "READONLY":
		return true
	}
	return false
}
