package script

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// parseNumber reads a number as C's strtod with spaces around it does, as Lua 5.1 reads texts: decimal or hexadecimal, also
// "inf" and "nan" as glibc knows them.
func parseNumber(text string) (float64, bool) {
	text = strings.Trim(text, " \t\n\v\f\r")
	digits := text
	negative := false
	if digits != "" && (digits[0] == '-' || digits[0] == '+') {
		negative = digits[0] == '-'
		digits = digits[1:]
	}
	if digits == "" || strings.IndexByte(digits, '_') >= 0 || digits[0] == '+' || digits[0] == '-' {
		return 0, false
	}
	if len(digits) > 2 && digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X') {
		return parseHex(digits[2:], negative)
	}
	if c := digits[0]; c != '.' && (c < '0' || c > '9') {
		switch strings.ToLower(digits) {
		case "inf", "infinity":
			return math.Inf(map[bool]int{false: 1, true: -1}[negative]), true
		case "nan":
			return math.NaN(), true
		}
		return 0, false
	}
	f, err := strconv.ParseFloat(text, 64)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0, false
	}
	return f, true
}

func parseHex(digits string, negative bool) (float64, bool) {
	var f float64
	if n, err := strconv.ParseUint(digits, 16, 64); err == nil {
		f = float64(n)
	} else {
		if !strings.ContainsAny(digits, "pP") {
			digits += "p0"
		}
		if f, err = strconv.ParseFloat("0x"+digits, 64); errors.Is(err, strconv.ErrSyntax) {
			return 0, false
		}
	}
	if negative {
		f = -f
	}
	return f, true
}

// appendNumber appends f as Lua 5.1 prints numbers, C's %.14g.
func appendNumber(b []byte, f float64) []byte { return appendG(b, f, 14) }

func numberText(f float64) string {
	if f == math.Trunc(f) && math.Abs(f) < 1e14 && (f != 0 || !math.Signbit(f)) {
		return strconv.FormatInt(int64(f), 10)
	}
	return string(appendNumber(nil, f))
}

// appendG appends f as C's %.<precision>g: the digits without trailing zeros, with an exponent of at least two digits
// if it is below -4 or not below the precision.
func appendG(b []byte, f float64, precision int) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, "-nan"...) // that of 0/0 on amd64; its sign is not the same on every processor
	case math.IsInf(f, 1):
		return append(b, "inf"...)
	case math.IsInf(f, -1):
		return append(b, "-inf"...)
	}
	precision = max(precision, 1)
	var digits [512]byte
	text := strconv.AppendFloat(digits[:0], f, 'e', precision-1, 64)
	mark := len(text) - 1
	for text[mark] != 'e' {
		mark--
	}
	exponent, _ := strconv.Atoi(string(text[mark+1:]))
	if exponent < -4 || exponent >= precision {
		mantissa := trimZeros(text[:mark])
		b = append(b, mantissa...)
		return append(b, text[mark:]...) // Go, too, writes two digits of the exponent at least
	}
	return append(b, trimZeros(strconv.AppendFloat(digits[:0], f, 'f', precision-1-exponent, 64))...)
}

// trimZeros cuts the zeros at the end of a fraction, and its point if nothing remains.
func trimZeros(text []byte) []byte {
	point := false
	for _, c := range text {
		point = point || c == '.'
	}
	if !point {
		return text
	}
	end := len(text)
	for text[end-1] == '0' {
		end--
	}
	if text[end-1] == '.' {
		end--
	}
	return text[:end]
}

// appendArgument appends a number as an argument of a command, as Redis 7.2 does: integers in plain digits, others with as
// few digits as tell them apart.
func appendArgument(b []byte, f float64) []byte {
	const limit = 1 << 52
	if f == math.Trunc(f) && f > -limit && f < limit {
		return strconv.AppendInt(b, int64(f), 10)
	}
	switch {
	case math.IsNaN(f):
		return append(b, "nan"...)
	case math.IsInf(f, 1):
		return append(b, "inf"...)
	case math.IsInf(f, -1):
		return append(b, "-inf"...)
	}
	var buffer [32]byte
	text := strconv.AppendFloat(buffer[:0], f, 'e', -1, 64)
	mark := len(text) - 1
	for text[mark] != 'e' {
		mark--
	}
	exponent, _ := strconv.Atoi(string(text[mark+1:]))
	digits := mark
	if text[0] == '-' {
		digits--
	}
	if digits > 1 {
		digits-- // the point
	}
	last := exponent - digits + 1 // power of ten of the last digit
	switch {
	case last >= 0 && exponent < digits+7, last < 0 && (last > -7 || max(exponent, -exponent) < 4):
		return strconv.AppendFloat(b, f, 'f', -1, 64)
	}
	b = append(b, text[:mark]...)
	b = append(b, 'e')
	if exponent >= 0 {
		b = append(b, '+')
	}
	return strconv.AppendInt(b, int64(exponent), 10)
}
