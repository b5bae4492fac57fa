package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"

	"lockstep/internal/failover"
	"lockstep/log/simfs"
	"lockstep/smr"
)

// FaultKind names what goes wrong.
type FaultKind string

// Kinds of faults. Millis is how long they last.
const (
	FaultKillReplicator FaultKind = "kill-replicator"
	FaultKillKV         FaultKind = "kill-kv"
	FaultPower          FaultKind = "power-cut"
	FaultPowerAll       FaultKind = "power-cut-all"
	FaultCrashCall      FaultKind = "crash-in-disk-call" // Number: so many calls later
	FaultPause          FaultKind = "pause-replicator"
	FaultPauseKV        FaultKind = "pause-kv"
	FaultPauseHost      FaultKind = "pause-host"
	FaultSuspend        FaultKind = "suspend-host" // processes, timers and network stand still, the wall clock does not
	FaultClock          FaultKind = "clock"        // Number: a jump in milliseconds; the rate changes too
	FaultCut            FaultKind = "cut"          // one way, from Node to Other
	FaultIsolate        FaultKind = "isolate"
	FaultSlow           FaultKind = "slow-link"
	FaultBreak          FaultKind = "break-connections"
	FaultSlowDisk       FaultKind = "slow-disk"
	FaultFullDisk       FaultKind = "full-disk"
	FaultFailDisk       FaultKind = "fail-disk" // Number: which call fails; a write or a sync
	FaultFlip           FaultKind = "flip-bit"
	FaultWipe           FaultKind = "wipe"
	FaultLoseLog        FaultKind = "lose-log"
	FaultLoseState      FaultKind = "lose-state"
	FaultSwap           FaultKind = "swap-disks"
	FaultLoseImages     FaultKind = "lose-images"  // of a KV node; only where images are taken
	FaultDamageImage    FaultKind = "damage-image" // the newest of a KV node
	FaultMaster         FaultKind = "confmaster"   // it fails over, or a member crashes
	FaultSwitchover     FaultKind = "switch-over"
	FaultElect          FaultKind = "wrong-suspicion" // an election is begun for no reason
	FaultReconfigure    FaultKind = "reconfigure"     // to any members and copies
	FaultPolicy         FaultKind = "policy"          // to any copies
)

// Fault is one thing that goes wrong. It draws what it needs from its own Number, so that leaving out one fault changes
// no other.
type Fault struct {
	ID     int
	At     int64 // milliseconds
	Kind   FaultKind
	Node   int
	Other  int
	Millis int64
	Number uint64
	// Restored: it happens to the cluster that was restored beside, if it was.
	Restored bool `json:",omitempty"`
}

func (f Fault) String() string {
	where := ""
	if f.Restored {
		where = " of the restored cluster"
	}
	return fmt.Sprintf("#%d %d ms: %s n%d%s other %d for %d ms (%d)", f.ID, f.At, f.Kind, f.Node+1, where, f.Other+1, f.Millis, f.Number)
}

func (f Fault) draw() *rand.Rand { return rand.New(rand.NewPCG(f.Number, 7)) }

var gentleFaults = []FaultKind{
	FaultKillReplicator, FaultKillReplicator, FaultKillKV, FaultPower, FaultPower, FaultPowerAll, FaultCrashCall, FaultCrashCall, FaultPause, FaultPauseKV,
	FaultPauseHost, FaultSuspend, FaultClock, FaultCut, FaultCut, FaultCut, FaultIsolate, FaultIsolate, FaultSlow, FaultBreak, FaultBreak, FaultSlowDisk,
	FaultFullDisk, FaultFailDisk, FaultMaster, FaultMaster, FaultSwitchover,
	FaultElect, FaultElect, FaultReconfigure, FaultReconfigure, FaultPolicy,
}

var harmfulFaults = []FaultKind{FaultFlip, FaultFlip, FaultWipe, FaultLoseLog, FaultLoseState, FaultSwap}

// imageFaults are drawn besides, by schedules with images.
var imageFaults = []FaultKind{FaultLoseImages, FaultDamageImage, FaultDamageImage}

// FaultKinds returns all kinds, each once.
func FaultKinds() []FaultKind {
	all := slices.Concat(gentleFaults, harmfulFaults, imageFaults, leaseFaults, lifeFaults, restoreFaults)
	slices.Sort(all)
	return slices.Compact(all)
}

var faultKinds = FaultKinds()

// drawFaults draws the faults of a schedule, in order of time.
func drawFaults(o *Options, masters int) []Fault {
	r := rand.New(rand.NewPCG(o.Seed, 8))
	kinds := gentleFaults
	if r.IntN(3) == 0 { // only a few kinds, so that they meet each other
		kinds = nil
		for range 3 {
			kinds = append(kinds, gentleFaults[r.IntN(len(gentleFaults))])
		}
	}
	hosts := o.Replicas + o.Spares
	places := hosts + masters
	harms := o.Copies - 1
	var faults []Fault
	for range o.Faults {
		f := Fault{At: 200 + r.Int64N(o.FaultMillis), Kind: kinds[r.IntN(len(kinds))], Node: r.IntN(hosts),
			Other: r.IntN(places), Millis: 5 + int64(r.ExpFloat64()*250), Number: r.Uint64() >> 11}
		if o.Harm && r.IntN(4) == 0 && (harms > 0 || o.Rude) {
			f.Kind = harmfulFaults[r.IntN(len(harmfulFaults))]
			harms--
		}
		if f.Kind == FaultCut || f.Kind == FaultSlow || f.Kind == FaultIsolate || f.Kind == FaultMaster {
			f.Node = r.IntN(places)
		}
		faults = append(faults, f)
	}
	faults = append(faults, drawImageFaults(o)...)
	faults = append(faults, drawLeaseFaults(o)...)
	faults = append(faults, drawLifeFaults(o)...)
	faults = append(faults, drawRestoreFaults(o)...)
	slices.SortStableFunc(faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	for i := range faults {
		faults[i].ID = i + 1
	}
	return faults
}

// drawImageFaults draws from a stream of its own what happens to images.
func drawImageFaults(o *Options) (faults []Fault) {
	if o.ImageBytes == 0 || o.Copies < 2 || o.Harm && !o.Rude || o.Life {
		return nil // what is lost could be the last state that reaches into a log
	}
	r := rand.New(rand.NewPCG(o.Seed, 10))
	node := r.IntN(o.Replicas) // one only, for the same reason
	for range r.IntN(4) {
		faults = append(faults, Fault{At: 200 + r.Int64N(o.FaultMillis), Kind: imageFaults[r.IntN(len(imageFaults))], Node: node,
			Millis: 5 + int64(r.ExpFloat64()*250), Number: r.Uint64() >> 11})
	}
	return faults
}

// plan makes the faults happen.
func (w *world) plan(faults []Fault) {
	for i := range faults {
		f := &faults[i]
		w.at(f.At*millisecond, later(func() {
			if w.healing {
				return
			}
			if w.trace != nil {
				w.say("----", "fault %v", *f)
			}
			switch {
			case !f.Restored:
				w.strike(f)
			case w.other != nil:
				w.other.strike(f)
			}
		}), 7)
	}
}

// unless runs what ends a fault, if it has not been mended before.
func (w *world) unless(f *Fault, mend func()) {
	w.after(f.Millis*millisecond, later(func() {
		if !w.healing {
			mend()
		}
	}), 8)
}

func (w *world) strike(f *Fault) {
	if i, known := slices.BinarySearch(faultKinds, f.Kind); known {
		w.hit(probeCount + probe(i))
	}
	if f.Kind == FaultMaster {
		w.strikeMaster(f)
		return
	}
	if f.Kind == FaultCut || f.Kind == FaultSlow || f.Kind == FaultIsolate || f.Kind == FaultBreak {
		w.strikeNetwork(f)
		return
	}
	if f.Kind == FaultElect || f.Kind == FaultReconfigure || f.Kind == FaultPolicy {
		w.strikeDecision(f)
		return
	}
	if slices.Contains(leaseFaults, f.Kind) {
		w.strikeLease(f)
		return
	}
	if slices.Contains(restoreFaults, f.Kind) {
		w.strikeRestore(f)
		return
	}
	if slices.Contains(lifeFaults, f.Kind) {
		w.strikeLife(f)
		return
	}
	h := w.hosts[f.Node]
	draw := f.draw()
	switch f.Kind {
	case FaultKillReplicator:
		h.crashReplicator()
		w.unless(f, h.startReplicator)
	case FaultKillKV:
		h.crashKV()
		w.unless(f, h.startKV)
	case FaultPower:
		h.powerCut(imageOf(draw))
		w.unless(f, h.powerOn)
	case FaultPowerAll:
		for _, h := range w.hosts {
			h.powerCut(imageOf(draw))
			pause := 1 + draw.Int64N(f.Millis)
			w.after(pause*millisecond, later(h.powerOn), 9)
		}
	case FaultPause, FaultPauseKV, FaultPauseHost:
		w.strikePause(f, h)
	case FaultSuspend:
		w.suspend(f, h)
	case FaultClock:
		jump := (int64(f.Number%4000) - 2000) * millisecond
		h.setClock(jump, 1+w.o.Drift*(2*draw.Float64()-1))
	case FaultSlowDisk:
		h.slowDisk, h.slowBy = w.now+f.Millis*millisecond, 1+draw.Int64N(300*millisecond)
	case FaultFullDisk:
		h.disk.SetCapacity(h.disk.Used() + draw.Int64N(32<<10))
		w.unless(f, func() { h.disk.SetCapacity(0) })
	case FaultCrashCall, FaultFailDisk:
		h.arm(f)
	case FaultSwitchover:
		w.switchOver(w.hosts[f.Other%len(w.hosts)])
	default:
		w.strikeDisk(f, h, draw)
	}
}

// imageOf draws what a power cut leaves.
func imageOf(draw *rand.Rand) simfs.Image {
	fates := []simfs.Fate{simfs.Lost, simfs.Torn, simfs.Torn, simfs.Backwards, simfs.Kept}
	image := simfs.Image{Pages: fates[draw.IntN(len(fates))], Names: fates[draw.IntN(len(fates))], Seed: draw.Uint64()}
	if image.Pages == simfs.Kept && image.Names == simfs.Kept {
		image.Names = simfs.Torn // else it were no power cut
	}
	return image
}

func (w *world) strikePause(f *Fault, h *host) {
	r, k := h.replicator, h.kv
	if r != nil && f.Kind != FaultPauseKV {
		r.pause()
	}
	if k != nil && f.Kind != FaultPause {
		k.pause()
	}
	w.unless(f, func() {
		if r != nil && r.paused {
			r.resume()
		}
		if k != nil && k.paused {
			k.resume()
		}
	})
}

// arm makes a later call of the disk fail, or the machine crash in it.
func (h *host) arm(f *Fault) {
	left := int(f.Number % 400)
	crash := f.Kind == FaultCrashCall
	before := f.Number%2 == 0
	h.disk.SetHook(func(c simfs.Call) simfs.Verdict {
		if left--; left > 0 || !crash && c.Op != "write" && c.Op != "sync" {
			return simfs.Verdict{}
		}
		if crash {
			return simfs.Verdict{CrashBefore: before, CrashAfter: !before}
		}
		if c.Op == "write" {
			h.w.hit(probeWriteFailed)
		} else {
			h.w.hit(probeSyncFailed)
		}
		// Nothing of a failed write is done, or all of it: the kernel copies whole lines, where a call here may end anywhere.
		return simfs.Verdict{Err: syscall.EIO, Part: int(f.Number / 400 % 2 << 20)}
	})
}

func (w *world) strikeNetwork(f *Fault) {
	n := &w.net
	until := w.now + f.Millis*millisecond
	draw := f.draw()
	switch f.Kind {
	case FaultCut:
		n.cut[f.Node*n.places+f.Other] = max(n.cut[f.Node*n.places+f.Other], until)
	case FaultSlow:
		n.slow[f.Node*n.places+f.Other], n.slowBy[f.Node*n.places+f.Other] = until, 1+draw.Int64N(100*millisecond)
	case FaultIsolate:
		for other := range n.places {
			if other != f.Node && draw.IntN(4) > 0 {
				n.cut[f.Node*n.places+other] = until
			}
			if other != f.Node && draw.IntN(4) > 0 {
				n.cut[other*n.places+f.Node] = until
			}
		}
	case FaultBreak:
		w.breakConnections(w.hosts[f.Node], f.Other, draw)
	}
}

// cutOff cuts all links of a place.
func (w *world) cutOff(place int, until int64) {
	n := &w.net
	for other := range n.places {
		if other != place {
			n.cut[place*n.places+other] = max(n.cut[place*n.places+other], until)
			n.cut[other*n.places+place] = max(n.cut[other*n.places+place], until)
		}
	}
}

// breakConnections ends some connections of a replicator, as a router would: both sides hear of it, or one only.
func (w *world) breakConnections(h *host, other int, draw *rand.Rand) {
	r := h.replicator
	if r == nil {
		return
	}
	var ends []*end
	for _, l := range r.links {
		ends = append(ends, l.end)
	}
	for _, c := range r.clients {
		ends = append(ends, c.end)
	}
	for _, e := range ends {
		if other%2 == 0 && draw.IntN(2) == 0 {
			continue
		}
		far := e.peer
		if draw.IntN(3) > 0 {
			w.after(w.net.delay(far.place, e.place), e, whatFin)
		}
		if draw.IntN(3) > 0 {
			w.after(w.net.delay(e.place, far.place), far, whatFin)
		}
	}
}

// strikeDisk harms what is stored.
func (w *world) strikeDisk(f *Fault, h *host, draw *rand.Rand) {
	switch f.Kind {
	case FaultFlip:
		h.flip(draw)
		return
	case FaultWipe:
		h.powerCut(imageOf(draw))
		h.wipe()
	case FaultLoseLog:
		h.powerCut(imageOf(draw))
		h.lose(dirLog)
	case FaultLoseState:
		h.powerCut(imageOf(draw))
		h.loseState(draw.IntN(2) == 0)
	case FaultLoseImages:
		h.powerCut(imageOf(draw))
		h.drive.images = nil
		w.lostOnly = w.lostOnly || w.oneCopy()
	case FaultDamageImage:
		h.crashKV()
		if len(h.drive.images) > 0 {
			h.drive.images[0].damaged = true
			w.lostOnly = w.lostOnly || w.oneCopy()
		}
		w.unless(f, h.startKV)
		return
	case FaultSwap:
		other := w.hosts[f.Other%len(w.hosts)]
		if other == h {
			return
		}
		w.swap(h, other, draw)
		w.unless(f, other.powerOn)
		w.after(f.Millis*millisecond+second/2, later(w.swapBack), 9)
	}
	w.unless(f, h.powerOn)
}

// oneCopy reports whether somebody wants, or has, no more than one copy of what is written: all other nodes may then be left behind the log.
func (w *world) oneCopy() bool {
	for _, m := range w.masters {
		if g := m.state.Group(groupName); g != nil && g.Epoch > 0 &&
			(g.Policy.Copies < 2 || g.Established.Copies < 2 || g.Provisional.Epoch > 0 && g.Provisional.Copies < 2) {
			return true
		}
	}
	return false
}

// swap exchanges the disks of two machines.
func (w *world) swap(a, b *host, draw *rand.Rand) {
	a.powerCut(imageOf(draw))
	b.powerCut(imageOf(draw))
	a.disk, b.disk = b.disk, a.disk
	a.drive, b.drive = b.drive, a.drive
}

// swapBack: a person has noticed, and puts all disks where they belong.
func (w *world) swapBack() {
	for _, a := range w.hosts {
		for a.drive.home != a.place {
			b := w.hosts[a.drive.home]
			w.swap(a, b, Fault{Number: uint64(w.now)}.draw())
			w.after(1, later(a.powerOn), 9)
			w.after(1, later(b.powerOn), 9)
		}
	}
}

// flip changes one bit of what is durable: of a log file below the durable mark, of its metadata, or of the hard state.
// A second one waits until the first has been found: the two could hide each other.
func (h *host) flip(draw *rand.Rand) {
	if h.drive.harmed {
		return
	}
	names := h.logFiles()
	if len(names) == 0 || draw.IntN(4) == 0 {
		names = []string{dirState + "/state"}
	}
	name := names[draw.IntN(len(names))]
	content, err := h.disk.ReadFile(name)
	if err != nil || len(content) == 0 {
		return
	}
	at := draw.Int64N(int64(len(content)))
	if name[:len(dirLog)] != dirLog && draw.IntN(2) == 0 {
		at = at/(4<<10)*(4<<10) + 16 + at%24 // sequence, promise, incarnation: most of a copy is zero
	}
	if name[:len(dirLog)] == dirLog {
		var base int64
		for _, digit := range name[len(dirLog)+1:] {
			base = 10*base + int64(digit-'0')
		}
		// What is not yet durable may not be harmed: a power cut at the same time could hide it (see package log).
		dataSize := h.w.o.FileSize
		if draw.IntN(2) == 0 {
			at = dataSize + draw.Int64N(int64(len(content))-dataSize)
		} else if most := min(dataSize, int64(h.drive.judged)-base); most > 0 {
			at = draw.Int64N(most)
		} else {
			return
		}
	}
	if h.disk.FlipBit(name, at, uint(draw.IntN(8))) == nil {
		h.drive.harmed = true
		if h.w.trace != nil {
			h.w.say(string(h.id), "bit flipped in %s at %d", name, at)
		}
	}
}

func (w *world) strikeMaster(f *Fault) {
	m := w.masters[f.Node%len(w.masters)]
	if m.raft == nil {
		m.replaceDriver(min(f.Millis, 300) * millisecond)
		return
	}
	m.raft.crash()
	w.after(3*f.Millis*millisecond, later(func() { // long enough now and then to need a snapshot
		if !w.healing {
			m.raft.restart()
		}
	}), 8)
}

// switchOver has an operator ask for another master.
func (w *world) switchOver(to *host) {
	for _, m := range w.masters {
		if m.up && m.driver.Leading() {
			m.requests++
			m.step(&failover.Request{ID: m.requests, Switchover: &failover.Switchover{Group: groupName, To: to.id}})
			m.carryOut()
		}
	}
}

// strikeDecision has a configuration master decide something that nothing calls for. State.Apply refuses what is unsafe.
func (w *world) strikeDecision(f *Fault) {
	draw := f.draw()
	w.decide(f, func(cmd *failover.Command, g *failover.Group) {
		switch f.Kind {
		case FaultElect:
			cmd.BeginElection = &failover.BeginElection{Group: groupName, Expect: g.Epoch, Kind: failover.ElectionFailover, Reason: "wrong suspicion"}
		case FaultReconfigure:
			members := w.anyMembers(g, draw)
			cmd.BeginReconfigure = &failover.BeginReconfigure{Group: groupName, Expect: g.Epoch, Reign: g.Reign.Epoch, Kind: failover.EntryAdmit,
				Copies: 1 + draw.IntN(min(len(members), 3)), Members: members, Reason: "for no reason"}
		default:
			copies := 1 + draw.IntN(min(len(w.hosts), 3))
			cmd.SetPolicy = &failover.SetPolicy{Group: groupName, Policy: failover.Policy{Copies: copies, MinCopies: 1 + draw.IntN(copies)}}
		}
	})
}

// decide has the configuration master that leads propose something, if there is one and the group has a master.
func (w *world) decide(f *Fault, what func(cmd *failover.Command, g *failover.Group)) {
	for _, m := range w.masters {
		g := m.state.Group(groupName)
		if !m.up || !m.driver.Leading() || g == nil || g.Reign.Epoch == 0 {
			continue
		}
		cmd := &failover.Command{ID: 1<<40 + f.Number, Confmaster: m.id, StampMillis: m.stamp()}
		what(cmd, g)
		m.propose(cmd)
		m.carryOut()
		return
	}
}

// anyMembers draws members: the master, and others in any incarnation that they have or had.
func (w *world) anyMembers(g *failover.Group, draw *rand.Rand) []smr.Member {
	var members []smr.Member
	for _, h := range w.hosts {
		member, known := g.Current().Find(h.id)
		if now := (smr.Member{Node: h.id, Incarnation: h.incarnation()}); now.Incarnation != 0 && (!known || draw.IntN(2) == 0) {
			member = now
		}
		switch {
		case h.id == g.Reign.Master:
			members = append(members, smr.Member{Node: h.id, Incarnation: g.Reign.Incarnation})
		case member.Incarnation != 0 && draw.IntN(3) > 0:
			members = append(members, member)
		}
	}
	return members
}
