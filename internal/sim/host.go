package sim

import (
	"strings"

	"lockstep/internal/mutant"
	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"
)

// host is a machine with a disk, a replicator and a KV node. Processes that die are started again after a while, as a
// supervisor would do.
type host struct {
	w     *world
	place int
	id    smr.NodeID

	disk     *simfs.FS
	drive    *drive // goes where the disk goes
	powered  bool
	late     bool  // not switched on for the first time yet
	slowDisk int64 // until when operations take slowBy microseconds more
	slowBy   int64

	// rate is how fast the clock runs, base where it stood at since.
	rate        float64
	since, base int64
	// turned is how far the wall clock was turned in all, slept how long the machine was suspended; asleepFrom since when it is,
	// 0 if it is not.
	turned, slept, asleepFrom int64

	lineage    *lineage    // of the log
	away       bool        // nobody switches it on: not in service yet, or no more, or lost for now
	spare      bool        // its replica is no member, and was not when it was switched on last
	refilled   bool        // it was given an empty disk, and is no member with it yet
	slow       bool        // it was left out because it was slow
	page       *page       // that the newest life of the replicator has made; nil before the first
	replicator *replicator // nil while it is down
	kv         *kvnode
	restarting bool
	clearing   bool // an operator is about to clear the KV node's directory
}

// drive is what is known of one disk, and of the replica whose directory is on it.
type drive struct {
	home   int  // place of the host that it belongs into
	harmed bool // damaged or wiped since a replicator last recovered from it

	node        smr.NodeID // whose directory it holds, "" if it is blank
	incarnation smr.Incarnation
	// What must survive a restart of the replicator, as it was last told to somebody.
	promised smr.Epoch
	durable  smr.LSN
	last     []byte // the log of the last life, as far as its core never cut it
	// marked is what was durable before the last sync: the durable mark that a power cut leaves is not below it. What is
	// below judged would be called damage, and not a torn tail, if it were harmed now.
	marked, judged smr.LSN

	images []*image // of its KV node, the newest first
}

// incarnation returns the incarnation of this host's replica on the disk that it has now, 0 if there is none.
func (h *host) incarnation() smr.Incarnation {
	if h.drive.node != h.id {
		return 0
	}
	return h.drive.incarnation
}

// stamp returns the wall clock in milliseconds.
func (h *host) stamp() int64 {
	return epochStamp + (h.base+int64(float64(h.w.now-h.since)*h.rate))/millisecond
}

// clock returns microseconds on the clock of leases, which nobody turns and which goes on while the machine is suspended.
func (h *host) clock() int64 {
	clock := 1 + h.base + int64(float64(h.w.now-h.since)*h.rate) - h.turned
	if mutant.On(mutant.LeaseSleeps) {
		clock -= h.slept
		if h.asleepFrom > 0 {
			clock -= h.w.now - h.asleepFrom
		}
	}
	return clock
}

// fallAsleep suspends the machine for a while.
func (h *host) fallAsleep(micros int64) {
	if h.asleepFrom > 0 {
		return
	}
	h.asleepFrom = h.w.now
	h.w.after(micros, later(func() {
		h.slept += h.w.now - h.asleepFrom
		h.asleepFrom = 0
	}), 0)
}

// setClock makes the clock jump and run at another rate.
func (h *host) setClock(jump int64, rate float64) {
	h.base += int64(float64(h.w.now-h.since)*h.rate) + jump
	h.turned += jump
	h.since, h.rate = h.w.now, rate
}

// tick is the length of a tick on this host in microseconds.
func (h *host) tick() int64 { return int64(float64(tickLength) / h.rate) }

func (h *host) startReplicator() {
	if h.replicator == nil && h.powered && !h.late && !h.away {
		h.replicator = startReplicator(h)
	}
}

func (h *host) startKV() {
	if h.kv == nil && h.powered && !h.late && !h.away {
		h.kv = startKV(h)
	}
}

// crashReplicator kills the process: what it has written stays in the cache of the machine.
func (h *host) crashReplicator() {
	if h.replicator == nil {
		return
	}
	h.w.stats.Crashes++
	h.replicator.die(dieKilled)
	h.replicator = nil
	h.disk = h.disk.Clone()
	if h.w.trace != nil {
		h.w.say(string(h.id), "replicator killed")
	}
}

func (h *host) crashKV() {
	if h.kv == nil {
		return
	}
	h.w.stats.Crashes++
	h.kv.die(dieKilled)
	h.kv = nil
	if h.w.trace != nil {
		h.w.say(string(h.id), "kv node killed")
	}
}

// powerCut stops the machine. What was not synced fares as image says.
func (h *host) powerCut(image simfs.Image) {
	if !h.powered {
		return
	}
	h.w.stats.Crashes++
	if h.replicator != nil {
		h.replicator.die(dieVanished)
		h.replicator = nil
	}
	if h.kv != nil {
		h.kv.die(dieVanished)
		h.kv = nil
	}
	h.powered = false
	h.drive.judged = min(h.drive.judged, h.drive.marked)
	h.w.net.lost[h.place] = true
	h.disk = h.disk.Crashed(image)
	if h.w.trace != nil {
		h.w.say(string(h.id), "power cut (%v)", image)
	}
}

// powerOn starts the machine and its processes.
func (h *host) powerOn() {
	if h.powered {
		return
	}
	h.powered = true
	h.w.net.lost[h.place] = false
	h.startReplicator()
	h.startKV()
}

// lose removes the files of a directory. The replicator must be down.
func (h *host) lose(dir string) {
	for _, name := range h.disk.Files() {
		if strings.HasPrefix(name, dir+"/") {
			h.drive.harmed = h.disk.Remove(labelHarm, name) == nil || h.drive.harmed
		}
	}
	_ = h.disk.SyncDir(labelHarm, dir) // where a crash is due in this call, some of the files may come back
}

// loseState removes the hard state: the file, or its directory with it. The replicator must be down.
func (h *host) loseState(directory bool) {
	if directory {
		h.moveAway(dirState)
	} else {
		h.lose(dirState)
	}
	h.drive.node = "" // nothing says any more whose it was
}

// moveAway moves a directory out of the replica's, durably, if it is there. The replicator must be down.
func (h *host) moveAway(dir string) {
	if h.disk.Rename(labelHarm, dir, "/away-"+itoa(h.w.seq)) != nil {
		return
	}
	for _, touched := range []string{dirHome, "/"} {
		_ = h.disk.SyncDir(labelHarm, touched) // where a crash is due in this call, it may come back
	}
	h.drive.harmed = true
}

const labelHarm log.Label = "harm"

// wipe exchanges the disk for an empty one. The replicator must be down.
func (h *host) wipe() {
	h.disk = simfs.New()
	*h.drive = drive{home: h.drive.home, harmed: true, incarnation: h.drive.incarnation}
}

const (
	dirHome       = "/r"
	dirState      = "/r/state"
	dirLog        = "/r/log"
	dirQuarantine = "/r/quarantine"
)

const (
	clusterName = "sim" // of the cluster that a schedule begins with
	groupName   = "g"
)

// logFiles returns the names of the log files, the oldest first.
func (h *host) logFiles() []string {
	var names []string
	for _, name := range h.disk.Files() {
		if len(name) == len(dirLog)+21 && name[:len(dirLog)] == dirLog && name[len(dirLog)+1] == '0' {
			names = append(names, name)
		}
	}
	return names
}

// death is how a process ends.
type death uint8

const (
	dieKilled   death = iota // the machine closes its connections
	dieVanished              // nobody hears of it
)

// handshake is what the processes of a node say of it, and who wants to speak with them.
func (w *world) handshake(id smr.NodeID) smr.Handshake {
	return smr.Handshake{Cluster: w.cluster, Group: groupName, Node: id}
}

var _ log.FS = (*simfs.FS)(nil)
