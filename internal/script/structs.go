package script

import (
	"math"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

var structLibrary = []library{{"pack", structPack}, {"size", structSize}, {"unpack", structUnpack}}

// layout reads a format of the library struct, option by option.
type layout struct {
	f      frame
	format string
	big    bool
	align  int
}

const (
	// maxIntegerSize and maxAlign are in bytes.
	maxIntegerSize = 32
	maxAlign       = 8
	// maxStructSize bounds a number in a format.
	maxStructSize = math.MaxInt32
)

func newLayout(f frame) *layout { return &layout{f: f, format: f.text(1), align: 1} }

// number reads the digits that the rest of the format begins with.
func (l *layout) number(otherwise int) int {
	n, digits := 0, 0
	for digits < len(l.format) && l.format[digits] >= '0' && l.format[digits] <= '9' {
		if n = n*10 + int(l.format[digits]-'0'); n > maxStructSize {
			l.f.fail("integral size overflow")
		}
		digits++
	}
	if digits == 0 {
		return otherwise
	}
	l.format = l.format[digits:]
	return n
}

// next returns the next option that stands for a value or a byte, and its size; false at the end.
func (l *layout) next() (option byte, size int, ok bool) {
	l.f.e.work(l.f.l, 1)
	if l.format == "" {
		return 0, 0, false
	}
	option, l.format = l.format[0], l.format[1:]
	switch option {
	case 'b', 'B', 'x':
		size = 1
	case 'h', 'H':
		size = 2
	case 'l', 'L', 'T', 'd':
		size = 8
	case 'f':
		size = 4
	case 'c':
		size = l.number(1)
	case 'i', 'I':
		if size = l.number(4); size > maxIntegerSize {
			l.f.fail("integral size " + strconv.Itoa(size) + " is larger than limit of " + strconv.Itoa(maxIntegerSize))
		}
	case 's', ' ':
	case '<', '>':
		l.big = option == '>'
	case '!':
		a := l.number(maxAlign)
		if a <= 0 || a&(a-1) != 0 {
			l.f.fail("alignment " + strconv.Itoa(a) + " is not a power of 2")
		}
		l.align = a
	default:
		l.f.argError(1, "invalid format option '"+string([]byte{option})+"'")
	}
	return option, size, true
}

// padding returns the bytes that bring an option to its alignment.
func (l *layout) padding(at, size int, option byte) int {
	if size == 0 || option == 'c' {
		return 0
	}
	size = min(size, l.align)
	return (size - at&(size-1)) & (size - 1)
}

func structPack(f frame) int {
	l := newLayout(f)
	var b []byte
	arg := 2
	for {
		option, size, ok := l.next()
		if !ok {
			break
		}
		b = append(b, make([]byte, l.padding(len(b), size, option))...)
		switch option {
		case 'b', 'B', 'h', 'H', 'l', 'L', 'T', 'i', 'I':
			b = l.appendInteger(b, f.number(arg), size)
		case 'x':
			b = append(b, 0)
			continue
		case 'f':
			b = l.appendBytes(b, uint64(math.Float32bits(float32(f.number(arg)))), 4)
		case 'd':
			b = l.appendBytes(b, floatBits(f.number(arg)), 8)
		case 'c', 's':
			text := f.text(arg)
			if size == 0 {
				size = len(text)
			}
			if len(text) < size {
				f.argError(arg+1, "string too short")
			}
			f.e.take(f.l, size)
			if b = append(b, text[:size]...); option == 's' {
				b = append(b, 0)
			}
		default:
			continue
		}
		arg++
	}
	return f.pushText(string(b))
}

// floatBits returns the bits of n, the same for every NaN.
func floatBits(n float64) uint64 {
	if math.IsNaN(n) {
		return 0xfff8000000000000
	}
	return math.Float64bits(n)
}

func (l *layout) appendInteger(b []byte, n float64, size int) []byte {
	if n < 0 {
		return l.appendBytes(b, uint64(integerOf(n)), size)
	}
	return l.appendBytes(b, unsignedOf(n), size)
}

func (l *layout) appendBytes(b []byte, n uint64, size int) []byte {
	from := len(b)
	for range size {
		b = append(b, byte(n))
		n >>= 8
	}
	if l.big {
		for i, j := from, len(b)-1; i < j; i, j = i+1, j-1 {
			b[i], b[j] = b[j], b[i]
		}
	}
	return b
}

func structUnpack(f frame) int {
	l, data := newLayout(f), f.text(2)
	at := f.integerOr(3, 1) - 1
	if at < 0 {
		f.argError(3, "offset must be 1 or greater")
	}
	var values []lua.LValue
	for {
		option, size, ok := l.next()
		if !ok {
			break
		}
		at += l.padding(at, size, option)
		if at > len(data) || size > len(data)-at {
			f.argError(2, "data string too short")
		}
		if len(values) >= maxUnpack {
			f.fail("too many results")
		}
		piece := data[at : at+size]
		switch option {
		case 'b', 'B', 'h', 'H', 'l', 'L', 'T', 'i', 'I':
			values = append(values, lua.LNumber(l.integer(piece, option >= 'a')))
		case 'f':
			values = append(values, lua.LNumber(math.Float32frombits(uint32(l.bits(piece)))))
		case 'd':
			values = append(values, lua.LNumber(math.Float64frombits(l.bits(piece))))
		case 'c':
			if size == 0 {
				values, piece = l.measured(values, data[at:])
				size = len(piece)
			}
			values = append(values, f.e.newString(f.l, []byte(piece)))
		case 's':
			end := strings.IndexByte(data[at:], 0)
			if end < 0 {
				f.fail("unfinished string in data")
			}
			size = end + 1
			values = append(values, f.e.newString(f.l, []byte(data[at:at+end])))
		}
		at += size
	}
	return f.push(values...) + f.pushNumber(float64(at+1))
}

// measured takes the last value, which is the size of the string that follows, from values, and returns that string.
func (l *layout) measured(values []lua.LValue, rest string) ([]lua.LValue, string) {
	if len(values) == 0 {
		l.f.fail("format 'c0' needs a previous size")
	}
	n, ok := values[len(values)-1].(lua.LNumber)
	if !ok {
		l.f.fail("format 'c0' needs a previous size")
	}
	if n < 0 || float64(n) > float64(len(rest)) {
		l.f.argError(2, "data string too short")
	}
	return values[:len(values)-1], rest[:int(n)]
}

// bits reads an integer without sign.
func (l *layout) bits(piece string) (n uint64) {
	for i := range len(piece) {
		c := piece[i]
		if !l.big {
			c = piece[len(piece)-1-i]
		}
		n = n<<8 | uint64(c)
	}
	return n
}

func (l *layout) integer(piece string, signed bool) float64 {
	n := l.bits(piece)
	if !signed {
		return float64(n)
	}
	if size := len(piece); size < 8 && size > 0 && n>>(size*8-1) != 0 {
		n |= ^uint64(0) << (size * 8)
	}
	return float64(int64(n))
}

func structSize(f frame) int {
	l := newLayout(f)
	at := 0
	for {
		option, size, ok := l.next()
		if !ok {
			return f.pushNumber(float64(at))
		}
		at += l.padding(at, size, option)
		switch {
		case option == 's':
			f.argError(1, "option 's' has no fixed size")
		case option == 'c' && size == 0:
			f.argError(1, "option 'c0' has no fixed size")
		}
		at += size
	}
}
