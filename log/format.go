package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"

	"lockstep/smr"

	"github.com/cespare/xxhash/v2"
)

// The bytes of a log file's metadata part, drawn in doc.go. Everything here is a pure function of its arguments.

const (
	formatVersion = 1
	maxPageSize   = 16 << 10 // bytes of the data part under one checksum, less in smaller files
	slotSize      = 64
	digestSize    = 76 // an xxhash.Digest as MarshalBinary writes it
	sealHead      = 96 // bytes of a seal before its table
	headerFixed   = 168
	spanSize      = 16
	maxName       = 255 // bytes of a cluster's or group's name

	// MinFileSize and MaxFileSize bound the data part of a file, in bytes.
	MinFileSize = 4 << 10
	MaxFileSize = 1 << 30
	// DefaultFileSize is the data part of a file unless Options says otherwise, in bytes.
	DefaultFileSize = 64 << 20

	_ = uint(-(DefaultFileSize % maxPageSize)) // pages fill a file exactly
	_ = uint(-(MinFileSize % BlockSize))       // zeros behind what is appended never reach the metadata
	_ = uint(BlockSize - headerFixed - 2 - 2*maxName)
)

var (
	headerMagic = [8]byte{'l', 'o', 'c', 'k', 's', 't', 'e', 'p'}
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// layout says where the parts of a file lie, as offsets in bytes.
type layout struct {
	dataSize  int64
	pageSize  int64
	pages     int
	sealAt    int64
	historyAt int64
}

func layoutOf(dataSize int64) layout {
	pageSize := min(dataSize, maxPageSize)
	pages := int(dataSize / pageSize)
	sealAt := dataSize + 2*BlockSize
	return layout{
		dataSize:  dataSize,
		pageSize:  pageSize,
		pages:     pages,
		sealAt:    sealAt,
		historyAt: sealAt + roundUp(int64(sealHead+4*pages)),
	}
}

// slotAt returns where the slot of that sequence lies: two slots take turns, each in a block of its own.
func (y layout) slotAt(sequence uint64) int64 { return y.dataSize + int64(sequence%2)*BlockSize }

// sealBlocks returns the size of the blocks that hold the seal.
func (y layout) sealBlocks() int64 { return y.historyAt - y.sealAt }

// fileSize returns the length of a file whose header lists spans History entries.
func (y layout) fileSize(spans int) int64 {
	return y.historyAt + max(BlockSize, roundUp(int64(spans)*spanSize)) + BlockSize
}

func roundUp(n int64) int64 { return (n + BlockSize - 1) / BlockSize * BlockSize }

func checkDataSize(n int64) error {
	if n < MinFileSize || n > MaxFileSize || bits.OnesCount64(uint64(n)) != 1 {
		return fmt.Errorf("file size %d: use a power of two from %d to %d", n, MinFileSize, MaxFileSize)
	}
	return nil
}

// header is the last block of a file, with the History in front of it. It is written once, before the file gets
// its name. It holds what recovery must know about the stream below the file.
type header struct {
	base     smr.LSN
	dataSize int64
	// frameStart and firstFrame enclose the frame that covers the bytes on both sides of base. If base is itself
	// the start of a frame, both are equal to base.
	frameStart, firstFrame smr.LSN
	headSum                uint32 // CRC32C of the bytes [base, min(firstFrame, end of file))
	// As of the frames that begin below base:
	stamp   int64
	commit  smr.LSN
	history smr.History
	digest  [digestSize]byte // of all bytes below base
	cluster string
	group   string
}

func (h *header) layout() layout { return layoutOf(h.dataSize) }
func (h *header) end() smr.LSN   { return h.base + smr.LSN(h.dataSize) }

// encode returns the History block(s) and the header block, which lie one behind the other from layout.historyAt to the end
// of a file of that size, at least layout.fileSize.
func (h *header) encode(size int64) []byte {
	y := h.layout()
	assert(size >= y.fileSize(len(h.history)), "a file has room for its History")
	b := make([]byte, size-y.historyAt)
	for i, span := range h.history {
		binary.LittleEndian.PutUint64(b[i*spanSize:], uint64(span.Epoch))
		binary.LittleEndian.PutUint64(b[i*spanSize+8:], uint64(span.From))
	}
	p := b[len(b)-BlockSize:]
	copy(p, headerMagic[:])
	binary.LittleEndian.PutUint32(p[8:], formatVersion)
	binary.LittleEndian.PutUint64(p[16:], uint64(h.base))
	binary.LittleEndian.PutUint64(p[24:], uint64(h.dataSize))
	binary.LittleEndian.PutUint32(p[32:], uint32(y.pageSize))
	binary.LittleEndian.PutUint32(p[36:], uint32(len(h.history)))
	binary.LittleEndian.PutUint32(p[40:], crc32.Checksum(b[:len(b)-BlockSize], castagnoli))
	binary.LittleEndian.PutUint32(p[44:], h.headSum)
	binary.LittleEndian.PutUint64(p[48:], uint64(h.frameStart))
	binary.LittleEndian.PutUint64(p[56:], uint64(h.firstFrame))
	binary.LittleEndian.PutUint64(p[64:], uint64(h.stamp))
	binary.LittleEndian.PutUint64(p[72:], uint64(h.commit))
	binary.LittleEndian.PutUint64(p[80:], identityHash(h.cluster, h.group))
	copy(p[88:], h.digest[:])
	names := append(p[headerFixed:headerFixed], byte(len(h.cluster)))
	names = append(names, h.cluster...)
	names = append(names, byte(len(h.group)))
	_ = append(names, h.group...)
	binary.LittleEndian.PutUint32(p[12:], blockSum(p))
	return b
}

func identityHash(cluster, group string) uint64 {
	return xxhash.Sum64String(cluster + "\x00" + group)
}

// blockSum is the CRC32C of a header block with its own field left out. Its place, and those of magic and
// version, are the same in every version to come.
func blockSum(p []byte) uint32 {
	return crc32.Update(crc32.Checksum(p[:12], castagnoli), castagnoli, p[16:])
}

var errBadHeader = errors.New("header does not check")

// decodeHeader reads the last block of a file of that length. The History is checked by decodeHistory.
// Errors: ErrNewerFormat, or errBadHeader with the reason.
func decodeHeader(p []byte, length int64) (header, int, uint32, error) {
	bad := func(format string, a ...any) (header, int, uint32, error) {
		return header{}, 0, 0, fmt.Errorf("%w: %s", errBadHeader, fmt.Sprintf(format, a...))
	}
	switch {
	case len(p) != BlockSize || [8]byte(p[:8]) != headerMagic:
		return bad("no log file")
	case blockSum(p) != binary.LittleEndian.Uint32(p[12:]):
		return bad("checksum differs")
	}
	if v := binary.LittleEndian.Uint32(p[8:]); v > formatVersion {
		return header{}, 0, 0, fmt.Errorf("%w: version %d, this program knows %d", ErrNewerFormat, v, formatVersion)
	} else if v == 0 {
		return bad("version 0")
	}
	h := header{
		base:       smr.LSN(binary.LittleEndian.Uint64(p[16:])),
		dataSize:   int64(binary.LittleEndian.Uint64(p[24:])),
		headSum:    binary.LittleEndian.Uint32(p[44:]),
		frameStart: smr.LSN(binary.LittleEndian.Uint64(p[48:])),
		firstFrame: smr.LSN(binary.LittleEndian.Uint64(p[56:])),
		stamp:      int64(binary.LittleEndian.Uint64(p[64:])),
		commit:     smr.LSN(binary.LittleEndian.Uint64(p[72:])),
		digest:     [digestSize]byte(p[88:]),
	}
	if err := checkDataSize(h.dataSize); err != nil {
		return bad("%v", err)
	}
	spans := int(binary.LittleEndian.Uint32(p[36:]))
	y := h.layout()
	switch {
	case binary.LittleEndian.Uint32(p[32:]) != uint32(y.pageSize) || spans > smr.MaxHistory || y.fileSize(spans) > length || length > y.fileSize(smr.MaxHistory) || length%BlockSize != 0:
		return bad("%d bytes of data, %d spans of History in a file of %d bytes", h.dataSize, spans, length)
	case h.frameStart > h.base || h.firstFrame < h.base || (h.frameStart == h.base) != (h.firstFrame == h.base):
		return bad("base %d in a frame from %d to %d", h.base, h.frameStart, h.firstFrame)
	case h.end() < h.base:
		return bad("base %d is too high", h.base)
	}
	var ok bool
	names := p[headerFixed:]
	if h.cluster, names, ok = cutString(names); !ok {
		return bad("cluster name")
	}
	if h.group, _, ok = cutString(names); !ok {
		return bad("group name")
	}
	if binary.LittleEndian.Uint64(p[80:]) != identityHash(h.cluster, h.group) {
		return bad("names and their hash differ")
	}
	return h, spans, binary.LittleEndian.Uint32(p[40:]), nil
}

func cutString(b []byte) (string, []byte, bool) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return "", b, false
	}
	n := int(b[0])
	return string(b[1 : 1+n]), b[1+n:], true
}

// decodeHistory reads the blocks in front of the header block.
func decodeHistory(b []byte, spans int, sum uint32, base smr.LSN) (smr.History, error) {
	if crc32.Checksum(b, castagnoli) != sum {
		return nil, fmt.Errorf("%w: checksum of the History differs", errBadHeader)
	}
	history := make(smr.History, spans)
	for i := range history {
		history[i].Epoch = smr.Epoch(binary.LittleEndian.Uint64(b[i*spanSize:]))
		history[i].From = smr.LSN(binary.LittleEndian.Uint64(b[i*spanSize+8:]))
	}
	if err := history.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadHeader, err)
	}
	if spans > 0 && history[spans-1].From >= base {
		return nil, fmt.Errorf("%w: History at %d names LSN %d", errBadHeader, base, history[spans-1].From)
	}
	return history, nil
}

// slotKind says what a slot's LSN means.
type slotKind uint32

const (
	// slotDurable: everything below the LSN, a frame boundary, was durable when the slot was written.
	slotDurable slotKind = 0x6b72616d
	// slotClean: the same, and the log was closed and ends there.
	slotClean slotKind = 0x6e61656c
	// slotContinued: the same, and a further file follows this one.
	slotContinued slotKind = 0x746e6f63
	// slotRewind: the log must end at the LSN, which lies in this file; recovery finishes what was begun.
	slotRewind slotKind = 0x6e697772
)

// slot is one state of a file's durable mark. Two slots take turns by sequence; the higher valid one holds.
type slot struct {
	kind     slotKind
	sequence uint64
	base     smr.LSN
	lsn      smr.LSN
	reached  smr.LSN // End when the slot was written: for the reader of a dump, not for recovery
}

func (s slot) encode(p *[slotSize]byte) {
	clear(p[:])
	binary.LittleEndian.PutUint32(p[4:], uint32(s.kind))
	binary.LittleEndian.PutUint64(p[8:], s.sequence)
	binary.LittleEndian.PutUint64(p[16:], uint64(s.base))
	binary.LittleEndian.PutUint64(p[24:], uint64(s.lsn))
	binary.LittleEndian.PutUint64(p[32:], uint64(s.reached))
	binary.LittleEndian.PutUint32(p[:], crc32.Checksum(p[4:], castagnoli))
}

// decodeSlot reads the block of a slot. A block that was never written (all zero) has ok false and damaged false.
func decodeSlot(block []byte, base smr.LSN, index int) (s slot, ok, damaged bool) {
	if allZero(block) {
		return slot{}, false, false
	}
	p := block[:slotSize]
	s = slot{
		kind:     slotKind(binary.LittleEndian.Uint32(p[4:])),
		sequence: binary.LittleEndian.Uint64(p[8:]),
		base:     smr.LSN(binary.LittleEndian.Uint64(p[16:])),
		lsn:      smr.LSN(binary.LittleEndian.Uint64(p[24:])),
		reached:  smr.LSN(binary.LittleEndian.Uint64(p[32:])),
	}
	switch {
	case crc32.Checksum(p[4:], castagnoli) != binary.LittleEndian.Uint32(p), s.base != base, s.sequence%2 != uint64(index):
		return slot{}, false, true
	case !allZero(p[40:]), !allZero(block[slotSize:]):
		return slot{}, false, true
	}
	switch s.kind {
	case slotDurable, slotClean, slotContinued, slotRewind:
		return s, true, false
	}
	return slot{}, false, true
}

// encodeSeal returns the seal of a full file: its page checksums and the digest at its end. Behind it come zeros to the
// end of its last block, so that writing it leaves nothing behind that does not check.
func encodeSeal(base smr.LSN, digest [digestSize]byte, pages []uint32) []byte {
	block := make([]byte, roundUp(int64(sealHead+4*len(pages))))
	b := block[:sealHead+4*len(pages)]
	binary.LittleEndian.PutUint32(b[4:], uint32(len(pages)))
	binary.LittleEndian.PutUint64(b[8:], uint64(base))
	copy(b[16:], digest[:])
	for i, sum := range pages {
		binary.LittleEndian.PutUint32(b[sealHead+4*i:], sum)
	}
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return block
}

// seal is a decoded seal.
type seal struct {
	digest [digestSize]byte
	pages  []uint32
}

// decodeSeal returns nil unless block holds the valid seal of the file at base with that many pages, and zeros.
func decodeSeal(block []byte, base smr.LSN, pages int) *seal {
	b := block[:sealHead+4*pages]
	if crc32.Checksum(b[4:], castagnoli) != binary.LittleEndian.Uint32(b) || binary.LittleEndian.Uint32(b[4:]) != uint32(pages) ||
		smr.LSN(binary.LittleEndian.Uint64(b[8:])) != base || !allZero(block[len(b):]) {
		return nil
	}
	s := &seal{digest: [digestSize]byte(b[16:]), pages: make([]uint32, pages)}
	for i := range s.pages {
		s.pages[i] = binary.LittleEndian.Uint32(b[sealHead+4*i:])
	}
	return s
}

// fileName returns the name of the file at base: 20 digits.
func fileName(base smr.LSN) string { return fmt.Sprintf("%020d", uint64(base)) }

// parseFileName is the inverse of fileName.
func parseFileName(name string) (smr.LSN, bool) {
	if len(name) != 20 {
		return 0, false
	}
	var n uint64
	for i := range len(name) {
		if name[i] < '0' || name[i] > '9' {
			return 0, false
		}
		hi, lo := bits.Mul64(n, 10)
		sum, carry := bits.Add64(lo, uint64(name[i]-'0'), 0)
		if hi != 0 || carry != 0 {
			return 0, false
		}
		n = sum
	}
	return smr.LSN(n), true
}

// allZero compares eight bytes at a time.
func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func marshalDigest(d *xxhash.Digest) [digestSize]byte {
	b, err := d.MarshalBinary()
	assert(err == nil && len(b) == digestSize, "digest has its known size")
	return [digestSize]byte(b)
}

func unmarshalDigest(b [digestSize]byte) (xxhash.Digest, error) {
	var d xxhash.Digest
	err := d.UnmarshalBinary(b[:])
	return d, err
}

// assert stops the program when this package itself is wrong: going on could write over good bytes.
func assert(cond bool, fact string) {
	if !cond {
		panic("log: violated: " + fact)
	}
}
