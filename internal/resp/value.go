package resp

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
)

// Value is one decoded reply. Kind is its first byte on the wire: + - : $ * and of RESP3 _ # , ( = ! % ~ > (an
// attribute is skipped). Text shares no memory with the bytes it was decoded from.
type Value struct {
	Kind  byte
	Null  bool   // "$-1", "*-1" or "_"
	Text  string // + - $ = ! ( and the digits of ,
	Int   int64  // : and # (1 or 0)
	Float float64
	Items []Value // * ~ >, and % as key, value, key, value ...
}

// Bounds of what Decode accepts.
const (
	// MaxDepth bounds the nesting of a reply.
	MaxDepth = 32
	// maxReplyBulk bounds one string of a reply, in bytes.
	maxReplyBulk = 512 << 20
)

// Decode reads one reply from the front of b. It returns used == 0 without an error if b ends before the reply does.
func Decode(b []byte) (v Value, used int, err error) {
	d := decoder{rest: b}
	v, err = d.value(0)
	switch {
	case err == errMore:
		return Value{}, 0, nil
	case err != nil:
		return Value{}, 0, err
	}
	return v, len(b) - len(d.rest), nil
}

var errMore = fmt.Errorf("reply cut short")

type decoder struct{ rest []byte }

func (d *decoder) value(depth int) (Value, error) {
	if depth > MaxDepth {
		return Value{}, fmt.Errorf("reply nested deeper than %d", MaxDepth)
	}
	line, err := d.line()
	if err != nil {
		return Value{}, err
	}
	if len(line) == 0 {
		return Value{}, fmt.Errorf("reply without a type")
	}
	v := Value{Kind: line[0]}
	text := string(line[1:])
	switch v.Kind {
	case '+', '-', '(':
		v.Text = text
	case ':':
		v.Int, err = strconv.ParseInt(text, 10, 64)
	case ',':
		v.Text = text
		v.Float, err = parseDouble(text)
	case '#':
		if text != "t" && text != "f" {
			err = fmt.Errorf("reply with boolean %q", text)
		}
		v.Int = int64(len(text)) * b2i(text == "t")
	case '_':
		v.Null = true
	case '$', '=', '!':
		err = d.bulk(&v, text)
	case '*', '~', '>', '%', '|':
		err = d.items(&v, text, depth)
	default:
		err = fmt.Errorf("reply of unknown type %q", v.Kind)
	}
	if err == nil && v.Kind == '|' {
		return d.value(depth + 1) // an attribute: the reply follows
	}
	return v, err
}

func b2i(truth bool) int64 {
	if truth {
		return 1
	}
	return 0
}

func parseDouble(text string) (float64, error) {
	switch text {
	case "inf":
		return math.Inf(1), nil
	case "-inf":
		return math.Inf(-1), nil
	}
	return strconv.ParseFloat(text, 64)
}

func (d *decoder) line() ([]byte, error) {
	end := bytes.Index(d.rest, []byte("\r\n"))
	if end < 0 {
		if len(d.rest) > 1<<20 {
			return nil, fmt.Errorf("reply with a line of more than %d bytes", 1<<20)
		}
		return nil, errMore
	}
	line := d.rest[:end]
	d.rest = d.rest[end+2:]
	return line, nil
}

func (d *decoder) bulk(v *Value, text string) error {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil || n < -1 || n > maxReplyBulk || n == -1 && v.Kind != '$':
		return fmt.Errorf("reply with bulk length %q", text)
	case n == -1:
		v.Null = true
		return nil
	case int64(len(d.rest)) < n+2:
		return errMore
	case d.rest[n] != '\r' || d.rest[n+1] != '\n':
		return fmt.Errorf("reply with a bulk string that does not end after %d bytes", n)
	}
	if v.Kind == '=' && (n < 4 || d.rest[3] != ':') {
		return fmt.Errorf("reply with verbatim text without a format")
	}
	v.Text = string(d.rest[:n])
	d.rest = d.rest[n+2:]
	return nil
}

func (d *decoder) items(v *Value, text string, depth int) error {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil || n < -1 || n > math.MaxInt32 || n == -1 && v.Kind != '*':
		return fmt.Errorf("reply with %q elements", text)
	case n == -1:
		v.Null = true
		return nil
	}
	if v.Kind == '%' || v.Kind == '|' {
		n *= 2
	}
	for range n { // memory grows with what is there, not with what is announced
		item, err := d.value(depth + 1)
		if err != nil {
			return err
		}
		v.Items = append(v.Items, item)
	}
	return nil
}

// Append appends v in the protocol version of r.
func (v Value) Append(r *Reply) {
	switch v.Kind {
	case '+':
		r.Simple(v.Text)
	case '-', '!':
		r.Error(v.Text)
	case ':':
		r.Int(v.Int)
	case '$':
		v.appendOr(r, func() { r.BulkString(v.Text) }, r.Null)
	case '=':
		r.Verbatim(v.Text[:3], v.Text[4:])
	case '(':
		r.BigNumber(v.Text)
	case ',':
		r.Double(v.Float)
	case '#':
		r.Bool(v.Int == 1)
	case '_':
		r.Null()
	case '*':
		v.appendOr(r, func() { r.Array(len(v.Items)) }, r.NullArray)
	case '~':
		r.Set(len(v.Items))
	case '>':
		r.Push(len(v.Items))
	case '%':
		r.Map(len(v.Items) / 2)
	}
	for _, item := range v.Items {
		item.Append(r)
	}
}

func (v Value) appendOr(_ *Reply, some, none func()) {
	if v.Null {
		none()
		return
	}
	some()
}
