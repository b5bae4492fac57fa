package ctl

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/log"
	"lockstep/smr"
)

func newLog(s *screen) *cobra.Command {
	return group("log", "Read the log files of a replica, whether it runs or not; compare replicas",
		newDump(s), newVerify(s), newLogGrep(s), newLogTail(s), newLogStats(s), newLogExport(s), newLogCompare(s))
}

const logPath = "PATH is a log directory, a replicator's directory (then its log is meant), or one log file."

func newDump(s *screen) *cobra.Command {
	var from, limit uint64
	var count int
	var payload bool
	command := &cobra.Command{
		Use:   "dump PATH",
		Short: "List the frames of a log",
		Long:  "Lists the frames of a log, one on a line; with -o json one object on a line.\n" + logPath,
		Args:  cobra.ExactArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			if count < 0 {
				return usage("--count %d is negative", count)
			}
			w, err := openWalk(args[0])
			if err != nil {
				return err
			}
			defer w.reader.Close()
			d := dumper{screen: s, from: smr.LSN(from), limit: smr.LSN(limit), left: count, payload: payload}
			end, err := w.walk(ctx, d.visit)
			if errors.Is(err, errEnough) {
				return nil
			}
			if err == nil && s.human() {
				s.note(fmt.Sprintf("the log ends at %d", end))
			}
			return err
		}),
	}
	command.Flags().Uint64Var(&from, "from", 0, "begin with the first frame at or behind this LSN")
	command.Flags().Uint64Var(&limit, "limit", 1<<63, "end before the first frame at or behind this LSN")
	command.Flags().IntVar(&count, "count", 0, "at most so many frames; 0 for all")
	command.Flags().BoolVar(&payload, "payload", false, "show the requests too, with the first bytes of what they carry")
	return command
}

// frameLine is one frame as dump shows it.
type frameLine struct {
	LSN      uint64        `json:"lsn"`
	Size     int           `json:"size"`
	Epoch    uint64        `json:"epoch"`
	Commit   uint64        `json:"commit"`
	Time     string        `json:"time"`
	Kind     string        `json:"kind"`
	Count    int           `json:"count"`
	Config   string        `json:"config,omitempty"`
	Requests []requestLine `json:"requests,omitempty"`
}

type requestLine struct {
	Session  string `json:"session"`
	Sequence uint64 `json:"sequence"`
	Slot     uint16 `json:"slot"`
	Flags    uint8  `json:"flags"`
	Size     int    `json:"size"`
	Payload  string `json:"payload_hex"` // the first payloadShown bytes
}

// payloadShown bounds what dump shows of a payload, in bytes.
const payloadShown = 64

// errEnough ends a walk early.
var errEnough = errors.New("enough")

type dumper struct {
	*screen
	from, limit smr.LSN
	left        int // frames; 0 for no bound
	payload     bool
}

func (d *dumper) visit(f smr.Frame) error {
	if f.LSN < d.from {
		return nil
	}
	if f.LSN >= d.limit {
		return errEnough
	}
	line := frameLine{
		LSN: uint64(f.LSN), Size: f.Size(), Epoch: uint64(f.Epoch), Commit: uint64(f.Commit),
		Time: time.UnixMilli(f.Stamp).UTC().Format(timeForm), Kind: f.Kind.String(), Count: f.Count,
	}
	if f.Kind == smr.KindEpochStart {
		config, _, err := smr.DecodeConfig(f.Body)
		if err != nil {
			return err
		}
		line.Config = config.Describe()
	}
	if d.payload {
		rest := f.Body
		for range f.Count {
			var r smr.Request
			var err error
			if r, rest, err = smr.CutRequest(rest); err != nil {
				return err
			}
			line.Requests = append(line.Requests, requestLine{
				Session: fmt.Sprintf("%016x", uint64(r.Session)), Sequence: r.Sequence, Slot: r.Slot, Flags: r.Flags, Size: len(r.Payload),
				Payload: hex.EncodeToString(r.Payload[:min(len(r.Payload), payloadShown)]),
			})
		}
	}
	d.line(line, frameText(line))
	if d.left--; d.left == 0 {
		return errEnough
	}
	return nil
}

func frameText(l frameLine) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%12d  %8d bytes  epoch %-4d commit %-12d %s  %s", l.LSN, l.Size, l.Epoch, l.Commit, l.Time, l.Kind)
	if l.Count > 0 {
		fmt.Fprintf(&text, " %d", l.Count)
	}
	if l.Config != "" {
		text.WriteString(" " + l.Config)
	}
	for _, r := range l.Requests {
		content, _ := hex.DecodeString(r.Payload) // made by visit
		fmt.Fprintf(&text, "\n%14s%s/%d slot %d flags %d, %d bytes %q", "", r.Session, r.Sequence, r.Slot, r.Flags, r.Size, content)
	}
	return text.String()
}

// walk is a log that is read from its first frame to its end.
type walk struct {
	dir    string
	only   string // name of the one file that is meant, "" for all
	files  []log.FileInfo
	reader *log.Reader
	from   smr.LSN // a frame boundary: where the walk begins, if that is in the log
}

func openWalk(path string) (*walk, error) {
	w := &walk{dir: path}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	if !info.IsDir() {
		w.dir, w.only = filepath.Split(filepath.Clean(path))
		w.dir = filepath.Clean(w.dir)
	} else if below, err := os.Stat(filepath.Join(path, "log")); err == nil && below.IsDir() {
		w.dir = filepath.Join(path, "log")
	}
	if err := w.look(); err != nil {
		return nil, err
	}
	w.reader, err = log.OpenReader(nil, w.dir)
	return w, err
}

// look surveys the files.
func (w *walk) look() (err error) {
	w.files, err = log.Survey(nil, w.dir)
	if w.only != "" {
		for _, f := range w.files {
			if f.Name == w.only {
				w.files = []log.FileInfo{f}
				return nil
			}
		}
		if err == nil {
			err = fmt.Errorf("%s is not a log file: its name would have 20 digits", filepath.Join(w.dir, w.only))
		}
	}
	if err == nil && len(w.files) == 0 {
		err = fmt.Errorf("%s holds no log files", w.dir)
	}
	return err
}

// walk visits every frame and returns where the log ends. A frame that does not check is damage if it lies below what the
// files say was durable; behind that it is what a crash, or a writer at work, leaves.
func (w *walk) walk(ctx context.Context, visit func(smr.Frame) error) (end smr.LSN, err error) {
	for i, f := range w.files[1:] {
		if before := w.files[i]; f.Base != before.End {
			return before.End, fmt.Errorf("%w: %s ends at %d and the next file begins at %d", log.ErrCorrupt, before.Name, before.End, f.Base)
		}
	}
	last := w.files[len(w.files)-1]
	if last.Mark == "continued" && w.only == "" {
		return last.End, fmt.Errorf("%w: a file at %d followed %s and is missing", log.ErrCorrupt, last.End, last.Name)
	}
	at := max(w.files[0].FirstFrame, w.from)
	buffer := make([]byte, 1<<20)
	for at < last.End {
		if err := ctx.Err(); err != nil {
			return at, err
		}
		var next smr.LSN
		next, buffer, err = w.reader.Frames(buffer, at, last.End, func(f smr.Frame, _ []byte) error { return visit(f) })
		if errors.Is(err, log.ErrCorrupt) && next >= w.durable() {
			return next, nil
		}
		if err != nil {
			return next, err
		}
		if next == at {
			break // the last frame goes on in a file that is not here
		}
		at = next
	}
	if at < w.durable() && w.only == "" {
		return at, fmt.Errorf("%w: frames end at %d, and everything below %d was durable", log.ErrCorrupt, at, w.durable())
	}
	return at, nil
}

// durable is what the newest file says was durable.
func (w *walk) durable() smr.LSN {
	last := w.files[len(w.files)-1]
	if w.only != "" && last.Sealed {
		return last.Base // its last frame may end in the next file
	}
	return last.Durable
}

// verified is what verify found.
type verified struct {
	Dir     string         `json:"dir"`
	Files   []verifiedFile `json:"files"`
	Start   uint64         `json:"start_lsn"`
	End     uint64         `json:"end_lsn"`
	Durable uint64         `json:"durable_lsn"` // lower bound, from the files
	Frames  int            `json:"frames"`
	Commit  uint64         `json:"commit_lsn"` // highest that a frame tells
	Epoch   uint64         `json:"epoch"`      // of the last frame
	Behind  uint64         `json:"behind_durable_bytes"`
}

type verifiedFile struct {
	Name   string `json:"name"`
	Mark   string `json:"mark"`
	Sealed bool   `json:"sealed"`
}

func newVerify(s *screen) *cobra.Command {
	return &cobra.Command{
		Use:   "verify PATH",
		Short: "Check every byte of a log: metadata, page checksums, frames, and that files follow each other",
		Long:  "Checks a log and fails at the first damage. What lies behind the durable mark may be cut short by a crash: that is no\ndamage, and recovery cuts it.\n" + logPath,
		Args:  cobra.ExactArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			w, err := openWalk(args[0])
			if err != nil {
				return err
			}
			defer w.reader.Close()
			v, err := w.verify(ctx)
			// A rewind or trim of the running replicator looks like damage to who surveyed before: look again.
			for tries := 0; err != nil && tries < 3 && ctx.Err() == nil; tries++ {
				if err := w.look(); err != nil {
					return err
				}
				v, err = w.verify(ctx)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", w.dir, err)
			}
			return s.show(v, func() {
				for _, f := range v.Files {
					sealed := "open"
					if f.Sealed {
						sealed = "sealed, all pages check"
					}
					s.printf("%s  %-9s  %s\n", f.Name, f.Mark, sealed)
				}
				s.printf("%d frames from %d to %d check; durable to %d at least, committed to %d at least; last epoch %d\n", v.Frames, v.Start, v.End, v.Durable, v.Commit, v.Epoch)
			})
		}),
	}
}

func (w *walk) verify(ctx context.Context) (verified, error) {
	v := verified{Dir: w.dir, Start: uint64(w.files[0].FirstFrame), Durable: uint64(w.durable())}
	buffer := make([]byte, 1<<20)
	for _, f := range w.files {
		v.Files = append(v.Files, verifiedFile{Name: f.Name, Mark: f.Mark, Sealed: f.Sealed})
		for at := max(f.Base, w.files[0].FirstFrame); f.Sealed && at < f.End; {
			n, err := w.reader.ReadAt(buffer, at, f.End) // checks the pages of sealed files
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return v, err
			}
			at += smr.LSN(n)
		}
	}
	end, err := w.walk(ctx, func(f smr.Frame) error {
		v.Frames++
		v.Commit, v.Epoch = max(v.Commit, uint64(f.Commit)), uint64(f.Epoch)
		return nil
	})
	v.End = uint64(end)
	v.Behind = v.End - min(v.End, v.Durable)
	return v, err
}
