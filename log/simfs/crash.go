package simfs

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sort"
)

// Image says which of the changes that were not synced a crash leaves.
type Image struct {
	// Pages and Names decide about writes and about changes of names.
	Pages, Names Fate
	// Seed is drawn from where Fate is Torn.
	Seed uint64
}

// Fate of what was not synced.
type Fate uint8

const (
	// Lost: nothing of it is there.
	Lost Fate = iota
	// Kept: all of it is there. With Pages and Names both Kept it was only the process that died: nothing became
	// durable by it, and a later crash may still take it.
	Kept
	// Torn: each sector and each change of names fares by itself.
	Torn
	// Backwards: of each file only the last write is there, as if the cache had been written back in the wrong order.
	// Of the changes of names the later half.
	Backwards
)

func (f Fate) String() string { return [...]string{"lost", "kept", "torn", "backwards"}[f] }

func (i Image) String() string {
	return fmt.Sprintf("pages %s, names %s, seed %d", i.Pages, i.Names, i.Seed)
}

// Crashed returns the file system that the next process finds if the machine stops now. This one is not changed, and
// may be crashed again with another Image.
func (f *FS) Crashed(image Image) *FS {
	if image.Pages == Kept && image.Names == Kept {
		return f.Clone()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	draw := rand.New(rand.NewPCG(image.Seed, 1))
	survivors := make(map[string]*node, len(f.durable))
	for name, n := range f.durable { // a copy: the order does not matter
		survivors[name] = n
	}
	for i, c := range f.pending {
		keep := false
		switch image.Names {
		case Kept:
			keep = true
		case Torn:
			keep = draw.IntN(2) == 0
		case Backwards:
			keep = i >= len(f.pending)/2
		}
		if keep {
			for _, b := range c.set {
				bind(survivors, b)
			}
		}
	}
	next := New()
	next.capacity = f.capacity
	names := make([]string, 0, len(survivors))
	for name := range survivors { // sorted below: the draws must come in one order
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if parent := survivors[filepath.Dir(name)]; parent == nil || !parent.dir {
			continue
		}
		n := survivors[name].crashed(image.Pages, draw)
		next.names[name], next.durable[name] = n, n
	}
	return next
}

// Clone returns the file system as the next process finds it if only this process dies: a deep copy, cache and all,
// without locks, hook and crash.
func (f *FS) Clone() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := New()
	next.capacity = f.capacity
	copies := map[*node]*node{nil: nil}
	copyOf := func(n *node) *node {
		if c, ok := copies[n]; ok {
			return c
		}
		c := *n
		c.disk, c.view = n.disk.share(), n.view.share()
		// The bytes of a write never change.
		c.writes = append([]write(nil), n.writes...)
		c.lost = append([]write(nil), n.lost...)
		copies[n] = &c
		return &c
	}
	for name, n := range f.names { // copies: the order does not matter
		next.names[name] = copyOf(n)
	}
	for name, n := range f.durable {
		next.durable[name] = copyOf(n)
	}
	for _, c := range f.pending {
		set := make([]binding, len(c.set))
		for i, b := range c.set {
			set[i] = binding{b.name, copyOf(b.node)}
		}
		next.pending = append(next.pending, change{set: set})
	}
	return next
}

// newNode returns a file with that content, all of it durable.
func newNode(disk content) *node {
	return &node{view: disk.share(), disk: disk, size: disk.size, written: disk.size}
}

// crashed returns what the disk holds of n.
func (n *node) crashed(fate Fate, draw *rand.Rand) *node {
	if n.dir {
		return &node{dir: true}
	}
	disk := n.disk.share()
	if len(n.writes) == 0 || fate == Lost {
		return newNode(disk)
	}
	switch fate {
	case Kept:
		for _, w := range n.writes {
			disk.apply(w)
		}
	case Backwards:
		disk.apply(n.writes[len(n.writes)-1])
	case Torn:
		n.tear(&disk, draw)
	}
	return newNode(disk)
}

// tear applies to each sector of disk the first few of the writes that touch it.
func (n *node) tear(disk *content, draw *rand.Rand) {
	size := n.writes[len(n.writes)-1].size
	kept := disk.size
	disk.extend(size)
	for at := int64(0); at < size; at += SectorSize {
		end := min(at+SectorSize, size)
		var touching []write
		for _, w := range n.writes {
			if w.at < end && w.at+w.length > at {
				touching = append(touching, w)
			}
		}
		if len(touching) == 0 {
			continue
		}
		count := draw.IntN(len(touching) + 1)
		for _, w := range touching[:count] {
			from, to, zeros := max(at, w.at), min(end, w.at+w.length), w.at+int64(len(w.bytes))
			if from < zeros {
				disk.put(w.bytes[from-w.at:min(to, zeros)-w.at], from)
			}
			disk.zero(max(from, zeros), to)
		}
		if count > 0 {
			kept = max(kept, end)
		}
	}
	if kept < size && draw.IntN(2) == 0 {
		disk.shrink(kept)
	}
}

// FlipBit flips one bit of a file, on the disk and in memory, and makes everything else of it durable first. What a failed
// sync has left in memory only goes, as it would with the cache.
func (f *FS) FlipBit(name string, at int64, bit uint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.names[filepath.Clean(name)]
	if n == nil || n.dir || at >= n.size {
		return fmt.Errorf("flip bit in %s at %d: %w", name, at, fs.ErrNotExist)
	}
	if n.lost != nil {
		n.forget()
	}
	n.view.own(int(at / SectorSize))[at%SectorSize] ^= 1 << bit
	n.disk = n.view.share()
	n.writes, n.lost = nil, nil
	return nil
}

// ReadFile returns the bytes of a file as processes see them.
func (f *FS) ReadFile(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.names[filepath.Clean(name)]
	if n == nil || n.dir {
		return nil, fmt.Errorf("read %s: %w", name, fs.ErrNotExist)
	}
	return n.view.all(), nil
}

// WriteFile sets the bytes of a file, durably, and makes it if missing: for tests that write what no program would.
func (f *FS) WriteFile(name string, bytes []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name = filepath.Clean(name)
	for at := filepath.Dir(name); f.names[at] == nil; at = filepath.Dir(at) {
		made := &node{dir: true}
		f.names[at], f.durable[at] = made, made
	}
	n := newNode(contentOf(bytes))
	f.names[name], f.durable[name] = n, n
}

// Files returns the names of all files, sorted.
func (f *FS) Files() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name, n := range f.names { // sorted below
		if !n.dir {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}
