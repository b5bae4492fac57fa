package replicator

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lockstep/log"
	"lockstep/smr"
)

// Labels of this package's own file-system calls.
const (
	labelHome       log.Label = "make replica directory"
	labelHomeLock   log.Label = "lock replica directory"
	labelQuarantine log.Label = "quarantine the log of an earlier incarnation"
)

// home is a replica's directory, open and locked: identity, hard state and log. After open it belongs to the log
// writer (see disk).
//
//	DIR/lock        flock of the running process
//	DIR/state/      hard state: identity, incarnation, promise (log.StateFile)
//	DIR/log/        log files
//	DIR/quarantine/ logs of earlier incarnations, kept as evidence
//	DIR/local.sock  unix socket for the KV node
//	DIR/level       feature level of the cluster, once it is above the first (levels)
//	DIR/page        memory shared with the KV node (smr/page), made anew by each process
//
// Invariant: nobody has heard that the log holds a byte before saved.LogBegun is true on disk, and the mark is written
// after the first byte. So of a log that is there without the mark nothing counts (it is an earlier incarnation's, or a
// crash came between the two), and a mark without any log file means that the log was lost (S10). A mark beside a file
// that holds nothing is no loss: the log was rewound to its beginning, or a crash took bytes that were not durable.
type home struct {
	cfg    Config
	lock   io.Closer
	state  *log.StateFile
	saved  log.State // as it is on disk
	levels *levels

	log    *log.Log
	report log.Report
	config smr.Config // of the newest epoch start in the log, zero if none
}

// openHome opens or makes the directory of cfg, and decides whether this process goes on as the incarnation that is
// written there or as a new one.
func openHome(cfg Config) (*home, error) {
	h := &home{cfg: cfg}
	if err := checkForeign(cfg.Dir); err != nil {
		return nil, fmt.Errorf("open replica directory %s: %w", cfg.Dir, err)
	}
	if err := cfg.fs.MkdirAll(labelHome, cfg.Dir); err != nil {
		return nil, fmt.Errorf("open replica directory %s: %w", cfg.Dir, err)
	}
	lock, err := cfg.fs.Lock(labelHomeLock, filepath.Join(cfg.Dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("open replica directory %s: %w", cfg.Dir, err)
	}
	h.lock = lock
	if err := h.open(); err != nil {
		if h.log != nil {
			err = errors.Join(err, h.log.Close())
		}
		h.release()
		return nil, err
	}
	return h, nil
}

// checkForeign refuses a directory that holds other things than a replica's. One without a state is new, or was left by
// a crash before the state was written.
func checkForeign(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // it will be made, or the first use of it says what is wrong
	}
	foreign := ""
	for _, entry := range entries {
		switch entry.Name() {
		case "state":
			return nil
		case "lock", "log", levelFile, "quarantine", "lost+found", "page", "page.new":
		default:
			if entry.Type()&os.ModeSocket == 0 {
				foreign = entry.Name()
			}
		}
	}
	if foreign != "" {
		return fmt.Errorf("it holds %q and no state of a replica: give an empty or new --dir", foreign)
	}
	return nil
}

func (h *home) open() (err error) {
	if h.levels, err = openLevels(h.cfg.Dir, h.cfg.highest); err != nil {
		return err
	}
	if err := h.openState(); err != nil {
		return err
	}
	if err := h.openLog(); err != nil {
		return err
	}
	if err := h.markStarted(); err != nil {
		return err
	}
	h.dropQuarantined()
	return h.readConfig()
}

func (h *home) logDir() string { return filepath.Join(h.cfg.Dir, "log") }

// openState reads the hard state, checks whose it is, and writes that of a new incarnation if there is none or if the
// old one cannot be trusted any more.
func (h *home) openState() error {
	dir := filepath.Join(h.cfg.Dir, "state")
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		// A log without a state was never made by this program: the state comes first. It may be somebody else's.
		if names, err := os.ReadDir(h.logDir()); err == nil && len(names) > 0 {
			return fmt.Errorf("open replica directory %s: there is a log but no state beside it: if it is this replica's, "+
				"move %s away and it comes back as a new incarnation", h.cfg.Dir, h.logDir())
		}
	}
	state, saved, found, err := log.OpenState(h.cfg.fs, dir)
	h.state, h.saved = state, saved
	switch {
	case errors.Is(err, log.ErrCorrupt):
		// What was promised is unknown: a new incarnation. The damaged file is kept beside the new one.
		return h.becomeNew(err.Error())
	case err != nil:
		return err
	case !found:
		return h.becomeNew("new directory")
	}
	for _, pair := range []struct{ what, there, here string }{
		{"cluster", saved.Cluster, h.cfg.Cluster}, {"group", saved.Group, h.cfg.Group}, {"node", string(saved.Node), h.cfg.Node},
	} {
		if pair.there != pair.here {
			return fmt.Errorf("replica directory %s belongs to %s %q, this process is started for %q", h.cfg.Dir, pair.what, pair.there, pair.here)
		}
	}
	if saved.BootID != "" && !saved.Clean {
		// The last life ran in a relaxed sync mode. Its bytes survived it unless the machine went down.
		boot, err := bootID()
		if err != nil {
			return err
		}
		if boot != saved.BootID {
			return h.becomeNew("the machine went down without a clean stop in a relaxed sync mode")
		}
	}
	return nil
}

// becomeNew writes a new incarnation, which has promised nothing, holds nothing and accepts nothing until it has learned
// the current epoch (S10).
func (h *home) becomeNew(why string) error {
	before := h.saved.Incarnation
	st := log.State{
		Incarnation: smr.Incarnation(randomID()),
		Cluster:     h.cfg.Cluster, Group: h.cfg.Group, Node: smr.NodeID(h.cfg.Node),
		LeaseHoldTicks: h.saved.LeaseHoldTicks,
	}
	if err := h.save(st); err != nil {
		return err
	}
	level := slog.LevelWarn
	if before == 0 {
		level = slog.LevelInfo
	}
	h.cfg.Logger.Log(context.Background(), level, "new incarnation", "group", h.cfg.Group, "node", h.cfg.Node,
		"incarnation", uint64(st.Incarnation), "before", uint64(before), "why", why)
	return nil
}

func (h *home) save(st log.State) error {
	if err := h.state.Save(st); err != nil {
		return fmt.Errorf("save hard state of %s: %w", h.cfg.Dir, err)
	}
	h.saved = st
	return nil
}

// openLog opens the log of this incarnation. Whatever else is found in its place goes to quarantine.
func (h *home) openLog() error {
	if err := h.recoverLog(); err != nil {
		return err
	}
	// The damage is reported until something is appended; without the mark a new incarnation has been taken already.
	if damage := h.report.Damage; damage != nil && h.saved.LogBegun {
		h.cfg.Logger.Error("log damaged", "group", h.cfg.Group, "node", h.cfg.Node, "file", damage.File,
			"lsn", uint64(damage.LSN), "quarantine", damage.Quarantine, "why", damage.Reason)
		return h.becomeNew("the log was damaged: " + damage.Reason)
	}
	end := h.log.End()
	switch {
	case h.saved.LogBegun && h.report.Files == 0:
		return h.becomeNew("the log is gone")
	case h.saved.LogBegun && h.log.Start() > h.saved.LogStart:
		h.cfg.Logger.Error("log damaged", "group", h.cfg.Group, "node", h.cfg.Node, "lsn", uint64(h.log.Start()),
			"why", "the oldest files are gone")
		if err := h.becomeNew(fmt.Sprintf("the log begins at %d and was trimmed to %d at most", h.log.Start(), h.saved.LogStart)); err != nil {
			return err
		}
		return h.setAside()
	case !h.saved.LogBegun && end > 0:
		return h.setAside()
	}
	return nil
}

// setAside quarantines a log that does not count and opens an empty one.
func (h *home) setAside() error {
	if err := h.log.Close(); err != nil {
		return fmt.Errorf("close a log that does not count: %w", err)
	}
	if err := h.quarantineLog(); err != nil {
		return err
	}
	return h.recoverLog()
}

func (h *home) recoverLog() error {
	opened, report, err := log.Open(log.Options{
		Dir: h.logDir(), FS: h.cfg.fs, FileSize: h.cfg.FileSize, Sync: h.cfg.Sync,
		Cluster: h.cfg.Cluster, Group: h.cfg.Group,
	})
	if err != nil {
		return err
	}
	h.log, h.report = opened, report
	return nil
}

// quarantineLog moves the log directory away, durably, and leaves none in its place.
func (h *home) quarantineLog() error {
	quarantine := filepath.Join(h.cfg.Dir, "quarantine")
	if err := h.cfg.fs.MkdirAll(labelQuarantine, quarantine); err != nil {
		return fmt.Errorf("quarantine a log that does not count: %w", err)
	}
	names, err := h.cfg.fs.List(labelQuarantine, quarantine)
	if err != nil {
		return fmt.Errorf("quarantine a log that does not count: %w", err)
	}
	name := fmt.Sprintf("log-before-%016x", uint64(h.saved.Incarnation))
	for n := 2; slices.Contains(names, name); n++ {
		name = fmt.Sprintf("log-before-%016x-%d", uint64(h.saved.Incarnation), n)
	}
	target := filepath.Join(quarantine, name)
	if err := h.cfg.fs.Rename(labelQuarantine, h.logDir(), target); err != nil {
		return fmt.Errorf("quarantine a log that does not count: %w", err)
	}
	for _, dir := range []string{quarantine, h.cfg.Dir} {
		if err := h.cfg.fs.SyncDir(labelQuarantine, dir); err != nil {
			return fmt.Errorf("quarantine a log that does not count: %w", err)
		}
	}
	h.cfg.Logger.Warn("log quarantined", "group", h.cfg.Group, "node", h.cfg.Node, "quarantine", target)
	return nil
}

// markStarted notes that a life has begun that has not ended cleanly yet. BootID is only written in a relaxed sync
// mode: it says that what this life appends may be lost with the machine.
func (h *home) markStarted() error {
	st := h.saved
	st.Clean, st.BootID = false, ""
	if h.cfg.Sync != smr.SyncAlways {
		boot, err := bootID()
		if err != nil {
			return err
		}
		st.BootID = boot
	}
	if st == h.saved {
		return nil
	}
	return h.save(st)
}

// markLogBegun is called when the first byte was appended to an empty log, before anybody hears of it.
func (h *home) markLogBegun() error {
	st := h.saved
	st.LogBegun = true
	return h.save(st)
}

// allowStart notes that the log may begin at lsn, before it does.
func (h *home) allowStart(lsn smr.LSN) error {
	if lsn <= h.saved.LogStart {
		return nil
	}
	st := h.saved
	st.LogStart = lsn
	return h.save(st)
}

// readConfig reads the newest epoch start of the log.
func (h *home) readConfig() error {
	history := h.log.History()
	if len(history) == 0 {
		return nil
	}
	from := history[len(history)-1].From
	if from < h.log.Start() {
		return nil
	}
	reader, err := log.OpenReader(h.cfg.fs, h.logDir())
	if err != nil {
		return fmt.Errorf("read the newest epoch start: %w", err)
	}
	defer reader.Close()
	_, _, err = reader.Frames(nil, from, h.log.End(), func(f smr.Frame, _ []byte) error {
		if f.Kind != smr.KindEpochStart {
			return fmt.Errorf("frame at %d is no epoch start but %s", f.LSN, f.Kind)
		}
		config, _, err := smr.DecodeConfig(f.Body)
		h.config = config
		return errors.Join(err, errEnough)
	})
	if err != nil && !errors.Is(err, errEnough) {
		return fmt.Errorf("read the newest epoch start at %d: %w", from, err)
	}
	return nil
}

// errEnough ends a visit of frames.
var errEnough = errors.New("enough")

// closeCleanly ends a life after which nothing is unsynced.
func (h *home) closeCleanly() error {
	if err := h.log.Close(); err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	st := h.saved
	st.Clean = true
	return h.save(st)
}

// release gives up the hard state and the lock.
func (h *home) release() {
	if h.state != nil {
		if err := h.state.Close(); err != nil {
			h.cfg.Logger.Warn("close hard state", slog.Any("error", err))
		}
		h.state = nil
	}
	if h.lock != nil {
		if err := h.lock.Close(); err != nil {
			h.cfg.Logger.Warn("unlock replica directory", slog.Any("error", err))
		}
		h.lock = nil
	}
}

// bootID names this boot of the machine.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id, which a relaxed sync mode needs: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// randomID returns a random number that is not zero.
func randomID() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:]) // never fails
		if id := binary.LittleEndian.Uint64(b[:]); id != 0 {
			return id
		}
	}
}
