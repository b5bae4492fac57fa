package simfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"

	"lockstep/log"
)

// file is an open handle.
type file struct {
	fs       *FS
	node     *node
	name     string
	writable bool
	closed   bool
}

func (h *file) enter(label log.Label, op string) (Verdict, error) {
	v, err := h.fs.enter(label, op, h.name)
	if err == nil && h.closed {
		err = fmt.Errorf("%s: %s: file is closed", label, h.name)
	}
	return v, err
}

func (h *file) ReadAt(label log.Label, p []byte, at int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	v, err := h.enter(label, "read")
	if err != nil {
		return 0, err
	}
	if at >= h.node.size && len(p) > 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), h.node.size-at))
	h.node.view.read(p[:n], at)
	if n < len(p) {
		return n, io.ErrUnexpectedEOF
	}
	return n, h.fs.leave(v, label)
}

func (h *file) WriteAt(label log.Label, p []byte, at int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return h.write(label, p, int64(len(p)), at)
}

// WriteBlocks implements log.File. It panics where zeros would be written over something, or behind the end of the file.
func (h *file) WriteBlocks(label log.Label, p []byte, at int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	end := at + int64(len(p))
	return h.write(label, p, (end+log.BlockSize-1)/log.BlockSize*log.BlockSize-at, at)
}

// WriteZeros implements log.File. It panics where they are not whole blocks.
func (h *file) WriteZeros(label log.Label, at, size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if at%log.BlockSize != 0 || size%log.BlockSize != 0 {
		panic(fmt.Sprintf("%s: %s: %d bytes at %d are not whole blocks", label, h.name, size, at))
	}
	return h.write(label, nil, size, at)
}

// write writes p and zeros behind it, length bytes in all. Who calls it holds the lock.
func (h *file) write(label log.Label, p []byte, length, at int64) error {
	v, err := h.enter(label, "write")
	if err != nil {
		if part := min(int64(v.Part), length); v.Err != nil && part > 0 {
			h.node.write(p[:min(int64(len(p)), part)], part, at)
		}
		return err
	}
	if err := h.grow(label, at+length); err != nil {
		return err
	}
	if err := h.convert(label, at+length); err != nil {
		return err
	}
	if padding := length - int64(len(p)); p != nil && padding > 0 {
		h.node.mustBeZero(h.name, at+int64(len(p)), padding)
	}
	h.node.write(p, length, at)
	return h.fs.leave(v, label)
}

// mustBeZero panics unless there are size zeros at offset at.
func (n *node) mustBeZero(name string, at, size int64) {
	if at+size > n.size {
		panic(fmt.Sprintf("%s ends at %d, and the block at %d is not all there", name, n.size, at))
	}
	b := make([]byte, size)
	if n.view.read(b, at); len(withoutZeros(b)) > 0 {
		panic(fmt.Sprintf("%s: something stands at %d, where zeros are to be", name, at))
	}
}

// grow checks that the file may become that long.
func (h *file) grow(label log.Label, size int64) error {
	if !h.writable {
		return fmt.Errorf("%s: %s: %w", label, h.name, syscall.EBADF)
	}
	if more := size - h.node.size; more > 0 && h.fs.capacity > 0 && h.fs.used()+more > h.fs.capacity {
		return fmt.Errorf("%s: %s: %w", label, h.name, syscall.ENOSPC)
	}
	return nil
}

// convert checks that bytes up to end may be written: on a full device the first write of what was only allocated may need
// a block of metadata, as it does on ext4.
func (h *file) convert(label log.Label, end int64) error {
	if end > h.node.written && h.fs.capacity > 0 && h.fs.used() >= h.fs.capacity {
		return fmt.Errorf("%s: %s: %w", label, h.name, syscall.ENOSPC)
	}
	h.node.written = max(h.node.written, end)
	return nil
}

// write notes a write of p and zeros behind it, length bytes in all, that is not durable yet.
func (n *node) write(p []byte, length, at int64) {
	n.size = max(n.size, at+length)
	w := write{at: at, bytes: append([]byte(nil), withoutZeros(p)...), length: length, size: n.size}
	n.writes = append(n.writes, w)
	n.view.apply(w)
}

// withoutZeros returns p without the zeros at its end.
func withoutZeros(p []byte) []byte {
	for len(p) >= 8 && binary.NativeEndian.Uint64(p[len(p)-8:]) == 0 {
		p = p[:len(p)-8]
	}
	for len(p) > 0 && p[len(p)-1] == 0 {
		p = p[:len(p)-1]
	}
	return p
}

func (h *file) Allocate(label log.Label, size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	v, err := h.enter(label, "allocate")
	if err != nil {
		return err
	}
	if err := h.grow(label, size); err != nil {
		return err
	}
	if size > h.node.size {
		h.node.size = size
		h.node.write(nil, 0, size)
	}
	return h.fs.leave(v, label)
}

func (h *file) Size(label log.Label) (int64, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	v, err := h.enter(label, "size")
	if err != nil {
		return 0, err
	}
	return h.node.size, h.fs.leave(v, label)
}

func (h *file) Sync(label log.Label) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	v, err := h.enter(label, "sync")
	if err != nil {
		if v.Err != nil && !errors.Is(err, ErrCrashed) {
			h.node.lost = append(h.node.lost, h.node.writes...)
			h.node.writes = nil
		}
		return err
	}
	for _, w := range h.node.writes {
		h.node.disk.apply(w)
	}
	clear(h.node.writes)
	h.node.writes = h.node.writes[:0]
	return h.fs.leave(v, label)
}

// WriteBack implements log.File: nothing is durable by it, and a crash tears what was not synced anyway.
func (h *file) WriteBack(label log.Label, _, _ int64) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if v, err := h.enter(label, "writeback"); err == nil {
		_ = h.fs.leave(v, label)
	}
}

func (h *file) DropCache(label log.Label) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	v, err := h.enter(label, "dropcache")
	if err != nil {
		return err
	}
	if h.node.lost != nil {
		h.node.forget()
	}
	return h.fs.leave(v, label)
}

// forget takes what a failed sync has left in memory only away.
func (n *node) forget() {
	n.view = n.disk.share()
	for _, w := range n.writes {
		n.view.apply(w)
	}
	n.view.extend(n.size) // the length is file-system metadata; the journal has it
	n.lost = nil
}

func (h *file) Removed(label log.Label) (bool, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	v, err := h.enter(label, "removed")
	if err != nil {
		return false, err
	}
	return h.node.removed, h.fs.leave(v, label)
}

func (h *file) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	h.closed = true
	return nil
}
