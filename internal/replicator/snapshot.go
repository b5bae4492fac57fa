package replicator

import (
	"os"
	"sync"
	"time"

	"lockstep/internal/level"
	"lockstep/proto"
	"lockstep/smr"
	"lockstep/smr/replica"
)

// snapshot is the core's status as the loop last published it, for those who look from outside of the loop: it can be
// read while the loop is wedged.
type snapshot struct {
	mu       sync.Mutex
	status   replica.Status
	watchers map[chan struct{}]struct{}
}

func newSnapshot() *snapshot { return &snapshot{watchers: make(map[chan struct{}]struct{})} }

// set publishes status, whose memory belongs to the snapshot from then on, and wakes the watchers if something changed
// that they must know at once.
func (s *snapshot) set(status replica.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := matters(&s.status, &status)
	s.status = status
	if changed {
		for watcher := range s.watchers { // all of them: the order does not matter
			signal(watcher)
		}
	}
}

// matters reports whether the configuration master has to be told of the change before its interval is over.
func matters(a, b *replica.Status) bool {
	return a.Role != b.Role || a.Leading != b.Leading || a.Epoch != b.Epoch || a.Promise != b.Promise ||
		a.Master != b.Master || a.Reportable != b.Reportable || a.Attached != b.Attached || a.Writable != b.Writable ||
		a.Joined != b.Joined || a.Stopped != b.Stopped || a.NeedImage != b.NeedImage || a.Blank != b.Blank
}

// get returns the status. Its slices are not to be changed.
func (s *snapshot) get() replica.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// watch returns a channel that is signalled on changes, and the function that ends it.
func (s *snapshot) watch() (changed chan struct{}, stop func()) {
	changed = make(chan struct{}, 1)
	s.mu.Lock()
	s.watchers[changed] = struct{}{}
	s.mu.Unlock()
	return changed, func() {
		s.mu.Lock()
		delete(s.watchers, changed)
		s.mu.Unlock()
	}
}

// statusForKV is what the KV node beside this replicator has to know.
func (n *node) statusForKV(status *replica.Status) smr.Status {
	s := smr.Status{
		Role: status.Role, Epoch: status.Epoch, Master: status.Master,
		Start: status.Start, Safe: status.Safe, Commit: status.Commit, Writable: status.Writable, Level: n.levels.Level(),
	}
	if status.NeedImage {
		s.NeedImage = status.ImageFrom
	}
	switch {
	case status.Leading:
		s.MasterAddr = n.announce
	case status.Master != "":
		s.MasterAddr = n.addresses.find(status.Master)
	}
	return s
}

// state is what the configuration master and people see. It takes no part of the loop.
func (n *node) state() *proto.ReplicaState {
	status := n.snapshot.get()
	state := &proto.ReplicaState{
		Cluster: n.cfg.Cluster, Group: n.cfg.Group, Node: n.cfg.Node,
		Incarnation: uint64(n.home.incarnation), Life: uint64(n.life), Blank: status.Blank,
		Role: status.Role.String(), Leading: status.Leading,
		Epoch: uint64(status.Epoch), Promise: uint64(status.Promise), Master: string(status.Master), Reportable: uint64(status.Reportable),
		Start: uint64(status.Start), End: uint64(status.End), Durable: uint64(status.Durable), Commit: uint64(status.Commit),
		Safe: uint64(status.Safe), Applied: uint64(status.Applied), Checkpoint: uint64(status.Checkpoint),
		PositionEpoch: uint64(status.Position.Epoch), Attached: status.Attached, Writable: status.Writable,
		Joined: status.Joined, Stopped: status.Stopped,
		NeedImage: status.NeedImage || status.Attached && status.Applied < status.Start,
		Pid:       uint32(os.Getpid()), DataAddr: n.announce,
		LoopCount: n.loop.countDone.Load(), LoopIdleMs: millis32(processMillis() - n.loop.lastRound.Load()),
		DiskStuckMs: millis32(n.disk.stuckMillis()), KvSilentMs: millis32(n.local.silentMillis()),
		Sync: n.cfg.Sync.String(), Version: n.cfg.Version, HighestLevel: uint32(n.levels.highest), Level: uint32(n.levels.Level()),
	}
	if kv := n.local.kv.Load(); kv != nil {
		state.KvPid, state.KvAddr, state.KvAdminAddr = uint32(kv.Pid), kv.KVAddr, kv.AdminAddr
		state.KvHighestLevel = uint32(level.Of(kv.Level))
		if t := n.local.transfer.Load(); t != nil {
			state.BytesDone, state.BytesTotal, state.BytesPerSecond, state.ImageFrom = t.Done, t.Total, t.PerSecond, t.From
		}
	}
	if a := n.archiver; a != nil {
		state.Archives, state.ArchiveAgeMs, state.ArchiveLagBytes = true, uint64(a.age(time.Now()).Milliseconds()), uint64(a.lag())
	}
	for _, peer := range status.Peers {
		state.Peers = append(state.Peers, &proto.PeerState{
			Node: string(peer.Member.Node), Incarnation: uint64(peer.Member.Incarnation), Streams: peer.Streams, Durable: uint64(peer.Durable),
		})
	}
	return state
}

func millis32(millis int64) uint32 { return uint32(min(max(millis, 0), 1<<32-1)) }
