package kv

import (
	"encoding/binary"
	"hash/crc64"
	"math"

	"lockstep/internal/resp"
)

// Types of values in Redis' format RDB.
const (
	rdbString        = 0
	rdbList          = 1
	rdbSet           = 2
	rdbZsetText      = 3 // scores in text
	rdbHash          = 4
	rdbZset          = 5
	rdbHashZipmap    = 9
	rdbListZiplist   = 10
	rdbSetIntset     = 11
	rdbZsetZiplist   = 12
	rdbHashZiplist   = 13
	rdbListQuick     = 14 // nodes are ziplists
	rdbStream1       = 15
	rdbHashListpack  = 16
	rdbZsetListpack  = 17
	rdbListQuick2    = 18 // nodes are listpacks, or single elements
	rdbStream2       = 19
	rdbSetListpack   = 20
	rdbStream3       = 21
	quickNodePlain   = 1
	quickNodePacked  = 2
	rdbIntegers      = 0xc0 // followed by 8, 16 or 32 bits; 0xc3 by what LZF has compressed
	rdbCompressed    = 0xc3
	rdbLength32      = 0x80
	rdbLength64      = 0x81
	rdbFooter        = 10 // version, two bytes, and checksum, both little endian
	rdbWritten       = 10 // the version that is written: of Redis 7.0, so that 7.0 and everything newer reads it
	rdbNewest        = 11 // the newest version that is read: of Redis 7.2
	listpackHeader   = 6
	listpackManyHere = 65535 // count of a listpack with so many elements that they must be counted
)

// jones is the polynomial of Redis' CRC64, bits reversed.
var jones = crc64.MakeTable(0x95ac9329ac4bc9b5)

// crc64Of returns the checksum of Redis, which begins and ends without inversion.
func crc64Of(b []byte) uint64 { return ^crc64.Update(^uint64(0), jones, b) }

// appendFooter ends a payload of DUMP.
func appendFooter(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, rdbWritten)
	return binary.LittleEndian.AppendUint64(b, crc64Of(b))
}

func appendRDBLength(b []byte, n uint64) []byte {
	switch {
	case n < 1<<6:
		return append(b, byte(n))
	case n < 1<<14:
		return append(b, 0x40|byte(n>>8), byte(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, rdbLength32), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, rdbLength64), n)
}

// appendRDBText appends a string, as an integer if it is a short one.
func appendRDBText(b, s []byte) []byte {
	if n, ok := resp.ParseInt(s); ok && len(s) <= 11 {
		switch {
		case n == int64(int8(n)):
			return append(b, rdbIntegers, byte(n))
		case n == int64(int16(n)):
			return binary.LittleEndian.AppendUint16(append(b, rdbIntegers|1), uint16(n))
		case n == int64(int32(n)):
			return binary.LittleEndian.AppendUint32(append(b, rdbIntegers|2), uint32(n))
		}
	}
	return append(appendRDBLength(b, uint64(len(s))), s...)
}

// listpackWriter builds a listpack.
type listpackWriter struct {
	b     []byte
	count int
}

func newListpack() *listpackWriter { return &listpackWriter{b: make([]byte, listpackHeader)} }

// add appends an element, as an integer if it is one.
func (w *listpackWriter) add(s []byte) {
	w.b = appendPackedText(w.b, s)
	w.count++
}

// bytes ends the listpack.
func (w *listpackWriter) bytes() []byte {
	b := append(w.b, packedEnd)
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	binary.LittleEndian.PutUint16(b[4:], uint16(min(w.count, listpackManyHere)))
	return b
}

func appendRDBBlob(b, blob []byte) []byte {
	return append(appendRDBLength(b, uint64(len(blob))), blob...)
}

// appendRDBValue appends type and value of an entry.
func appendRDBValue(b []byte, e *entry) []byte {
	if isText(e) {
		return appendRDBText(append(b, rdbString), e.value.text())
	}
	return e.value.object().(rdbWriter).appendRDB(b)
}

// rdbWriter is an object that appends its type and its value in RDB format. All objects are.
type rdbWriter interface{ appendRDB(b []byte) []byte }

func (l *list) appendRDB(b []byte) []byte {
	nodes := uint64(0)
	for k := l.first; k != nil; k = k.next {
		nodes++
	}
	b = appendRDBLength(append(b, rdbListQuick2), nodes)
	for k := l.first; k != nil; k = k.next {
		if first, _ := k.after(k.start); k.count == 1 && len(first) > listChunkBytes {
			b = appendRDBBlob(append(b, quickNodePlain), first)
			continue
		}
		w := newListpack()
		for at := k.start; at < len(k.packed); {
			var s []byte
			s, at = k.after(at)
			w.add(s)
		}
		b = appendRDBBlob(append(b, quickNodePacked), w.bytes())
	}
	return b
}

func (s *setObject) appendRDB(b []byte) []byte {
	if s.big == nil && !s.mixed {
		return s.appendIntset(append(b, rdbSetIntset))
	}
	b = appendRDBLength(append(b, rdbSet), uint64(s.length()))
	s.each(func(member []byte) bool {
		b = appendRDBText(b, member)
		return true
	})
	return b
}

func (h *hashObject) appendRDB(b []byte) []byte {
	if h.big == nil {
		w := newListpack()
		h.elements(func(e element) bool {
			w.add(e.name)
			w.add(e.text)
			return true
		})
		return appendRDBBlob(append(b, rdbHashListpack), w.bytes())
	}
	b = appendRDBLength(append(b, rdbHash), uint64(h.length()))
	h.elements(func(e element) bool {
		b = appendRDBText(appendRDBText(b, e.name), e.text)
		return true
	})
	return b
}

func (z *zsetObject) appendRDB(b []byte) []byte {
	if z.big == nil {
		w := newListpack()
		z.each(func(m ranked) bool {
			w.add(m.name)
			w.add(resp.AppendDouble(nil, m.score))
			return true
		})
		return appendRDBBlob(append(b, rdbZsetListpack), w.bytes())
	}
	b = appendRDBLength(append(b, rdbZset), uint64(z.length()))
	z.eachRank(0, z.length(), true, func(m ranked) bool { // Redis writes the highest first, and reads that fastest
		b = appendRDBText(b, m.name)
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(m.score))
		return true
	})
	return b
}
