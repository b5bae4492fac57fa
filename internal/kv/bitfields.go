package kv

import (
	"math"

	"lockstep/internal/resp"
)

// overflow says what BITFIELD does with a number that does not fit.
type overflow uint8

const (
	overflowWrap overflow = iota
	overflowSaturate
	overflowFail
)

// fieldOp is one operation of BITFIELD.
type fieldOp struct {
	kind     byte // 'g'et, 's'et, 'i'ncrby
	signed   bool
	width    int64 // in bits: 1..64, unsigned to 63
	at       int64 // index of the first bit
	operand  int64
	overflow overflow
}

const errFieldType = "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."

// fieldType reads argument i as a type of BITFIELD, or replies an error.
func (c call) fieldType(i int) (signed bool, width int64, ok bool) {
	text := cString(c.args[i], len(c.args[i]))
	if len(text) > 0 && (text[0] == 'i' || text[0] == 'u') {
		signed = text[0] == 'i'
		width, ok = resp.ParseInt(text[1:])
	}
	if !ok || width < 1 || width > 64 || !signed && width > 63 {
		c.reply.Error(errFieldType)
		return false, 0, false
	}
	return signed, width, true
}

// parseFieldOps reads the operations of BITFIELD, or replies an error.
func (c call) parseFieldOps() (ops []fieldOp, ok bool) {
	mode := overflowWrap
	for i := 2; i < len(c.args); {
		left := len(c.args) - i - 1
		op := fieldOp{overflow: mode}
		switch {
		case c.is(i, "get") && left >= 2:
			op.kind = 'g'
		case c.is(i, "set") && left >= 3:
			op.kind = 's'
		case c.is(i, "incrby") && left >= 3:
			op.kind = 'i'
		case c.is(i, "overflow") && left >= 1:
			switch {
			case c.is(i+1, "wrap"):
				mode = overflowWrap
			case c.is(i+1, "sat"):
				mode = overflowSaturate
			case c.is(i+1, "fail"):
				mode = overflowFail
			default:
				c.reply.Error("ERR Invalid OVERFLOW type specified")
				return nil, false
			}
			i += 2
			continue
		default:
			c.reply.Error(errSyntax)
			return nil, false
		}
		if op.signed, op.width, ok = c.fieldType(i + 1); !ok {
			return nil, false
		}
		if op.at, ok = c.bitOffset(i+2, op.width); !ok {
			return nil, false
		}
		i += 3
		if op.kind != 'g' {
			if op.operand, ok = c.integer(i); !ok {
				return nil, false
			}
			i++
		}
		ops = append(ops, op)
	}
	return ops, true
}

func bitField(c call) {
	ops, ok := c.parseFieldOps()
	if !ok {
		return
	}
	last := int64(-1)
	for _, op := range ops {
		if op.kind != 'g' {
			last = max(last, op.at+op.width-1)
		}
	}
	if last < 0 {
		c.getFields(ops)
		return
	}
	e, grown, ok := c.bitsToWrite(last)
	if !ok {
		return
	}
	c.reply.Array(len(ops))
	changed := false
	for _, op := range ops {
		if op.kind == 'g' {
			c.reply.Int(op.get(e.value.text()))
			continue
		}
		old := op.get(e.value.text())
		result, fits := op.compute(old)
		if !fits && op.overflow == overflowFail {
			c.reply.Null()
			continue
		}
		if op.kind == 's' {
			c.reply.Int(old)
		} else {
			c.reply.Int(result)
		}
		op.put(e.value.text(), result)
		changed = changed || grown || old != result
	}
	if grown || changed {
		c.touch(e)
	}
	if changed {
		c.notify(EventString, "setbit", c.args[1])
	}
}

func bitFieldRO(c call) {
	ops, ok := c.parseFieldOps()
	if !ok {
		return
	}
	for _, op := range ops {
		if op.kind != 'g' {
			c.reply.Error("ERR BITFIELD_RO only supports the GET subcommand")
			return
		}
	}
	c.getFields(ops)
}

func (c call) getFields(ops []fieldOp) {
	e, ok := c.text(c.args[1])
	if !ok {
		return
	}
	var text []byte
	if e != nil {
		text = e.value.text()
	}
	c.reply.Array(len(ops))
	for _, op := range ops {
		c.reply.Int(op.get(text))
	}
}

func (op fieldOp) get(b []byte) int64 {
	var n uint64
	for i := range op.width {
		n = n<<1 | uint64(bitOf(b, op.at+i))
	}
	return op.extend(n)
}

// extend returns the number that the low bits of n stand for.
func (op fieldOp) extend(n uint64) int64 {
	unused := 64 - op.width
	if op.signed {
		return int64(n<<unused) >> unused
	}
	return int64(n << unused >> unused)
}

func (op fieldOp) put(b []byte, n int64) {
	for i := range op.width {
		putBit(b, op.at+i, byte(uint64(n)>>(op.width-1-i)&1))
	}
}

// limits returns the smallest and the largest number of the field.
func (op fieldOp) limits() (low, high int64) {
	if !op.signed {
		return 0, 1<<op.width - 1
	}
	high = math.MaxInt64 >> (64 - op.width)
	return -high - 1, high
}

// compute returns what SET or INCRBY makes of the old number, and whether the exact result fits the field.
func (op fieldOp) compute(old int64) (result int64, fits bool) {
	low, high := op.limits()
	if op.kind == 's' {
		old = 0
	}
	sum, ok := addInt(old, op.operand)
	above := ok && sum > high || !ok && op.operand > 0
	below := ok && sum < low || !ok && op.operand < 0
	switch {
	case op.kind != 's':
	case !op.signed && op.operand < 0: // Redis reads it as a large number without sign
		above, below = true, false
	case op.signed && op.width < 64 && high-op.operand < 0: // Redis' comparison overflows for the smallest numbers
		above, below = true, false
	}
	switch {
	case !above && !below:
		return sum, true
	case op.overflow != overflowSaturate:
		return op.extend(uint64(old) + uint64(op.operand)), false
	case above:
		return high, false
	}
	return low, false
}
