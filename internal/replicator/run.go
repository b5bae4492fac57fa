package replicator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"

	"lockstep/internal/level"
	"lockstep/smr"
	"lockstep/smr/replica"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// node is one running replicator: the parts that its goroutines share. Fields are set before the first goroutine starts
// and do not change.
type node struct {
	cfg      Config
	home     identity
	logDir   string // absolute
	life     smr.Life
	announce string // data address as others reach it
	group    *errgroup.Group

	loop      *loop
	disk      *disk
	stream    *stream
	dialer    *dialer
	clients   *clients
	local     *local
	snapshot  *snapshot
	archiver  *archiver // nil: nothing is archived
	events    *events
	addresses addresses
	levels    *levels
	bigSlots  *semaphore.Weighted

	conns     atomic.Uint64 // last ConnID given out
	slaves    atomic.Int64  // connections of slaves
	unchecked unchecked
}

// identity is what of the home may be read from any goroutine.
type identity struct{ incarnation smr.Incarnation }

// Run runs a replicator until ctx ends or something fails that only a restart can mend. It returns nil after a clean
// stop. All goroutines that it starts have ended when it returns.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	cfg = cfg.withDefaults()
	h, err := openHome(cfg)
	if err != nil {
		return err
	}
	defer h.release()
	ports, err := listen(cfg)
	if err != nil {
		return errors.Join(err, h.closeCleanly())
	}
	n, err := newNode(cfg, h, ports)
	if err != nil {
		ports.close()
		return errors.Join(err, h.closeCleanly())
	}
	if cfg.started != nil {
		cfg.started(n)
	}
	err = n.run(ctx, ports)
	if err == nil || errors.Is(err, level.ErrTooLow) { // nothing is wrong with the log
		err = errors.Join(err, h.closeCleanly())
	} else {
		// What the log holds may be suspect: no clean mark. The next start finds out.
		err = errors.Join(err, ignoreClosed(h.log.Close(), h.log.Err()))
	}
	return err
}

// ignoreClosed drops the error of closing a log that had failed before: it was reported.
func ignoreClosed(err, before error) error {
	if before != nil {
		return nil
	}
	return err
}

// listeners are the ports of a replicator.
type listeners struct{ data, manage, local net.Listener }

func listen(cfg Config) (ports listeners, err error) {
	defer func() {
		if err != nil {
			ports.close()
		}
	}()
	config := net.ListenConfig{KeepAliveConfig: keepAlive}
	if ports.data, err = config.Listen(context.Background(), "tcp", cfg.DataAddr); err != nil {
		return ports, fmt.Errorf("listen on the data port: %w", err)
	}
	if ports.manage, err = config.Listen(context.Background(), "tcp", cfg.ManageAddr); err != nil {
		return ports, fmt.Errorf("listen on the management port: %w", err)
	}
	ports.data, ports.manage = cfg.drills.Listener(ports.data), cfg.drills.Listener(ports.manage)
	ports.local, err = listenLocal(cfg.Socket)
	return ports, err
}

func (p listeners) close() {
	for _, listener := range []net.Listener{p.data, p.manage, p.local} {
		if listener != nil {
			listener.Close() // an error here changes nothing
		}
	}
}

func newNode(cfg Config, h *home, ports listeners) (*node, error) {
	logDir, err := filepath.Abs(h.logDir())
	if err != nil {
		return nil, fmt.Errorf("name the log directory: %w", err)
	}
	n := &node{
		cfg: cfg, home: identity{incarnation: h.saved.Incarnation}, logDir: logDir, life: smr.Life(randomID()), announce: cfg.AnnounceAddr,
		levels: h.levels, clients: newClients(cfg.MaxClients), local: cfg.local, snapshot: newSnapshot(), events: newEvents(cfg.Logger.With("group", cfg.Group, "node", cfg.Node)),
		bigSlots: semaphore.NewWeighted(bigSlots),
	}
	if n.announce == "" {
		n.announce = ports.data.Addr().String()
	}
	if n.archiver, err = newArchiver(n); err != nil {
		return nil, err
	}
	n.disk = newDisk(h)
	cfg.gauges.noteSynced(h.log.Synced())
	n.stream = newStream(n.disk, h.log.End())
	n.dialer = newDialer(n)
	n.loop = newLoop(n, replica.New(replica.Options{
		Self: smr.Member{Node: smr.NodeID(cfg.Node), Incarnation: h.saved.Incarnation}, Life: n.life,
		Cluster: cfg.Cluster, Group: cfg.Group, Level: h.levels.highest,
		Blank: h.saved.Promise == 0, Promise: h.saved.Promise,
		Start: h.log.Start(), End: h.log.End(), History: h.log.History(),
		Commit: h.log.LastCommit(), Stamp: h.log.LastStamp(), Config: h.config,
		Trim: cfg.trimPolicy(), LeaseHold: h.saved.LeaseHoldTicks, LeaseTicks: cfg.leaseTicks(),
	}))
	n.disk.done = n.loop.step
	n.loop.openPage()
	n.loop.begin()
	return n, nil
}

// run starts all goroutines and waits for their end.
func (n *node) run(ctx context.Context, ports listeners) error {
	group, ctx := errgroup.WithContext(ctx)
	n.group = group
	// The log writer goes on until the loop has ended: what was handed over is carried out.
	diskCtx, stopDisk := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return n.disk.run(diskCtx) })
	group.Go(func() error { defer stopDisk(); return n.loop.run(ctx) })
	group.Go(func() error { return n.dialer.run(ctx) })
	group.Go(func() error { return n.events.run(ctx) })
	group.Go(func() error { return n.levels.watch(ctx) })
	if n.archiver != nil {
		group.Go(func() error { return n.archiver.run(ctx) })
	}
	group.Go(func() error { return n.serveManage(ctx, ports.manage) })
	group.Go(func() error {
		return n.accept(ctx, ports.data, n.cfg.MaxClients+n.cfg.MaxSlaves+2*maxUnchecked, n.serveData)
	})
	group.Go(func() error { return n.accept(ctx, ports.local, maxLocal, n.serveLocal) })
	group.Go(func() error {
		<-ctx.Done()
		ports.close()
		return nil
	})
	if len(n.cfg.Join) > 0 {
		manageAddr := n.cfg.AnnounceManage
		if manageAddr == "" {
			manageAddr = ports.manage.Addr().String()
		}
		group.Go(func() error { return n.joinGroup(ctx, manageAddr) })
	}
	n.cfg.Logger.Info("replicator started", "cluster", n.cfg.Cluster, "group", n.cfg.Group, "node", n.cfg.Node,
		"incarnation", uint64(n.home.incarnation), "data", ports.data.Addr().String(), "manage", ports.manage.Addr().String(),
		"socket", n.cfg.Socket, "lsn", uint64(n.stream.end), "sync", n.cfg.Sync.String())
	n.cfg.Observer.Show(newSubject(n))
	n.cfg.Observer.Serving()
	if n.cfg.Ready != nil {
		n.cfg.Ready(Endpoints{Data: ports.data.Addr(), Manage: ports.manage.Addr(), Socket: n.cfg.Socket})
	}
	return group.Wait()
}

// bring puts something into a queue of the loop and steps it, unless somebody else does. It waits while the queue is full.
func (n *node) bring(ctx context.Context, queue chan<- item, in item) error {
	if err := n.post(ctx, queue, in); err != nil {
		return err
	}
	n.loop.step()
	return nil
}

// post puts something into a queue of the loop. The caller then has it stepped.
func (n *node) post(ctx context.Context, queue chan<- item, in item) error {
	select {
	case queue <- in:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *node) nextConn() replica.ConnID { return replica.ConnID(n.conns.Add(1)) }

// handshake is what this replica says of itself.
func (n *node) handshake() smr.Handshake { return n.handshakeOf(smr.NodeID(n.cfg.Node)) }

// handshakeOf is what a peer of that name has to say.
func (n *node) handshakeOf(peer smr.NodeID) smr.Handshake {
	return smr.Handshake{Cluster: n.cfg.Cluster, Group: n.cfg.Group, Node: peer, Level: n.levels.highest}
}
