package main

import (
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/smr"
)

// filling is a keyspace whose memory is compared: command i of it makes key i.
type filling struct {
	name    string
	keys    int // that 1 million is scaled down to, so that large values fit
	command func(i int) []string
}

var value64 = strings.Repeat("x", 64)

var fillings = []filling{
	{"64-byte strings", 1_000_000, func(i int) []string { return []string{"set", memoryKey(i), value64} }},
	{"64-byte strings that expire", 1_000_000, func(i int) []string {
		return []string{"set", memoryKey(i), value64, "ex", strconv.Itoa(100_000 + i)}
	}},
	{"counters", 1_000_000, func(i int) []string { return []string{"set", memoryKey(i), strconv.Itoa(i)} }},
	{"hashes of 10 fields", 1_000_000, func(i int) []string {
		args := []string{"hset", memoryKey(i)}
		for f := range 10 {
			args = append(args, "field"+strconv.Itoa(f), fmt.Sprintf("value-%06d", (i+f)%1_000_000))
		}
		return args
	}},
	{"sets of 10 members", 1_000_000, func(i int) []string {
		args := []string{"sadd", memoryKey(i)}
		for f := range 10 {
			args = append(args, fmt.Sprintf("member-%06d", (i*31+f)%1_000_000))
		}
		return args
	}},
	{"sorted sets of 100 members", 100_000, func(i int) []string {
		args := []string{"zadd", memoryKey(i)}
		for f := range 100 {
			args = append(args, strconv.Itoa((i*17+f*1009)%100_000), fmt.Sprintf("member-%06d", f*7919%1_000_000))
		}
		return args
	}},
	{"one hash of a million fields", 1_000_000, func(i int) []string { return []string{"hset", "h", memoryKey(i), value64} }},
	{"one set of a million members", 1_000_000, func(i int) []string { return []string{"sadd", "s", memoryKey(i)} }},
	{"one sorted set of a million members", 1_000_000, func(i int) []string {
		return []string{"zadd", "z", strconv.Itoa(i * 31 % 1_000_003), memoryKey(i)}
	}},
}

func memoryKey(i int) string { return fmt.Sprintf("key:%012d", i) }

// compareMemory fills a machine and the server with the same commands and prints what each key takes: of the machine the
// growth of the heap (objects in the sizes in which they are allocated, nothing that is garbage), of the server that of
// used_memory. Fillings whose name contains only are compared.
func compareMemory(s *server, out io.Writer, only string) error {
	fmt.Fprintf(out, "%-36s %10s %12s %12s %7s\n", "", "keys", "lockstep B", "redis B", "ratio")
	for _, f := range fillings {
		if !strings.Contains(f.name, only) {
			continue
		}
		theirs, err := f.fillServer(s)
		if err != nil {
			return fmt.Errorf("fill redis-server with %s: %w", f.name, err)
		}
		ours := f.fillMachine()
		n := float64(f.keys)
		fmt.Fprintf(out, "%-36s %10d %12.1f %12.1f %7.3f\n", f.name, f.keys, float64(ours)/n, float64(theirs)/n, float64(ours)/float64(theirs))
	}
	return nil
}

func heapBytes() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func (f filling) fillMachine() int64 {
	before := heapBytes()
	m := kv.New()
	var payload []byte
	at := kv.Instant{Stamp: 1}
	for i := range f.keys {
		payload = kv.AppendCommand(payload[:0], bytesOf(f.command(i)))
		at.LSN += 200
		m.Apply(at, smr.Request{Session: 1, Sequence: uint64(i + 1), Slot: smr.NoSlot, Payload: payload}, nil)
		m.Advance(at.Stamp, at.LSN+100)
	}
	grown := int64(heapBytes()) - int64(before)
	runtime.KeepAlive(m)
	return grown
}

func (f filling) fillServer(s *server) (int64, error) {
	const batch = 1000
	if _, err := s.do("flushall"); err != nil {
		return 0, err
	}
	before, err := s.usedMemory()
	if err != nil {
		return 0, err
	}
	for i := 0; i < f.keys; i += batch {
		commands := make([][]string, 0, batch)
		for j := i; j < min(i+batch, f.keys); j++ {
			commands = append(commands, f.command(j))
		}
		if _, err := s.doAll(commands); err != nil {
			return 0, err
		}
	}
	after, err := s.usedMemory()
	if err != nil {
		return 0, err
	}
	_, err = s.do("flushall")
	return after - before, err
}

// usedMemory returns the server's used_memory in bytes, once a table that is being rehashed has got to its end: until
// then it has two.
func (s *server) usedMemory() (int64, error) {
	for range 1000 { // each takes a step on its way
		if _, err := s.do("get", "nosuch"); err != nil {
			return 0, err
		}
	}
	reply, err := s.do("info", "memory")
	if err != nil {
		return 0, err
	}
	info, _, err := resp.Decode(reply)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(info.Text, "used_memory:")
	digits, _, _ := strings.Cut(rest, "\r\n")
	used, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("used_memory of INFO: %w", err)
	}
	return used, nil
}
