package script

import (
	"encoding/binary"
	"math"
	"strconv"

	lua "github.com/yuin/gopher-lua"
)

var packLibrary = []library{
	{"pack", msgPack}, {"unpack", msgUnpack}, {"unpack_limit", msgUnpackLimit}, {"unpack_one", msgUnpackOne},
}

const (
	// maxPackDepth is the nesting at which the library packs nil instead of a table.
	maxPackDepth = 16
	// maxUnpackDepth bounds the nesting of what is unpacked.
	maxUnpackDepth = 1000
)

func msgPack(f frame) int {
	if f.count() == 0 {
		f.argError(0, "MessagePack pack needs input.")
	}
	w := msgWriter{f: f}
	for i := 1; i <= f.count(); i++ {
		w.value(f.l.Get(i), 0)
	}
	return f.pushText(string(w.b))
}

type msgWriter struct {
	f    frame
	b    []byte
	paid int
}

func (w *msgWriter) value(v lua.LValue, depth int) {
	if grown := len(w.b) - w.paid; grown > 4096 {
		w.f.e.take(w.f.l, grown)
		w.f.e.work(w.f.l, grown/16)
		w.paid = len(w.b)
	}
	switch v := v.(type) {
	case lua.LString:
		w.b = appendSize(w.b, len(v), 0xa0, 32, 0xd9, 0xda)
		w.b = append(w.b, v...)
	case lua.LNumber:
		w.number(float64(v))
	case lua.LBool:
		if v {
			w.b = append(w.b, 0xc3)
		} else {
			w.b = append(w.b, 0xc2)
		}
	case *lua.LTable:
		if depth == maxPackDepth {
			w.b = append(w.b, 0xc0)
			return
		}
		w.table(v, depth+1)
	default:
		w.b = append(w.b, 0xc0)
	}
}

// appendSize appends a length: in the low bits of short if it is below limit, else in one byte behind the code eight (0: there
// is no such form), in two behind sixteen or in four behind the code after it.
func appendSize(b []byte, n int, short byte, limit int, eight, sixteen byte) []byte {
	switch {
	case n < limit:
		return append(b, short|byte(n))
	case n <= 0xff && eight != 0:
		return append(b, eight, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, sixteen), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, sixteen+1), uint32(n))
}

func (w *msgWriter) number(n float64) {
	if n != math.Trunc(n) || n < -(1<<63) || n >= 1<<63 {
		if math.IsNaN(n) {
			w.b = append(w.b, 0xcb, 0xff, 0xf8, 0, 0, 0, 0, 0, 0) // one NaN, on every processor
			return
		}
		if single := float32(n); float64(single) == n {
			w.b = binary.BigEndian.AppendUint32(append(w.b, 0xca), math.Float32bits(single))
			return
		}
		w.b = binary.BigEndian.AppendUint64(append(w.b, 0xcb), math.Float64bits(n))
		return
	}
	switch i := int64(n); {
	case i >= 0 && i <= 127, i < 0 && i >= -32:
		w.b = append(w.b, byte(i))
	case i >= 0 && i <= 0xff:
		w.b = append(w.b, 0xcc, byte(i))
	case i >= 0 && i <= 0xffff:
		w.b = binary.BigEndian.AppendUint16(append(w.b, 0xcd), uint16(i))
	case i >= 0 && i <= 0xffffffff:
		w.b = binary.BigEndian.AppendUint32(append(w.b, 0xce), uint32(i))
	case i >= 0:
		w.b = binary.BigEndian.AppendUint64(append(w.b, 0xcf), uint64(i))
	case i >= -128:
		w.b = append(w.b, 0xd0, byte(i))
	case i >= -32768:
		w.b = binary.BigEndian.AppendUint16(append(w.b, 0xd1), uint16(i))
	case i >= math.MinInt32:
		w.b = binary.BigEndian.AppendUint32(append(w.b, 0xd2), uint32(i))
	default:
		w.b = binary.BigEndian.AppendUint64(append(w.b, 0xd3), uint64(i))
	}
}

func (w *msgWriter) table(t *lua.LTable, depth int) {
	largest, items, array := 0, 0, true
	for k, _ := t.Next(lua.LNil); k != lua.LNil; k, _ = t.Next(k) {
		items++
		n, ok := k.(lua.LNumber)
		if !ok || n < 1 || float64(n) != math.Floor(float64(n)) || n > math.MaxInt32 {
			array = false
			continue
		}
		largest = max(largest, int(n))
	}
	w.f.e.work(w.f.l, items/8)
	if array && largest == items {
		w.b = appendSize(w.b, items, 0x90, 16, 0, 0xdc)
		for i := 1; i <= items; i++ {
			w.value(t.RawGet(lua.LNumber(i)), depth)
		}
		return
	}
	w.b = appendSize(w.b, items, 0x80, 16, 0, 0xde)
	for k, v := t.Next(lua.LNil); k != lua.LNil; k, v = t.Next(k) {
		w.value(k, depth)
		w.value(v, depth)
	}
}

func msgUnpack(f frame) int { return unpackMessages(f, f.text(1), 0, 0, false) }

func msgUnpackOne(f frame) int { return unpackMessages(f, f.text(1), 1, f.integerOr(2, 0), true) }

func msgUnpackLimit(f frame) int {
	text, limit := f.text(1), f.integer(2)
	return unpackMessages(f, text, limit, f.integerOr(3, 0), true)
}

// unpackMessages pushes up to limit values (0: all), beginning at offset, and before them, if it is asked for, the offset of
// what follows, -1 at the end.
func unpackMessages(f frame, text string, limit, offset int, tellOffset bool) int {
	switch {
	case offset < 0 || limit < 0:
		f.fail("Invalid request to unpack with offset of " + strconv.Itoa(offset) + " and limit of " + strconv.Itoa(len(text)) + ".")
	case offset > len(text):
		f.fail("Start offset " + strconv.Itoa(offset) + " greater than input length " + strconv.Itoa(len(text)) + ".")
	}
	f.e.work(f.l, (len(text)-offset)/8)
	all := limit == 0 && !tellOffset
	r := msgReader{f: f, rest: text[offset:]}
	var values []lua.LValue
	for len(r.rest) > 0 && (all || len(values) < limit) {
		if len(values) >= maxUnpack {
			f.fail("too many results to unpack")
		}
		values = append(values, r.value(0))
	}
	if tellOffset {
		next := len(text) - len(r.rest)
		if len(r.rest) == 0 {
			next = -1
		}
		f.pushNumber(float64(next))
	}
	n := f.push(values...)
	if tellOffset {
		n++
	}
	return n
}

type msgReader struct {
	f    frame
	rest string
}

func (r *msgReader) bytes(n uint64) string {
	if n > uint64(len(r.rest)) {
		r.f.fail("Missing bytes in input.")
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *msgReader) unsigned(size uint64) (n uint64) {
	for _, c := range []byte(r.bytes(size)) {
		n = n<<8 | uint64(c)
	}
	return n
}

func (r *msgReader) text(n uint64) lua.LValue {
	b := r.bytes(n)
	r.f.e.take(r.f.l, len(b)+stringBytes)
	return lua.LString(b)
}

func (r *msgReader) value(depth int) lua.LValue {
	if depth > maxUnpackDepth {
		r.f.fail("Bad data format in input.")
	}
	code := r.unsigned(1)
	switch {
	case code <= 0x7f:
		return lua.LNumber(code)
	case code >= 0xe0:
		return lua.LNumber(int8(code))
	case code <= 0x8f:
		return r.fields(code&15, depth)
	case code <= 0x9f:
		return r.array(code&15, depth)
	case code <= 0xbf:
		return r.text(code & 31)
	}
	switch code {
	case 0xc0:
		return lua.LNil
	case 0xc2, 0xc3:
		return lua.LBool(code == 0xc3)
	case 0xc4, 0xc5, 0xc6:
		return r.text(r.unsigned(1 << (code - 0xc4)))
	case 0xca:
		return lua.LNumber(math.Float32frombits(uint32(r.unsigned(4))))
	case 0xcb:
		return lua.LNumber(math.Float64frombits(r.unsigned(8)))
	case 0xcc, 0xcd, 0xce, 0xcf:
		return lua.LNumber(r.unsigned(1 << (code - 0xcc)))
	case 0xd0:
		return lua.LNumber(int8(r.unsigned(1)))
	case 0xd1:
		return lua.LNumber(int16(r.unsigned(2)))
	case 0xd2:
		return lua.LNumber(int32(r.unsigned(4)))
	case 0xd3:
		return lua.LNumber(int64(r.unsigned(8)))
	case 0xd9, 0xda, 0xdb:
		return r.text(r.unsigned(1 << (code - 0xd9)))
	case 0xdc, 0xdd:
		return r.array(r.unsigned(2<<(code-0xdc)), depth)
	case 0xde, 0xdf:
		return r.fields(r.unsigned(2<<(code-0xde)), depth)
	}
	r.f.fail("Bad data format in input.")
	return nil
}

func (r *msgReader) array(n uint64, depth int) lua.LValue {
	t := r.f.e.newTable(r.f.l, 0, 0)
	for i := range n { // memory grows with what is there, not with what is announced
		r.f.e.assignIndex(r.f.l, t, int(i)+1, r.value(depth+1))
	}
	return t
}

func (r *msgReader) fields(n uint64, depth int) lua.LValue {
	t := r.f.e.newTable(r.f.l, 0, 0)
	for range n {
		key := r.value(depth + 1)
		r.f.e.assign(r.f.l, t, key, r.value(depth+1))
	}
	return t
}
