package kvnode

import (
	"fmt"
	"sync"
	"time"

	"lockstep/internal/resp"
)

// As in Redis: what of a slow command is kept.
const (
	slowArgs     = 32
	slowArgBytes = 128
	// maxSlowEntries bounds the slow log whatever slowlog-max-len says.
	maxSlowEntries = 1 << 16
)

// slowEntry is one slow command.
type slowEntry struct {
	id       int64
	at       time.Time
	duration time.Duration
	args     []string
	address  string
	name     string
}

// slowLog keeps the last slow commands, newest first on reading. Execution time is counted, waiting for the
// group is not.
type slowLog struct {
	mu      sync.Mutex
	entries []slowEntry // oldest first
	next    int64       // id of the next entry
	limit   int         // entries
}

// add keeps a copy of what the command was.
func (l *slowLog) add(args [][]byte, duration time.Duration, address, name string) {
	entry := slowEntry{at: time.Now(), duration: duration, address: address, name: name, args: trimArgs(args)}
	l.mu.Lock()
	defer l.mu.Unlock()
	entry.id = l.next
	l.next++
	l.entries = append(l.entries, entry)
	l.trim()
}

// trim drops the oldest entries beyond the limit. Called with mu held.
func (l *slowLog) trim() {
	if extra := len(l.entries) - l.limit; extra > 0 {
		l.entries = append(l.entries[:0], l.entries[extra:]...)
	}
}

// trimArgs copies args with the marks of Redis for what is left out.
func trimArgs(args [][]byte) []string {
	kept := make([]string, 0, min(len(args), slowArgs))
	for i, arg := range args {
		if i == slowArgs-1 && len(args) > slowArgs {
			kept = append(kept, fmt.Sprintf("... (%d more arguments)", len(args)-slowArgs+1))
			break
		}
		if len(arg) > slowArgBytes {
			kept = append(kept, fmt.Sprintf("%s... (%d more bytes)", arg[:slowArgBytes], len(arg)-slowArgBytes))
			continue
		}
		kept = append(kept, string(arg))
	}
	return kept
}

func (l *slowLog) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

func (l *slowLog) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = nil
}

func (l *slowLog) setLimit(limit int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit = min(limit, maxSlowEntries)
	l.trim()
}

func (l *slowLog) getLimit() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limit
}

// reply appends the newest count entries; -1 means all.
func (l *slowLog) reply(r *resp.Reply, count int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int64(len(l.entries))
	if count < 0 || count > n {
		count = n
	}
	r.Array(int(count))
	for i := range count {
		entry := l.entries[n-1-i]
		r.Array(6)
		r.Int(entry.id)
		r.Int(entry.at.Unix())
		r.Int(entry.duration.Microseconds())
		r.Array(len(entry.args))
		for _, arg := range entry.args {
			r.BulkString(arg)
		}
		r.BulkString(entry.address)
		r.BulkString(entry.name)
	}
}
