package kv

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"lockstep/internal/resp"
)

// A HyperLogLog is a string with Redis' layout, so that it can be copied to and from a redis-server.
//
//	offset size
//	     0    4  "HYLL"
//	     4    1  encoding: 0 dense, 1 sparse
//	     5    3  zero
//	     8    8  cached cardinality, little endian; bit 63 says that it is stale. PFCOUNT, a read, never refreshes it.
//	    16       registers
//
// Dense: 16384 registers of 6 bits, the lowest bits of a byte first. Sparse: runs of equal registers,
//
//	00nnnnnn           n+1 registers are 0
//	01nnnnnn nnnnnnnn  n+1 registers are 0, high byte first
//	1vvvvvnn           n+1 registers are v+1
const (
	hllHeader    = 16
	hllBits      = 14 // of the hash that choose a register
	hllRegisters = 1 << hllBits
	hllRanks     = 64 - hllBits // bits of the hash that are counted
	hllDenseSize = hllHeader + hllRegisters*6/8
	// hllSparseBytes is Redis' default of hll-sparse-max-bytes, the header included.
	hllSparseBytes = 3000

	hllDense  = 0
	hllSparse = 1

	hllMaxValue  = 32 // of a sparse run
	hllMaxRun    = 4  // of a run of values
	hllMaxZeros  = 64 // of a run of zeros in one byte
	errHLLBroken = "INVALIDOBJ Corrupted HLL object detected"
	errNoHLL     = "WRONGTYPE Key is not a valid HyperLogLog string value."
)

var hyperLogLogCommands = []Command{
	{Name: "pfadd", Arity: -2, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: pfAdd},
	{Name: "pfcount", Arity: -2, Flags: Readonly, FirstKey: 1, LastKey: -1, Step: 1, run: pfCount},
	{Name: "pfdebug", Arity: 3, Flags: Write | DenyOOM | Admin, FirstKey: 2, LastKey: 2, Step: 1, run: pfDebug},
	{Name: "pfmerge", Arity: -2, Flags: Write | DenyOOM, FirstKey: 1, LastKey: -1, Step: 1, run: pfMerge},
	{Name: "pfselftest", Arity: 1, Flags: Local | Admin, run: pfSelfTest},
}

// newHLL returns an empty HyperLogLog.
func newHLL() []byte {
	h := make([]byte, hllHeader, hllHeader+2)
	copy(h, "HYLL")
	h[4] = hllSparse
	return appendZeros(h, hllRegisters)
}

// appendZeros appends a sparse run of n zeros.
func appendZeros(b []byte, n int) []byte {
	if n > hllMaxZeros {
		return append(b, 0x40|byte((n-1)>>8), byte(n-1))
	}
	return append(b, byte(n-1))
}

func valueRun(value, n int) byte { return 0x80 | byte(value-1)<<2 | byte(n-1) }

// hllRun is a run of equal registers of the sparse encoding.
type hllRun struct {
	value  int
	count  int
	length int // in bytes
}

// runAt decodes the run at place i of a sparse encoding; a run that is cut short has length 0.
func runAt(b []byte, i int) hllRun {
	switch one := b[i]; {
	case one&0x80 != 0:
		return hllRun{int(one>>2&31) + 1, int(one&3) + 1, 1}
	case one&0x40 == 0:
		return hllRun{0, int(one&63) + 1, 1}
	case i+1 < len(b):
		return hllRun{0, int(one&63)<<8 + int(b[i+1]) + 1, 2}
	}
	return hllRun{}
}

// murmurHash is MurmurHash64A with the seed that Redis uses.
func murmurHash(b []byte) uint64 {
	const m, r, seed = 0xc6a4a7935bd1e995, 47, 0xadc83b19
	h := seed ^ uint64(len(b))*m
	for ; len(b) >= 8; b = b[8:] {
		k := binary.LittleEndian.Uint64(b) * m
		k ^= k >> r
		h = (h ^ k*m) * m
	}
	if len(b) > 0 {
		var tail [8]byte
		copy(tail[:], b)
		h = (h ^ binary.LittleEndian.Uint64(tail[:])) * m
	}
	h ^= h >> r
	h *= m
	return h ^ h>>r
}

// hllPlace returns the register of an element and the value that the element asks for.
func hllPlace(element []byte) (register, value int) {
	hash := murmurHash(element)
	register = int(hash & (hllRegisters - 1))
	hash = hash>>hllBits | 1<<hllRanks
	for value = 1; hash&1 == 0; hash >>= 1 {
		value++
	}
	return register, value
}

func denseGet(registers []byte, i int) int {
	at, shift := i*6/8, i*6%8
	n := int(registers[at]) >> shift
	if shift > 2 {
		n |= int(registers[at+1]) << (8 - shift)
	}
	return n & 63
}

func densePut(registers []byte, i, value int) {
	at, shift := i*6/8, i*6%8
	registers[at] = registers[at]&^byte(63<<shift) | byte(value<<shift)
	if shift > 2 {
		registers[at+1] = registers[at+1]&^byte(63>>(8-shift)) | byte(value>>(8-shift))
	}
}

// hllPut raises a register to value. It returns the HyperLogLog, which may have become dense, and whether anything
// changed; false for ok if it is broken.
func hllPut(h []byte, register, value int) (result []byte, changed, ok bool) {
	if h[4] == hllSparse {
		return sparsePut(h, register, value)
	}
	if denseGet(h[hllHeader:], register) >= value {
		return h, false, true
	}
	densePut(h[hllHeader:], register, value)
	return h, true, true
}

func sparsePut(h []byte, register, value int) (result []byte, changed, ok bool) {
	if value > hllMaxValue {
		return promotedPut(h, register, value)
	}
	at, first, before := hllHeader, 0, -1
	var run hllRun
	for at < len(h) {
		if run = runAt(h, at); run.length == 0 {
			return h, false, false
		}
		if register < first+run.count {
			break
		}
		before, at, first = at, at+run.length, first+run.count
	}
	if at >= len(h) {
		return h, false, false
	}
	if run.value >= value {
		return h, false, true
	}
	var room [5]byte
	parts := room[:0]
	if run.count == 1 {
		parts = append(parts, valueRun(value, 1))
	} else {
		parts = appendRun(parts, run.value, register-first)
		parts = append(parts, valueRun(value, 1))
		parts = appendRun(parts, run.value, first+run.count-1-register)
	}
	if grown := len(parts) - run.length; grown > 0 && len(h)+grown > hllSparseBytes {
		return promotedPut(h, register, value)
	}
	h = spliceBytes(h, at, at+run.length, parts)
	if before < 0 {
		before = hllHeader
	}
	h = mergeRuns(h, before)
	markStale(h)
	return h, true, true
}

func appendRun(b []byte, value, n int) []byte {
	switch {
	case n == 0:
		return b
	case value == 0:
		return appendZeros(b, n)
	}
	return append(b, valueRun(value, n))
}

// spliceBytes puts part in the place of b[from:end].
func spliceBytes(b []byte, from, end int, part []byte) []byte {
	grown := len(part) - (end - from)
	if grown > 0 {
		b = append(b, part[:grown]...)
	}
	copy(b[end+grown:], b[end:])
	copy(b[from:], part)
	return b[:len(b)+min(grown, 0)]
}

// mergeRuns joins runs of equal values among the five from place at on.
func mergeRuns(h []byte, at int) []byte {
	for tries := 5; at < len(h) && tries > 0; tries-- {
		run := runAt(h, at)
		if run.length == 0 {
			return h
		}
		if run.value > 0 && at+1 < len(h) {
			next := runAt(h, at+1)
			if next.value == run.value && next.count+run.count <= hllMaxRun {
				h[at+1] = valueRun(run.value, next.count+run.count)
				h = spliceBytes(h, at, at+1, nil)
				continue
			}
		}
		at += run.length
	}
	return h
}

func promotedPut(h []byte, register, value int) ([]byte, bool, bool) {
	dense, ok := denseOf(h)
	if !ok {
		return h, false, false
	}
	densePut(dense[hllHeader:], register, value)
	return dense, true, true
}

// denseOf returns the dense form of a HyperLogLog; false if it is broken.
func denseOf(h []byte) ([]byte, bool) {
	if h[4] == hllDense {
		return h, true
	}
	dense := make([]byte, hllDenseSize)
	copy(dense, h[:hllHeader])
	dense[4] = hllDense
	ok := eachRun(h, func(first int, run hllRun) {
		for i := range run.count {
			densePut(dense[hllHeader:], first+i, run.value)
		}
	})
	return dense, ok
}

// eachRun visits the runs of values of a sparse HyperLogLog; it reports false if the runs do not fill it exactly.
func eachRun(h []byte, visit func(first int, run hllRun)) bool {
	first := 0
	for at := hllHeader; at < len(h); {
		run := runAt(h, at)
		if run.length == 0 || first+run.count > hllRegisters {
			return false
		}
		if run.value > 0 {
			visit(first, run)
		}
		at, first = at+run.length, first+run.count
	}
	return first == hllRegisters
}

// markStale says that the cached cardinality is no longer that of the registers.
func markStale(h []byte) { h[15] |= 0x80 }

// raise raises each of registers to that of h; false if h is broken.
func raise(registers *[hllRegisters]byte, h []byte) bool {
	if h[4] == hllSparse {
		return eachRun(h, func(first int, run hllRun) {
			for i := first; i < first+run.count; i++ {
				registers[i] = max(registers[i], byte(run.value))
			}
		})
	}
	for i := range registers {
		registers[i] = max(registers[i], byte(denseGet(h[hllHeader:], i)))
	}
	return true
}

// estimate returns the cardinality after Ertl ("New cardinality estimation algorithms for HyperLogLog sketches",
// algorithm 6). Every product is rounded on its own, so that all machines compute the same.
func estimate(registers *[hllRegisters]byte) int64 {
	var histogram [64]int
	for _, value := range registers {
		histogram[value&63]++
	}
	const m = float64(hllRegisters)
	z := float64(m * hllTau((m-float64(histogram[hllRanks+1]))/m))
	for i := hllRanks; i >= 1; i-- {
		z = float64(z+float64(histogram[i])) * 0.5
	}
	z += float64(m * hllSigma(float64(histogram[0])/m))
	const alpha = 0.721347520444481703680
	return int64(math.Round(alpha * m * m / z))
}

func hllTau(x float64) float64 {
	if x == 0 || x == 1 {
		return 0
	}
	y, z := 1.0, 1-x
	for {
		x = math.Sqrt(x)
		before := z
		y *= 0.5
		square := float64((1 - x) * (1 - x))
		if z -= float64(square * y); z == before {
			return z / 3
		}
	}
}

func hllSigma(x float64) float64 {
	if x == 1 {
		return math.Inf(1)
	}
	y, z := 1.0, x
	for {
		x *= x
		before := z
		z += float64(x * y)
		if y += y; z == before {
			return z
		}
	}
}

// hll returns the entry of a key that holds a HyperLogLog, nil if it is absent; false after an error reply.
func (c call) hll(key []byte) (*entry, bool) {
	e, ok := c.text(key)
	if !ok || e == nil {
		return nil, ok
	}
	h := e.value.text()
	if len(h) < hllHeader || string(h[:4]) != "HYLL" || h[4] > hllSparse || h[4] == hllDense && len(h) != hllDenseSize {
		c.reply.Error(errNoHLL)
		return nil, false
	}
	return e, true
}

// hllToWrite is hll that makes an empty one if there is none, and says so.
func (c call) hllToWrite(key []byte) (e *entry, created, ok bool) {
	if e, ok = c.hll(key); !ok {
		return nil, false, false
	}
	if e == nil {
		e = c.create(key)
		c.db.keys.setText(e, newHLL(), heldRaw)
		created = true
	}
	e.value.held = heldRaw
	return e, created, true
}

func pfAdd(c call) {
	e, changed, ok := c.hllToWrite(c.args[1])
	if !ok {
		return
	}
	for _, element := range c.args[2:] {
		register, value := hllPlace(element)
		h, raised, ok := hllPut(e.value.text(), register, value)
		if !ok {
			c.reply.Error(errHLLBroken)
			return
		}
		c.db.keys.setText(e, h, heldRaw)
		changed = changed || raised
	}
	if !changed {
		c.reply.Int(0)
		return
	}
	markStale(e.value.text())
	c.touch(e)
	c.notify(EventString, "pfadd", c.args[1])
	c.reply.Int(1)
}

func pfCount(c call) {
	registers := new([hllRegisters]byte)
	if _, ok := c.raiseAll(registers, c.args[1:]); ok {
		c.reply.Int(estimate(registers))
	}
}

// raiseAll raises registers to those of all keys and reports whether one of them is dense; false for ok after an
// error reply.
func (c call) raiseAll(registers *[hllRegisters]byte, keys [][]byte) (dense, ok bool) {
	for _, key := range keys {
		e, ok := c.hll(key)
		if !ok {
			return false, false
		}
		if e == nil {
			continue
		}
		dense = dense || e.value.text()[4] == hllDense
		if !raise(registers, e.value.text()) {
			c.reply.Error(errHLLBroken)
			return false, false
		}
	}
	return dense, true
}

func pfMerge(c call) {
	registers := new([hllRegisters]byte)
	dense, ok := c.raiseAll(registers, c.args[1:])
	if !ok {
		return
	}
	e, _, ok := c.hllToWrite(c.args[1])
	if !ok {
		return
	}
	h := e.value.text()
	if dense {
		h, _ = denseOf(h) // raiseAll has seen that it is whole
	}
	for i, value := range registers {
		if value > 0 {
			h, _, _ = hllPut(h, i, int(value))
		}
	}
	markStale(h)
	c.db.keys.setText(e, h, heldRaw)
	c.touch(e)
	c.notify(EventString, "pfadd", c.args[1])
	c.reply.OK()
}

func pfDebug(c call) {
	e, ok := c.hll(c.args[2])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Error("ERR The specified key does not exist")
		return
	}
	h := e.value.text()
	switch {
	case c.is(1, "getreg"):
		if c.makeDense(e) {
			c.reply.Array(hllRegisters)
			for i := range hllRegisters {
				c.reply.Int(int64(denseGet(e.value.text()[hllHeader:], i)))
			}
		}
	case c.is(1, "decode"):
		if h[4] != hllSparse {
			c.reply.Error("ERR HLL encoding is not sparse")
			return
		}
		c.reply.BulkString(describeRuns(h))
	case c.is(1, "encoding"):
		c.reply.Simple([]string{"dense", "sparse"}[h[4]])
	case c.is(1, "todense"):
		if c.makeDense(e) {
			c.reply.Int(int64(h[4]))
		}
	default:
		c.reply.Error("ERR Unknown PFDEBUG subcommand '" + string(cString(c.args[1], len(c.args[1]))) + "'")
	}
}

// makeDense gives an entry the dense encoding; false after an error reply.
func (c call) makeDense(e *entry) bool {
	if e.value.text()[4] == hllDense {
		return true
	}
	dense, ok := denseOf(e.value.text())
	if !ok {
		c.reply.Error(errHLLBroken)
		return false
	}
	c.db.keys.setText(e, dense, heldRaw)
	c.touch(e)
	return true
}

// describeRuns renders the sparse encoding: z for zeros, Z for those in two bytes, v for values.
func describeRuns(h []byte) string {
	var parts []string
	for at := hllHeader; at < len(h); {
		run := runAt(h, at)
		switch {
		case run.length == 0:
			return strings.Join(parts, " ")
		case run.value > 0:
			parts = append(parts, fmt.Sprintf("v:%d,%d", run.value, run.count))
		case run.length == 2:
			parts = append(parts, fmt.Sprintf("Z:%d", run.count))
		default:
			parts = append(parts, fmt.Sprintf("z:%d", run.count))
		}
		at += run.length
	}
	return strings.Join(parts, " ")
}

func pfSelfTest(c call) { SelfTest(c.reply) }

// SelfTest answers PFSELFTEST: it checks the dense and the sparse encoding against plain registers.
func SelfTest(reply *resp.Reply) {
	var plain [hllRegisters]byte
	sparse := newHLL()
	dense, _ := denseOf(sparse)
	var element [8]byte
	for i := range 4 * hllRegisters {
		binary.LittleEndian.PutUint64(element[:], uint64(i))
		register, value := hllPlace(element[:])
		plain[register] = max(plain[register], byte(value))
		sparse, _, _ = hllPut(sparse, register, value)
		dense, _, _ = hllPut(dense, register, value)
	}
	var fromSparse, fromDense [hllRegisters]byte
	if !raise(&fromSparse, sparse) || !raise(&fromDense, dense) || plain != fromSparse || plain != fromDense {
		reply.Error("ERR TESTFAILED the encodings of HyperLogLog do not agree")
		return
	}
	reply.OK()
}
