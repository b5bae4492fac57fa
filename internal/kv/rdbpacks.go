package kv

import (
	"encoding/binary"
	"slices"
	"strconv"
)

// readListpack visits the elements of a listpack; false if it is not well formed, of which the first elements do not tell.
func readListpack(blob []byte, visit func(item []byte)) (count int, ok bool) {
	if len(blob) <= listpackHeader || uint64(binary.LittleEndian.Uint32(blob)) != uint64(len(blob)) || blob[len(blob)-1] != packedEnd {
		return 0, false
	}
	r := rdbReader{rest: blob[listpackHeader : len(blob)-1]}
	for len(r.rest) > 0 {
		before := len(r.rest)
		item := r.listpackItem()
		size := before - len(r.rest)
		back := r.take(uint64(packedLengthSize(size)))
		if r.err != nil || !slices.Equal(back, appendPackedLength(nil, size)) {
			return 0, false
		}
		visit(item)
		count++
	}
	said := int(binary.LittleEndian.Uint16(blob[4:]))
	return count, r.err == nil && (said == count || said == listpackManyHere)
}

func (r *rdbReader) listpackItem() []byte {
	first := r.byte()
	number := func(n int64) []byte { return strconv.AppendInt(nil, n, 10) }
	switch {
	case first < 0x80:
		return number(int64(first))
	case first < 0xc0:
		return r.take(uint64(first & 0x3f))
	case first < 0xe0:
		n := int64(first&0x1f)<<8 | int64(r.byte())
		return number(n << 51 >> 51)
	case first < 0xf0:
		return r.take(uint64(first&0xf)<<8 | uint64(r.byte()))
	}
	switch first {
	case 0xf0:
		return r.take(r.integer(4))
	case 0xf1:
		return number(int64(int16(r.integer(2))))
	case 0xf2:
		return number(int64(r.integer(3)) << 40 >> 40)
	case 0xf3:
		return number(int64(int32(r.integer(4))))
	case 0xf4:
		return number(int64(r.integer(8)))
	}
	r.fail()
	return nil
}

const (
	ziplistHeader = 10
	ziplistEnd    = 0xff
	ziplistLong   = 0xfe // the length of the element before stands in four more bytes
)

// readZiplist is readListpack for a ziplist, what Redis had before listpacks.
func readZiplist(blob []byte, visit func(item []byte)) (count int, ok bool) {
	if len(blob) <= ziplistHeader || uint64(binary.LittleEndian.Uint32(blob)) != uint64(len(blob)) || blob[len(blob)-1] != ziplistEnd {
		return 0, false
	}
	r := rdbReader{rest: blob[ziplistHeader : len(blob)-1]}
	last, size := ziplistHeader, 0
	for len(r.rest) > 0 {
		before := len(r.rest)
		last = len(blob) - 1 - before
		previous := uint64(r.byte())
		if previous == ziplistLong {
			previous = r.integer(4)
		}
		if r.err != nil || previous != uint64(size) {
			return 0, false
		}
		item := r.ziplistItem()
		if r.err != nil {
			return 0, false
		}
		visit(item)
		count++
		size = before - len(r.rest)
	}
	said := int(binary.LittleEndian.Uint16(blob[8:]))
	tail := uint64(binary.LittleEndian.Uint32(blob[4:]))
	return count, r.err == nil && tail == uint64(last) && (said == count || said == listpackManyHere)
}

func (r *rdbReader) ziplistItem() []byte {
	first := r.byte()
	number := func(n int64) []byte { return strconv.AppendInt(nil, n, 10) }
	switch first >> 6 {
	case 0:
		return r.take(uint64(first))
	case 1:
		return r.take(uint64(first&0x3f)<<8 | uint64(r.byte()))
	}
	switch first {
	case 0x80:
		if b := r.take(4); b != nil {
			return r.take(uint64(binary.BigEndian.Uint32(b)))
		}
		return nil
	case 0xc0:
		return number(int64(int16(r.integer(2))))
	case 0xd0:
		return number(int64(int32(r.integer(4))))
	case 0xe0:
		return number(int64(r.integer(8)))
	case 0xf0:
		return number(int64(r.integer(3)) << 40 >> 40)
	case 0xfe:
		return number(int64(int8(r.integer(1))))
	}
	if first > 0xf0 && first < 0xfe {
		return number(int64(first&0xf) - 1)
	}
	r.fail()
	return nil
}

// readZipmap is readListpack for a zipmap, what Redis had before ziplists: a key, its value, and so on.
func readZipmap(blob []byte, visit func(item []byte)) (count int, ok bool) {
	if len(blob) < 2 || blob[len(blob)-1] != ziplistEnd {
		return 0, false
	}
	r := rdbReader{rest: blob[1 : len(blob)-1]}
	length := func() uint64 {
		n := uint64(r.byte())
		switch {
		case n == ziplistLong:
			return r.integer(4)
		case n == ziplistEnd:
			r.fail()
		}
		return n
	}
	for len(r.rest) > 0 {
		key := r.take(length())
		size := length()
		free := uint64(r.byte())
		value := r.take(size)
		r.take(free)
		if r.err != nil {
			return 0, false
		}
		visit(key)
		visit(value)
		count += 2
	}
	return count, r.err == nil && (blob[0] >= ziplistLong || int(blob[0]) == count/2)
}
