package bench

import (
	"math/rand/v2"
	"strconv"
)

// fillLists is the load that makes the lists which LRANGE reads: a DEL and an RPUSH each.
const fillLists = "fill-lists"

const (
	listLength = 100  // elements that LRANGE reads
	maxLists   = 1000 // lists that it reads from: they are large
	msetKeys   = 10
	keyDigits  = 10 // of a key's number
	hashFields = 100
	members    = 1000 // of a sorted set
)

// operation is the text of one operation with places for numbers.
type operation struct {
	text    []byte
	holes   []hole
	replies int  // that it is answered with
	writes  bool // so that a closing command may be due
}

// hole is a place for a decimal number with leading zeros.
type hole struct {
	at, digits int
	below      uint64 // the number is less; 0: it is a key
}

// source makes the requests of one thread. It is not safe for concurrent use.
type source struct {
	load       Load
	keys       uint64
	random     *rand.PCG
	zipf       *rand.Zipf
	next, step uint64 // for the spread "sequence": threads share the keys out among each other
	main       operation
	other      operation // what mix sends for the rest
	closing    []byte
}

// newSource returns the source of one of the load's threads. closing is sent behind each pipeline with writes.
func newSource(l Load, closing []byte, thread int) *source {
	s := &source{load: l, keys: uint64(l.Keys), closing: closing, next: uint64(thread), step: uint64(l.Threads)}
	s.random = rand.NewPCG(uint64(thread)+1, 0x9e3779b97f4a7c15)
	if l.Spread == "zipf" {
		s.zipf = rand.NewZipf(rand.New(s.random), 1.1, 1, s.keys-1)
	}
	value := benchValue(l.ValueSize)
	switch l.Command {
	case "set":
		s.main = newOperation(true).command("SET", "key string", value)
	case "get":
		s.main = newOperation(false).command("GET", "key string")
	case "mix":
		s.main, s.other = newOperation(false).command("GET", "key string"), newOperation(true).command("SET", "key string", value)
	case "incr":
		s.main = newOperation(true).command("INCR", "key count")
	case "lpush":
		s.main = newOperation(true).command("LPUSH", "key list", value)
	case "hset":
		s.main = newOperation(true).command("HSET", "key hash", "field", value)
	case "zadd":
		s.main = newOperation(true).command("ZADD", "key zset", "score", "member")
	case "mset":
		var args []string
		for range msetKeys {
			args = append(args, "key string", value)
		}
		s.main = newOperation(true).command("MSET", args...)
	case "lrange":
		s.keys = min(s.keys, maxLists)
		s.main = newOperation(false).command("LRANGE", "key range", "0", strconv.Itoa(listLength-1))
	case fillLists:
		args := []string{"key range"}
		for range listLength {
			args = append(args, value)
		}
		s.main = newOperation(true).command("DEL", "key range").command("RPUSH", args...)
		s.main.holes[1].below = sameKey
	}
	return s
}

// benchValue returns a value that no compression makes small, always the same one for a size.
func benchValue(size int) string {
	random := rand.New(rand.NewPCG(7, uint64(size)))
	value := make([]byte, size)
	for i := range value {
		value[i] = 'A' + byte(random.IntN(58))
	}
	return string(value)
}

func newOperation(writes bool) operation { return operation{writes: writes} }

// sameKey marks a hole that takes the number of the key before it.
const sameKey = ^uint64(0)

// command appends a command. The arguments "key ...", "field", "score" and "member" become places for numbers.
func (o operation) command(name string, args ...string) operation {
	o.replies++
	o.text = append(o.text, '*')
	o.text = strconv.AppendInt(o.text, int64(1+len(args)), 10)
	o.text = append(o.text, "\r\n"...)
	o.text = appendBulk(o.text, []byte(name))
	for _, arg := range args {
		switch prefix, digits, below := placeFor(arg); {
		case digits > 0:
			o.text = appendBulk(o.text, append([]byte(prefix), make([]byte, digits)...))
			o.holes = append(o.holes, hole{at: len(o.text) - 2 - digits, digits: digits, below: below})
		default:
			o.text = appendBulk(o.text, []byte(arg))
		}
	}
	return o
}

// placeFor returns what stands before the digits of an argument that varies. Keys have 16 bytes.
func placeFor(arg string) (prefix string, digits int, below uint64) {
	switch arg {
	case "key string":
		return "b:str:", keyDigits, 0
	case "key count":
		return "b:cnt:", keyDigits, 0
	case "key list":
		return "b:lst:", keyDigits, 0
	case "key hash":
		return "b:hsh:", keyDigits, 0
	case "key zset":
		return "b:zst:", keyDigits, 0
	case "key range":
		return "b:rng:", keyDigits, 0
	case "field":
		return "field:", 2, hashFields
	case "member":
		return "member:", 3, members
	case "score":
		return "", 6, 1_000_000
	}
	return "", 0, 0
}

// append appends a pipeline of operations to b. It returns how many replies come, and whether the last of them belongs to
// the closing command.
func (s *source) append(b []byte, pipeline int) (request []byte, replies int, closed bool) {
	writes := false
	for range pipeline {
		o := &s.main
		if s.other.replies > 0 && int(s.random.Uint64()%100) >= s.load.Reads {
			o = &s.other
		}
		b = s.appendOperation(b, o)
		replies += o.replies
		writes = writes || o.writes
	}
	if writes && len(s.closing) > 0 {
		return append(b, s.closing...), replies + 1, true
	}
	return b, replies, false
}

func (s *source) appendOperation(b []byte, o *operation) []byte {
	begin := len(b)
	b = append(b, o.text...)
	key := uint64(0)
	for i := range o.holes {
		h := &o.holes[i]
		number := key
		switch h.below {
		case sameKey:
		case 0:
			key = s.key()
			number = key
		default:
			number = s.random.Uint64() % h.below
		}
		place := b[begin+h.at : begin+h.at+h.digits]
		for at := len(place) - 1; at >= 0; at-- {
			place[at] = '0' + byte(number%10)
			number /= 10
		}
	}
	return b
}

// key draws the number of a key.
func (s *source) key() uint64 {
	switch s.load.Spread {
	case "zipf":
		return s.zipf.Uint64()
	case "sequence":
		number := s.next % s.keys
		s.next += s.step
		return number
	case "one":
		return 0
	}
	return s.random.Uint64() % s.keys
}

func appendCommand(b []byte, name string, args ...[]byte) []byte {
	b = append(b, '*')
	b = strconv.AppendInt(b, int64(1+len(args)), 10)
	b = append(b, "\r\n"...)
	b = appendBulk(b, []byte(name))
	for _, arg := range args {
		b = appendBulk(b, arg)
	}
	return b
}

func appendBulk(b, content []byte) []byte {
	b = append(b, '$')
	b = strconv.AppendInt(b, int64(len(content)), 10)
	b = append(b, "\r\n"...)
	b = append(b, content...)
	return append(b, "\r\n"...)
}
