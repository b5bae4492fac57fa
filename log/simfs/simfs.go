package simfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"

	"lockstep/log"
)

// SectorSize is the grain in bytes at which a crash tears writes.
const SectorSize = 512

// ErrCrashed is returned by every call after a crash.
var ErrCrashed = errors.New("simulated crash")

// Call describes one call to Hook.
type Call struct {
	// Number counts the calls of this FS from 1.
	Number int
	Label  log.Label
	// Op is the method: "write", "sync", "rename" and so on. Name is the file it is about.
	Op, Name string
}

// Verdict is what Hook decides about a call.
type Verdict struct {
	// Err fails the call: it does nothing and returns an error that wraps Err.
	Err error
	// Part, with Err, makes a failed write write this many bytes first.
	Part int
	// CrashBefore and CrashAfter end this FS before or after the call has happened.
	CrashBefore, CrashAfter bool
}

// FS is the file system as one process life sees it, or several that share it. Safe for concurrent use.
type FS struct {
	mu       sync.Mutex
	hook     func(Call) Verdict
	calls    int
	crashed  bool
	capacity int64 // bytes of all files together; 0 means no bound

	names   map[string]*node // as processes see them
	durable map[string]*node // as the disk has them
	pending []change         // changes of names that are not durable, in order
	locks   map[string]bool
}

var _ log.FS = (*FS)(nil)

// node is a file or, with dir set, a directory.
type node struct {
	dir     bool
	disk    content // durable
	writes  []write // not durable, in order
	lost    []write // a failed sync forgot them: visible until DropCache, never durable
	size    int64   // as processes see it
	written int64   // above it nothing was ever written
	view    content // disk with lost and writes applied
	removed bool
}

// write is one write: bytes, and zeros behind them, length in all.
type write struct {
	at     int64
	bytes  []byte
	length int64
	size   int64 // length of the file after it
}

// change is one change of names: every entry of set happens, or none. A nil node removes the name.
type change struct {
	set []binding
}

type binding struct {
	name string
	node *node
}

// New returns an empty file system.
func New() *FS {
	root := &node{dir: true}
	return &FS{
		names:   map[string]*node{"/": root},
		durable: map[string]*node{"/": root},
		locks:   map[string]bool{},
	}
}

// SetHook installs hook, which is called under the FS's lock before each call; nil removes it.
func (f *FS) SetHook(hook func(Call) Verdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// SetCapacity bounds the bytes of all files together; what would exceed it fails with ENOSPC. 0 means no bound.
func (f *FS) SetCapacity(size int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.capacity = size
}

// Used returns the bytes of all files together.
func (f *FS) Used() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used()
}

func (f *FS) used() int64 {
	var sum int64
	for _, n := range f.names { // a sum: the order does not matter
		sum += n.size
	}
	return sum
}

// Calls returns how many calls there were.
func (f *FS) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// enter counts a call and asks the hook.
func (f *FS) enter(label log.Label, op, name string) (v Verdict, err error) {
	if f.crashed {
		return v, fmt.Errorf("%s: %s %s: %w", label, op, name, ErrCrashed)
	}
	f.calls++
	if f.hook != nil {
		v = f.hook(Call{Number: f.calls, Label: label, Op: op, Name: name})
	}
	if v.CrashAfter {
		f.crashed = true // this call still goes on: it holds the lock
	}
	if v.CrashBefore {
		f.crashed = true
		return v, fmt.Errorf("%s: %s %s: %w", label, op, name, ErrCrashed)
	}
	if v.Err != nil {
		return v, fmt.Errorf("%s: %s %s: %w", label, op, name, v.Err)
	}
	return v, nil
}

// leave ends a call that was carried out.
func (f *FS) leave(v Verdict, label log.Label) error {
	if v.CrashAfter {
		return fmt.Errorf("%s: %w", label, ErrCrashed)
	}
	return nil
}

// apply makes a change of names visible.
func (f *FS) apply(set ...binding) {
	for _, b := range set {
		bind(f.names, b)
	}
	f.pending = append(f.pending, change{set: set})
}

func bind(names map[string]*node, b binding) {
	if b.node == nil {
		delete(names, b.name)
		return
	}
	names[b.name] = b.node
}

// MkdirAll implements log.FS. Like log.OS it makes what it creates durable.
func (f *FS) MkdirAll(label log.Label, dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.enter(label, "mkdir", dir)
	if err != nil {
		return err
	}
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		if n := f.names[at]; n != nil && !n.dir {
			return fmt.Errorf("%s: %s: %w", label, at, syscall.ENOTDIR)
		} else if n == nil {
			made := &node{dir: true}
			f.names[at], f.durable[at] = made, made
		}
		if at == filepath.Dir(at) {
			break
		}
	}
	return f.leave(v, label)
}

// List implements log.FS.
func (f *FS) List(label log.Label, dir string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.enter(label, "list", dir)
	if err != nil {
		return nil, err
	}
	dir = filepath.Clean(dir)
	if n := f.names[dir]; n == nil || !n.dir {
		return nil, fmt.Errorf("%s: %s: %w", label, dir, fs.ErrNotExist)
	}
	var names []string
	for name := range f.names { // sorted below
		if filepath.Dir(name) == dir && name != dir {
			names = append(names, filepath.Base(name))
		}
	}
	sort.Strings(names)
	return names, f.leave(v, label)
}

// Create implements log.FS.
func (f *FS) Create(label log.Label, name string) (log.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.enter(label, "create", name)
	if err != nil {
		return nil, err
	}
	name = filepath.Clean(name)
	if f.names[name] != nil {
		return nil, fmt.Errorf("%s: %s: %w", label, name, fs.ErrExist)
	}
	if parent := f.names[filepath.Dir(name)]; parent == nil || !parent.dir {
		return nil, fmt.Errorf("%s: %s: %w", label, name, fs.ErrNotExist)
	}
	n := newNode(content{self: new(owner)})
	f.apply(binding{name, n})
	return &file{fs: f, node: n, name: name, writable: true}, f.leave(v, label)
}

// Open implements log.FS.
func (f *FS) Open(label log.Label, name string) (log.File, error) { return f.open(label, name, true) }

// OpenRead implements log.FS.
func (f *FS) OpenRead(label log.Label, name string) (log.File, error) {
	return f.open(label, name, false)
}

func (f *FS) open(label log.Label, name string, writable bool) (log.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.enter(label, "open", name)
	if err != nil {
		return nil, err
	}
	n := f.names[filepath.Clean(name)]
	if n == nil {
		return nil, fmt.Errorf("%s: %s: %w", label, name, fs.ErrNotExist)
	}
	if n.dir {
		return nil, fmt.Errorf("%s: %s: %w", label, name, syscall.EISDIR)
	}
	return &file{fs: f, node: n, name: name, writable: writable}, f.leave(v, label)
}

// Rename implements log.FS.
func (f *FS) Rename(label log.Label, source, target string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.enter(label, "rename", target)
	if err != nil {
		return err
	}
	source, target = filepath.Clean(source), filepath.Clean(target)
	n := f.names[source]
	if n == nil {
		return fmt.Errorf("%s: %s: %w", label, source, fs.ErrNotExist)
	}
	if parent := f.names[filepath.Dir(target)]; parent == nil || !parent.dir {
		return fmt.Errorf("%s: %s: %w", label, target, fs.ErrNotExist)
	}
	if n.dir {
		if f.names[target] != nil {
			return fmt.Errorf("%s: %s: %w", label, target, fs.ErrExist)
		}
		f.apply(f.moved(source, target)...)
		return f.leave(v, label)
	}
	if replaced := f.names[target]; replaced != nil && replaced != n {
		replaced.removed = true
	}
	f.apply(binding{source, nil}, binding{target, n})
	return f.leave(v, label)
}

// moved returns the bindings that rename a directory with all that is in it, as one change.
func (f *FS) moved(source, target string) []binding {
	var names []string
	for name := range f.names { // sorted below
		if name == source || strings.HasPrefix(name, source+string(filepath.Separator)) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var set []binding
	for _, name := range names {
		set = append(set, binding{name, nil}, binding{target + name[len(source):], f.names[name]})
	}
	return set
}

// Remove implements log.FS.
func (f *FS) Remove(label log.Label, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.enter(label, "remove", name)
	if err != nil {
		return err
	}
	name = filepath.Clean(name)
	n := f.names[name]
	if n == nil || n.dir {
		return fmt.Errorf("%s: %s: %w", label, name, fs.ErrNotExist)
	}
	n.removed = true
	f.apply(binding{name, nil})
	return f.leave(v, label)
}

// Release implements log.FS: as DropCache of the whole file. What waits to be synced stays.
func (f *FS) Release(label log.Label, name string, _, _ int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.enter(label, "release", name)
	if err != nil {
		return
	}
	if n := f.names[filepath.Clean(name)]; n != nil && n.lost != nil {
		n.forget()
	}
	_ = f.leave(v, label)
}

// SyncDir implements log.FS: every pending change that touches a name in dir becomes durable, as a whole.
func (f *FS) SyncDir(label log.Label, dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.enter(label, "syncdir", dir)
	if err != nil {
		return err
	}
	dir = filepath.Clean(dir)
	// Changes of one name must keep their order, so all up to the last one that touches dir go along.
	last := -1
	for i, c := range f.pending {
		for _, b := range c.set {
			if filepath.Dir(b.name) == dir {
				last = i
			}
		}
	}
	for _, c := range f.pending[:last+1] {
		for _, b := range c.set {
			bind(f.durable, b)
		}
	}
	f.pending = append([]change(nil), f.pending[last+1:]...)
	return f.leave(v, label)
}

// Lock implements log.FS.
func (f *FS) Lock(label log.Label, name string) (io.Closer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.enter(label, "lock", name)
	if err != nil {
		return nil, err
	}
	if f.locks[name] {
		return nil, fmt.Errorf("%s: %s is locked", label, name)
	}
	f.locks[name] = true
	return &unlocker{f, name}, f.leave(v, label)
}

type unlocker struct {
	fs   *FS
	name string
}

func (u *unlocker) Close() error {
	u.fs.mu.Lock()
	defer u.fs.mu.Unlock()
	delete(u.fs.locks, u.name)
	return nil
}
