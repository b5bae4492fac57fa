package floor

import (
	"encoding/binary"
	"fmt"
)

const (
	headerSize = 24
	// maxFrame bounds a frame in bytes, maxRun what a logger takes at once.
	maxFrame = 8 << 20
	maxRun   = 2 * maxFrame
)

// header is a view of a frame's first bytes.
type header []byte

func (h header) size() int          { return int(binary.LittleEndian.Uint32(h)) }
func (h header) number() uint64     { return binary.LittleEndian.Uint64(h[8:]) }
func (h header) commit() uint64     { return binary.LittleEndian.Uint64(h[16:]) }
func (h header) setCommit(n uint64) { binary.LittleEndian.PutUint64(h[16:], n) }

func (h header) set(size int, number, commit uint64) {
	binary.LittleEndian.PutUint64(h, uint64(size))
	binary.LittleEndian.PutUint64(h[8:], number)
	h.setCommit(commit)
}

// inbound gathers frames, or numbers, that come in pieces.
type inbound struct {
	memory
	end int // of what has come
}

func newInbound(size int) *inbound { return &inbound{memory: newMemory(size)} }

// receive reads once. more reports that there may be more to read.
func (in *inbound) receive(fd int) (more bool, err error) {
	n, err := in.read(fd, in.end)
	in.end += n
	return n > 0 && in.end == len(in.bytes), err
}

// drop forgets the first bytes.
func (in *inbound) drop(size int) {
	copy(in.bytes, in.bytes[size:in.end])
	in.end -= size
}

// frames returns the bytes of the whole frames that have come, and the header of the last one.
func (in *inbound) frames() (end int, last header, err error) {
	for in.end-end >= headerSize {
		h := header(in.bytes[end:in.end])
		size := h.size()
		if size < headerSize || size > maxFrame {
			return 0, nil, fmt.Errorf("a frame of %d bytes came", size)
		}
		if in.end-end < size {
			break
		}
		end, last = end+size, h
	}
	return end, last, nil
}

// number returns the last number that has come, and forgets all of them; 0 if there is none.
func (in *inbound) number() uint64 {
	whole := in.end &^ 7
	if whole == 0 {
		return 0
	}
	last := binary.LittleEndian.Uint64(in.bytes[whole-8:])
	in.drop(whole)
	return last
}
