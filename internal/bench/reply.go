package bench

import (
	"bytes"
	"fmt"
)

// replies finds the ends of replies (RESP2) in what a connection reads, wherever the pieces break. The zero value waits for
// the first reply.
type replies struct {
	left    int // elements that the reply under way still lacks; 0 between replies
	skip    int // bytes of a bulk string, with its line end, that are still to come
	line    []byte
	kind    byte  // of the reply under way: that of its first line
	integer int64 // of the reply under way, if kind is ':'
	empty   bool  // the reply is a null
	text    []byte
}

// maxLine bounds a line of a reply, in bytes.
const maxLine = 64 << 10

// next takes bytes of the piece until a reply has ended, and returns the rest; done is false if the piece ended first.
// kind, integer, empty and text (of an error or simple string, valid until the next call) then tell of it.
func (r *replies) next(piece []byte) (rest []byte, done bool, err error) {
	for len(piece) > 0 {
		if r.skip > 0 {
			n := min(r.skip, len(piece))
			piece, r.skip = piece[n:], r.skip-n
			if r.skip == 0 && r.element() {
				return piece, true, nil
			}
			continue
		}
		at := bytes.IndexByte(piece, '\n')
		if at < 0 {
			if len(r.line)+len(piece) > maxLine {
				return nil, false, fmt.Errorf("a line of a reply has more than %d bytes", maxLine)
			}
			r.line = append(r.line, piece...)
			return nil, false, nil
		}
		line := piece[:at]
		if len(r.line) > 0 {
			r.line = append(r.line, line...)
			line = r.line
		}
		piece = piece[at+1:]
		done, err := r.header(line)
		r.line = r.line[:0]
		if err != nil || done {
			return piece, done, err
		}
	}
	return nil, false, nil
}

// element counts one element as ended and reports whether the reply has.
func (r *replies) element() bool {
	r.left--
	return r.left == 0
}

// header takes the line at which an element begins and reports whether the reply has ended with it.
func (r *replies) header(line []byte) (done bool, err error) {
	if len(line) < 2 || line[len(line)-1] != '\r' {
		return false, fmt.Errorf("unexpected reply %q", line[:min(len(line), 80)])
	}
	kind, body := line[0], line[1:len(line)-1]
	first := r.left == 0
	if first {
		r.left, r.kind, r.empty, r.text = 1, kind, false, nil
	}
	switch kind {
	case '+', '-':
		if first {
			r.text = body
		}
		return r.element(), nil
	case ':', '$', '*':
	default:
		return false, fmt.Errorf("unexpected reply %q", line[:min(len(line), 80)])
	}
	number, ok := decimal(body)
	switch {
	case !ok, kind != ':' && number < -1, kind != ':' && number > 1<<30:
		return false, fmt.Errorf("unexpected reply %q", line[:min(len(line), 80)])
	case kind == ':':
		if first {
			r.integer = number
		}
		return r.element(), nil
	case number == -1:
		r.empty = r.empty || first
		return r.element(), nil
	case kind == '$':
		r.skip = int(number) + 2
		return false, nil
	}
	r.left += int(number)
	return r.element(), nil
}

func decimal(digits []byte) (number int64, ok bool) {
	negative := len(digits) > 0 && digits[0] == '-'
	if negative {
		digits = digits[1:]
	}
	if len(digits) == 0 || len(digits) > 19 {
		return 0, false
	}
	for _, digit := range digits {
		if digit < '0' || digit > '9' {
			return 0, false
		}
		number = number*10 + int64(digit-'0')
	}
	if negative {
		number = -number
	}
	return number, number < 0 == negative || number == 0
}

// errorName is the first word of an error reply, by which errors are counted.
func errorName(text []byte) string {
	word, _, _ := bytes.Cut(text, []byte(" "))
	if len(word) == 0 || len(word) > 40 {
		return "ERR"
	}
	return string(word)
}
