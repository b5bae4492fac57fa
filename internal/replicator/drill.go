package replicator

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"lockstep/internal/fault"
	"lockstep/internal/pause"
	"lockstep/log"
)

// newAgent returns what makes faults in this process when a drill asks for them. quarantine sets log and hard state aside.
func newAgent(cfg Config, local *local) *fault.Agent {
	return fault.New(fault.Options{
		Allowed: cfg.AllowDrills, KVNode: local.process, Disk: true, Links: true, LoseLog: func() error { return loseLog(cfg.Dir) },
		Logger: cfg.Logger.With("group", cfg.Group, "node", cfg.Node),
	})
}

// process is the id of the attached KV node's process as the kernel tells it, 0 if there is none or it cannot be seen from here.
func (l *local) process() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil || !l.attached.Load() {
		return 0
	}
	return fault.PeerProcess(l.current.conn)
}

// loseLog sets log and hard state aside, as if the disk had been lost; the process ends right after, and the next one comes back as
// a new incarnation. The log goes first: hard state without a log is a lost log, a log without hard state would be refused.
func loseLog(dir string) error {
	aside := filepath.Join(dir, "quarantine", "log-before-drill-"+time.Now().UTC().Format("20060102T150405"))
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"log", "state"} {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(aside, name)); err != nil {
			return err
		}
	}
	return nil
}

// drillFS is a file system whose syncs a drill can slow down.
type drillFS struct {
	log.FS
	delay func() time.Duration
}

// Create implements log.FS.
func (fs drillFS) Create(label log.Label, name string) (log.File, error) {
	return fs.file(fs.FS.Create(label, name))
}

// Open implements log.FS.
func (fs drillFS) Open(label log.Label, name string) (log.File, error) {
	return fs.file(fs.FS.Open(label, name))
}

func (fs drillFS) file(f log.File, err error) (log.File, error) {
	if err != nil {
		return nil, err
	}
	return drillFile{f, fs.delay}, nil
}

type drillFile struct {
	log.File
	delay func() time.Duration
}

// Sync implements log.File.
func (f drillFile) Sync(label log.Label) error {
	if delay := f.delay(); delay > 0 {
		pause.For(context.Background(), delay)
	}
	return f.File.Sync(label)
}
