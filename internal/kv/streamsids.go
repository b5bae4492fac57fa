package kv

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"lockstep/internal/resp"
)

// streamID names an entry of a stream: milliseconds since 1970 UTC and a sequence within the millisecond, or whatever
// the client chose. IDs are ordered by ms, then seq.
type streamID struct{ ms, seq uint64 }

var lastStreamID = streamID{math.MaxUint64, math.MaxUint64}

func (id streamID) compare(other streamID) int {
	if id.ms != other.ms {
		return cmp.Compare(id.ms, other.ms)
	}
	return cmp.Compare(id.seq, other.seq)
}

func (id streamID) less(other streamID) bool {
	return id.ms < other.ms || id.ms == other.ms && id.seq < other.seq
}

// next returns the ID behind id; false, and 0-0, behind the last one.
func (id streamID) next() (streamID, bool) {
	if id.seq != math.MaxUint64 {
		return streamID{id.ms, id.seq + 1}, true
	}
	return streamID{id.ms + 1, 0}, id.ms != math.MaxUint64
}

// previous returns the ID before id; false before 0-0.
func (id streamID) previous() (streamID, bool) {
	if id.seq != 0 {
		return streamID{id.ms, id.seq - 1}, true
	}
	return streamID{id.ms - 1, math.MaxUint64}, id.ms != 0
}

func (id streamID) append(b []byte) []byte {
	b = append(strconv.AppendUint(b, id.ms, 10), '-')
	return strconv.AppendUint(b, id.seq, 10)
}

func replyStreamID(reply *resp.Reply, id streamID) {
	var text [41]byte
	reply.Bulk(id.append(text[:0]))
}

const (
	// maxStreamID is the longest argument that Redis reads as an ID, in bytes.
	maxStreamID = 127
	errStreamID = "ERR Invalid stream ID specified as stream command argument"
)

// parsedStreamID is an ID as a client wrote it.
type parsedStreamID struct {
	streamID
	drawSeq bool // "ms-*": the sequence is to be found
}

// parseStreamID reads "ms", "ms-seq" or, if the sequence may be left open, "ms-*". missing is the sequence of the first form.
func parseStreamID(arg []byte, missing uint64, open bool) (id parsedStreamID, ok bool) {
	if len(arg) > maxStreamID {
		return id, false
	}
	arg = cString(arg, maxStreamID)
	dash := slices.Index(arg, '-')
	if dash < 0 {
		id.seq = missing
		id.ms, ok = parseStreamNumber(arg)
		return id, ok
	}
	if id.ms, ok = parseStreamNumber(arg[:dash]); !ok {
		return id, false
	}
	if rest := arg[dash+1:]; open && len(rest) == 1 && rest[0] == '*' {
		id.drawSeq = true
	} else {
		id.seq, ok = parseStreamNumber(rest)
	}
	return id, ok
}

// parseStreamNumber reads half of an ID: a decimal that Redis hands to C's strtoull if it is not written in the shortest
// way, so that blanks, signs and zeros in front are accepted (a minus counts from the end of the range).
func parseStreamNumber(b []byte) (uint64, bool) {
	if n, ok := resp.ParseInt(b); ok {
		return uint64(n), n >= 0
	}
	for len(b) > 0 && (b[0] == ' ' || b[0] >= '\t' && b[0] <= '\r') {
		b = b[1:]
	}
	negative := len(b) > 0 && b[0] == '-'
	if negative || len(b) > 0 && b[0] == '+' {
		b = b[1:]
	}
	if len(b) == 0 {
		return 0, false
	}
	var n uint64
	for _, digit := range b {
		if digit < '0' || digit > '9' || n > math.MaxUint64/10 {
			return 0, false
		}
		sum := n*10 + uint64(digit-'0')
		if sum < n*10 {
			return 0, false
		}
		n = sum
	}
	if negative {
		n = -n
	}
	return n, true
}

// streamID reads argument i as an ID, or replies an error. "-" and "+" are refused.
func (c call) streamID(i int) (streamID, bool) {
	id, ok := parseStreamID(c.args[i], 0, false)
	if !ok {
		c.reply.Error(errStreamID)
	}
	return id.streamID, ok
}

// streamIDs reads the arguments from i on as IDs, or replies an error.
func (c call) streamIDs(i int) ([]streamID, bool) {
	ids := make([]streamID, 0, len(c.args)-i)
	for ; i < len(c.args); i++ {
		id, ok := c.streamID(i)
		if !ok {
			return nil, false
		}
		ids = append(ids, id)
	}
	return ids, true
}

// streamBound reads argument i as a bound of an interval, which is inclusive without "(", or replies an error. missing is
// the sequence of a bound without one: 0 for a start, the largest one for an end.
func (c call) streamBound(i int, missing uint64) (id streamID, ok bool) {
	arg := c.args[i]
	switch text := cString(arg, len(arg)); {
	case len(arg) <= maxStreamID && string(text) == "-":
		return streamID{}, true
	case len(arg) <= maxStreamID && string(text) == "+":
		return lastStreamID, true
	}
	exclusive := len(arg) > 1 && arg[0] == '('
	if exclusive {
		arg = arg[1:]
	}
	parsed, ok := parseStreamID(arg, missing, false)
	if !ok {
		c.reply.Error(errStreamID)
		return id, false
	}
	id = parsed.streamID
	if !exclusive {
		return id, true
	}
	word := "start"
	if missing == 0 {
		id, ok = id.next()
	} else {
		word = "end"
		id, ok = id.previous()
	}
	if !ok {
		c.reply.Error("ERR invalid " + word + " ID for the interval")
	}
	return id, ok
}
