package resp

import (
	"bytes"
	"fmt"
	"math"
)

// Limits bounds what a Parser accepts. The zero value means DefaultLimits.
type Limits struct {
	Args   int // arguments of a multibulk request
	Bulk   int // bytes of one argument
	Inline int // bytes of an inline request, and of the count strings of a multibulk request
	Query  int // bytes of a whole request, its protocol overhead included
	// Trusted is false before a client has authenticated: the error texts then are those that Redis gives there.
	Trusted bool
}

// DefaultLimits are those of an authenticated client: as in Redis, but at most what a request of the log can hold.
func DefaultLimits() Limits {
	return Limits{Args: 1 << 20, Bulk: 64 << 20, Inline: 64 << 10, Query: 96 << 20, Trusted: true}
}

// GuestLimits are those of a client that must authenticate first, as in Redis.
func GuestLimits() Limits {
	return Limits{Args: 10, Bulk: 16 << 10, Inline: 64 << 10, Query: 256 << 10}
}

// ProtocolError says that the stream of requests is broken. Its text is what Redis answers before it closes the
// connection.
type ProtocolError struct{ Reason string }

func (e *ProtocolError) Error() string { return "ERR Protocol error: " + e.Reason }

// span is an argument by its place in the buffer: the buffer may move in memory between two calls.
type span struct{ from, end int }

// Parser cuts requests from the front of a buffer. It remembers how far it got, so that a large request that
// arrives in pieces is not read again from its beginning. The zero Parser is ready, with DefaultLimits.
type Parser struct {
	limits Limits
	args   [][]byte // handed out, reused
	spans  []span   // arguments complete so far
	words  []byte   // decoded arguments of an inline request, reused
	err    error    // sticky

	pos     int // bytes of the current request that need not be read again
	missing int // arguments not yet complete
	bulk    int // length of the argument being received
	state   parserState
}

// parserState says what stands at pos.
type parserState uint8

const (
	atRequest parserState = iota // the beginning of a request
	atLength                     // the "$<length>" of an argument
	atBulk                       // the bytes of an argument
)

// keptArgs bounds the memory that a Parser keeps between requests, in arguments.
const keptArgs = 1024

// NewParser returns a Parser with the given limits.
func NewParser(limits Limits) *Parser { return &Parser{limits: limits} }

// SetLimits changes the limits, for a client that has just authenticated. It takes effect with the next request.
func (p *Parser) SetLimits(limits Limits) { p.limits = limits }

// Missing returns how many bytes beyond those seen the current request needs at least; 0 if nothing is known. A
// caller may use it to grow its buffer once; the limits were checked before.
func (p *Parser) Missing(buf []byte) int {
	if p.state != atBulk {
		return 0
	}
	return max(0, p.pos+p.bulk+2-len(buf))
}

// Next cuts the request at the front of buf. It returns used == 0 without an error when more bytes are needed: the
// caller then calls again with a buffer that begins with the same bytes. Otherwise used bytes are to be dropped
// from the front of the buffer. args is empty for an empty request, which is to be ignored.
func (p *Parser) Next(buf []byte) (args [][]byte, used int, err error) {
	if p.err != nil {
		return nil, 0, p.err
	}
	if p.limits.Args == 0 {
		p.limits = DefaultLimits()
	}
	if len(buf) == 0 {
		return nil, 0, nil
	}
	if p.state == atRequest && buf[0] != '*' {
		return p.inline(buf)
	}
	return p.multibulk(buf)
}

func (p *Parser) fail(format string, values ...any) error {
	p.err = &ProtocolError{Reason: fmt.Sprintf(format, values...)}
	return p.err
}

func (p *Parser) multibulk(buf []byte) ([][]byte, int, error) {
	if p.state == atRequest {
		line, next, err := p.line(buf, 1, "too big mbulk count string")
		if line == nil || err != nil {
			return nil, 0, err
		}
		count, ok := ParseInt(line)
		switch {
		case !ok || count > int64(p.limits.Args) && p.limits.Trusted || count > math.MaxInt32:
			return nil, 0, p.fail("invalid multibulk length")
		case count > int64(p.limits.Args):
			return nil, 0, p.fail("unauthenticated multibulk length")
		case count <= 0:
			return nil, next, nil
		}
		p.pos, p.missing, p.state = next, int(count), atLength
	}
	for p.missing > 0 {
		more, err := p.argument(buf)
		if more || err != nil {
			return nil, 0, err
		}
	}
	return p.finish(buf), p.done(), nil
}

// argument takes one argument at pos; more is true if it is not complete yet.
func (p *Parser) argument(buf []byte) (more bool, err error) {
	if p.state == atLength {
		if p.pos >= len(buf) {
			return true, nil
		}
		line, next, err := p.line(buf, p.pos+1, "too big bulk count string")
		if line == nil || err != nil {
			return true, err
		}
		if c := buf[p.pos]; c != '$' {
			return true, p.fail("expected '$', got '%s'", []byte{c})
		}
		length, ok := ParseInt(line)
		switch {
		case !ok || length < 0 || length > int64(p.limits.Bulk) && p.limits.Trusted || length > math.MaxInt32:
			return true, p.fail("invalid bulk length")
		case length > int64(p.limits.Bulk):
			return true, p.fail("unauthenticated bulk length")
		case next+int(length)+2 > p.limits.Query:
			return true, p.fail("too big request")
		}
		p.pos, p.bulk, p.state = next, int(length), atBulk
	}
	end := p.pos + p.bulk
	if len(buf) < end+2 {
		return true, nil
	}
	p.spans = append(p.spans, span{p.pos, end})
	p.pos, p.state = end+2, atLength
	p.missing--
	return false, nil
}

// line returns the bytes from from to the next CR, and the place behind its LF; nil if they have not all arrived.
// tooBig is the error for a line that does not end within the limit.
func (p *Parser) line(buf []byte, from int, tooBig string) (line []byte, next int, err error) {
	rest := buf[min(from, len(buf)):]
	end := bytes.IndexByte(rest[:min(len(rest), p.limits.Inline+1)], '\r')
	if end < 0 {
		if len(rest) > p.limits.Inline {
			return nil, 0, p.fail("%s", tooBig)
		}
		return nil, 0, nil
	}
	if end+2 > len(rest) {
		return nil, 0, nil
	}
	return rest[:end:end], from + end + 2, nil
}

// finish turns the spans into arguments.
func (p *Parser) finish(buf []byte) [][]byte {
	p.args = p.args[:0]
	for _, s := range p.spans {
		p.args = append(p.args, buf[s.from:s.end:s.end])
	}
	args := p.args
	if cap(p.spans) > keptArgs {
		p.spans, p.args = nil, nil
	}
	return args
}

// done forgets the current request and returns its length.
func (p *Parser) done() int {
	used := p.pos
	p.spans = p.spans[:0]
	p.pos, p.missing, p.bulk, p.state = 0, 0, 0, atRequest
	return used
}

// inline takes one line. A line is short (Limits.Inline), so only the search for its end is resumed.
func (p *Parser) inline(buf []byte) ([][]byte, int, error) {
	limit := p.limits.Inline
	end := bytes.IndexByte(buf[p.pos:], '\n')
	if end < 0 {
		if len(buf) > limit {
			return nil, 0, p.fail("too big inline request")
		}
		p.pos = len(buf)
		return nil, 0, nil
	}
	end += p.pos
	if end > limit {
		return nil, 0, p.fail("too big inline request")
	}
	p.pos = end + 1
	line := buf[:end]
	if end > 0 && line[end-1] == '\r' {
		line = line[:end-1]
	}
	if !p.split(line) {
		return nil, 0, p.fail("unbalanced quotes in request")
	}
	return p.finish(p.words), p.done(), nil
}
