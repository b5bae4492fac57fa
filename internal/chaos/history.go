package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sync"
	"time"
)

// Kind of an operation.
type Kind string

// Kinds of operations.
const (
	Get    Kind = "get"    // also of a pair, by MULTI GET GET EXEC
	Set    Kind = "set"    // also of a pair, by MULTI SET SET EXEC
	Swap   Kind = "swap"   // compare-and-set: WATCH before the GET that gave Old, then MULTI SET EXEC
	Incr   Kind = "incr"   // INCR
	Append Kind = "append" // APPEND
	Push   Kind = "push"   // RPUSH
	Range  Kind = "range"  // LRANGE 0 -1; of queues and streams all that is left at the end

	Call    Kind = "call"    // EVAL or FCALL of a script that writes three keys
	Pop     Kind = "pop"     // a blocking pop: what was taken, "" if the time was up
	Add     Kind = "add"     // XADD: the ID
	Take    Kind = "take"    // XREADGROUP of a consumer (Arg): ",ID=value" for each new entry
	Ack     Kind = "ack"     // XACK of one ID: "1" or "0"
	Publish Kind = "publish" // PUBLISH
	Hear    Kind = "hear"    // one connection's subscription, from its confirmation to its end: ",message" for each message
)

// reads reports whether the operation changes nothing.
func (k Kind) reads() bool { return k == Get || k == Range || k == Hear }

// writes reports whether the operation has changed something, or would: a pop whose time was up has not.
func (o *Op) writes() bool {
	return !o.Kind.reads() && (o.Kind != Pop && o.Kind != Take || o.Out != "")
}

// Outcome of an operation.
type Outcome string

// Outcomes of an operation.
const (
	OK      Outcome = "ok"
	Refused Outcome = "refused" // it was not and never will be executed
	Unknown Outcome = "unknown"
)

// never is the return stamp of an operation that may take effect at any time after its call.
const never = math.MaxInt64

// Op is one operation of a client.
type Op struct {
	ID      int64   `json:"id"`
	Client  int     `json:"client"`
	Node    string  `json:"node"`
	Key     string  `json:"key"`
	Kind    Kind    `json:"kind"`
	Arg     string  `json:"arg,omitempty"`     // what is written
	Old     string  `json:"old,omitempty"`     // Swap: what must be there, "" for nothing
	Since   int64   `json:"since,omitempty"`   // Swap: when the WATCH was sent
	Call    int64   `json:"at"`                // nanoseconds since the run began
	Return  int64   `json:"end,omitempty"`     // likewise; never if the outcome is unknown
	Outcome Outcome `json:"outcome,omitempty"` // "" until it is known
	Out     string  `json:"out,omitempty"`     // what was read ("" for nothing), the number or length answered; Swap: "1" done, "0" not
	Note    string  `json:"note,omitempty"`    // error reply, or how the connection ended
	Final   bool    `json:"final,omitempty"`   // a read after all was healed; of Hear: the subscription lasted until the end
	// Restored: a read in a cluster that was restored to a moment between Call and Return.
	Restored bool `json:"restored,omitempty"`
}

// line is one line of a history file.
type line struct {
	Call   *Op `json:"call,omitempty"`
	Return *Op `json:"return,omitempty"`
}

// history takes down operations as they happen. It is safe for concurrent use.
type history struct {
	began time.Time

	mu     sync.Mutex
	file   *os.File
	out    *bufio.Writer
	err    error // the first one of the file
	lastID int64
	open   map[int64]*Op
	ended  []Op
	acks   []int64 // returns of acknowledged writes, in the order of their coming
	counts map[Outcome]int
}

// newHistory begins a history that is written to path.
func newHistory(path string, began time.Time) (*history, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create history: %w", err)
	}
	return &history{began: began, file: file, out: bufio.NewWriterSize(file, 1<<20), open: make(map[int64]*Op), counts: make(map[Outcome]int)}, nil
}

// now is the stamp of this moment.
func (h *history) now() int64 { return int64(time.Since(h.began)) }

// call notes that an operation is about to be sent and returns it.
func (h *history) call(op Op) Op {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastID++
	op.ID = h.lastID
	op.Call = h.now()
	kept := op
	h.open[op.ID] = &kept
	h.write(line{Call: &op})
	return op
}

// end notes the outcome of an operation, which op carries.
func (h *history) end(op Op) {
	op.Return = h.now()
	if op.Outcome == Unknown {
		op.Return = never
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, op.ID)
	h.ended = append(h.ended, op)
	h.counts[op.Outcome]++
	if op.Outcome == OK && op.writes() {
		h.acks = append(h.acks, op.Return)
	}
	h.write(line{Return: &op})
}

// insert notes an operation of the past: its stamps, which op carries, are those of another one.
func (h *history) insert(op Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastID++
	op.ID = h.lastID
	h.ended = append(h.ended, op)
	h.counts[op.Outcome]++
	h.write(line{Return: &op})
}

// write appends a line to the file. The caller holds mu.
func (h *history) write(l line) {
	content, err := json.Marshal(l)
	if err == nil {
		_, err = h.out.Write(append(content, '\n'))
	}
	if h.err == nil {
		h.err = err
	}
}

// tally returns how many operations ended in which way, and the stamp of the last acknowledged write.
func (h *history) tally() (ok, refused, unknown int, lastAck int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.acks); n > 0 {
		lastAck = h.acks[n-1]
	}
	return h.counts[OK], h.counts[Refused], h.counts[Unknown], lastAck
}

// close ends the history: operations without an end are unknown. It returns all of them in the order of their calls.
func (h *history) close() ([]Op, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, op := range h.open {
		op.Outcome, op.Return = Unknown, never
		h.ended = append(h.ended, *op)
	}
	h.open = nil
	sortByCall(h.ended)
	err := errors.Join(h.err, h.out.Flush(), h.file.Close())
	if err != nil {
		err = fmt.Errorf("write history: %w", err)
	}
	return h.ended, err
}

func sortByCall(ops []Op) {
	slices.SortFunc(ops, func(a, b Op) int {
		if a.Call != b.Call {
			return int(min(max(a.Call-b.Call, -1), 1))
		}
		return int(a.ID - b.ID)
	})
}

// readHistory reads what a history wrote. A last line that was cut is no error: the program may have been killed.
func readHistory(source io.Reader) ([]Op, error) {
	open := make(map[int64]Op)
	var ops []Op
	decoder := json.NewDecoder(bufio.NewReaderSize(source, 1<<20))
	for {
		var l line
		err := decoder.Decode(&l)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("history, behind %d operations: %w", len(ops), err)
		}
		switch {
		case l.Call != nil:
			open[l.Call.ID] = *l.Call
		case l.Return != nil:
			delete(open, l.Return.ID)
			ops = append(ops, *l.Return)
		}
	}
	for _, op := range open {
		op.Outcome, op.Return = Unknown, never
		ops = append(ops, op)
	}
	sortByCall(ops)
	return ops, nil
}
