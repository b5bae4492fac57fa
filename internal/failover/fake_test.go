package failover

import (
	"fmt"
	"slices"
	"sort"

	"lockstep/smr"
)

// record is one byte of a fake log. The nonce tells two histories of one epoch apart.
type record struct {
	epoch smr.Epoch
	nonce int
}

type fakeMode int

const (
	modeIdle fakeMode = iota
	modeFenced
	modeMaster
	modeSlave
)

type fake struct {
	w    *world
	node smr.NodeID

	// Durable.
	inc     smr.Incarnation
	blank   bool
	promise smr.Epoch
	log     []record

	// Of the process life.
	up, paused bool
	life       smr.Life
	mode       fakeMode
	fenced     smr.Epoch
	cfg, base  smr.Config
	cfgStart   int
	ownStart   int
	feeding    bool // slaves that follow this replica get what it has
	acked      map[smr.Member]int
	commit     int
	master     smr.NodeID
	joined     bool
	attached   bool
	stuck      bool // the disk
	every      int  // it takes one record only in so many ticks, 0: as they come
	needs      bool // an image, before it can join
	image      int  // where its KV node has one, 0: nowhere
	fetches    smr.NodeID
	lastView   ReplicaView
	began      int // tick

	// Feature levels: that of the programs that are installed for the replicator and its KV node, and the cluster's as it was
	// saved. 0 is 1.
	level, kvLevel, knows int
	installed             int // tick of the KV node's program
}

func (f *fake) position() smr.Position {
	if len(f.log) == 0 {
		return smr.Position{}
	}
	return smr.Position{Epoch: f.log[len(f.log)-1].epoch, End: smr.LSN(len(f.log))}
}

func (f *fake) self() smr.Member { return smr.Member{Node: f.node, Incarnation: f.inc} }

func (f *fake) start() {
	f.w.serial++
	*f = fake{w: f.w, node: f.node, inc: f.inc, blank: f.blank, promise: f.promise, log: f.log,
		up: true, life: smr.Life(f.w.serial), acked: map[smr.Member]int{}, attached: true,
		began: f.w.now, level: f.level, kvLevel: f.kvLevel, knows: f.knows, installed: f.installed}
	f.learn(f.knows)
}

// learn tells a replicator the cluster's feature level. One that cannot it ends, and false is returned.
func (f *fake) learn(level int) bool {
	if max(1, level) > max(1, f.level) {
		f.crash()
		return false
	}
	f.knows = max(f.knows, level)
	return true
}

// served reports whether its KV node is attached: one that cannot the cluster's level is sent away.
func (f *fake) served() bool { return f.attached && max(1, f.kvLevel) >= max(1, f.knows) }

func (f *fake) crash() { f.up, f.paused, f.joined, f.feeding = false, false, false, false }

func (f *fake) wipe() {
	f.w.serial++
	f.inc, f.blank, f.promise, f.log = smr.Incarnation(f.w.serial), true, 0, nil
}

// call carries out an order as smr/replica does.
func (f *fake) call(c Call) Answer {
	switch c.Kind {
	case CallFence:
		return f.fence(c.Epoch)
	case CallLead:
		return f.lead(c)
	case CallFollow:
		switch {
		case f.blank:
			return refused("blank")
		case c.Epoch < f.promise, f.mode == modeMaster && c.Epoch <= f.cfg.Epoch:
			return Answer{Code: AnswerStale, Text: fmt.Sprintf("%d is promised", f.promise)}
		case f.mode == modeSlave && f.master == c.Master && c.Epoch == f.promise:
			return Answer{}
		}
		f.leave()
		f.mode, f.master, f.promise = modeSlave, c.Master, c.Epoch
	case CallReconfigure:
		switch {
		case f.mode != modeMaster || f.cfg.Reign != c.Config.Reign:
			return refused("not master")
		case f.cfg.Equal(c.Config):
			return Answer{}
		case c.Config.Epoch <= f.cfg.Epoch || c.Config.Epoch < f.promise:
			return Answer{Code: AnswerStale, Text: "stale"}
		}
		if c.Base.Epoch > f.base.Epoch {
			f.base = c.Base.Clone()
		}
		f.promise = c.Config.Epoch
		f.beginEpoch(c.Config)
	case CallEstablished:
		if f.mode != modeMaster || f.cfg.Reign != c.Config.Reign {
			return refused("not master")
		}
		if c.Config.Epoch > f.base.Epoch && c.Config.Epoch <= f.cfg.Epoch {
			f.base = c.Config.Clone()
		}
	case CallLearn:
		if f.blank {
			f.blank, f.promise = false, c.Epoch
		}
	case CallLook:
		view := f.view()
		return Answer{View: &view}
	}
	return Answer{}
}

func refused(text string) Answer { return Answer{Code: AnswerRefused, Text: text} }

func (f *fake) fence(epoch smr.Epoch) Answer {
	again := epoch == f.promise && f.mode == modeFenced && f.fenced == epoch
	switch {
	case f.blank:
		return refused("blank")
	case epoch <= f.promise && !again:
		return Answer{Code: AnswerStale, Text: fmt.Sprintf("%d is promised", f.promise)}
	case !again:
		feeding := f.mode == modeMaster
		f.leave()
		f.mode, f.fenced, f.promise, f.feeding = modeFenced, epoch, epoch, feeding
	}
	answer := FenceAnswer{Epoch: epoch, Incarnation: f.inc, Life: f.life, Position: f.position(), Commit: smr.LSN(f.commit), Applied: smr.LSN(f.commit)}
	f.w.answered(f.node, answer)
	return Answer{Fence: &answer}
}

func (f *fake) lead(c Call) Answer {
	switch {
	case f.blank:
		return refused("blank")
	case c.Incarnation != f.inc || c.Life != f.life:
		return refused("other life")
	case f.mode == modeMaster && f.cfg.Reign == c.Config.Epoch:
		return Answer{}
	case c.Config.Epoch < f.promise:
		return Answer{Code: AnswerStale, Text: "stale"}
	case f.mode != modeFenced || f.fenced != c.Config.Epoch:
		return refused("not fenced")
	}
	f.leave()
	f.mode, f.base, f.feeding = modeMaster, c.Base.Clone(), true
	f.acked = map[smr.Member]int{}
	f.ownStart = len(f.log)
	f.beginEpoch(c.Config)
	return Answer{}
}

func (f *fake) beginEpoch(config smr.Config) {
	f.w.check(config.Check() == nil && config.Master == f.node && f.base.Epoch < config.Epoch, "bad configuration %v on %v", config, f.base)
	f.w.led(config.Epoch, f.node, f.life)
	f.cfg, f.cfgStart = config.Clone(), len(f.log)
	f.append()
}

func (f *fake) append() {
	f.w.serial++
	f.log = append(slices.Clip(f.log), record{epoch: f.cfg.Epoch, nonce: f.w.serial})
}

func (f *fake) leave() {
	f.mode, f.joined, f.feeding, f.master, f.cfg = modeIdle, false, false, "", smr.Config{}
}

// rule returns the LSN that Copies members of a configuration hold.
func (f *fake) rule(config smr.Config) int {
	held := make([]int, 0, len(config.Members))
	for _, m := range config.Members {
		switch {
		case m == f.self():
			held = append(held, len(f.log))
		default:
			held = append(held, f.acked[m])
		}
	}
	sort.Sort(sort.Reverse(sort.IntSlice(held)))
	return held[config.Copies-1]
}

func (f *fake) advanceCommit() {
	commit := min(f.rule(f.cfg), f.rule(f.base))
	if f.base.Epoch == f.cfg.Epoch {
		commit = f.rule(f.cfg)
	}
	if commit > f.ownStart && commit > f.commit {
		f.commit = commit
		f.w.committedBy(f, commit)
	}
}

// stream moves bytes from the master to a slave, and acknowledgements back.
func (f *fake) stream(limit int) {
	if !f.up || f.paused || f.stuck || f.mode != modeSlave {
		return
	}
	m := f.w.fake(f.master)
	if !m.up || m.paused || !m.feeding || f.w.cut(string(f.node), string(m.node)) || m.mode == modeMaster && m.cfg.Epoch < f.promise {
		f.joined = false
		return
	}
	if !f.joined && f.needs || !f.learn(m.knows) {
		return
	}
	if !f.joined {
		if m.mode != modeMaster {
			return // a fenced master goes on with the slaves it has, but takes no new ones
		}
		common := 0
		for common < min(len(f.log), len(m.log)) && f.log[common] == m.log[common] {
			common++
		}
		f.w.check(common >= min(f.commit, len(f.log)), "%s would rewind to %d below safe %d", f.node, common, f.commit)
		f.log, f.joined, f.promise = slices.Clip(f.log[:common]), true, m.cfg.Epoch
	}
	if f.every > 0 {
		limit = fact(f.w.now%f.every == 0)
	}
	for range limit {
		if len(f.log) < len(m.log) {
			next := m.log[len(f.log)]
			f.log = append(f.log, next)
			f.promise = max(f.promise, next.epoch)
		}
	}
	if m.mode == modeMaster && m.cfg.Epoch >= f.promise {
		f.w.check(max(1, f.level) >= m.knows, "%s knows level %d and counts %s, which can %d", m.node, m.knows, f.node, f.level)
		m.acked[f.self()] = max(m.acked[f.self()], len(f.log))
		m.advanceCommit()
		f.commit = max(f.commit, min(m.commit, len(f.log)))
	}
}

func (f *fake) view() ReplicaView {
	v := ReplicaView{Incarnation: f.inc, Life: f.life, Blank: f.blank, Promise: f.promise, Epoch: f.promise,
		End: smr.LSN(len(f.log)), Durable: smr.LSN(len(f.log)), Commit: smr.LSN(f.commit), PositionEpoch: f.position().Epoch,
		Level: f.level, KVLevel: f.kvLevel,
		Attached: f.served(), Role: smr.RoleNone, NeedImage: f.needs, Checkpoint: smr.LSN(f.image), KVAdminAddr: string(f.node) + ":8379"}
	if f.fetches != "" {
		v.ImageFrom = string(f.fetches) + ":8379"
	}
	if f.stuck {
		v.DiskStuckMillis = 5000
	}
	switch f.mode {
	case modeFenced:
		v.Role = smr.RoleFenced
	case modeSlave:
		v.Role, v.Master, v.Joined = smr.RoleSlave, f.master, f.joined
	case modeMaster:
		v.Role, v.Leading, v.Epoch, v.Master = smr.RoleMaster, true, f.cfg.Epoch, f.node
		if f.rule(f.cfg) > f.cfgStart {
			v.Reportable = f.cfg.Epoch
		}
		attached := map[smr.NodeID]bool{f.node: true}
		for _, other := range f.w.fakes {
			if other.up && other.mode == modeSlave && other.joined && other.master == f.node {
				attached[other.node] = true
				v.Peers = append(v.Peers, PeerView{Member: other.self(), Streams: true, Durable: smr.LSN(f.acked[other.self()])})
			}
		}
		present := 0
		for _, m := range f.cfg.Members {
			present += fact(attached[m.Node])
		}
		v.Writable = present >= f.cfg.Copies
	}
	return v
}
