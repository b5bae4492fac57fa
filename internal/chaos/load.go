package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/admin"
	"lockstep/internal/local"
	"lockstep/internal/pause"
	"lockstep/internal/resp"
)

// kindsOfKeys are the first letters of keys; see doc.go. The histories of modelled ones are put in order by porcupine.
const (
	kindsOfKeys = modelled + "qmzs"
	modelled    = "rctlpe"
)

// keyring hands out keys. Each takes a bounded number of operations and is then replaced by a fresh one.
type keyring struct {
	suffix string // of every key

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
	opsPerQueue = 150 // of queues and streams, whose checks take little time
)

func newKeyring() *keyring { return newKeyringOf(kindsOfKeys, "") }

// newKeyringOf hands out keys of some kinds only, which end as suffix says.
func newKeyringOf(letters, suffix string) *keyring {
	k := &keyring{suffix: suffix}
	for _, letter := range []byte(letters) {
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
		s.key, s.left = fmt.Sprintf("%c%d%s", s.letter, k.made, k.suffix), opsPerKey
		if !isModelled(s.key) {
			s.left = opsPerQueue
		}
		k.all = append(k.all, s.key)
	}
	s.left--
	return s.key
}

func isModelled(key string) bool { return strings.IndexByte(modelled, key[0]) >= 0 }

// current returns the newest key of a kind, "" if there is none yet; choice draws it.
func (k *keyring) current(letter byte, choice int) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.slots[strings.IndexByte(kindsOfKeys, letter)*keysPerKind+choice%keysPerKind].key
}

// retire replaces a key before its time: each unknown operation doubles what porcupine has to think of.
func (k *keyring) retire(key string) {
	if !isModelled(key) {
		return
	}
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
	login   func() admin.Login     // of every client, at this moment
	nodes   func() []local.Replica // those in service now, of which there is at least one
	unique  atomic.Int64           // the last value written by anybody
	refused atomic.Int64           // connections that did not come about
	silent  bool                   // nothing is published
	// listened is closed when nobody listens any more.
	listened chan struct{}

	mu         sync.Mutex
	unexpected []string // error replies that nobody should see
}

// maxUnexpected bounds the list of unexpected replies.
const maxUnexpected = 100

// worker is one client.
type worker struct {
	*load
	id      int
	node    string
	rng     *rand.Rand
	conn    *conn
	secret  string // the password with which conn was logged in
	broken  bool   // conn is of no further use
	grouped string // the stream whose group this worker has seen to
}

// run keeps clients going on every KV node until ctx ends: several that do one operation after the other, and two that wait at
// queues.
func (l *load) run(ctx context.Context, clients int, seed uint64) {
	var wait sync.WaitGroup
	nodes := len(l.nodes())
	begin := func(id int, run func(*worker, context.Context)) {
		w := &worker{load: l, id: id, rng: rand.New(rand.NewPCG(seed, 1000+uint64(id)))}
		wait.Go(func() { run(w, ctx) })
	}
	for i := range clients * nodes {
		begin(i, (*worker).run)
	}
	for i := range nodes {
		begin(firstWaiter+2*i, (*worker).waitAtQueues)
		begin(firstWaiter+2*i+1, (*worker).waitAtQueues)
	}
	wait.Wait()
}

// Numbers of clients that are not ordinary ones; the numbers of the readers at the end begin at finalReader.
const (
	firstWaiter   = 200
	firstListener = 300
	finalReader   = 1000
	restoreReader = 2000
)

// connect sees to it that there is a connection, to the node whose turn it is. It reports whether there is one.
func (w *worker) connect(ctx context.Context, patience time.Duration) bool {
	if w.conn != nil {
		return true
	}
	nodes := w.nodes() // nodes come and go
	r := nodes[w.id%len(nodes)]
	if w.id >= firstListener {
		r = nodes[(w.id-firstListener)%len(nodes)]
	}
	login := w.login()
	c, err := dial(ctx, login, r.KVAddr, patience)
	if err != nil {
		w.refused.Add(1)
		pause.For(ctx, 50*time.Millisecond)
		return false
	}
	w.conn, w.node, w.secret = c, r.Node, login.Password
	return true
}

// run does one operation after the other.
func (w *worker) run(ctx context.Context) {
	defer w.hangUp()
	for ctx.Err() == nil {
		// Some clients wait longer than any fail-over, some do not: both have to come out right.
		if !w.connect(ctx, []time.Duration{time.Second, 3 * time.Second, 15 * time.Second}[w.rng.IntN(3)]) {
			continue
		}
		var outcome Outcome
		if !w.silent && w.rng.IntN(12) == 0 {
			outcome = w.publish()
		} else {
			outcome = w.operate(w.ring.take(w.rng.IntN(len(w.ring.slots))))
		}
		if w.broken || w.rng.IntN(500) == 0 { // some connections end without a cause
			w.hangUp()
		}
		gap := time.Duration(w.rng.IntN(12)) * time.Millisecond
		if outcome == Refused {
			gap += 20 * time.Millisecond // refusals come at once
		}
		pause.For(ctx, gap)
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
	case 'e':
		if half {
			return w.callScript(key, value)
		}
		return w.read(key)
	case 'q', 'm', 'z':
		return w.push(key, value)
	case 's':
		return w.useStream(key, value, half)
	}
	switch w.rng.IntN(3) {
	case 0:
		return w.write(key, Set, value, setOf(key, value)...)
	case 1:
		return w.swap(key, value)
	}
	return w.read(key)
}

// namesOf lists the names that a key stands for.
func namesOf(key string) []string {
	switch key[0] {
	case 'p':
		return []string{key + ":a", key + ":b"}
	case 'e':
		return []string{key + ":n", key + ":t", key + ":l"}
	}
	return []string{key}
}

// setOf is how a register or a pair is written.
func setOf(key, value string) [][]string {
	if key[0] == 'p' {
		return [][]string{{"MULTI"}, {"SET", key + ":a", value}, {"SET", key + ":b", value}, {"EXEC"}}
	}
	return [][]string{{"SET", key, value}}
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
	if strings.IndexByte("lqmzs", key[0]) >= 0 {
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
	case 'e':
		return [][]string{{"MULTI"}, {"GET", key + ":n"}, {"GET", key + ":t"}, {"LRANGE", key + ":l", "0", "-1"}, {"EXEC"}}
	}
	return [][]string{{"GET", key}}
}

// swap is a compare-and-set as clients do it.
func (w *worker) swap(key, value string) Outcome {
	since := w.history.now()
	if _, err := w.conn.do(append([]string{"WATCH"}, namesOf(key)...)); err != nil {
		w.failed(Op{Key: key, Node: w.node, Kind: Swap}, err) // nothing was sent that could change anything
		return Refused
	}
	seen := w.history.call(readOf(key, w.id, w.node))
	reply, err := w.conn.do(append([]string{"MGET"}, namesOf(key)...)) // EXEC would end the watch
	if key[0] != 'p' && err == nil && len(reply.Items) == 1 {
		reply = reply.Items[0]
	}
	if outcome := w.conclude(&seen, reply, err); outcome != OK {
		w.broken = true // the watch with it
		return outcome
	}
	op := Op{Client: w.id, Node: w.node, Key: key, Kind: Swap, Arg: value, Old: seen.Out, Since: since}
	if key[0] == 'p' {
		return w.finish(w.history.call(op), setOf(key, value)...)
	}
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
	if strings.HasPrefix(string(reply), "NOAUTH") && w.secret != w.login().Password { // it logged in where nobody could confirm that, and the password has been given up
		outcome, expected, w.broken = Refused, true, true
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

// finalReads reads every key on every node. It is called when all is healed; a read that is not answered is an error.
func (l *load) finalReads(ctx context.Context) error {
	const patience = 20 * time.Second
	for i, r := range l.nodes() {
		c, err := dial(ctx, l.login(), r.KVAddr, patience)
		if err != nil {
			return fmt.Errorf("final reads on %s: %w", r.Node, err)
		}
		w := &worker{load: l, id: finalReader + i, node: r.Node, conn: c}
		for _, key := range l.ring.keys() {
			op := readOf(key, w.id, w.node)
			op.Final = true
			if outcome := w.readAll(op); outcome != OK {
				c.Close()
				return fmt.Errorf("final read of %s on %s: %s", key, r.Node, outcome)
			}
		}
		c.Close()
	}
	return nil
}

// readAll reads all that a key of any kind holds.
func (w *worker) readAll(op Op) Outcome {
	switch op.Key[0] {
	case 's':
		return w.inspectStream(op)
	case 'q', 'm', 'z':
		return w.inspectQueue(op)
	}
	return w.finish(w.history.call(op), commandsOf(op.Key)...)
}
