package kv

import (
	"bytes"
	"math"
	"math/big"
	"strconv"
)

// longDoubleBits is the precision of the x87 extended format, in which Redis computes INCRBYFLOAT on amd64. Doing
// the same in software makes the digits equal, on every machine.
const longDoubleBits = 64

// maxLongDoubleText is from where on a text is too long for a number of INCRBYFLOAT, HINCRBYFLOAT and time-outs, in bytes. Scores have
// no such limit.
const maxLongDoubleText = 5 * 1024

var zeroText = []byte("0")

// addLongDouble adds two numbers given in text as Redis does and returns the sum in text, or the text of an error.
func addLongDouble(old, delta []byte, errOld, errResult string) (sum []byte, problem string) {
	a, ok := parseLongDouble(old)
	if !ok {
		return nil, errOld
	}
	b, ok := parseLongDouble(delta)
	if !ok {
		return nil, errFloat
	}
	if a.IsInf() || b.IsInf() {
		return nil, errResult
	}
	z := new(big.Float).SetPrec(longDoubleBits).SetMode(big.ToNearestEven).Add(a, b)
	if z.MantExp(nil) > 16384 {
		return nil, errResult
	}
	return formatLongDouble(z), ""
}

// formatLongDouble prints like Redis: 17 digits behind the point, then without trailing zeros.
func formatLongDouble(f *big.Float) []byte {
	text := f.Append(nil, 'f', 17)
	text = bytes.TrimRight(text, "0")
	text = bytes.TrimSuffix(text, []byte("."))
	if string(text) == "-0" {
		return zeroText
	}
	return text
}

// parseLongDouble reads what C's strtold reads, as a whole, without leading space, and no NaN.
func parseLongDouble(b []byte) (*big.Float, bool) {
	text, ok := numberText(b)
	if !ok || len(b) >= maxLongDoubleText {
		return nil, false
	}
	f := new(big.Float).SetPrec(longDoubleBits)
	if _, ok := f.SetString(text); !ok || f.IsInf() {
		return f, ok
	}
	// Through a rational number: the conversion is then correctly rounded, as in glibc.
	exponent := f.MantExp(nil)
	if exponent > 16384 || f.Sign() != 0 && exponent < -16445 {
		return nil, false
	}
	rational, ok := new(big.Rat).SetString(text)
	if !ok {
		return nil, false
	}
	return f.SetRat(rational), true
}

// numberText checks that b is a number as C reads it and returns it as Go's strconv and big read it.
func numberText(b []byte) (string, bool) {
	if len(b) == 0 {
		return "", false
	}
	digits := b
	if digits[0] == '+' || digits[0] == '-' {
		digits = digits[1:]
	}
	if isWord(digits, "inf") || isWord(digits, "infinity") {
		if b[0] == '-' {
			return "-Inf", true
		}
		return "+Inf", true
	}
	if len(digits) > 2 && digits[0] == '0' && digits[1]|0x20 == 'x' {
		return hexNumberText(string(b), digits[2:])
	}
	return string(b), decimalFloat(digits)
}

// decimalFloat reports whether b is digits, at most one point, at least one digit, and perhaps an exponent.
func decimalFloat(b []byte) bool {
	mantissa, exponent := b, []byte("0")
	if i := bytes.IndexAny(b, "eE"); i >= 0 {
		mantissa, exponent = b[:i], b[i+1:]
		if len(exponent) > 0 && (exponent[0] == '+' || exponent[0] == '-') {
			exponent = exponent[1:]
		}
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	return len(whole)+len(fraction) > 0 && allDigits(whole) && allDigits(fraction) && len(exponent) > 0 &&
		len(exponent) < 6 && allDigits(exponent)
}

func allDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// hexNumberText checks what stands behind 0x: hexadecimal digits, at most one point, perhaps a binary exponent.
func hexNumberText(text string, b []byte) (string, bool) {
	mantissa, exponent, some := bytes.Cut(bytes.ToLower(b), []byte("p"))
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	if len(whole)+len(fraction) == 0 || !allHex(whole) || !allHex(fraction) {
		return "", false
	}
	if !some {
		return text + "p0", true
	}
	if len(exponent) > 0 && (exponent[0] == '+' || exponent[0] == '-') {
		exponent = exponent[1:]
	}
	return text, len(exponent) > 0 && len(exponent) < 6 && allDigits(exponent)
}

func allHex(b []byte) bool {
	for _, c := range b {
		if c |= 0x20; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// parseDouble reads what C's strtod reads, as a whole, without leading space; no NaN, no overflow, no underflow to 0.
func parseDouble(b []byte) (float64, bool) {
	if n, ok := smallInt(b); ok {
		return n, true
	}
	text, ok := numberText(b)
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, false
	}
	return f, f != 0 || zeroDigits(text)
}

// smallInt reads a plain number of few digits, by far the most frequent score.
func smallInt(b []byte) (float64, bool) {
	if len(b) == 0 || len(b) > 15 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return float64(n), true
}

// zeroDigits reports whether a number that was read as 0 is written as 0: it has no other digit before its exponent.
func zeroDigits(text string) bool {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == 'e' || c == 'E' || c == 'p' || c == 'P':
			return true
		case c >= '1' && c <= '9':
			return false
		}
	}
	return true
}

// isInteger reports whether f has no fraction and fits an int64 exactly.
func isInteger(f float64) bool { return f == math.Trunc(f) && math.Abs(f) < 1<<53 }
