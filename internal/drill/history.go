package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/chaos"
	"lockstep/internal/drill/plan"
	"lockstep/internal/drill/report"
	"lockstep/internal/filelock"
	"lockstep/internal/local"
	"lockstep/internal/wholefile"
)

// Names in the directory of a run.
const (
	runName  = "run.json"
	pageName = "report.html"
	opsName  = "history.jsonl"
	// maxReport bounds what is read back, in bytes.
	maxReport = 16 << 20
)

// unfinished is a run that was begun: what run.json holds.
type unfinished struct {
	ID        string    `json:"id"`
	Drill     string    `json:"drill"`
	Group     string    `json:"group"`
	By        string    `json:"by"`
	Began     time.Time `json:"began"`
	Processes []string  `json:"processes"` // that only smrctl starts again
}

// history is the directory of all runs, locked.
type history struct {
	dir  string
	lock *filelock.Lock
}

// openHistory opens the directory, made if missing, and takes it for one drill.
func openHistory(dir string) (*history, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of drills (--history names another one): %w", err)
	}
	lock, err := filelock.Take(filepath.Join(dir, "lock"))
	switch {
	case errors.Is(err, filelock.ErrHeld):
		return nil, &Refusal{Drill: "", Group: "", Problems: []string{fmt.Sprintf("another smrctl runs a drill from %s", dir)}}
	case err != nil:
		return nil, fmt.Errorf("lock the directory of drills, which user %d must be allowed to write (--history names another one): %w", os.Getuid(), err)
	}
	return &history{dir, lock}, nil
}

func (h *history) close() { _ = h.lock.Close() }

// nextID names a run by its time.
func (h *history) nextID(drill string, began time.Time) string {
	for {
		id := began.UTC().Format("20060102T150405.000Z") + "-" + drill
		if _, err := os.Lstat(filepath.Join(h.dir, id)); err != nil {
			return id
		}
		began = began.Add(time.Millisecond)
	}
}

// begin makes the directory of a run.
func (h *history) begin(id string, u unfinished) (string, error) {
	folder := filepath.Join(h.dir, id)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return "", fmt.Errorf("make the directory of the run: %w", err)
	}
	return folder, writeUnfinished(folder, u)
}

// writeUnfinished makes run.json durable, whole or not at all.
func writeUnfinished(folder string, u unfinished) error {
	return writeJSON(filepath.Join(folder, runName), u)
}

func writeJSON(path string, value any) error {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return wholefile.Write(path, append(content, '\n'))
}

// finish keeps the report, and of what clients did only what somebody must look into.
func (h *history) finish(rep *report.Report, folder string) error {
	var page bytes.Buffer
	if err := rep.WriteHTML(&page); err != nil {
		return err
	}
	err := errors.Join(wholefile.Write(filepath.Join(folder, pageName), page.Bytes()), writeJSON(filepath.Join(folder, report.FileName), rep))
	if rep.Good() {
		err = errors.Join(err, os.Remove(filepath.Join(folder, opsName)))
	}
	if gone := os.Remove(filepath.Join(folder, report.ProgressName)); !errors.Is(gone, fs.ErrNotExist) { // the report has a timeline
		err = errors.Join(err, gone)
	}
	return err
}

// abandon removes a run in which nothing was done.
func (h *history) abandon(id string) error { return os.RemoveAll(filepath.Join(h.dir, id)) }

// tidyUp undoes what drills left whose smrctl was killed. Their faults have ended by themselves; what is left are processes that
// only smrctl starts again, and keys.
func (h *history) tidyUp(ctx context.Context, c Config) error {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return fmt.Errorf("look for unfinished drills: %w", err)
	}
	for _, entry := range entries {
		folder := filepath.Join(h.dir, entry.Name())
		var u unfinished
		if _, err := os.Lstat(filepath.Join(folder, report.FileName)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := readJSON(filepath.Join(folder, runName), &u); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		c.Progress(fmt.Sprintf("drill %s of %s was not finished: cleaning up behind it", u.ID, u.By))
		if err := c.cleanUpBehind(ctx, u, folder); err != nil {
			return fmt.Errorf("clean up behind drill %s: %w", u.ID, err)
		}
		rep := &report.Report{ID: u.ID, Drill: u.Drill, Group: u.Group, By: u.By, Began: u.Began, Version: version(), Verdict: report.Aborted,
			Problems: []string{"smrctl ended in the middle; a later one cleaned up"}, Victims: []string{}, Checks: []string{}, Errors: []report.ErrorCount{}, Violations: []string{}, Timeline: []report.Moment{}}
		if kind := plan.Find(u.Drill); kind != nil {
			rep.What, rep.Proves = kind.What, kind.Proves
		}
		if err := h.finish(rep, folder); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) cleanUpBehind(ctx context.Context, u unfinished, folder string) error {
	if c.Local != nil {
		if err := c.start(u.Processes, func(name string, _ int) { c.Progress("started " + name) }); err != nil {
			return err
		}
	}
	status, err := c.Client.Status(ctx)
	if err != nil {
		return err
	}
	var nodes []local.Replica
	for _, group := range status.GetGroups() {
		for _, replica := range group.GetReplicas() {
			if group.GetName() == u.Group {
				nodes = append(nodes, local.Replica{Node: replica.GetNode(), KVAddr: kvAddr(replica)})
			}
		}
	}
	if deleted, err := chaos.DeleteLeft(filepath.Join(folder, opsName), keyName(u.ID), c.Client.Login, nodes); err != nil {
		return err
	} else if deleted > 0 {
		c.Progress(fmt.Sprintf("deleted %d keys", deleted))
	}
	return nil
}

// Leftovers undoes what drills left whose smrctl was killed, as Run does first.
func Leftovers(ctx context.Context, c Config) error {
	if _, err := os.Stat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	h, err := openHistory(c.Dir)
	var busy *Refusal
	if errors.As(err, &busy) {
		return nil // whoever runs a drill now has done it
	}
	if err != nil {
		return err
	}
	defer h.close()
	return h.tidyUp(ctx, c)
}

func readJSON(path string, target any) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if info.Size() > maxReport {
		return fmt.Errorf("read %s: it has %d bytes, at most %d are possible", path, info.Size(), maxReport)
	}
	content, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(content, target)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// Reports reads the history, oldest first. Without a directory it is empty.
func Reports(dir string) ([]*report.Report, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the history of drills: %w", err)
	}
	var list []*report.Report
	for _, entry := range entries {
		rep := &report.Report{}
		err := readJSON(filepath.Join(dir, entry.Name(), report.FileName), rep)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, rep)
	}
	slices.SortStableFunc(list, func(a, b *report.Report) int { return a.Began.Compare(b.Began) })
	return list, nil
}

// Read reads the report of one run; id may be its beginning if that says which, or "last".
func Read(dir, id string) (*report.Report, string, error) {
	list, err := Reports(dir)
	if err != nil {
		return nil, "", err
	}
	var found []*report.Report
	for _, rep := range list {
		if rep.ID == id {
			found = []*report.Report{rep}
			break
		}
		if strings.HasPrefix(rep.ID, id) {
			found = append(found, rep)
		}
	}
	if id == "last" && len(list) > 0 {
		found = list[len(list)-1:]
	}
	switch len(found) {
	case 0:
		return nil, "", fmt.Errorf("there is no drill %q in %s: `smrctl drill history` lists them", id, dir)
	case 1:
		return found[0], filepath.Join(dir, found[0].ID, pageName), nil
	}
	return nil, "", fmt.Errorf("%d drills begin with %q: give more of the id", len(found), id)
}

// Unfinished reports whether a drill was begun in dir and neither ended nor was cleaned up behind.
func Unfinished(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(entries, func(entry fs.DirEntry) bool {
		_, begun := os.Lstat(filepath.Join(dir, entry.Name(), runName))
		_, ended := os.Lstat(filepath.Join(dir, entry.Name(), report.FileName))
		return begun == nil && errors.Is(ended, fs.ErrNotExist)
	})
}
