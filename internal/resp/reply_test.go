package resp

import (
	"math"
	"strconv"
	"strings"
	"testing"
)

// Each reply must have the form that the protocol version of the connection knows.
func TestRepliesTakeTheFormOfTheProtocol(t *testing.T) {
	tests := []struct {
		write      func(*Reply)
		two, three string
	}{
		{func(r *Reply) { r.Simple("PONG") }, "+PONG\r\n", "+PONG\r\n"},
		{func(r *Reply) { r.OK() }, "+OK\r\n", "+OK\r\n"},
		{func(r *Reply) { r.Error("ERR a\r\nb") }, "-ERR a  b\r\n", "-ERR a  b\r\n"},
		{func(r *Reply) { r.Int(-7) }, ":-7\r\n", ":-7\r\n"},
		{func(r *Reply) { r.Bulk([]byte("ab")) }, "$2\r\nab\r\n", "$2\r\nab\r\n"},
		{func(r *Reply) { r.BulkInt(120) }, "$3\r\n120\r\n", "$3\r\n120\r\n"},
		{func(r *Reply) { r.Null() }, "$-1\r\n", "_\r\n"},
		{func(r *Reply) { r.NullArray() }, "*-1\r\n", "_\r\n"},
		{func(r *Reply) { r.Array(2) }, "*2\r\n", "*2\r\n"},
		{func(r *Reply) { r.Map(2) }, "*4\r\n", "%2\r\n"},
		{func(r *Reply) { r.Set(2) }, "*2\r\n", "~2\r\n"},
		{func(r *Reply) { r.Push(2) }, "*2\r\n", ">2\r\n"},
		{func(r *Reply) { r.Double(0.1) }, "$3\r\n0.1\r\n", ",0.1\r\n"},
		{func(r *Reply) { r.Double(3) }, "$1\r\n3\r\n", ",3\r\n"},
		{func(r *Reply) { r.Double(math.Inf(-1)) }, "$4\r\n-inf\r\n", ",-inf\r\n"},
		{func(r *Reply) { r.Double(1e20) }, "$5\r\n1e+20\r\n", ",1e+20\r\n"},
		{func(r *Reply) { r.Double(math.Copysign(0, -1)) }, "$2\r\n-0\r\n", ",-0\r\n"},
		{func(r *Reply) { r.Bool(true); r.Bool(false) }, ":1\r\n:0\r\n", "#t\r\n#f\r\n"},
		{func(r *Reply) { r.Verbatim("txt", "hi") }, "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"},
		{func(r *Reply) { r.BigNumber("12345678901234567890") }, "$20\r\n12345678901234567890\r\n", "(12345678901234567890\r\n"},
	}
	for _, test := range tests {
		two, three := Reply{}, Reply{Proto: 3}
		test.write(&two)
		test.write(&three)
		if string(two.Buf) != test.two || string(three.Buf) != test.three {
			t.Errorf("got %q and %q, want %q and %q", two.Buf, three.Buf, test.two, test.three)
		}
		test.write(nil) // nobody waits: must do nothing
	}
}

// A header that is known only afterwards must land in front of its elements and of nothing else.
func TestHeaderIsInsertedAtMark(t *testing.T) {
	r := Reply{Proto: 3}
	r.Int(1)
	mark := r.Mark()
	for range 12 {
		r.Int(7)
	}
	r.InsertArray(mark, 12)
	empty := r.Mark()
	r.InsertSet(empty, 0)
	if want := ":1\r\n*12\r\n" + strings.Repeat(":7\r\n", 12) + "~0\r\n"; string(r.Buf) != want {
		t.Errorf("got %q, want %q", r.Buf, want)
	}
}

// Decoding and writing again must give the same bytes: tools and tests rely on the one to check the other.
func TestDecodedReplyIsWrittenBack(t *testing.T) {
	input := "*12\r\n+OK\r\n-ERR no\r\n:-5\r\n$2\r\nab\r\n$-1\r\n_\r\n,1.5\r\n#t\r\n(123\r\n=6\r\ntxt:hi\r\n%1\r\n$1\r\na\r\n~1\r\n:1\r\n*-1\r\n"
	v, used, err := Decode([]byte(input + "+rest\r\n"))
	if err != nil || used != len(input) {
		t.Fatalf("used %d of %d: %v", used, len(input), err)
	}
	r := Reply{Proto: 3}
	v.Append(&r)
	want := strings.NewReplacer("$-1\r\n", "_\r\n", "*-1\r\n", "_\r\n").Replace(input)
	if string(r.Buf) != want || r.Errors != 1 {
		t.Errorf("got %q, want %q", r.Buf, want)
	}
	for cut := range input {
		if _, used, err := Decode([]byte(input[:cut])); used != 0 || err != nil {
			t.Fatalf("cut at %d: used %d, %v", cut, used, err)
		}
	}
}

// A hostile server must not make a tool take memory or stack without bound.
func TestDecodeIsBounded(t *testing.T) {
	for _, input := range []string{
		strings.Repeat("*1\r\n", MaxDepth+2), "?1\r\n", "\r\n", "$x\r\n", "$999999999999\r\n", "*-2\r\n", "$1\r\nabc\r\n", ":x\r\n", "#x\r\n", ",x\r\n",
		"=2\r\nab\r\n",
	} {
		if v, used, err := Decode([]byte(input)); err == nil {
			t.Errorf("%q gave %+v, used %d", input, v, used)
		}
	}
	if _, used, err := Decode([]byte("*2000000000\r\n")); used != 0 || err != nil {
		t.Errorf("used %d, %v", used, err)
	}
}

// FuzzDecode: no input may panic; what is decoded must be written back to something that decodes to the same bytes.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("*2\r\n$1\r\na\r\n:1\r\n"))
	f.Add([]byte("%1\r\n+a\r\n~1\r\n,1.5\r\n"))
	f.Add([]byte("|1\r\n+a\r\n+b\r\n=5\r\ntxt:x\r\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		v, used, err := Decode(input)
		if err != nil || used == 0 {
			return
		}
		first := Reply{Proto: 3}
		v.Append(&first)
		again, used, err := Decode(first.Buf)
		if err != nil || used != len(first.Buf) {
			t.Fatalf("%q was written back as %q: used %d, %v", input, first.Buf, used, err)
		}
		second := Reply{Proto: 3}
		again.Append(&second)
		if string(first.Buf) != string(second.Buf) {
			t.Fatalf("%q, then %q", first.Buf, second.Buf)
		}
	})
}

// The integers that Redis' string2ll takes, and no others.
func TestParseInt(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "7": 7, "-7": -7, "9223372036854775807": math.MaxInt64, "-9223372036854775808": math.MinInt64} {
		if n, ok := ParseInt([]byte(text)); !ok || n != want {
			t.Errorf("%q gave %d %v", text, n, ok)
		}
	}
	for _, text := range []string{"", "-", "+1", "01", "-0", " 1", "1 ", "1.0", "9223372036854775808", "-9223372036854775809", "99999999999999999999", "x"} {
		if n, ok := ParseInt([]byte(text)); ok {
			t.Errorf("%q gave %d", text, n)
		}
	}
}

// Scores must have the digits that Redis 7.2 prints: the fewest, and an exponent where it has one.
func TestDoublesHaveTheFewestDigits(t *testing.T) {
	for text, f := range map[string]float64{
		"0": 0, "-0": math.Copysign(0, -1), "1": 1, "-1.5": -1.5, "0.1": 0.1, "3.3333333333333335": 10.0 / 3, "1e-7": 1e-7, "0.000001": 1e-6, "1.5e-10": 1.5e-10,
		"1e+20": 1e20, "2000000000000000": 2e15, "123456789012345680": 123456789012345680, "1.7976931348623157e+308": math.MaxFloat64, "5e-324": 5e-324, "1.2345678e-4": 0.00012345678,
		"inf": math.Inf(1), "-inf": math.Inf(-1), "10000000": 1e7, "-2.5e+30": -2.5e30,
	} {
		if got := string(AppendDouble(nil, f)); got != text {
			t.Errorf("%v gave %s, want %s", f, got, text)
		}
		if back, err := strconv.ParseFloat(string(AppendDouble(nil, f)), 64); err != nil || back != f {
			t.Errorf("%v reads back as %v: %v", f, back, err)
		}
	}
}
