package kv

import (
	"encoding/binary"
	"math"
	"strconv"

	"lockstep/internal/resp"
)

// Packed elements: the encoding of Redis' listpacks, so that a block of a stream fills up, is trimmed and is dumped as it
// is there. An element is an integer or a string, followed by the length of its encoding, which can be read backwards.
//
//	0xxxxxxx                    integer 0..127
//	10llllll bytes              string of up to 63 bytes
//	110xxxxx xxxxxxxx           integer of 13 bits, big endian
//	1110llll llllllll bytes     string of up to 4095 bytes, length big endian
//	F0 4 bytes length, bytes    longer string, length little endian
//	F1 F2 F3 F4                 integers of 2, 3, 4, 8 bytes, little endian
//	FF                          end of a listpack
//
// The length behind it takes one to five bytes of seven bits, the most significant first; all but the first have the
// highest bit set.
const packedEnd = 0xff

// appendPackedInt appends an integer.
func appendPackedInt(b []byte, n int64) []byte {
	from := len(b)
	switch {
	case n >= 0 && n <= 127:
		return append(b, byte(n), 1)
	case n >= -1<<12 && n < 1<<12:
		b = append(b, 0xc0|byte(n>>8)&0x1f, byte(n))
	case n >= math.MinInt16 && n <= math.MaxInt16:
		b = append(b, 0xf1, byte(n), byte(n>>8))
	case n >= -1<<23 && n < 1<<23:
		b = append(b, 0xf2, byte(n), byte(n>>8), byte(n>>16))
	case n >= math.MinInt32 && n <= math.MaxInt32:
		b = binary.LittleEndian.AppendUint32(append(b, 0xf3), uint32(n))
	default:
		b = binary.LittleEndian.AppendUint64(append(b, 0xf4), uint64(n))
	}
	return appendPackedLength(b, len(b)-from)
}

// appendPackedText appends a string: as an integer if that is how the integer is written.
func appendPackedText(b, text []byte) []byte {
	if len(text) > 0 && len(text) <= 20 && (text[0] <= '9') {
		if n, ok := resp.ParseInt(text); ok {
			return appendPackedInt(b, n)
		}
	}
	from := len(b)
	switch n := len(text); {
	case n < 64:
		b = append(b, 0x80|byte(n))
	case n < 4096:
		b = append(b, 0xe0|byte(n>>8), byte(n))
	default:
		b = binary.LittleEndian.AppendUint32(append(b, 0xf0), uint32(n))
	}
	b = append(b, text...)
	return appendPackedLength(b, len(b)-from)
}

// appendPackedLength appends the length that stands behind an element of n bytes.
func appendPackedLength(b []byte, n int) []byte {
	for shift := 7 * (packedLengthSize(n) - 1); shift >= 0; shift -= 7 {
		part := byte(n>>shift) & 0x7f
		if shift != 7*(packedLengthSize(n)-1) {
			part |= 0x80
		}
		b = append(b, part)
	}
	return b
}

// packedLengthSize returns how many bytes the length behind an element of n bytes takes. (That the limits are odd is
// Redis' doing.)
func packedLengthSize(n int) int {
	switch {
	case n <= 127:
		return 1
	case n < 16383:
		return 2
	case n < 2097151:
		return 3
	case n < 268435455:
		return 4
	}
	return 5
}

// packedIntSize returns how many bytes an integer takes, the length behind it included.
func packedIntSize(n int64) int {
	var b [16]byte
	return len(appendPackedInt(b[:0], n))
}

// packed is an element as it was read: an integer, or text, which shares memory with what it was read from.
type packed struct {
	text    []byte
	integer int64
	isText  bool
}

func (p packed) reply(reply *resp.Reply) {
	if p.isText {
		reply.Bulk(p.text)
	} else {
		reply.BulkInt(p.integer)
	}
}

// equal reports whether the element stands for text.
func (p packed) equal(text []byte) bool {
	if p.isText {
		return string(p.text) == string(text)
	}
	var digits [20]byte
	return string(strconv.AppendInt(digits[:0], p.integer, 10)) == string(text)
}

// appendTo appends what the element stands for.
func (p packed) appendTo(b []byte) []byte {
	if p.isText {
		return append(b, p.text...)
	}
	return strconv.AppendInt(b, p.integer, 10)
}

// packedSize returns how many bytes the encoding of the element at the front of b takes, without the length behind it;
// 0 if b does not begin with a whole element.
func packedSize(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	size := 0
	switch first := b[0]; {
	case first < 0x80:
		size = 1
	case first < 0xc0:
		size = 1 + int(first&0x3f)
	case first < 0xe0:
		size = 2
	case first < 0xf0:
		if len(b) >= 2 {
			size = 2 + int(first&0x0f)<<8 + int(b[1])
		}
	case first == 0xf0:
		if len(b) >= 5 {
			size = 5 + int(binary.LittleEndian.Uint32(b[1:]))
		}
	case first <= 0xf3:
		size = int(first-0xf0) + 2
	case first == 0xf4:
		size = 9
	}
	if size > len(b) {
		return 0
	}
	return size
}

// packedAt reads the element at a place and returns where the next one begins. The place must be one of an element.
func packedAt(b []byte, at int) (p packed, next int) {
	size := packedSize(b[at:])
	e := b[at : at+size]
	next = at + size + packedLengthSize(size)
	switch first := e[0]; {
	case first < 0x80:
		p.integer = int64(first)
	case first < 0xc0:
		p.text, p.isText = e[1:], true
	case first < 0xe0:
		p.integer = int64(uint64(first&0x1f)<<8|uint64(e[1])) << 51 >> 51
	case first < 0xf0:
		p.text, p.isText = e[2:], true
	case first == 0xf0:
		p.text, p.isText = e[5:], true
	case first == 0xf1:
		p.integer = int64(int16(binary.LittleEndian.Uint16(e[1:])))
	case first == 0xf2:
		p.integer = int64(int32(uint32(e[1])<<8|uint32(e[2])<<16|uint32(e[3])<<24) >> 8)
	case first == 0xf3:
		p.integer = int64(int32(binary.LittleEndian.Uint32(e[1:])))
	default:
		p.integer = int64(binary.LittleEndian.Uint64(e[1:]))
	}
	return p, next
}

// packedBefore returns where the element begins that ends before at.
func packedBefore(b []byte, at int) int {
	size, shift := 0, 0
	for i := at - 1; ; i-- {
		size |= int(b[i]&0x7f) << shift
		if b[i]&0x80 == 0 {
			return i - size
		}
		shift += 7
	}
}

// skipPacked returns where the element behind count others begins.
func skipPacked(b []byte, at, count int) int {
	for range count {
		size := packedSize(b[at:])
		at += size + packedLengthSize(size)
	}
	return at
}
