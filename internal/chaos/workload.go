package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"lockstep/internal/admin"
	"lockstep/internal/local"
)

// drilled are the kinds of keys that a Workload uses: a cluster that serves others is not asked for scripts, queues or messages.
const drilled = "rctlp"

// Workload is clients on every KV node of a cluster that exists, and what they saw: what a drill (internal/drill) writes and checks.
type Workload struct {
	load    *load
	history *history
	dir     string
	stop    context.CancelFunc
	wait    sync.WaitGroup
}

// WorkloadOptions say what a Workload does.
type WorkloadOptions struct {
	Dir     string          // for the history and for pictures; must exist
	Nodes   []local.Replica // Node and KVAddr are looked at
	Name    string          // is in the name of every key, so that it is nobody else's
	Clients int             // on each node
	Seed    uint64
	Login   admin.Login
}

// Knock reports why a client of a Workload would not be let in, nil if it would.
func Knock(ctx context.Context, login admin.Login, addr string) error {
	_, err := once(ctx, login, addr, knockPatience, "PING")
	if err != nil && strings.HasPrefix(err.Error(), "NOAUTH") {
		return fmt.Errorf("%w: give --user and --password-file", err)
	}
	return err
}

// knockPatience bounds how long a node may take to answer at all.
const knockPatience = 5 * time.Second

// StartWorkload starts the clients. They work until Finish.
func StartWorkload(ctx context.Context, o WorkloadOptions) (*Workload, error) {
	history, err := newHistory(filepath.Join(o.Dir, "history.jsonl"), time.Now())
	if err != nil {
		return nil, err
	}
	w := &Workload{history: history, dir: o.Dir, load: &load{
		history: history, ring: newKeyringOf(drilled, ":"+o.Name), silent: true, login: func() admin.Login { return o.Login }, nodes: func() []local.Replica { return o.Nodes },
	}}
	ctx, w.stop = context.WithCancel(ctx)
	for i := range o.Clients * len(o.Nodes) {
		client := &worker{load: w.load, id: i, rng: rand.New(rand.NewPCG(o.Seed, 1000+uint64(i)))}
		w.wait.Go(func() { client.run(ctx) })
	}
	return w, nil
}

// Now is the stamp of this moment: nanoseconds since the clients began.
func (w *Workload) Now() int64 { return w.history.now() }

// Acknowledged returns how many writes were acknowledged so far, and the stamp of the last one. The history reaches its file with it, so
// that whoever cleans up behind a killed program knows the keys.
func (w *Workload) Acknowledged() (writes int, last int64) {
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	if err := w.history.out.Flush(); err != nil && w.history.err == nil {
		w.history.err = err
	}
	writes = len(w.history.acks)
	if writes > 0 {
		last = w.history.acks[writes-1]
	}
	return writes, last
}

// Finding is what became of a Workload.
type Finding struct {
	Ops         []Op // in the order of their calls
	Checked     Checked
	Unexpected  []string // replies that nobody should see
	FailedDials int64
	Unread      error // why not every key could be read on every node at the end, nil if all were
	Left        int   // keys that could not be deleted
}

// Finish ends the clients, reads every key on every node, deletes all of them and checks the history. When ctx has ended it only
// deletes.
func (w *Workload) Finish(ctx context.Context) (*Finding, error) {
	w.stop()
	w.wait.Wait()
	f := &Finding{Unread: w.load.finalReads(ctx), FailedDials: w.load.refused.Load()}
	f.Left = w.clear()
	ops, err := w.history.close()
	if err != nil {
		return nil, err
	}
	f.Ops = ops
	f.Checked = checkHistory(ops, w.dir)
	w.load.mu.Lock()
	defer w.load.mu.Unlock()
	f.Unexpected = append(f.Unexpected, w.load.unexpected...)
	return f, nil
}

// clear deletes all keys, through whichever node takes it, and returns how many are left.
func (w *Workload) clear() (left int) {
	const batch, patience = 500, 10 * time.Second
	var names []string
	for _, key := range w.load.ring.keys() {
		names = append(names, namesOf(key)...)
	}
	for len(names) > 0 {
		some := names[:min(batch, len(names))]
		if err := w.delete(some, patience); err != nil {
			return len(names)
		}
		names = names[len(some):]
	}
	return 0
}

func (w *Workload) delete(names []string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience) // also when the drill was ended
	defer cancel()
	err := fmt.Errorf("no node")
	for _, r := range w.load.nodes() {
		if _, err = once(ctx, w.load.login(), r.KVAddr, patience, append([]string{"UNLINK"}, names...)...); err == nil {
			return nil
		}
	}
	return err
}

// Windows lists the times without an acknowledged write of at least windowLength between two stamps.
func (f *Finding) Windows(from, to int64) []Window { return findWindows(f.Ops, nil, nil, from, to) }

// Acknowledged reports whether the operation is a write that was acknowledged.
func (o *Op) Acknowledged() bool { return o.Outcome == OK && o.writes() }

// DeleteLeft deletes the keys that a Workload of that name left which was killed, as far as its history goes and a little beyond. Without
// a history there are none.
func DeleteLeft(path, name string, login admin.Login, nodes []local.Replica) (deleted int, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read history: %w", err)
	}
	defer file.Close()
	ops, err := readHistory(file)
	if err != nil {
		return 0, err
	}
	ring := newKeyringOf(drilled, "")
	most := 0
	for _, op := range ops {
		number, suffix, _ := strings.Cut(op.Key[1:], ":")
		made, err := strconv.Atoi(number)
		if err != nil || !strings.HasPrefix(suffix, name) {
			return 0, fmt.Errorf("history: key %q is not of this run", op.Key)
		}
		most = max(most, made)
	}
	for made := 1; made <= most+unwritten; made++ {
		for _, letter := range drilled {
			ring.all = append(ring.all, fmt.Sprintf("%c%d:%s", letter, made, name))
		}
	}
	w := &Workload{load: &load{ring: ring, login: func() admin.Login { return login }, nodes: func() []local.Replica { return nodes }}}
	if left := w.clear(); left > 0 {
		return 0, fmt.Errorf("%d keys of it cannot be deleted yet: no KV node takes writes", left)
	}
	return most, nil
}

// unwritten is how many keys may have been made that the file of a killed program does not name.
const unwritten = 200
