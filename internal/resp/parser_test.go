package resp

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// parseAll feeds input to a parser whole, or growing byte by byte up to each of the given cuts, and renders what it
// cuts off: quoted arguments, one request a line, and the error that ended it.
func parseAll(limits Limits, input []byte, cuts ...int) string {
	var out strings.Builder
	p := NewParser(limits)
	consumed := 0
	for _, end := range append(slices.Clone(cuts), len(input)) {
		for consumed < end {
			// A copy at another address each time: the parser must not remember where the bytes stood.
			args, used, err := p.Next(bytes.Clone(input[consumed:end]))
			if err != nil {
				fmt.Fprintf(&out, "%v\n", err)
				return out.String()
			}
			if used == 0 {
				break
			}
			if len(args) > 0 {
				fmt.Fprintf(&out, "%q\n", args)
			}
			consumed += used
		}
	}
	return out.String()
}

func bulk(words ...string) string {
	var r Reply
	r.Array(len(words))
	for _, word := range words {
		r.BulkString(word)
	}
	return string(r.Buf)
}

// A request must come out exactly as Redis would read it, and a broken one be refused with Redis' own text.
func TestRequestsAreReadAsRedisReadsThem(t *testing.T) {
	small := Limits{Args: 4, Bulk: 100, Inline: 64, Query: 200, Trusted: true}
	guest := Limits{Args: 4, Bulk: 100, Inline: 64, Query: 200}
	tests := []struct {
		limits      Limits
		input, want string
	}{
		{small, bulk("GET", "a") + bulk("SET", "a", ""), `["GET" "a"]` + "\n" + `["SET" "a" ""]` + "\n"},
		{small, "*0\r\n*-1\r\n\r\n  \r\n" + bulk("PING"), `["PING"]` + "\n"},
		{small, "*1\r\n$4\r\nPINGxx" + bulk("PING"), `["PING"]` + "\n" + `["PING"]` + "\n"}, // the bytes behind a bulk are not looked at
		{small, "*x\r\n", "ERR Protocol error: invalid multibulk length\n"},
		{small, "*5\r\n", "ERR Protocol error: invalid multibulk length\n"},
		{small, "*99999999999999999999\r\n", "ERR Protocol error: invalid multibulk length\n"},
		{guest, "*5\r\n", "ERR Protocol error: unauthenticated multibulk length\n"},
		{small, "*1\r\n+4\r\n", "ERR Protocol error: expected '$', got '+'\n"},
		{small, "*1\r\n$-1\r\n", "ERR Protocol error: invalid bulk length\n"},
		{small, "*1\r\n$x\r\n", "ERR Protocol error: invalid bulk length\n"},
		{small, "*1\r\n$101\r\n", "ERR Protocol error: invalid bulk length\n"},
		{guest, "*1\r\n$101\r\n", "ERR Protocol error: unauthenticated bulk length\n"},
		{small, "*3\r\n$90\r\n" + strings.Repeat("x", 92) + "$90\r\n" + strings.Repeat("x", 92) + "$10\r\n", "ERR Protocol error: too big request\n"},
		{small, "*" + strings.Repeat("1", 70), "ERR Protocol error: too big mbulk count string\n"},
		{small, "*1\r\n$" + strings.Repeat("1", 70), "ERR Protocol error: too big bulk count string\n"},
		{small, strings.Repeat("x", 70), "ERR Protocol error: too big inline request\n"},
		{small, strings.Repeat("x", 70) + "\r\n", "ERR Protocol error: too big inline request\n"},
		{small, "set a \"x\r\n", "ERR Protocol error: unbalanced quotes in request\n"},
		{small, "set a 'x\r\n", "ERR Protocol error: unbalanced quotes in request\n"},
		{small, "set a \"x\"y\r\n", "ERR Protocol error: unbalanced quotes in request\n"},
		{small, "  set\ta  b \r\nget a\n", `["set" "a" "b"]` + "\n" + `["get" "a"]` + "\n"},
		{small, `set "a\x41\n\r\t\b\a\q\"" 'it\'s\n' ""` + "\r\n", `["set" "aA\n\r\t\b\aq\"" "it's\\n" ""]` + "\n"},
		{small, `a"b c"` + "\n", `["ab c"]` + "\n"},
		{small, `"\xZZ"` + "\n", `["xZZ"]` + "\n"},
	}
	for _, test := range tests {
		if got := parseAll(test.limits, []byte(test.input)); got != test.want {
			t.Errorf("%q\n got %q\nwant %q", test.input, got, test.want)
		}
		for cut := range test.input {
			if got := parseAll(test.limits, []byte(test.input), cut); got != test.want {
				t.Errorf("%q cut at %d\n got %q\nwant %q", test.input, cut, got, test.want)
			}
		}
	}
}

// A broken stream must stay broken: reading on behind an error would take data for commands.
func TestErrorIsFinal(t *testing.T) {
	p := NewParser(DefaultLimits())
	_, _, err := p.Next([]byte("*x\r\n"))
	var protocol *ProtocolError
	if !errors.As(err, &protocol) || protocol.Reason != "invalid multibulk length" {
		t.Fatalf("error %v", err)
	}
	if _, used, again := p.Next([]byte(bulk("PING"))); used != 0 || again != err {
		t.Errorf("after the error: used %d, %v", used, again)
	}
}

// What is only announced must not take memory: a thousand connections could each announce a million arguments.
func TestAnnouncementsTakeNoMemory(t *testing.T) {
	p := NewParser(DefaultLimits())
	input := []byte("*1048576\r\n$67108864\r\nabc")
	if n := testing.AllocsPerRun(10, func() {
		if args, used, err := p.Next(input); args != nil || used != 0 || err != nil {
			t.Fatal(args, used, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if missing := p.Missing(input); missing != 67108864+2-3 {
		t.Errorf("missing %d", missing)
	}
}

// A large argument that arrives in pieces must not be read again from its beginning, and a request costs no allocation.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	p := NewParser(DefaultLimits())
	multi, inline := []byte(bulk("SET", "key", "value")), []byte("SET key value\r\n")
	if n := testing.AllocsPerRun(100, func() {
		for _, input := range [][]byte{multi, inline} {
			if args, used, err := p.Next(input); len(args) != 3 || used != len(input) || err != nil {
				t.Fatal(args, used, err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParser: no input may panic, take more than the limits allow, or be read differently when it is cut.
func FuzzParser(f *testing.F) {
	f.Add([]byte(bulk("SET", "a", "b")+"get a\r\n"), 7)
	f.Add([]byte("*2\r\n$3\r\nGET\r\n$1\r\na\r\n*x\r\n"), 3)
	f.Add([]byte("set \"a\\x41\" 'b'\r\n*1\r\n$-1\r\n"), 9)
	f.Add([]byte("*3\r\n$0\r\n\r\n$1\r\n*\r\n$2\r\n\r\n\r\n"), 12)
	limits := Limits{Args: 16, Bulk: 256, Inline: 128, Query: 1024, Trusted: true}
	f.Fuzz(func(t *testing.T, input []byte, cut int) {
		whole := parseAll(limits, input)
		if cut < 0 {
			cut = -(cut + 1)
		}
		if len(input) > 0 {
			cut %= len(input)
			if split := parseAll(limits, input, cut); split != whole {
				t.Fatalf("cut at %d\n got %q\nwant %q", cut, split, whole)
			}
		}
		if len(input) <= 512 {
			every := make([]int, len(input))
			for i := range every {
				every[i] = i
			}
			if split := parseAll(limits, input, every...); split != whole {
				t.Fatalf("byte by byte\n got %q\nwant %q", split, whole)
			}
		}
	})
}

func BenchmarkParser(b *testing.B) {
	input := []byte(bulk("SET", "key:000000012345", strings.Repeat("x", 64)))
	p := NewParser(DefaultLimits())
	b.ReportAllocs()
	b.SetBytes(int64(len(input)))
	for b.Loop() {
		if _, used, err := p.Next(input); used != len(input) || err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParserInline(b *testing.B) {
	input := []byte("SET key:000000012345 \"hello world\"\r\n")
	p := NewParser(DefaultLimits())
	b.ReportAllocs()
	for b.Loop() {
		if _, used, err := p.Next(input); used != len(input) || err != nil {
			b.Fatal(err)
		}
	}
}
