package replicator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/speaker"
	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/replica"
	"lockstep/smr/wire"
)

const (
	// kvPatience is how long the KV node may be silent before it counts as gone. It reports progress more often.
	kvPatience = 3 * time.Second
	// statusEvery is how often the KV node is told the state when nothing changes, so that it notices a dead replicator.
	statusEvery = time.Second
	// maxLocal bounds the connections to the local socket, those included that have said nothing yet.
	maxLocal = 16
)

// local serves the KV node beside this replicator: one at a time, the newest counts.
type local struct {
	mu      sync.Mutex
	status  smr.Status        // what a KV node should know now
	fresh   bool              // status has been set
	owed    bool              // it has changed, and nobody was told yet
	sources []smr.ImageSource // whom to ask for an image; replaced, never changed
	refused string            // why the KV node that is attached is to be sent away, "" if it is not
	current *localSession
	// told is the session that is told what changes, nil if none is.
	told *speaker.Speaker

	// turn is held by the session that is attached: a newer one closes it and waits for its detachment.
	turn chan struct{}

	kv       atomic.Pointer[smr.LocalHello] // of the KV node attached, nil if none
	transfer atomic.Pointer[smr.Transfer]   // how far it is with fetching an image, nil if it has not said
	lastKV   atomic.Int64                   // process time in milliseconds of its last message
	attached atomic.Bool
}

type localSession struct{ conn net.Conn }

func newLocal() *local {
	return &local{turn: make(chan struct{}, 1)}
}

// show sets what the KV node is to be told. Called by the loop; several changes may become one message. Commit alone is for people, and waits for
// remind. With leisure so does Safe; it reports whether that waits now.
func (l *local) show(status smr.Status, leisure bool) (waits bool) {
	l.mu.Lock()
	known := l.status
	known.Commit = status.Commit
	changed := !l.fresh || status != known
	known.Safe = status.Safe
	waits = changed && leisure && status == known
	l.owed = l.owed || status != l.status
	l.status, l.fresh = status, true
	l.mu.Unlock()
	if changed && !waits {
		l.remind()
	}
	return waits
}

// remind tells the KV node what it does not know yet. Called by the loop, with each tick among others.
func (l *local) remind() {
	l.mu.Lock()
	told := l.told
	l.owed = false
	l.mu.Unlock()
	if told != nil {
		told.Say()
	}
}

// owes reports whether something waits for remind. Called by the loop.
func (l *local) owes() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owed
}

// setLevel tells the KV node the cluster's feature level. The loop shows it as well, with the next change.
func (l *local) setLevel(known int) {
	l.mu.Lock()
	l.status.Level = known
	l.mu.Unlock()
	l.remind()
}

func (l *local) shown() (smr.Status, []smr.ImageSource) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status, l.sources
}

// setSources says whom the KV node may ask for an image. sources is kept.
func (l *local) setSources(sources []smr.ImageSource) {
	l.mu.Lock()
	changed := !slices.Equal(l.sources, sources)
	l.sources = sources
	l.mu.Unlock()
	if changed {
		l.remind()
	}
}

// refuse sends the KV node that is attached away: its state is of a stream that the group has given up. Called by the loop.
func (l *local) refuse(why string) {
	l.mu.Lock()
	l.refused = why
	l.mu.Unlock()
	l.remind()
}

// takeRefusal returns why the KV node of the newest session is to be sent away, once.
func (l *local) takeRefusal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	why := l.refused
	l.refused = ""
	return why
}

// tell makes s the one that is told what changes; nil: nobody is.
func (l *local) tell(s *speaker.Speaker) {
	l.mu.Lock()
	l.told = s
	l.mu.Unlock()
}

// replace makes s the newest session and closes the one before.
func (l *local) replace(s *localSession) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil {
		l.current.conn.Close()
	}
	l.current, l.refused = s, ""
}

// isNewest reports whether no newer session has come.
func (l *local) isNewest(s *localSession) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current == s
}

// silentMillis tells for how long the attached KV node has said nothing; 0 if none is attached.
func (l *local) silentMillis() int64 {
	if !l.attached.Load() {
		return 0
	}
	return max(0, processMillis()-l.lastKV.Load())
}

// listenLocal makes the unix socket, mode 0600 in the replica's directory of mode 0700. A socket left by an earlier
// process is replaced: the lock of the directory tells that nobody serves it any more.
func listenLocal(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the local socket: %w", err)
	}
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.Mode().Type() != os.ModeSocket:
		return nil, fmt.Errorf("local socket: %s exists and is no socket", path)
	case err == nil:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the local socket of an earlier process: %w", err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("local socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the local socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("protect the local socket: %w", err)
	}
	return listener, nil
}

// serveLocal serves one connection to the local socket.
func (n *node) serveLocal(ctx context.Context, conn net.Conn) {
	r := wire.NewReader(conn, wire.HelloLimit)
	message, err := n.readHello(conn, r)
	if err != nil {
		n.connectionEnded(conn, "local", err)
		return
	}
	defer n.levels.forget(conn)
	hello, ok := message.(*smr.LocalHello)
	if !ok {
		n.reject(conn, &smr.Reject{Code: smr.RejectVersion, Reason: fmt.Sprintf("%T cannot begin a local connection", message)})
		return
	}
	if !n.checkHandshake(conn, hello.Handshake, smr.NodeID(n.cfg.Node)) {
		return
	}
	s := &localSession{conn: conn}
	n.local.replace(s)
	select {
	case n.local.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-n.local.turn }()
	if n.local.isNewest(s) {
		n.attach(ctx, s, r, hello)
	}
}

// attach serves the KV node until it goes, falls silent or is replaced.
func (n *node) attach(ctx context.Context, s *localSession, r *wire.Reader, hello *smr.LocalHello) {
	l := n.local
	welcome := &smr.LocalWelcome{Handshake: n.handshake(), Incarnation: n.home.incarnation, LogDir: n.logDir, Page: n.loop.pagePath}
	if _, err := s.conn.Write(wire.AppendMessage(nil, welcome)); err != nil {
		return
	}
	if s.conn.SetDeadline(time.Time{}) != nil {
		return
	}
	r.SetLimit(wire.LocalLimit)
	l.lastKV.Store(processMillis())
	l.transfer.Store(nil)
	l.kv.Store(hello)
	l.attached.Store(true)
	defer l.kv.Store(nil)
	defer l.attached.Store(false)
	n.cfg.Logger.Info("kv node attached", "group", n.cfg.Group, "node", n.cfg.Node, "pid", hello.Pid,
		"address", hello.KVAddr, "applied", uint64(hello.Applied))
	if n.bring(ctx, n.loop.control, item{input: &replica.Attached{Applied: hello.Applied, Checkpoint: n.archiver.hold(hello.Checkpoint)}}) != nil {
		return
	}
	teller := newTeller(l, s.conn)
	l.tell(teller.Speaker)
	done, told := context.WithCancel(ctx)
	defer told()
	var telling sync.WaitGroup
	telling.Go(func() {
		defer s.conn.Close()
		teller.tell(done)
	})
	err := n.hearKV(ctx, s, r)
	told()
	l.tell(nil)
	s.conn.Close()
	telling.Wait()
	n.cfg.Logger.Info("kv node detached", "group", n.cfg.Group, "node", n.cfg.Node, "pid", hello.Pid, "why", fmt.Sprint(err))
	_ = n.bring(ctx, n.loop.control, item{input: &replica.Detached{}})
}

// hearKV passes progress on until the connection ends.
func (n *node) hearKV(ctx context.Context, s *localSession, r *wire.Reader) error {
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(kvPatience)); err != nil {
			return err
		}
		message, err := r.Next()
		if err != nil {
			return err
		}
		n.local.lastKV.Store(processMillis())
		var input replica.Input
		switch message := message.(type) {
		case *smr.Progress:
			input = &replica.Progress{Applied: message.Applied, Checkpoint: n.archiver.hold(message.Checkpoint)}
		case *smr.LocalBase:
			if input, err = n.imageLoaded(message); err != nil {
				return err
			}
		case *smr.Transfer:
			n.local.transfer.Store(message)
			continue
		default:
			return fmt.Errorf("%w: %T from the KV node", wire.ErrBadMessage, message)
		}
		if err := n.bring(ctx, n.loop.control, item{input: input}); err != nil {
			return err
		}
	}
}

// imageLoaded checks the base that a KV node has brought: another group's image must not become this one's log.
func (n *node) imageLoaded(message *smr.LocalBase) (*replica.ImageLoaded, error) {
	base, err := log.ParseBase(message.Base)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", wire.ErrBadMessage, err)
	case base.Cluster != n.cfg.Cluster || base.Group != n.cfg.Group:
		return nil, fmt.Errorf("%w: an image of cluster %q group %q, this is cluster %q group %q", wire.ErrBadMessage,
			base.Cluster, base.Group, n.cfg.Cluster, n.cfg.Group)
	}
	return &replica.ImageLoaded{LSN: base.LSN, History: base.History, Stamp: base.Stamp, Base: message.Base}, nil
}

// teller tells a KV node the state: at once, on every change and when idle.
type teller struct {
	*speaker.Speaker
	local *local
	// Of who composes.
	status  smr.Status
	sources []smr.ImageSource
	written time.Time // when it was last told anything
}

func newTeller(l *local, conn net.Conn) *teller {
	t := &teller{local: l}
	t.Speaker = speaker.New(conn, t.compose, func(int) time.Duration { return kvPatience })
	return t
}

// compose implements speaker.Compose: what the KV node does not know, or all of it if it has heard nothing for a while.
func (t *teller) compose(buffer []byte, _ bool) (composed []byte, last bool, err error) {
	if why := t.local.takeRefusal(); why != "" {
		return wire.AppendMessage(buffer, &smr.Reject{Code: smr.RejectForeign, Reason: why}), true, nil
	}
	status, sources := t.local.shown()
	if now := time.Now(); status != t.status || now.Sub(t.written) >= statusEvery {
		t.status, t.written = status, now
		buffer = wire.AppendMessage(buffer, &status)
	}
	if !slices.Equal(t.sources, sources) {
		t.sources = sources
		buffer = wire.AppendMessage(buffer, &smr.ImageSources{Sources: sources})
	}
	return buffer, false, nil
}

// tell runs the speaker until ctx ends or the connection fails.
func (t *teller) tell(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var alarm sync.WaitGroup
	alarm.Go(func() {
		idle := time.NewTicker(statusEvery / 2)
		defer idle.Stop()
		for {
			select {
			case <-idle.C:
				t.Wake()
			case <-ctx.Done():
				return
			}
		}
	})
	_ = t.Run(ctx, func() bool { return ctx.Err() != nil }) // the connection is closed then: that is all there is to it
	cancel()
	alarm.Wait()
}
