package client

import (
	"sync"

	"lockstep/smr"
)

// view is what the local connection has told last, for all goroutines.
type view struct {
	// statusChanged and targetChanged wake the apply loop and the master goroutine (1 each).
	statusChanged, targetChanged chan struct{}

	mu       sync.Mutex
	attached bool
	status   smr.Status
	logDir   string
	// attachments counts the local connections: with each one the log may be another one.
	attachments uint64
	trouble     string
	lenders     []smr.ImageSource // whom to ask for an image; replaced, never changed
	lent        uint64            // counts lists of them
}

// place is where the log is read.
type place struct {
	logDir      string
	attachments uint64
}

// target is the master to be connected to.
type target struct {
	node    smr.NodeID
	address string
	epoch   smr.Epoch
}

func (v *view) init() {
	v.statusChanged, v.targetChanged = make(chan struct{}, 1), make(chan struct{}, 1)
}

func (v *view) load() (smr.Status, place) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.status, place{logDir: v.logDir, attachments: v.attachments}
}

// target returns the master to be connected to; its address is empty if none is known.
func (v *view) target() target {
	v.mu.Lock()
	defer v.mu.Unlock()
	return target{node: v.status.Master, address: v.status.MasterAddr, epoch: v.status.Epoch}
}

// attach notes a new local connection. Its first status is still to come: what was safe in the log that was there before
// says nothing about the one that is there now.
func (v *view) attach(logDir string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.attached, v.logDir, v.status.Safe = true, logDir, 0
	v.status.Start, v.status.NeedImage, v.lenders = 0, 0, nil
	v.attachments++
}

// detach notes that the replicator is away. The master it named stays the best guess.
func (v *view) detach() (wasWritable bool) {
	v.mu.Lock()
	wasWritable = v.status.Writable
	v.attached = false
	v.status.Role, v.status.Writable = smr.RoleNone, false
	v.mu.Unlock()
	signal(v.statusChanged)
	return wasWritable
}

// show notes a status and reports whether it differs from the one before, and Writable in it. Whoever executes is told by the caller.
func (v *view) show(status smr.Status) (changed, writableChanged bool) {
	v.mu.Lock()
	before := v.status
	v.status = status
	v.mu.Unlock()
	if before.Master != status.Master || before.MasterAddr != status.MasterAddr || before.Epoch != status.Epoch {
		signal(v.targetChanged)
	}
	return before != status, before.Writable != status.Writable
}

// showSources notes whom to ask for an image.
func (v *view) showSources(sources []smr.ImageSource) {
	v.mu.Lock()
	v.lenders = sources
	v.lent++
	v.mu.Unlock()
	signal(v.statusChanged)
}

// sources returns whom to ask, and the number of this list.
func (v *view) sources() ([]smr.ImageSource, uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lenders, v.lent
}

// note says why the log cannot be read, "" if it can, and reports whether that is new.
func (v *view) note(trouble string) (changed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	changed = v.trouble != trouble
	v.trouble = trouble
	return changed
}

func (v *view) condition() (attached bool, trouble string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.attached, v.trouble
}
