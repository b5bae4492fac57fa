package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

// recordStreams records sequences of stream commands.
func recordStreams(s *server, dir string, sequences, length int, seed uint64) error {
	var out bytes.Buffer
	g := streams{generator: generator{rand.New(rand.NewPCG(seed, 2000))}}
	for i := range sequences {
		if err := recordSequence(s, &out, 2+i%2, g.sequence(length)); err != nil {
			return fmt.Errorf("record streams: %w", err)
		}
	}
	return os.WriteFile(filepath.Join(dir, "streams.txt"), out.Bytes(), 0o644)
}

// streams draws sequences of stream commands. IDs are explicit, because redis-server's clock is not that of who replays; and
// idle times are either 0 or far beyond the length of a sequence.
//
// Redis 7.0 makes a consumer when it is given something, 7.2 when it asks: so only XGROUP CREATECONSUMER uses the names of
// makers, and who compares replies of XINFO has to pass over consumers for whom nothing is pending.
type streams struct {
	generator
	next map[string]int // the milliseconds of the next ID of a key
	keys []string
	then []string // the command to give next, if any
}

var (
	streamGroups    = []string{"g", "g", "h", "g2", "", "none"}
	streamConsumers = []string{"alice", "bob", "carol", "alice", "x\x00y"}
	streamMakers    = []string{"maker", "maker2", "maker3"}
	streamFields    = []string{"f", "g", "name", "temperature", "-12", "7", "", "f\x00", "4096", "99999999999"}
	streamValues    = []string{"v", "1", "-1", "127", "128", "4095", "4096", "-4097", "32767", "40000", "8388607", "9000000", "2147483648", "-9223372036854775808",
		"9223372036854775808", "01", "", "hello world", "0123456789012345678901234567890123456789012345678901234567890123456789", "\x00\xff\r\n"}
	streamOddIDs = []string{"0-0", "0", "0-1", "-", "+", "$", ">", "18446744073709551615-18446744073709551615", "18446744073709551615", "18446744073709551616", "5-",
		"-5", "1-2-3", "abc", "", "01-01", "+1", " 2", "2 ", "1--01", "0-*", "3-*", "*", "(", "(-", "((1", "9223372036854775808-0", "1-18446744073709551615", "1.5"}
)

// sequence returns commands on streams, the first of which make keys of every type.
func (s *streams) sequence(length int) [][]string {
	s.next = make(map[string]int)
	s.keys = []string{"s", "t", "s", "t", "u", "s", "s"}
	commands := append([][]string{}, fixture...)
	for range length {
		commands = append(commands, s.command())
	}
	return commands
}

func (s *streams) command() []string {
	if args := s.then; args != nil {
		s.then = nil
		return args
	}
	args := s.draw()
	if auto := args[1] == "auto"; auto || s.IntN(40) > 0 {
		return args
	}
	switch i := 1 + s.IntN(len(args)-1); s.IntN(4) {
	case 0:
		args = args[:max(2, len(args)-1)]
	case 1:
		args = append(args, s.pick(streamValues))
	case 2:
		if args[i] != "auto" && args[0] != "xadd" && args[0] != "xreadgroup" && args[0] != "xclaim" && args[0] != "xautoclaim" {
			args[i] = s.pick(streamOddIDs)
		}
	case 3:
		if i+1 < len(args) && args[0] != "xreadgroup" && args[0] != "xclaim" && args[0] != "xautoclaim" {
			args = append(args[:i], args[i+1:]...)
		}
	}
	if len(args) < 2 || args[1] == "auto" {
		return []string{"xlen", "s"}
	}
	return args
}

func (s *streams) key() string {
	switch s.IntN(40) {
	case 0:
		return "absent"
	case 1:
		return s.pick([]string{"string", "hash"})
	}
	return s.pick(s.keys)
}

// id returns an ID that the stream of a key may hold.
func (s *streams) id(key string) string {
	if s.IntN(25) == 0 {
		return s.pick(streamOddIDs)
	}
	ms := 1 + s.IntN(s.next[key]+2)
	switch s.IntN(4) {
	case 0:
		return strconv.Itoa(ms)
	case 1:
		return fmt.Sprintf("%d-%d", ms, s.IntN(3))
	}
	return fmt.Sprintf("%d-0", ms)
}

func (s *streams) ids(key string) (ids []string) {
	from := s.IntN(s.next[key] + 2)
	for i := range 1 + s.IntN(5) {
		if s.IntN(4) > 0 {
			ids = append(ids, fmt.Sprintf("%d-0", from+i))
		} else {
			ids = append(ids, s.id(key))
		}
	}
	return ids
}

// newID returns the ID of an entry to add: mostly behind the last one.
func (s *streams) newID(key string) string {
	switch s.IntN(30) {
	case 0:
		if id := s.id(key); id != "*" {
			return id
		}
	case 1:
		return fmt.Sprintf("%d-*", s.next[key])
	case 2:
		return fmt.Sprintf("%d-%d", s.next[key], 1+s.IntN(3))
	case 3:
		s.next[key] += s.IntN(40000)
	}
	s.next[key]++
	return fmt.Sprintf("%d-0", s.next[key])
}

func (s *streams) bound(key string) string {
	id := s.id(key)
	switch s.IntN(6) {
	case 0:
		return "-"
	case 1:
		return "+"
	case 2:
		return "(" + id
	}
	return id
}

func (s *streams) trim(key string) []string {
	args := []string{s.pick([]string{"maxlen", "minid", "MAXLEN", "minid"})}
	if s.IntN(2) == 0 {
		args = append(args, s.pick([]string{"~", "=", "~"}))
	}
	if args[0] == "minid" {
		args = append(args, s.id(key))
	} else {
		args = append(args, s.pick([]string{"0", "1", "5", "10", "50", "100", "150", "200", "250", "-1", "x"}))
	}
	if s.IntN(4) == 0 {
		args = append(args, "limit", s.pick([]string{"0", "1", "10", "100", "150", "-1", "x"}))
	}
	return args
}

func (s *streams) pairs() (pairs []string) {
	fields := streamFields[:2+s.IntN(len(streamFields)-2)]
	if s.IntN(3) > 0 {
		fields = streamFields[:2]
	}
	for range 1 + s.IntN(3)*s.IntN(2) {
		pairs = append(pairs, s.pick(fields), s.pick(streamValues))
	}
	if s.IntN(30) == 0 {
		pairs[1] = fmt.Sprintf("%0*d", 1+s.IntN(5000), 7)
	}
	return pairs
}

func (s *streams) some(options ...string) []string {
	if s.IntN(2) == 0 {
		return nil
	}
	return []string{s.pick(options)}
}

func (s *streams) add() []string {
	if s.IntN(25) == 0 {
		args := append([]string{"xadd", "auto"}, s.some("nomkstream")...)
		return append(append(args, "*"), s.pairs()...)
	}
	key := s.key()
	args := []string{"xadd", key}
	if s.IntN(30) == 0 {
		args = append(args, "nomkstream")
	}
	if s.IntN(12) == 0 {
		args = append(args, s.trim(key)...)
	}
	return append(append(args, s.newID(key)), s.pairs()...)
}

func (s *streams) read(args ...string) []string {
	if s.IntN(3) > 0 {
		args = append(args, "count", s.pick([]string{"1", "2", "5", "30", "0", "-1", "x"}))
	}
	keys := []string{s.key()}
	for s.IntN(5) == 0 {
		keys = append(keys, s.key())
	}
	args = append(append(args, "streams"), keys...)
	for _, key := range keys {
		switch group := args[0] == "xreadgroup"; {
		case group && s.IntN(4) > 0:
			args = append(args, ">")
		case s.IntN(12) == 0:
			args = append(args, s.pick([]string{"$", ">"}))
		case s.IntN(4) == 0:
			args = append(args, "0")
		default:
			args = append(args, s.id(key))
		}
	}
	return args
}

func (s *streams) claim(key string) []string {
	args := []string{"xclaim", key, s.pick(streamGroups), s.pick(streamConsumers), s.pick([]string{"0", "0", "0", "500000", "-1", "x"})}
	args = append(args, s.ids(key)...)
	for s.IntN(3) == 0 {
		switch s.IntN(7) {
		case 0, 1:
			args = append(args, "force")
		case 2:
			args = append(args, "justid")
		case 3:
			args = append(args, "idle", s.pick([]string{"1000000", "2000000", "x"}))
		case 4:
			args = append(args, "time", s.pick([]string{"1", "1600000000000", "x"}))
		case 5:
			args = append(args, "retrycount", s.pick([]string{"0", "7", "-3", "x"}))
		case 6:
			args = append(args, "lastid", s.id(key))
		}
	}
	return args
}

func (s *streams) group(key string) []string {
	group := s.pick(streamGroups)
	switch s.IntN(12) {
	case 0, 1, 2, 3:
		args := append([]string{"xgroup", "create", key, group, s.pick([]string{"$", "0", s.id(key)})}, s.some("mkstream")...)
		if s.IntN(6) == 0 {
			args = append(args, "entriesread", s.pick([]string{"0", "3", "-1", "-2", "x"}))
		}
		return args
	case 4, 5:
		args := []string{"xgroup", "setid", key, group, s.pick([]string{"$", "0", s.id(key)})}
		if s.IntN(4) == 0 {
			args = append(args, "entriesread", s.pick([]string{"0", "3", "10", "-1", "-2", "x"}))
		}
		return args
	case 6:
		return []string{"xgroup", "destroy", key, group}
	case 7, 8:
		return []string{"xgroup", "createconsumer", key, group, s.pick(streamMakers)}
	case 9, 10:
		return []string{"xgroup", "delconsumer", key, group, s.pick(append(streamMakers, streamConsumers...))}
	}
	return []string{"xgroup", s.pick([]string{"help", "nosuch", "create", "destroy"})}
}

func (s *streams) pending(key string) []string {
	args := []string{"xpending", key, s.pick(streamGroups)}
	if s.IntN(3) == 0 {
		return args
	}
	if s.IntN(4) == 0 {
		args = append(args, "idle", s.pick([]string{"0", "500000", "x", "-1"}))
	}
	args = append(args, s.bound(key), s.bound(key), s.pick([]string{"1", "3", "10", "100", "0", "-1", "x"}))
	if s.IntN(3) == 0 {
		args = append(args, s.pick(streamConsumers))
	}
	return args
}

func (s *streams) info(key string) []string {
	switch s.IntN(8) {
	case 0, 1:
		return []string{"xinfo", "groups", key}
	case 2:
		return []string{"xinfo", "consumers", key, s.pick(streamGroups)}
	case 3, 4:
		return []string{"xinfo", "stream", key}
	case 5, 6:
		args := []string{"xinfo", "stream", key, s.pick([]string{"full", "full", "FULL", "fool"})}
		if s.IntN(2) == 0 {
			args = append(args, "count", s.pick([]string{"0", "1", "5", "200", "-1", "x"}))
		}
		return args
	}
	return []string{"xinfo", s.pick([]string{"help", "nosuch", "stream"})}
}

func (s *streams) setID(key string) []string {
	if s.IntN(3) == 0 { // Redis 7.0 does not mind an ID below deleted ones in an empty stream, 7.2 does
		s.then = []string{"xsetid", key, s.id(key)}
		s.next[key]++
		return []string{"xadd", key, fmt.Sprintf("%d-0", s.next[key]), "f", "v"}
	}
	s.next[key] += s.IntN(3)
	args := []string{"xsetid", key, fmt.Sprintf("%d-%d", s.next[key], s.IntN(2))}
	if s.IntN(3) == 0 {
		args = append(args, "entriesadded", s.pick([]string{"0", "10", "100", "500", "-1", "x"}))
	}
	if s.IntN(3) == 0 {
		args = append(args, "maxdeletedid", s.id(key))
	}
	return args
}

func (s *streams) draw() []string {
	key := s.key()
	switch n := s.IntN(100); {
	case n < 36:
		return s.add()
	case n < 42:
		args := []string{s.pick([]string{"xrange", "xrevrange"}), key, s.bound(key), s.bound(key)}
		for s.IntN(3) == 0 {
			args = append(args, "count", s.pick([]string{"1", "3", "20", "0", "-1", "x"}))
		}
		return args
	case n < 49:
		return append([]string{"xdel", key}, s.ids(key)...)
	case n < 51:
		if s.IntN(6) == 0 {
			return []string{"xtrim", "auto", "maxlen", strconv.Itoa(s.IntN(20))}
		}
		return append([]string{"xtrim", key}, s.trim(key)...)
	case n < 54:
		return s.read("xread")
	case n < 66:
		args := []string{"xreadgroup", "group", s.pick(streamGroups), s.pick(streamConsumers)}
		if s.IntN(8) == 0 {
			args = append(args, "noack")
		}
		return s.read(args...)
	case n < 71:
		return append([]string{"xack", key, s.pick(streamGroups)}, s.ids(key)...)
	case n < 76:
		return s.claim(key)
	case n < 80:
		args := []string{"xautoclaim", key, s.pick(streamGroups), s.pick(streamConsumers), s.pick([]string{"0", "0", "500000", "-5", "x"}), s.bound(key)}
		if s.IntN(2) == 0 {
			args = append(args, "count", s.pick([]string{"1", "3", "20", "0", "x", "9223372036854775807", "576460752303423487"}))
		}
		return append(args, s.some("justid")...)
	case n < 86:
		return s.pending(key)
	case n < 91:
		return s.group(key)
	case n < 96:
		return s.info(key)
	case n < 97:
		return s.setID(key)
	case n < 98:
		return []string{s.pick([]string{"xlen", "type"}), s.pick([]string{key, "auto"})}
	case n < 99:
		return s.pick2([]string{"object", "encoding", key}, []string{"copy", key, s.pick(s.keys), "replace"}, []string{"del", key}, []string{"rename", key, key},
			[]string{"scan", "0", "type", "stream", "count", "1000"})
	}
	return []string{s.pick([]string{"xread", "xreadgroup", "xgroup", "xinfo", "xadd", "xack", "xpending"}), s.pick([]string{"streams", "group", "count"}), key, s.id(key)}
}

func (s *streams) pick2(commands ...[]string) []string { return commands[s.IntN(len(commands))] }
