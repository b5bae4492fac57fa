package kv

import (
	"encoding/binary"
	"math/bits"

	"lockstep/internal/resp"
)

var bitCommands = []Command{
	{Name: "bitcount", Arity: -2, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: bitCount},
	{Name: "bitfield", Arity: -2, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 1, Step: 1, run: bitField},
	{Name: "bitfield_ro", Arity: -2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: bitFieldRO},
	{Name: "bitop", Arity: -4, Flags: Write | DenyOOM, FirstKey: 2, LastKey: -1, Step: 1, run: bitOp},
	{Name: "bitpos", Arity: -3, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: bitPos},
	{Name: "getbit", Arity: 3, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: getBit},
	{Name: "setbit", Arity: 4, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 1, Step: 1, run: setBit},
}

const errBitOffset = "ERR bit offset is not an integer or out of range"

// bitOffset reads argument i as an index of a bit, below 8 times maxString, or replies an error. With a width, "#n" stands
// for n times that many bits; the product wraps around as it does in Redis.
func (c call) bitOffset(i int, width int64) (int64, bool) {
	text := c.args[i]
	counted := width > 0 && len(text) > 0 && text[0] == '#'
	if counted {
		text = text[1:]
	}
	n, ok := resp.ParseInt(text)
	if counted {
		n *= width
	}
	if !ok || n < 0 || n>>3 >= maxString {
		c.reply.Error(errBitOffset)
		return 0, false
	}
	return n, true
}

// bitOf returns bit i of b, counted from the highest bit of the first byte; what lies behind b is 0.
func bitOf(b []byte, i int64) byte {
	if i>>3 >= int64(len(b)) {
		return 0
	}
	return b[i>>3] >> (7 - i&7) & 1
}

func putBit(b []byte, i int64, bit byte) {
	mask := byte(1) << (7 - i&7)
	b[i>>3] = b[i>>3]&^mask | bit<<(7-i&7)
}

// bitsToWrite returns the entry of the first key, made if there was none, with room for bit last, and whether that made or
// lengthened it; false after an error reply.
func (c call) bitsToWrite(last int64) (e *entry, grown, ok bool) {
	if e, ok = c.text(c.args[1]); !ok {
		return nil, false, false
	}
	if e == nil {
		e = c.create(c.args[1])
		grown = true
	}
	if missing := int(last>>3) + 1 - len(e.value.text()); missing > 0 {
		c.db.keys.lengthen(e, missing, heldRaw)
		grown = true
	}
	e.value.held = heldRaw
	return e, grown, true
}

func setBit(c call) {
	at, ok := c.bitOffset(2, 0)
	if !ok {
		return
	}
	bit, ok := c.between(3, 0, 1, "ERR bit is not an integer or out of range")
	if !ok {
		return
	}
	e, changed, ok := c.bitsToWrite(at)
	if !ok {
		return
	}
	old := bitOf(e.value.text(), at)
	if changed || old != byte(bit) {
		putBit(e.value.text(), at, byte(bit))
		c.touch(e)
		c.notify(EventString, "setbit", c.args[1])
	}
	c.reply.Int(int64(old))
}

func getBit(c call) {
	at, ok := c.bitOffset(2, 0)
	if !ok {
		return
	}
	e, ok := c.text(c.args[1])
	switch {
	case !ok:
	case e == nil:
		c.reply.Int(0)
	default:
		c.reply.Int(int64(bitOf(e.value.text(), at)))
	}
}

// bitUnit reads argument i as BYTE or BIT, or replies an error.
func (c call) bitUnit(i int) (isBit, ok bool) {
	switch {
	case c.is(i, "bit"):
		return true, true
	case c.is(i, "byte"):
		return false, true
	}
	c.reply.Error(errSyntax)
	return false, false
}

// bitRange is an inclusive range of bits of a string; it is empty if first lies behind last.
type bitRange struct{ first, last int64 }

// rangeOfBits turns inclusive indices, which count bits or bytes and may count from the end, into a range of bits.
func rangeOfBits(start, end int64, isBit bool, length int) bitRange {
	total := int64(length)
	if isBit {
		total *= 8
	}
	start, end = fromEnd(start, total), fromEnd(end, total)
	end = min(end, total-1)
	if start > end {
		return bitRange{1, 0}
	}
	if isBit {
		return bitRange{start, end}
	}
	return bitRange{start * 8, end*8 + 7}
}

func bitCount(c call) {
	e, ok := c.text(c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Int(0)
		return
	}
	r := bitRange{0, int64(len(e.value.text()))*8 - 1}
	switch len(c.args) {
	case 2:
	case 4, 5:
		start, end, ok := c.integers(2)
		if !ok {
			return
		}
		if start < 0 && end < 0 && start > end {
			c.reply.Int(0)
			return
		}
		isBit := false
		if len(c.args) == 5 {
			if isBit, ok = c.bitUnit(4); !ok {
				return
			}
		}
		r = rangeOfBits(start, end, isBit, len(e.value.text()))
	default:
		c.reply.Error(errSyntax)
		return
	}
	c.reply.Int(countBits(e.value.text(), r))
}

func countBits(b []byte, r bitRange) int64 {
	if r.first > r.last {
		return 0
	}
	first, last := r.first>>3, r.last>>3
	head, tail := byte(0xff)>>(r.first&7), byte(0xff)<<(7-r.last&7)
	if first == last {
		return int64(bits.OnesCount8(b[first] & head & tail))
	}
	count := bits.OnesCount8(b[first]&head) + bits.OnesCount8(b[last]&tail)
	middle := b[first+1 : last]
	for ; len(middle) >= 8; middle = middle[8:] {
		count += bits.OnesCount64(binary.LittleEndian.Uint64(middle))
	}
	for _, one := range middle {
		count += bits.OnesCount8(one)
	}
	return int64(count)
}

func bitPos(c call) {
	wanted, ok := c.integer(2)
	if !ok {
		return
	}
	if wanted != 0 && wanted != 1 {
		c.reply.Error("ERR The bit argument must be 1 or 0.")
		return
	}
	e, ok := c.text(c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Int(-wanted)
		return
	}
	text := e.value.text()
	r := bitRange{0, int64(len(text))*8 - 1}
	bounded := len(c.args) >= 5
	switch len(c.args) {
	case 3:
	case 4, 5, 6:
		if r, ok = c.bitPosRange(len(text)); !ok {
			return
		}
	default:
		c.reply.Error(errSyntax)
		return
	}
	at := findBit(text, r, byte(wanted))
	if at < 0 && wanted == 0 && !bounded && r.first <= r.last {
		at = int64(len(text)) * 8 // without an end the string goes on with zeros
	}
	c.reply.Int(at)
}

// bitPosRange reads start, end and unit of BITPOS, or replies an error.
func (c call) bitPosRange(length int) (r bitRange, ok bool) {
	start, ok := c.integer(3)
	if !ok {
		return r, false
	}
	isBit := false
	if len(c.args) == 6 {
		if isBit, ok = c.bitUnit(5); !ok {
			return r, false
		}
	}
	end := int64(length)*8 + 7
	if len(c.args) >= 5 {
		if end, ok = c.integer(4); !ok {
			return r, false
		}
	}
	return rangeOfBits(start, end, isBit, length), true
}

// findBit returns the index of the first bit with that value in a range, -1 if there is none.
func findBit(b []byte, r bitRange, wanted byte) int64 {
	flip := byte(0)
	if wanted == 0 {
		flip = 0xff
	}
	for at := r.first; at <= r.last; {
		if at&7 == 0 && at+63 <= r.last {
			word := binary.BigEndian.Uint64(b[at>>3:])
			if wanted == 0 {
				word = ^word
			}
			if word != 0 {
				return at + int64(bits.LeadingZeros64(word))
			}
			at += 64
			continue
		}
		one := (b[at>>3] ^ flip) & (0xff >> (at & 7))
		if one != 0 {
			found := at&^7 + int64(bits.LeadingZeros8(one))
			if found > r.last {
				return -1
			}
			return found
		}
		at = at&^7 + 8
	}
	return -1
}

func bitOp(c call) {
	var combine func(a, b byte) byte
	switch {
	case c.is(1, "and"):
		combine = func(a, b byte) byte { return a & b }
	case c.is(1, "or"):
		combine = func(a, b byte) byte { return a | b }
	case c.is(1, "xor"):
		combine = func(a, b byte) byte { return a ^ b }
	case c.is(1, "not"):
	default:
		c.reply.Error(errSyntax)
		return
	}
	if combine == nil && len(c.args) != 4 {
		c.reply.Error("ERR BITOP NOT must be called with a single source key.")
		return
	}
	sources := make([][]byte, 0, len(c.args)-3)
	longest := 0
	for _, key := range c.args[3:] {
		e, ok := c.text(key)
		if !ok {
			return
		}
		var text []byte
		if e != nil {
			text = e.value.text()
		}
		sources = append(sources, text)
		longest = max(longest, len(text))
	}
	result := make([]byte, longest)
	copy(result, sources[0])
	if combine == nil {
		for i, one := range result {
			result[i] = ^one
		}
	}
	for _, source := range sources[1:] {
		for i := range result {
			var one byte
			if i < len(source) {
				one = source[i]
			}
			result[i] = combine(result[i], one)
		}
	}
	c.storeBits(c.args[2], result)
	c.reply.Int(int64(longest))
}

// storeBits gives a key a string without expiry; an empty one only takes the old value out.
func (c call) storeBits(key, text []byte) {
	old := c.peek(key)
	if len(text) == 0 {
		if old != nil {
			c.drop(old)
			c.notify(EventGeneric, "del", key)
		}
		return
	}
	c.store(key, text, nil)
	c.find(key).value.held = heldRaw
	c.notify(EventString, "set", key)
}
