package script

import (
	"math"
	"math/bits"

	lua "github.com/yuin/gopher-lua"
)

var mathLibrary = []library{
	{"abs", ofOne(math.Abs)}, {"acos", ofOne(math.Acos)}, {"asin", ofOne(math.Asin)}, {"atan", ofOne(math.Atan)}, {"atan2", ofTwo(math.Atan2)},
	{"ceil", ofOne(math.Ceil)}, {"cos", ofOne(math.Cos)}, {"cosh", ofOne(math.Cosh)}, {"deg", ofOne(func(x float64) float64 { return x / (math.Pi / 180) })},
	{"exp", ofOne(math.Exp)}, {"floor", ofOne(math.Floor)}, {"fmod", ofTwo(math.Mod)}, {"frexp", mathFrexp}, {"ldexp", mathLdexp},
	{"log", ofOne(math.Log)}, {"log10", ofOne(math.Log10)}, {"max", mathMax}, {"min", mathMin}, {"mod", ofTwo(math.Mod)}, {"modf", mathModf},
	{"pow", ofTwo(math.Pow)}, {"rad", ofOne(func(x float64) float64 { return x * (math.Pi / 180) })}, {"random", mathRandom},
	{"randomseed", mathRandomSeed}, {"sin", ofOne(math.Sin)}, {"sinh", ofOne(math.Sinh)}, {"sqrt", ofOne(math.Sqrt)}, {"tan", ofOne(math.Tan)},
	{"tanh", ofOne(math.Tanh)},
}

func ofOne(fn func(float64) float64) func(f frame) int {
	return func(f frame) int { return f.pushNumber(fn(f.number(1))) }
}

func ofTwo(fn func(a, b float64) float64) func(f frame) int {
	return func(f frame) int { return f.pushNumber(fn(f.number(1), f.number(2))) }
}

func mathFrexp(f frame) int {
	fraction, exponent := math.Frexp(f.number(1))
	return f.push(lua.LNumber(fraction), lua.LNumber(exponent))
}

func mathLdexp(f frame) int {
	return f.pushNumber(math.Ldexp(f.number(1), max(-5000, min(5000, f.integer(2)))))
}

func mathMax(f frame) int {
	n := f.number(1)
	for i := 2; i <= f.count(); i++ {
		if v := f.number(i); v > n {
			n = v
		}
	}
	return f.pushNumber(n)
}

func mathMin(f frame) int {
	n := f.number(1)
	for i := 2; i <= f.count(); i++ {
		if v := f.number(i); v < n {
			n = v
		}
	}
	return f.pushNumber(n)
}

func mathModf(f frame) int {
	n := f.number(1)
	whole, fraction := math.Modf(n)
	if math.IsInf(n, 0) {
		whole, fraction = n, 0
	}
	return f.push(lua.LNumber(whole), lua.LNumber(fraction))
}

// seeded is what the low bits of the generator are after math.randomseed.
const seeded = 0x330E

// draw returns the next number of lrand48, in [0, 2^31): the generator of Redis. It begins with the seed of the call.
func (e *Engine) draw() uint32 {
	e.random = (e.random*0x5DEECE66D + 0xB) & (1<<48 - 1)
	return uint32(e.random >> 17)
}

func mathRandom(f frame) int {
	const largest = math.MaxInt32
	r := float64(f.e.draw()%largest) / largest
	low, high := 1.0, 0.0
	switch f.count() {
	case 0:
		return f.pushNumber(r)
	case 1:
		if high = float64(f.integer(1)); high < 1 {
			f.argError(1, "interval is empty")
		}
	case 2:
		if low, high = float64(f.integer(1)), float64(f.integer(2)); low > high {
			f.argError(2, "interval is empty")
		}
	default:
		f.fail("wrong number of arguments")
	}
	return f.pushNumber(math.Floor(r*(high-low+1)) + low)
}

func mathRandomSeed(f frame) int {
	f.e.random = uint64(uint32(f.integer(1)))<<16 | seeded
	return 0
}

// osLibrary has the one function of Redis'. It tells log time, the same on every replica.
var osLibrary = []library{{"clock", func(f frame) int { return f.pushNumber(float64(f.e.now) / 1000) }}}

var bitLibrary = []library{
	{"arshift", shift(func(n uint32, by int) uint32 { return uint32(int32(n) >> by) })},
	{"band", fold(func(a, b uint32) uint32 { return a & b })},
	{"bnot", func(f frame) int { return f.pushBits(^f.bits(1)) }},
	{"bor", fold(func(a, b uint32) uint32 { return a | b })},
	{"bswap", func(f frame) int { return f.pushBits(bits.ReverseBytes32(f.bits(1))) }},
	{"bxor", fold(func(a, b uint32) uint32 { return a ^ b })},
	{"lshift", shift(func(n uint32, by int) uint32 { return n << by })},
	{"rol", shift(bits.RotateLeft32)},
	{"ror", shift(func(n uint32, by int) uint32 { return bits.RotateLeft32(n, -by) })},
	{"rshift", shift(func(n uint32, by int) uint32 { return n >> by })},
	{"tobit", func(f frame) int { return f.pushBits(f.bits(1)) }},
	{"tohex", toHex},
}

// bits returns a number as 32 bits: rounded to the nearest integer, modulo 2^32. What is beyond 2^51 gives the low bits
// that the same addition leaves in Redis.
func (f frame) bits(n int) uint32 { return uint32(math.Float64bits(f.number(n) + (1<<52 + 1<<51))) }

func (f frame) pushBits(n uint32) int { return f.pushNumber(float64(int32(n))) }

func fold(fn func(a, b uint32) uint32) func(f frame) int {
	return func(f frame) int {
		n := f.bits(1)
		for i := 2; i <= f.count(); i++ {
			n = fn(n, f.bits(i))
		}
		return f.pushBits(n)
	}
}

func shift(fn func(n uint32, by int) uint32) func(f frame) int {
	return func(f frame) int { return f.pushBits(fn(f.bits(1), int(f.bits(2)&31))) }
}

func toHex(f frame) int {
	v, digits := f.bits(1), int32(8)
	if !f.absent(2) {
		digits = int32(f.bits(2))
	}
	alphabet := "0123456789abcdef"
	if digits < 0 {
		digits, alphabet = -digits, "0123456789ABCDEF"
	}
	if digits < 0 || digits > 8 {
		digits = 8
	}
	b := make([]byte, digits)
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = alphabet[v&15]
		v >>= 4
	}
	return f.pushText(string(b))
}
