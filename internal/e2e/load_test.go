package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lockstep/internal/resp"
)

// load is writers and readers on every KV node, and what became of each operation.
type load struct {
	w       *world
	name    string
	stop    chan struct{}
	wait    sync.WaitGroup
	writers []*writer
	stale   atomic.Pointer[string] // the first read that missed an acknowledged write

	mu       sync.Mutex
	problems []string // what surviving nodes answered that they must not
}

// writer appends 1, 2, 3 … to a list of its own and counts a counter of its own, one operation after the other.
type writer struct {
	node, list, counter string
	mayBreak            bool // its node is a victim: connections may break
	mayRefuse           bool // writes may be refused or uncertain

	counted atomic.Int64 // the counter's highest acknowledged value: a read sent later must show at least this
	acked   atomic.Int64 // operations acknowledged

	// The goroutine's own until load.finish has waited for it.
	appended []int64        // acknowledged numbers, ascending
	unknown  map[int64]bool // numbers whose append may or may not have happened
	refused  []int64        // numbers that certainly were not appended
	lost     int64          // counts whose outcome is unknown
	longest  time.Duration  // between two operations that ended
}

// options of a load.
type loadOptions struct {
	victims   []string // nodes whose clients may see broken connections
	mayRefuse bool
	writers   int // for each node; 2
}

var loads atomic.Int64

// startLoad starts writers and a reader on every node and waits until all writers have been acknowledged once.
func (w *world) startLoad(t *testing.T, o loadOptions) *load {
	t.Helper()
	l := &load{w: w, name: fmt.Sprintf("load%d", loads.Add(1)), stop: make(chan struct{})}
	if o.writers == 0 {
		o.writers = 2
	}
	for _, r := range w.Plan.Replicas {
		for i := range o.writers {
			l.writers = append(l.writers, &writer{
				node: r.Node, list: fmt.Sprintf("%s:list:%s:%d", l.name, r.Node, i), counter: fmt.Sprintf("%s:count:%s:%d", l.name, r.Node, i),
				mayBreak: slices.Contains(o.victims, r.Node), mayRefuse: o.mayRefuse, unknown: make(map[int64]bool),
			})
		}
	}
	for _, wr := range l.writers {
		l.wait.Go(func() { l.write(wr) })
	}
	for i, r := range w.Plan.Replicas {
		l.wait.Go(func() { l.read(r.Node, i, slices.Contains(o.victims, r.Node) || o.mayRefuse) })
	}
	t.Cleanup(l.halt) // for tests that end early
	l.progress(t, w.others()...)
	return l
}

func (l *load) halt() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.wait.Wait()
}

func (l *load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// pause waits for a moment or until the load is stopped.
func (l *load) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-l.stop:
	case <-timer.C:
	}
}

func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.problems) < 20 {
		l.problems = append(l.problems, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
}

// write runs one writer.
func (l *load) write(wr *writer) {
	addr := l.w.addr(wr.node)
	var c *conn
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	last := time.Now()
	for n := int64(1); !l.stopped(); n++ {
		if c == nil {
			var err error
			if c, err = dial(addr); err != nil {
				if !wr.mayBreak {
					l.complain("%s: connect: %v", wr.node, err)
				}
				l.pause(20 * time.Millisecond)
				continue
			}
		}
		if !l.operate(wr, c, n) {
			c.Close()
			c = nil
			continue
		}
		wr.longest = max(wr.longest, time.Since(last))
		last = time.Now()
		if len(wr.refused) > 0 && wr.refused[len(wr.refused)-1] == n {
			l.pause(5 * time.Millisecond) // refusals come at once
		}
	}
}

// outcome of one command.
type outcome int

const (
	acknowledged outcome = iota
	refused              // an error reply: the write was not executed and never will be
	unknown              // it may have been executed, or may yet be
)

// outcomeOf judges a reply, complains about what this writer's node must not answer, and reports whether the connection lives.
func (l *load) outcomeOf(wr *writer, err error) (o outcome, lives bool) {
	var reply replyError
	isReply := errors.As(err, &reply)
	expected := wr.mayBreak && !is(err, "ERR")
	switch {
	case err == nil:
		return acknowledged, true
	case is(err, "UNCERTAIN"):
		o, lives, expected = unknown, true, expected || wr.mayRefuse
	case isReply:
		o, lives, expected = refused, true, expected || wr.mayRefuse && is(err, "NOREPLICAS")
	default:
		o, lives = unknown, false
	}
	if !expected && !l.stopped() {
		l.complain("%s: a client sees: %v", wr.node, err)
	}
	return o, lives
}

// operate appends n and counts, in one pipeline, and notes what became of both. It reports whether the connection lives.
func (l *load) operate(wr *writer, c *conn, n int64) bool {
	lost := c.send("RPUSH", wr.list, strconv.FormatInt(n, 10))
	if lost == nil {
		lost = c.send("INCR", wr.counter)
	}
	var length, count resp.Value
	err := lost
	if lost == nil {
		length, err = c.receive()
	}
	appended, lives := l.outcomeOf(wr, err)
	switch appended {
	case acknowledged:
		least, most := int64(len(wr.appended))+1, int64(len(wr.appended)+len(wr.unknown))+1
		if length.Int < least || length.Int > most {
			l.complain("%s: %s has length %d, possible are %d to %d", wr.node, wr.list, length.Int, least, most)
		}
		wr.appended = append(wr.appended, n)
		wr.acked.Add(1)
	case refused:
		wr.refused = append(wr.refused, n)
	case unknown:
		wr.unknown[n] = true
	}
	if !lives {
		wr.lost++
		return false
	}
	count, err = c.receive()
	counted, lives := l.outcomeOf(wr, err)
	switch counted {
	case acknowledged:
		if count.Int <= wr.counted.Load() {
			l.complain("%s: %s counts %d after %d", wr.node, wr.counter, count.Int, wr.counted.Load())
		}
		wr.counted.Store(count.Int)
		wr.acked.Add(1)
	case unknown:
		wr.lost++
	}
	return lives
}

// read reads the counters of all writers through one node, in turn, and checks that none misses an acknowledged count.
func (l *load) read(node string, first int, mayFail bool) {
	addr := l.w.addr(node)
	var c *conn
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for i := first; !l.stopped(); i++ {
		if c == nil {
			var err error
			if c, err = dial(addr); err != nil {
				if !mayFail {
					l.complain("%s: reader connects: %v", node, err)
				}
				l.pause(20 * time.Millisecond)
				continue
			}
		}
		wr := l.writers[i%len(l.writers)]
		least := wr.counted.Load()
		value, err := c.do("GET", wr.counter)
		if err != nil {
			if !mayFail {
				l.complain("%s: a reader of a surviving node sees: %v", node, err)
			}
			c.Close()
			c = nil
			continue
		}
		count, _ := strconv.ParseInt(value.Text, 10, 64) // "" before the first count
		if count < least {
			text := fmt.Sprintf("%s reads %s = %d after %d was acknowledged", node, wr.counter, count, least)
			l.stale.CompareAndSwap(nil, &text)
		}
		l.pause(time.Millisecond)
	}
}

// progress waits until every writer on these nodes has been acknowledged 20 more operations.
func (l *load) progress(t *testing.T, nodes ...string) {
	t.Helper()
	before := make(map[*writer]int64)
	for _, wr := range l.writers {
		before[wr] = wr.acked.Load()
	}
	eventually(t, fmt.Sprintf("writers on %v go on", nodes), func() error {
		for _, wr := range l.writers {
			if slices.Contains(nodes, wr.node) && wr.acked.Load() < before[wr]+20 {
				return fmt.Errorf("%s has %d operations more", wr.list, wr.acked.Load()-before[wr])
			}
		}
		return nil
	})
}

// finish stops the load and judges everything it saw, on every KV node.
func (l *load) finish(t *testing.T) {
	t.Helper()
	l.finishOn(t, l.w.others()...)
}

// finishOn is finish where only these KV nodes can be asked.
func (l *load) finishOn(t *testing.T, nodes ...string) {
	t.Helper()
	l.halt()
	for _, problem := range l.problems {
		t.Error(problem)
	}
	if stale := l.stale.Load(); stale != nil {
		t.Errorf("stale read: %s", *stale)
	}
	var sums [3]int
	var longest time.Duration
	for _, wr := range l.writers {
		l.judge(t, wr, nodes)
		sums[acknowledged] += len(wr.appended)
		sums[refused] += len(wr.refused)
		sums[unknown] += len(wr.unknown)
		if !wr.mayBreak {
			longest = max(longest, wr.longest)
		}
	}
	t.Logf("%d appends acknowledged, %d refused, %d unknown; longest pause of a surviving writer %v", sums[acknowledged], sums[refused], sums[unknown], longest.Round(time.Millisecond))
}

// judge checks what one writer left behind.
func (l *load) judge(t *testing.T, wr *writer, nodes []string) {
	t.Helper()
	var first []int64
	for i, node := range nodes {
		list, err := numbers(l.w.addr(node), wr.list)
		if err != nil {
			t.Errorf("%s: %v", node, err)
			return
		}
		if i == 0 {
			first = list
		} else if !slices.Equal(list, first) {
			t.Errorf("%s has %d numbers on %s and %d on %s, or others", wr.list, len(first), nodes[0], len(list), node)
			return
		}
		value, err := once(l.w.addr(node), "GET", wr.counter)
		if err != nil {
			t.Errorf("%s: %v", node, err)
			return
		}
		l.judgeCounter(t, wr, node, value.Text)
	}
	judgeList(t, wr, first)
}

func (l *load) judgeCounter(t *testing.T, wr *writer, node, text string) {
	t.Helper()
	count, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Errorf("%s: %s is %q", node, wr.counter, text)
		return
	}
	// counted already includes the unknown ones that were executed before the last acknowledged one.
	if count < wr.counted.Load() || count > wr.counted.Load()+wr.lost {
		t.Errorf("%s: %s is %d: the last acknowledged value was %d and %d counts are unknown", node, wr.counter, count, wr.counted.Load(), wr.lost)
	}
}

// judgeList checks that every acknowledged number is there exactly once and in order, no refused one, and of the unknown
// ones each at most once.
func judgeList(t *testing.T, wr *writer, list []int64) {
	t.Helper()
	refused := make(map[int64]bool)
	for _, n := range wr.refused {
		refused[n] = true
	}
	seen := make(map[int64]bool)
	var known []int64
	for _, n := range list {
		switch {
		case seen[n]:
			t.Errorf("%s holds %d twice", wr.list, n)
		case refused[n]:
			t.Errorf("%s holds %d, which was refused", wr.list, n)
		case !wr.unknown[n]:
			known = append(known, n)
		}
		seen[n] = true
	}
	if !slices.Equal(known, wr.appended) {
		for i, n := range wr.appended {
			if i >= len(known) || known[i] != n {
				t.Errorf("%s: %d of %d acknowledged numbers are there; the first that is not in its place is %d", wr.list, len(known), len(wr.appended), n)
				return
			}
		}
		t.Errorf("%s holds %d numbers, of which only %d were acknowledged and none of the rest sent", wr.list, len(known), len(wr.appended))
	}
}
