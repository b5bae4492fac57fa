package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"lockstep/internal/archive"
	"lockstep/internal/backup"
	"lockstep/internal/checkpoint"
	"lockstep/internal/kv"
	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"
	"lockstep/smr/wire"

	"github.com/cespare/xxhash/v2"
)

// What was archived is restored into a new cluster, which lives beside the one that it comes from: with machines, a configuration master,
// clients and faults of its own, under the same names, and with what is sent to one of the two coming to the other now and then. The restore is
// that of internal/backup: which image is taken, how the archived log is executed on top of it and where that ends, what the logs of
// the new cluster begin with.
const (
	FaultRestore FaultKind = "restore"
	FaultStray   FaultKind = "messages-stray"     // what is sent to a node comes to that of the same name in the other cluster, half of it
	FaultMistake FaultKind = "mistaken-directory" // a process is started with a directory, or log files, of the other cluster
)

var restoreFaults = []FaultKind{FaultRestore, FaultStray, FaultMistake}

// besideFaults happen to the restored cluster.
var besideFaults = []FaultKind{FaultKillReplicator, FaultKillKV, FaultPower, FaultPower, FaultPowerAll, FaultCrashCall, FaultPause, FaultCut, FaultIsolate, FaultBreak,
	FaultFailDisk, FaultMaster, FaultSwitchover, FaultElect}

// drawRestore draws from a stream of its own whether the group is archived.
func drawRestore(o *Options) {
	r := rand.New(rand.NewPCG(o.Seed, 16))
	if o.ImageBytes == 0 || r.IntN(4) > 0 {
		return
	}
	o.Archive, o.ArchiveTicks = true, 2+r.IntN(40)
	o.ArchiveRange, o.ArchiveLag = []int{200, 1 << 10, 8 << 10}[r.IntN(3)], []smr.LSN{2 << 10, 1 << 20, 1 << 20}[r.IntN(3)]
}

// drawRestoreFaults draws when it is restored, and what happens then.
func drawRestoreFaults(o *Options) (faults []Fault) {
	if !o.Archive {
		return nil
	}
	r := rand.New(rand.NewPCG(o.Seed, 17))
	add := func(kind FaultKind, at int64) *Fault {
		faults = append(faults, Fault{At: at, Kind: kind, Node: r.IntN(2), Other: r.IntN(3), Millis: 5 + int64(r.ExpFloat64()*250), Number: r.Uint64() >> 11})
		return &faults[len(faults)-1]
	}
	at := 400 + r.Int64N(o.FaultMillis)
	add(FaultRestore, at)
	for range r.IntN(3) {
		add(FaultStray, at+r.Int64N(400))
	}
	if r.IntN(2) == 0 {
		add(FaultMistake, at+r.Int64N(600))
	}
	for range r.IntN(4) {
		f := add(besideFaults[r.IntN(len(besideFaults))], at+r.Int64N(800))
		f.Restored = true
	}
	return faults
}

// strikeRestore carries out one of restoreFaults.
func (w *world) strikeRestore(f *Fault) {
	switch {
	case f.Kind == FaultRestore:
		w.restore(f)
	case w.other == nil:
	case f.Kind == FaultStray:
		w.strayed = w.now + f.Millis*millisecond
		w.other.strayed = w.strayed
	case f.Kind == FaultMistake:
		a, b := w, w.other
		if f.Number%2 == 0 {
			a, b = b, a
		}
		a.mistake(nodeName(f.Node), b)
	}
}

// restore makes a cluster of what is archived: to an LSN, a time, or as far as it goes; or is refused.
func (w *world) restore(f *Fault) {
	a := w.archive
	switch {
	case a == nil || w.healing || w.other != nil:
		return
	case len(a.list) == 0: // there is no backup yet
		w.after(100*millisecond, later(func() { w.restore(f) }), 9)
		return
	}
	ctx := context.Background()
	from := backup.Archive{Store: a.store, Cluster: w.cluster, Group: groupName}
	id, err := from.NewID("restored")
	if err != nil {
		w.violate("a restore fails", "%v", err)
	}
	draw := f.draw()
	target := w.drawTarget(draw)
	chosen, err := target.Choose(a.list, 0)
	if err != nil {
		if first := a.list[0]; !errors.Is(err, backup.ErrBefore) || target.LSN == 0 && target.Time.IsZero() || target.LSN >= first.LSN || target.LSN == 0 && target.Time.UnixMilli() >= first.Stamp {
			w.violate("a restore fails", "to %+v: %v", target, err)
		}
		w.hit(probeRestoreRefused)
		return
	}
	begun := a.images[chosen.LSN]
	machine, base, err := w.replay(ctx, from, target, begun)
	if err != nil {
		w.refused(target, begun, err)
		return
	}
	s := w.historyOf(base)
	if want := s.borderAt(begun.lsn, target, w.reach(begun.lsn)); base.LSN != want {
		w.violate("a restore ends elsewhere", "to %+v: it ends at %d in place of %d", target, base.LSN, want)
	}
	if base.LSN < s.end() {
		w.hit(probeRestoredPart)
	}
	w.hit(probeRestored)
	if w.trace != nil {
		w.say("----", "cluster %q is restored to %d from the image of %d; committed is %d", id, base.LSN, begun.lsn, w.check.end())
	}
	w.found(id, backup.Foundation(base, id), s, machine, draw)
}

// drawTarget draws to where it is restored.
func (w *world) drawTarget(draw *rand.Rand) (target backup.Target) {
	a := w.archive
	first := a.list[0].LSN
	end := max(w.reach(first), first)
	switch draw.IntN(8) {
	case 0: // as far as it goes
	case 1:
		target.LSN = end + smr.LSN(1+draw.IntN(100))
	case 2:
		target.LSN = 1 + smr.LSN(draw.Int64N(int64(first)))
	case 3, 4:
		target.Time = time.UnixMilli(a.list[0].Stamp + draw.Int64N(1500))
	default:
		target.LSN = first + smr.LSN(draw.Int64N(int64(end-first)+1))
	}
	return target
}

// reach returns up to where the archived log follows lsn without a gap.
func (w *world) reach(lsn smr.LSN) smr.LSN {
	spans, err := w.archive.log.Spans(context.Background())
	if err != nil {
		w.violate("the archive cannot be listed", "%v", err)
	}
	last := lsn
	for _, s := range spans {
		last = max(last, s.End)
	}
	end := lsn
	chain, _ := archive.Chain(spans, lsn, last)
	for _, s := range chain {
		end = max(end, s.End)
	}
	return end
}

// replay executes the archived log on top of an image.
func (w *world) replay(ctx context.Context, from backup.Archive, target backup.Target, i *image) (*kv.Machine, log.Base, error) {
	base, err := log.ParseBase(i.base)
	if err != nil {
		w.violate("a base does not survive its encoding", "%v", err)
	}
	disk := simfs.New()
	opened, _, err := log.Open(log.Options{Dir: "/replay", FS: disk, Cluster: w.cluster, Group: groupName, FileSize: w.o.FileSize, Synchronous: true})
	if err != nil {
		w.violate("a restore fails", "%v", err)
	}
	defer opened.Close()
	machine := i.machine(w)
	replay := backup.Replay{Archive: from, Target: target, Machine: machine, Log: opened, FS: disk, Dir: "/replay"}
	base, err = replay.Run(ctx, base)
	return machine, base, err
}

// refused checks why a restore was refused.
func (w *world) refused(target backup.Target, i *image, err error) {
	spans, _ := w.archive.log.Spans(context.Background())
	last := smr.LSN(0)
	for _, s := range spans {
		last = max(last, s.End)
	}
	reach := w.reach(i.lsn)
	switch {
	case errors.Is(err, archive.ErrGap) && reach < last && (target.LSN == 0 || target.LSN > reach):
	case errors.Is(err, backup.ErrFuture) && (target.LSN > reach || target.LSN == 0 && !target.Time.IsZero()):
	case len(w.check.older) > 0 && (errors.Is(err, smr.ErrBadFrame) || errors.Is(err, archive.ErrDamaged)):
		// Where a stream was given up, and the archive had more of it than was kept, the one that goes on does not fit.
	default:
		w.violate("a restore fails", "to %+v from the image of %d, the log reaches from there to %d, and ends at %d: %v", target, i.lsn, reach, last, err)
	}
	w.hit(probeRestoreRefused)
}

// historyOf returns the lineage that a restored stream is a part of.
func (w *world) historyOf(base log.Base) *lineage {
	for _, s := range append([]*lineage{w.check.lineage}, w.check.older...) {
		if base.LSN <= s.end() && xxhash.Sum64(s.committed[:base.LSN]) == base.Digest() {
			return s
		}
	}
	w.violate("a restored log is none that was", "up to %d", base.LSN)
	return nil
}

// borderAt returns where a restore to a target has to end that begins at an LSN and has the log up to reach.
func (s *lineage) borderAt(begin smr.LSN, target backup.Target, reach smr.LSN) smr.LSN {
	at := begin
	for at < reach && at < s.end() {
		f, err := smr.DecodeFrame(s.committed[at:], at)
		if err != nil || target.LSN != 0 && f.End() > target.LSN || !target.Time.IsZero() && f.Stamp > target.Time.UnixMilli() {
			break
		}
		at = f.End()
	}
	return at
}

// found makes the new cluster and starts it.
func (w *world) found(id string, base log.Base, s *lineage, machine *kv.Machine, draw *rand.Rand) {
	t := &world{timeline: w.timeline, o: w.o, cluster: id, draw: newStreams(w.o.Seed + 1<<32), other: w, restored: true}
	w.other = t
	o := &t.o
	o.Full, o.Life, o.Spares, o.LateMillis, o.Harm, o.Archive = false, false, 0, 0, false, false
	o.Replicas = 2 + draw.IntN(2)
	o.Copies = 1 + draw.IntN(min(o.Replicas, 2))
	o.MinCopies = 1 + draw.IntN(o.Copies)
	t.net.init(t, o.Replicas+1)
	t.check = newChecker(t)
	t.work.init(t)
	t.addHosts()
	t.inherit(s, base.LSN)
	before := t.relive()
	if machine.Digest() != before.machine.Digest() {
		w.violate("a restored state is none that was", "at %d", base.LSN)
	}
	encoded, err := base.AppendBinary(nil)
	if err != nil {
		w.violate("a restore fails", "%v", err)
	}
	rows := rowsOf(w, machine)
	for _, h := range t.hosts {
		incarnation := smr.Incarnation(t.name())
		made := backup.Replica{FS: h.disk, Dir: dirHome, Node: string(h.id), Incarnation: incarnation, FileSize: o.FileSize}
		if err := made.Make(base); err != nil {
			w.violate("a restore fails", "%v", err)
		}
		h.disk = h.disk.Crashed(imageOf(draw)) // what a restore has made is durable
		*h.drive = drive{home: h.place, node: h.id, incarnation: incarnation, durable: base.LSN, marked: base.LSN, judged: base.LSN,
			images: []*image{{lsn: base.LSN, base: encoded, rows: rows, requests: before.requests}}}
	}
	t.startOracle()
	for _, h := range t.hosts {
		h.startReplicator()
		h.startKV()
	}
}

// inherit makes what the other cluster had committed below an LSN the history of this one. Requests that it has not executed by then are unknown here.
func (w *world) inherit(s *lineage, end smr.LSN) {
	c, old := w.check, w.other
	clones := make(map[*operation]*operation, len(old.work.all))
	for _, op := range old.work.all {
		clone := *op
		clone.executed, clone.taken, clone.final, clone.left, clone.done = false, false, false, false, nil
		clone.floor = 0 // its place in this stream is yet to come; in that of the other cluster, if this one was given up there, it may have another
		clones[op] = &clone
		w.work.all = append(w.work.all, &clone)
	}
	for id, op := range old.check.owners {
		c.owners[id] = clones[op]
	}
	for lsn, digest := range s.digests {
		if lsn <= end {
			c.digests[lsn] = digest
		}
	}
	c.commit(s.committed[:end])
	for id, op := range old.check.owners {
		if !clones[op].executed {
			delete(c.owners, id)
		}
	}
	for key, list := range c.lists {
		c.floors[key] = len(list)
	}
}

// relive executes everything that is committed, as a KV node of the first machine would have done, so that the checker knows of it.
func (w *world) relive() *kvnode {
	c := w.check
	k := &kvnode{w: w, h: w.hosts[0], id: smr.SessionID(w.name()), machine: kv.New(), trail: log.NewTrail(), lineage: c.lineage}
	k.machine.SetHost((*kvHost)(k))
	for k.applied < c.end() {
		f, err := smr.DecodeFrame(c.committed[k.applied:], k.applied)
		if err != nil {
			w.violate("committed bytes are no frames", "%v", err)
		}
		k.frame(f, c.committed[f.LSN:f.End()])
	}
	c.digest(k)
	return k
}

// rowsOf returns the rows of a full image of a machine.
func rowsOf(w *world, machine *kv.Machine) (all rows) {
	machine.BeginImage(true)
	for more := true; more; {
		var batch kv.ImageRows
		more = machine.NextRows(64<<10, &batch)
		err := batch.Each(func(op kv.RowOp, key, value []byte) error {
			if op == kv.RowPut {
				all = append(all, row{string(key), string(value)})
			}
			return nil
		})
		if err != nil {
			w.violate("rows of an image do not check", "%v", err)
		}
	}
	machine.EndImage(true)
	slices.SortFunc(all, func(a, b row) int { return strings.Compare(a.key, b.key) })
	return all
}

// astray returns where something that is sent to a machine comes to: that of the same name in the other cluster now and then.
func (h *host) astray() *host {
	w := h.w
	if w.other == nil || w.strayed <= w.now {
		return h
	}
	namesake := w.other.host(h.id)
	if namesake == nil || w.draw.network.IntN(2) == 0 {
		return h
	}
	w.hit(probeStrayed)
	return namesake
}

// giver returns who gives an image that this machine is asked for: that of the same name in the other cluster now and then, also while nothing else
// goes astray.
func (h *host) giver() *host {
	if w := h.w; w.other != nil && !w.healing && w.draw.network.IntN(2) == 0 {
		if namesake := w.other.host(h.id); namesake != nil {
			return namesake
		}
	}
	return h
}

// isForeign reports whether somebody speaks of another cluster, or another node than is wanted unless that is empty.
func (w *world) isForeign(got smr.Handshake, wanted smr.NodeID) bool {
	if wire.CheckHandshake(got, w.handshake(wanted)) == nil {
		return false
	}
	w.hit(probeForeignRefused)
	return true
}

// isForeignImage reports whether an image belongs to another cluster.
func (w *world) isForeignImage(i *image) bool {
	base, err := log.ParseBase(i.base)
	if err != nil {
		w.violate("a base does not survive its encoding", "%v", err)
	}
	manifest := checkpoint.Manifest{Cluster: base.Cluster, Group: base.Group}
	if manifest.Of(w.cluster, groupName) == nil {
		return false
	}
	w.hit(probeForeignImage)
	return true
}

// watchedAstray: the configuration master of the other cluster watches this replicator in place of its namesake, if it is let.
func (r *replicator) watchedAstray(number uint64) {
	namesake := r.h.astray()
	if namesake == r.h {
		return
	}
	other := namesake.w
	if r.w.isForeign(other.handshake(r.h.id), r.h.id) {
		return
	}
	for _, m := range other.masters {
		m.observedAs(namesake, r, number, r.view())
	}
}

// mistake starts a replicator of a node with the directory of that of the other cluster, and with the log files of that one beside its own
// state: on copies, so that nothing comes to harm. Neither may be accepted.
func (w *world) mistake(id smr.NodeID, other *world) {
	h, namesake := w.host(id), other.host(id)
	if h == nil || namesake == nil || namesake.drive.home != namesake.place || h.drive.home != h.place || h.incarnation() == 0 || namesake.incarnation() == 0 {
		return
	}
	w.hit(probeMistaken)
	copied := &host{w: w, place: h.place, id: id, drive: &drive{home: h.place}, disk: namesake.disk.Clone()}
	copied.disk.SetHook(nil)
	if m, err := openHome(copied); err == nil {
		if m.saved.Incarnation == namesake.incarnation() || m.log.End() > 0 {
			w.violate("a directory of another cluster is accepted", "%s: that of %q by %q", id, other.cluster, w.cluster)
		}
		m.close()
	}
	copied.disk = h.disk.Clone()
	copied.disk.SetHook(nil)
	for _, name := range copied.disk.Files() {
		if strings.HasPrefix(name, dirLog+"/") && copied.disk.Remove(labelHarm, name) != nil {
			return
		}
	}
	for _, name := range namesake.disk.Files() {
		if content, err := namesake.disk.ReadFile(name); err == nil && strings.HasPrefix(name, dirLog+"/") {
			copied.disk.WriteFile(name, content)
		}
	}
	before := h.incarnation()
	if m, err := openHome(copied); err == nil {
		if m.log.End() > 0 && m.saved.Incarnation == before {
			w.violate("log files of another cluster are accepted", "%s: those of %q by %q, up to %d", id, other.cluster, w.cluster, m.log.End())
		}
		m.close()
	}
}

func (m *home) close() {
	_ = m.log.Close()
	_ = m.state.Close()
}

// machine returns the state of an image.
func (i *image) machine(w *world) *kv.Machine {
	machine := kv.New()
	loader := kv.LoadImage(machine)
	var err error
	for n := 0; n < len(i.rows) && err == nil; n++ {
		err = loader.Row([]byte(i.rows[n].key), []byte(i.rows[n].value))
	}
	if err == nil {
		err = loader.End()
	}
	if err != nil {
		w.violate("an image cannot be loaded", "at %d: %v", i.lsn, err)
	}
	return machine
}

// absorb adds what happened to the restored cluster.
func (w *world) absorb() {
	t := w.other
	if t == nil {
		return
	}
	for i, n := range t.probes {
		w.probes[i] += n
	}
	w.stats.Add(t.stats)
}
