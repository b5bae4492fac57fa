package resp

import (
	"bytes"
	"math"
	"strconv"
)

// Reply appends the encoding of replies to Buf, in the protocol version of one connection. Where RESP2 has no
// form for something (map, set, double, null ...) the form that Redis uses there is taken.
//
// A nil *Reply is valid and discards everything: the state machine of a replica that nobody asked uses it.
type Reply struct {
	Buf []byte
	// Proto is 2 or 3; 0 means 2.
	Proto int
	// Errors counts the error replies written so far, those inside arrays included.
	Errors int
	// Draws counts the commands that drew lots for a reply. Its owner may begin with any number, so that two connections
	// draw differently.
	Draws uint64
}

// Reset empties the reply and keeps its memory and protocol.
func (r *Reply) Reset() { r.Buf, r.Errors = r.Buf[:0], 0 }

func (r *Reply) three() bool { return r.Proto >= 3 }

// Simple appends a simple string. s must not contain CR or LF.
func (r *Reply) Simple(s string) {
	if r == nil {
		return
	}
	r.Buf = append(r.Buf, '+')
	r.Buf = append(r.Buf, s...)
	r.end()
}

// OK appends +OK.
func (r *Reply) OK() {
	if r != nil {
		r.Buf = append(r.Buf, "+OK\r\n"...)
	}
}

// Error appends an error. s begins with its code ("ERR ..."); CR and LF become spaces, as in Redis, because an
// error may quote what the client sent.
func (r *Reply) Error(s string) {
	if r == nil {
		return
	}
	r.Errors++
	r.Buf = append(r.Buf, '-')
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\r' || c == '\n' {
			c = ' '
		}
		r.Buf = append(r.Buf, c)
	}
	r.end()
}

// Int appends an integer.
func (r *Reply) Int(n int64) {
	if r == nil {
		return
	}
	r.header(':', n)
}

// Bulk appends a bulk string.
func (r *Reply) Bulk(b []byte) {
	if r == nil {
		return
	}
	r.header('$', int64(len(b)))
	r.Buf = append(r.Buf, b...)
	r.end()
}

// BulkString appends a bulk string.
func (r *Reply) BulkString(s string) {
	if r == nil {
		return
	}
	r.header('$', int64(len(s)))
	r.Buf = append(r.Buf, s...)
	r.end()
}

// BulkInt appends n in decimal as a bulk string.
func (r *Reply) BulkInt(n int64) {
	if r == nil {
		return
	}
	var digits [20]byte
	r.Bulk(strconv.AppendInt(digits[:0], n, 10))
}

// Null appends "no value": the null bulk string of RESP2, the null of RESP3.
func (r *Reply) Null() {
	if r == nil {
		return
	}
	if r.three() {
		r.Buf = append(r.Buf, "_\r\n"...)
		return
	}
	r.Buf = append(r.Buf, "$-1\r\n"...)
}

// NullArray appends "no array": the null array of RESP2, the null of RESP3.
func (r *Reply) NullArray() {
	if r == nil {
		return
	}
	if r.three() {
		r.Buf = append(r.Buf, "_\r\n"...)
		return
	}
	r.Buf = append(r.Buf, "*-1\r\n"...)
}

// Array appends the header of an array; the caller appends n replies behind it.
func (r *Reply) Array(n int) {
	if r == nil {
		return
	}
	r.header('*', int64(n))
}

// Map appends the header of a map; the caller appends n keys, each followed by its value. RESP2 has a flat array.
func (r *Reply) Map(n int) {
	if r == nil {
		return
	}
	if r.three() {
		r.header('%', int64(n))
		return
	}
	r.header('*', int64(n)*2)
}

// Set appends the header of a set; the caller appends n replies behind it. RESP2 has an array.
func (r *Reply) Set(n int) {
	if r == nil {
		return
	}
	if r.three() {
		r.header('~', int64(n))
		return
	}
	r.header('*', int64(n))
}

// Push appends the header of an out-of-band message of n replies. RESP2 has an array.
func (r *Reply) Push(n int) {
	if r == nil {
		return
	}
	if r.three() {
		r.header('>', int64(n))
		return
	}
	r.header('*', int64(n))
}

// Mark returns the place where a header can later be put by InsertArray, InsertMap or InsertSet.
func (r *Reply) Mark() int {
	if r == nil {
		return 0
	}
	return len(r.Buf)
}

// InsertArray puts the header of an array of n replies at mark, in front of what was appended since.
func (r *Reply) InsertArray(mark, n int) { r.insert(mark, n, (*Reply).Array) }

// InsertMap puts the header of a map of n keys and values at mark, in front of what was appended since.
func (r *Reply) InsertMap(mark, n int) { r.insert(mark, n, (*Reply).Map) }

// InsertSet puts the header of a set of n replies at mark, in front of what was appended since.
func (r *Reply) InsertSet(mark, n int) { r.insert(mark, n, (*Reply).Set) }

func (r *Reply) insert(mark, n int, header func(*Reply, int)) {
	if r == nil {
		return
	}
	end := len(r.Buf)
	header(r, n)
	var saved [24]byte
	size := copy(saved[:], r.Buf[end:])
	copy(r.Buf[mark+size:], r.Buf[mark:end])
	copy(r.Buf[mark:], saved[:size])
}

// Double appends a floating point number: a bulk string in RESP2.
func (r *Reply) Double(f float64) {
	if r == nil {
		return
	}
	var digits [40]byte
	text := AppendDouble(digits[:0], f)
	if !r.three() {
		r.Bulk(text)
		return
	}
	r.Buf = append(r.Buf, ',')
	r.Buf = append(r.Buf, text...)
	r.end()
}

// AppendDouble appends f as Redis 7.2 prints scores: the fewest digits that mean f, "inf", "-inf".
func AppendDouble(b []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(b, "inf"...)
	case math.IsInf(f, -1):
		return append(b, "-inf"...)
	case math.IsNaN(f):
		return append(b, "nan"...)
	case f == math.Trunc(f) && math.Abs(f) < 1<<52 && (f != 0 || !math.Signbit(f)):
		return strconv.AppendInt(b, int64(f), 10) // the common case, and the same digits
	}
	// Redis writes an exponent for numbers of many zeros only.
	var room [32]byte
	scientific := strconv.AppendFloat(room[:0], f, 'e', -1, 64)
	at := bytes.IndexByte(scientific, 'e')
	digits := at // of the mantissa, without sign and point
	if f < 0 || math.Signbit(f) {
		digits--
	}
	if digits > 1 {
		digits--
	}
	exponent, _ := strconv.Atoi(string(scientific[at+1:]))
	shift := exponent - digits + 1 // f is its digits times ten to the shift
	if shift >= 0 && exponent < digits+7 || shift < 0 && (shift > -7 || max(exponent, -exponent) < 4) {
		return strconv.AppendFloat(b, f, 'f', -1, 64)
	}
	b = append(b, scientific[:at+2]...)
	return strconv.AppendInt(b, int64(max(exponent, -exponent)), 10)
}

// Bool appends a truth value: 1 or 0 in RESP2.
func (r *Reply) Bool(truth bool) {
	if r == nil {
		return
	}
	switch {
	case r.three() && truth:
		r.Buf = append(r.Buf, "#t\r\n"...)
	case r.three():
		r.Buf = append(r.Buf, "#f\r\n"...)
	case truth:
		r.Buf = append(r.Buf, ":1\r\n"...)
	default:
		r.Buf = append(r.Buf, ":0\r\n"...)
	}
}

// Verbatim appends text for people; format is three letters ("txt", "mkd"). RESP2 has a bulk string.
func (r *Reply) Verbatim(format, text string) {
	if r == nil {
		return
	}
	if !r.three() {
		r.BulkString(text)
		return
	}
	r.header('=', int64(len(text)+4))
	r.Buf = append(r.Buf, (format + "   ")[:3]...)
	r.Buf = append(r.Buf, ':')
	r.Buf = append(r.Buf, text...)
	r.end()
}

// BigNumber appends an integer of any length, given in decimal. RESP2 has a bulk string.
func (r *Reply) BigNumber(digits string) {
	if r == nil {
		return
	}
	if !r.three() {
		r.BulkString(digits)
		return
	}
	r.Buf = append(r.Buf, '(')
	r.Buf = append(r.Buf, digits...)
	r.end()
}

// Raw appends bytes that are an encoded reply already.
func (r *Reply) Raw(b []byte) {
	if r != nil {
		r.Buf = append(r.Buf, b...)
	}
}

func (r *Reply) header(kind byte, n int64) {
	r.Buf = append(r.Buf, kind)
	r.Buf = strconv.AppendInt(r.Buf, n, 10)
	r.end()
}

func (r *Reply) end() { r.Buf = append(r.Buf, '\r', '\n') }
