package kv

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strconv"

	"lockstep/internal/resp"
)

// errRDB says that a value in RDB format is not well formed. Which byte is wrong helps nobody: payloads are not written
// by hand.
var errRDB = errors.New("bad data format")

// rdbReader cuts pieces from the front of rest. After the first error every piece is empty.
type rdbReader struct {
	rest   []byte
	err    error
	limits *packLimits // of the objects
}

func (r *rdbReader) fail() { r.rest, r.err = nil, errRDB }

// take returns the next n bytes, nil after an error.
func (r *rdbReader) take(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.fail()
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *rdbReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// integer reads size bytes, little endian.
func (r *rdbReader) integer(size uint64) uint64 {
	var b [8]byte
	copy(b[:], r.take(size))
	return binary.LittleEndian.Uint64(b[:])
}

// length reads a length; encoded is true if it is a way of encoding instead.
func (r *rdbReader) length() (n uint64, encoded bool) {
	first := r.byte()
	switch {
	case first < 0x40:
		return uint64(first), false
	case first < 0x80:
		return uint64(first&0x3f)<<8 | uint64(r.byte()), false
	case first == rdbLength32:
		if b := r.take(4); b != nil {
			return uint64(binary.BigEndian.Uint32(b)), false
		}
	case first == rdbLength64:
		if b := r.take(8); b != nil {
			return binary.BigEndian.Uint64(b), false
		}
	case first >= rdbIntegers:
		return uint64(first), true
	default:
		r.fail()
	}
	return 0, false
}

// plainLength reads a length that may not be an encoding.
func (r *rdbReader) plainLength() uint64 {
	n, encoded := r.length()
	if encoded {
		r.fail()
		return 0
	}
	return n
}

// count reads how many things follow, each of which takes at least one byte: at least one thing, no more than there are
// bytes.
func (r *rdbReader) count() int {
	n := r.plainLength()
	if n == 0 || n > uint64(len(r.rest)) {
		r.fail()
		return 0
	}
	return int(n)
}

// text reads a string. It may be part of the input.
func (r *rdbReader) text() []byte {
	n, encoded := r.length()
	if !encoded {
		return r.take(n)
	}
	switch n {
	case rdbIntegers:
		return strconv.AppendInt(nil, int64(int8(r.integer(1))), 10)
	case rdbIntegers | 1:
		return strconv.AppendInt(nil, int64(int16(r.integer(2))), 10)
	case rdbIntegers | 2:
		return strconv.AppendInt(nil, int64(int32(r.integer(4))), 10)
	case rdbCompressed:
		packed, length := r.plainLength(), r.plainLength()
		b := r.take(packed)
		if r.err != nil || length > maxString {
			r.fail()
			return nil
		}
		text, ok := decompress(b, int(length))
		if !ok {
			r.fail()
		}
		return text
	}
	r.fail()
	return nil
}

// decompress undoes LZF: a control byte below 32 stands before that many bytes plus one; any other says to repeat bytes
// from a distance back: three bits of length, five of distance, then perhaps a byte of length, then a byte of distance.
func decompress(b []byte, length int) ([]byte, bool) {
	const most = 88 // bytes that one byte can stand for: three make 264
	if length > most*len(b) {
		return nil, false
	}
	out := make([]byte, 0, length)
	for len(b) > 0 {
		control := int(b[0])
		b = b[1:]
		if control < 32 {
			if control+1 > len(b) || len(out)+control+1 > length {
				return nil, false
			}
			out = append(out, b[:control+1]...)
			b = b[control+1:]
			continue
		}
		size := control>>5 + 2
		if size == 9 && len(b) > 0 {
			size += int(b[0])
			b = b[1:]
		}
		if len(b) == 0 {
			return nil, false
		}
		from := len(out) - control&31<<8 - int(b[0]) - 1
		b = b[1:]
		if from < 0 || len(out)+size > length {
			return nil, false
		}
		for range size { // the source may reach into what is being written
			out = append(out, out[from])
			from++
		}
	}
	return out, len(out) == length
}

// rdbValue is a value that was read: a string, or an object.
type rdbValue struct {
	text   []byte
	object object
}

// readDump checks a payload of DUMP and returns its value. whole is false if version or checksum are wrong; err is set if
// the value is not well formed. The value shares nothing with the payload; its objects have these limits.
func readDump(payload []byte, limits *packLimits) (v rdbValue, whole bool, err error) {
	end := len(payload) - rdbFooter
	if end < 0 || binary.LittleEndian.Uint16(payload[end:]) > rdbNewest ||
		binary.LittleEndian.Uint64(payload[end+2:]) != crc64Of(payload[:end+2]) {
		return v, false, nil
	}
	r := rdbReader{rest: payload[:end], limits: limits}
	v = r.value(r.byte())
	if r.err == nil && len(r.rest) > 0 {
		r.fail()
	}
	return v, true, r.err
}

func (r *rdbReader) value(kind byte) rdbValue {
	switch kind {
	case rdbString:
		text := r.text()
		if len(text) > maxString {
			r.fail()
		}
		return rdbValue{text: slices.Clone(text)}
	case rdbList:
		l := &list{limits: r.limits}
		for range r.count() {
			l.push(right, r.text())
		}
		return rdbValue{object: l}
	case rdbSet:
		s := &setObject{limits: r.limits}
		for range r.count() {
			r.addMember(s, r.text())
		}
		return rdbValue{object: s}
	case rdbHash:
		h := &hashObject{limits: r.limits}
		for range r.count() {
			r.addField(h, r.text(), r.text())
		}
		return rdbValue{object: h}
	case rdbZset, rdbZsetText:
		z := &zsetObject{limits: r.limits}
		for range r.count() {
			name := r.text()
			r.addScore(z, name, r.score(kind == rdbZsetText))
		}
		return rdbValue{object: z}
	case rdbListQuick, rdbListQuick2:
		return rdbValue{object: r.quickList(kind == rdbListQuick2)}
	case rdbSetIntset:
		return rdbValue{object: r.intset(r.text())}
	case rdbStream1, rdbStream2, rdbStream3:
		return rdbValue{object: r.stream(kind)}
	}
	return rdbValue{object: r.packed(kind)}
}

func (r *rdbReader) addMember(s *setObject, member []byte) {
	if r.err == nil && !s.add(member) {
		r.fail()
	}
}

func (r *rdbReader) addField(h *hashObject, field, text []byte) {
	if r.err == nil && !h.set(field, text) {
		r.fail()
	}
}

func (r *rdbReader) addScore(z *zsetObject, name []byte, score float64) {
	if r.err != nil {
		return
	}
	if _, found := z.score(name); found || math.IsNaN(score) {
		r.fail()
		return
	}
	z.insertNew(name, score)
}

// score reads a score, in text behind a length byte or as eight bytes.
func (r *rdbReader) score(inText bool) float64 {
	if !inText {
		return math.Float64frombits(r.integer(8))
	}
	switch length := r.byte(); length {
	case 253:
		return math.NaN()
	case 254:
		return math.Inf(1)
	case 255:
		return math.Inf(-1)
	default:
		return r.number(r.take(uint64(length)))
	}
}

func (r *rdbReader) number(text []byte) float64 {
	f, ok := parseDouble(text)
	if !ok {
		r.fail()
	}
	return f
}

func (r *rdbReader) quickList(nodesArePacks bool) *list {
	l := &list{limits: r.limits}
	for range r.count() {
		container := uint64(quickNodePacked)
		if nodesArePacks {
			container = r.plainLength()
		}
		blob := r.text()
		ok := r.err == nil
		add := func(item []byte) { l.push(right, item) }
		switch {
		case !ok:
		case container == quickNodePlain:
			add(blob)
		case container != quickNodePacked:
			ok = false
		case nodesArePacks:
			_, ok = readListpack(blob, add)
		default:
			_, ok = readZiplist(blob, add)
		}
		if !ok {
			r.fail()
			return l
		}
	}
	if l.length == 0 {
		r.fail()
	}
	return l
}

func (r *rdbReader) intset(blob []byte) *setObject {
	s := &setObject{limits: r.limits}
	body := rdbReader{rest: blob}
	size, count := body.integer(4), body.integer(4)
	if r.err != nil || size != 2 && size != 4 && size != 8 || count == 0 || uint64(len(body.rest)) != count*size {
		r.fail()
		return s
	}
	unused := 64 - 8*size
	before := int64(math.MinInt64)
	for i := range count {
		n := int64(body.integer(size)<<unused) >> unused
		if i > 0 && n <= before {
			r.fail()
			return s
		}
		before = n
		s.add(strconv.AppendInt(nil, n, 10))
	}
	return s
}

// appendIntset appends a set of integers as a string that holds an intset.
func (s *setObject) appendIntset(b []byte) []byte {
	numbers := make([]int64, 0, s.count)
	s.eachPacked(func(member []byte) bool {
		n, _ := resp.ParseInt(member)
		numbers = append(numbers, n)
		return true
	})
	slices.Sort(numbers)
	size := 8
	switch low, high := numbers[0], numbers[len(numbers)-1]; {
	case low >= math.MinInt16 && high <= math.MaxInt16:
		size = 2
	case low >= math.MinInt32 && high <= math.MaxInt32:
		size = 4
	}
	blob := binary.LittleEndian.AppendUint32(nil, uint32(size))
	blob = binary.LittleEndian.AppendUint32(blob, uint32(len(numbers)))
	for _, n := range numbers {
		var one [8]byte
		binary.LittleEndian.PutUint64(one[:], uint64(n))
		blob = append(blob, one[:size]...)
	}
	return appendRDBBlob(b, blob)
}

// packed reads the types that are one string with the elements in it.
func (r *rdbReader) packed(kind byte) object {
	read := readListpack
	switch kind {
	case rdbHashZipmap:
		read = readZipmap
	case rdbListZiplist, rdbZsetZiplist, rdbHashZiplist:
		read = readZiplist
	case rdbHashListpack, rdbZsetListpack, rdbSetListpack:
	default:
		r.fail()
		return nil
	}
	var o object
	var first []byte // of a pair
	odd := false
	pairs := func(add func(name, text []byte)) func([]byte) {
		return func(item []byte) {
			if odd = !odd; odd {
				first = item
			} else {
				add(first, item)
			}
		}
	}
	var visit func([]byte)
	switch kind {
	case rdbListZiplist:
		l := &list{limits: r.limits}
		o, visit = l, func(item []byte) { l.push(right, item) }
	case rdbSetListpack:
		s := &setObject{limits: r.limits}
		o, visit = s, func(item []byte) { r.addMember(s, item) }
	case rdbZsetListpack, rdbZsetZiplist:
		z := &zsetObject{limits: r.limits}
		o, visit = z, pairs(func(name, text []byte) { r.addScore(z, name, r.number(text)) })
	default:
		h := &hashObject{limits: r.limits}
		o, visit = h, pairs(func(name, text []byte) { r.addField(h, name, text) })
	}
	blob := r.text()
	if r.err != nil {
		return nil
	}
	if count, ok := read(blob, visit); !ok || count == 0 || odd {
		r.fail()
	}
	return o
}
