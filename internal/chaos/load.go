package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/local"
	"lockstep/internal/resp"
)

// kindsOfKeys are the first letters of keys; see doc.go.
const kindsOfKeys = "rctlp"

// keyring hands out keys. Each takes a bounded number of operations and is then replaced by a fresh one.
type keyring struct {
	mu    sync.Mutex
	made  int
	slots []slot
	all   []string // every key ever handed out
}

type slot struct {
	letter byte
	key    string
	left   int
}

const (
	keysPerKind = 2
	opsPerKey   = 60
)

func newKeyring() *keyring {
	k := &keyring{}
	for _, letter := range []byte(kindsOfKeys) {
		for range keysPerKind {
			k.slots = append(k.slots, slot{letter: letter})
		}
	}
	return k
}

// take returns a key for one operation; choice draws it.
func (k *keyring) take(choice int) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := &k.slots[choice%len(k.slots)]
	if s.left == 0 {
		k.made++
		s.key, s.left = fmt.Sprintf("%c%d", s.letter, k.made), opsPerKey
		k.all = append(k.all, s.key)
	}
	s.left--
	return s.key
}

// retire replaces a key before its time: each unknown operation doubles what the checker has to think of.
func (k *keyring) retire(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.slots {
		if k.slots[i].key == key {
			k.slots[i].left = 0
		}
	}
}

// keys returns every key ever handed out.
func (k *keyring) keys() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.all...)
}

// load is clients on every KV node.
type load struct {
	history *history
	ring    *keyring
	unique  atomic.Int64 // the last value written by anybody
	refused atomic.Int64 // connections that did not come about

	mu         sync.Mutex
	unexpected []string // error replies that nobody should see
}

// maxUnexpected bounds the list of unexpected replies.
const maxUnexpected = 100

// worker is one client.
type worker struct {
	*load
	id     int
	node   string
	addr   string
	rng    *rand.Rand
	conn   *conn
	broken bool // conn is of no further use
}

// run keeps clients going on every KV node until ctx ends.
func (l *load) run(ctx context.Context, replicas []local.Replica, clients int, seed uint64) {
	var wait sync.WaitGroup
	for i := range clients * len(replicas) {
		r := replicas[i%len(replicas)]
		w := &worker{load: l, id: i, node: r.Node, addr: r.KVAddr, rng: rand.New(rand.NewPCG(seed, 1000+uint64(i)))}
		wait.Go(func() { w.run(ctx) })
	}
	wait.Wait()
}

// run does one operation after the other.
func (w *worker) run(ctx context.Context) {
	defer w.hangUp()
	for ctx.Err() == nil {
		if w.conn == nil {
			// Some clients wait longer than any fail-over, some do not: both have to come out right.
			patience := []time.Duration{time.Second, 3 * time.Second, 15 * time.Second}[w.rng.IntN(3)]
			c, err := dial(ctx, w.addr, patience)
			if err != nil {
				w.refused.Add(1)
				rest(ctx, 50*time.Millisecond)
				continue
			}
			w.conn = c
		}
		outcome := w.operate(w.ring.take(w.rng.IntN(keysPerKind * len(kindsOfKeys))))
		if w.broken || w.rng.IntN(500) == 0 { // some connections end without a cause
			w.hangUp()
		}
		pause := time.Duration(w.rng.IntN(12)) * time.Millisecond
		if outcome == Refused {
			pause += 20 * time.Millisecond // refusals come at once
		}
		rest(ctx, pause)
	}
}

func (w *worker) hangUp() {
	if w.conn != nil {
		w.conn.Close()
	}
	w.conn, w.broken = nil, false
}

// operate draws an operation on key and does it.
func (w *worker) operate(key string) Outcome {
	value := strconv.FormatInt(w.unique.Add(1), 10)
	half := w.rng.IntN(2) == 0
	switch key[0] {
	case 'c':
		if half {
			return w.write(key, Incr, "", []string{"INCR", key})
		}
		return w.read(key)
	case 't':
		if half {
			return w.write(key, Append, "."+value, []string{"APPEND", key, "." + value})
		}
		return w.read(key)
	case 'l':
		if half {
			return w.write(key, Push, value, []string{"RPUSH", key, value})
		}
		return w.read(key)
	case 'p':
		if half {
			return w.write(key, Set, value, []string{"MULTI"}, []string{"SET", key + ":a", value}, []string{"SET", key + ":b", value}, []string{"EXEC"})
		}
		return w.read(key)
	}
	switch w.rng.IntN(3) {
	case 0:
		return w.write(key, Set, value, []string{"SET", key, value})
	case 1:
		return w.swap(key, value)
	}
	return w.read(key)
}

// write does an operation that changes something.
func (w *worker) write(key string, kind Kind, arg string, commands ...[]string) Outcome {
	return w.finish(w.history.call(Op{Client: w.id, Node: w.node, Key: key, Kind: kind, Arg: arg}), commands...)
}

// read reads a key of any kind.
func (w *worker) read(key string) Outcome {
	return w.finish(w.history.call(readOf(key, w.id, w.node)), commandsOf(key)...)
}

func readOf(key string, client int, node string) Op {
	op := Op{Client: client, Node: node, Key: key, Kind: Get}
	if key[0] == 'l' {
		op.Kind = Range
	}
	return op
}

// commandsOf is how a key of any kind is read.
func commandsOf(key string) [][]string {
	switch key[0] {
	case 'l':
		return [][]string{{"LRANGE", key, "0", "-1"}}
	case 'p':
		return [][]string{{"MULTI"}, {"GET", key + ":a"}, {"GET", key + ":b"}, {"EXEC"}}
	}
	return [][]string{{"GET", key}}
}

// swap is a compare-and-set as clients do it.
func (w *worker) swap(key, value string) Outcome {
	if _, err := w.conn.do([]string{"WATCH", key}); err != nil {
		w.failed(Op{Key: key, Node: w.node, Kind: Swap}, err) // nothing was sent that could change anything
		return Refused
	}
	seen := w.history.call(readOf(key, w.id, w.node))
	reply, err := w.conn.do(commandsOf(key)...)
	if outcome := w.conclude(&seen, reply, err); outcome != OK {
		w.broken = true // the watch with it
		return outcome
	}
	op := Op{Client: w.id, Node: w.node, Key: key, Kind: Swap, Arg: value, Old: seen.Out}
	return w.finish(w.history.call(op), []string{"MULTI"}, []string{"SET", key, value}, []string{"EXEC"})
}

// finish sends what an operation consists of and takes down how it ends.
func (w *worker) finish(op Op, commands ...[]string) Outcome {
	reply, err := w.conn.do(commands...)
	return w.conclude(&op, reply, err)
}

// conclude takes down how op ended.
func (w *worker) conclude(op *Op, reply resp.Value, err error) Outcome {
	if err == nil {
		op.Out, err = answer(*op, reply)
	}
	op.Outcome = OK
	if err != nil {
		op.Outcome = w.failed(*op, err)
		op.Note = err.Error()
	}
	w.history.end(*op)
	if op.Outcome == Unknown && !op.Kind.reads() {
		w.ring.retire(op.Key)
	}
	return op.Outcome
}

// failed judges an error and tells whether the connection lives on.
func (w *worker) failed(op Op, err error) Outcome {
	outcome, expected := judge(err)
	var reply replyError
	if !errors.As(err, &reply) {
		w.broken = true
	}
	var strange *strangeReply
	if !expected || errors.As(err, &strange) {
		w.mu.Lock()
		if len(w.unexpected) < maxUnexpected {
			w.unexpected = append(w.unexpected, fmt.Sprintf("%s on %s, %s: %v", op.Kind, op.Key, w.node, err))
		}
		w.mu.Unlock()
	}
	return outcome
}

// strangeReply is a reply that the command cannot have.
type strangeReply struct{ text string }

func (s *strangeReply) Error() string { return s.text }

// answer turns a reply into what an Op carries, or says why it cannot be the reply to op.
func answer(op Op, reply resp.Value) (string, error) {
	strange := func() (string, error) {
		return "", &strangeReply{fmt.Sprintf("reply of kind %q, text %q and %d items", reply.Kind, reply.Text, len(reply.Items))}
	}
	isPair := op.Key[0] == 'p'
	switch {
	case op.Kind == Range:
		if reply.Kind != '*' {
			return strange()
		}
		out, err := integers(reply)
		if err != nil {
			return "", &strangeReply{err.Error()}
		}
		return out, nil
	case op.Kind == Incr || op.Kind == Append || op.Kind == Push:
		if reply.Kind != ':' {
			return strange()
		}
		return strconv.FormatInt(reply.Int, 10), nil
	case op.Kind == Get && isPair:
		if reply.Kind != '*' || len(reply.Items) != 2 {
			return strange()
		}
		if a, b := reply.Items[0].Text, reply.Items[1].Text; a != b {
			return a + "|" + b, nil // which no order of operations explains
		}
		return reply.Items[0].Text, nil
	case op.Kind == Get:
		if reply.Kind != '$' && !reply.Null {
			return strange()
		}
		return reply.Text, nil
	case op.Kind == Swap:
		if reply.Null {
			return "0", nil
		}
		if reply.Kind != '*' || len(reply.Items) != 1 || reply.Items[0].Text != "OK" {
			return strange()
		}
		return "1", nil
	case isPair:
		if reply.Kind != '*' || len(reply.Items) != 2 || reply.Items[0].Text != "OK" || reply.Items[1].Text != "OK" {
			return strange()
		}
		return "", nil
	case reply.Text != "OK":
		return strange()
	}
	return "", nil
}

// finalReads reads every key on every node. It is called when all is healed; a read that is not answered is an error.
func (l *load) finalReads(ctx context.Context, replicas []local.Replica) error {
	const patience = 20 * time.Second
	for i, r := range replicas {
		c, err := dial(ctx, r.KVAddr, patience)
		if err != nil {
			return fmt.Errorf("final reads on %s: %w", r.Node, err)
		}
		w := &worker{load: l, id: 1000 + i, node: r.Node, conn: c}
		for _, key := range l.ring.keys() {
			op := readOf(key, w.id, w.node)
			op.Final = true
			if outcome := w.finish(l.history.call(op), commandsOf(key)...); outcome != OK {
				c.Close()
				return fmt.Errorf("final read of %s on %s: %s", key, r.Node, outcome)
			}
		}
		c.Close()
	}
	return nil
}

// rest waits and reports whether ctx lives on.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
