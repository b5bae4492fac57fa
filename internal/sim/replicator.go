package sim

import (
	"errors"

	"lockstep/internal/failover"
	"lockstep/log/simfs"
	"lockstep/smr"
	"lockstep/smr/replica"
)

const (
	whatTick = 40 + iota
	whatRound
)

// reassureTicks is how often clients whose requests are held back get a sign of life.
const reassureTicks = 25

// item waits for the loop of a replicator.
type item struct {
	input  replica.Input
	link   *link   // that it came from, if any
	client *client // the same
	count  *smr.CountCopies
	reply  func(replica.Reply) // of an order
}

// replicator is one process life of a replicator: the shell of internal/replicator in virtual time.
type replicator struct {
	w    *world
	h    *host
	life smr.Life
	core *replica.Replica
	out  replica.Effects

	dead, alive, paused bool
	stalled             []actor // what was to happen while the process was stopped
	home                *home
	disk                diskWriter
	stream              stream
	status              replica.Status // as last published
	shadow              []byte         // the log as the core sees it
	cutTo               smr.LSN        // the lowest rewind of this life

	control, upstream, proposals []item
	roundPlanned                 bool
	lastRound                    int64
	propose                      replica.Propose
	tickInput                    replica.Tick
	spare                        spareInputs

	lastConn  replica.ConnID
	links     []*link
	inbound   []*inbound
	lastOrder replica.OrderID
	orders    []pendingOrder

	dialTo     smr.NodeID // "" if nobody is to be dialled
	dialOrder  uint64
	dialPause  int64
	dialMaster smr.NodeID // that dialPause belongs to
	dialling   bool       // a dial or a pause is under way for dialOrder

	lastClient replica.ClientID
	clients    []*client

	local      *end // to the KV node, nil if none is attached
	localTold  smr.Status
	sources    []smr.ImageSource // whom the KV node may ask for an image
	told       []smr.ImageSource // what it was told of them
	begun      []smr.LSN         // common ends of the logs that are about to be replaced
	kvHeard    int64
	page       *page
	archiver   archiver
	ticks      int
	heldTicks  int
	probedView uint64
}

// spareInputs are inputs that come often, for use again: the core keeps none.
type spareInputs struct {
	acks     []*replica.PeerAck
	received []*replica.Received
	beats    []*replica.Beat
}

func (s *spareInputs) put(in replica.Input) {
	switch in := in.(type) {
	case *replica.PeerAck:
		s.acks = append(s.acks, in)
	case *replica.Received:
		s.received = append(s.received, in)
	case *replica.Beat:
		s.beats = append(s.beats, in)
	}
}

// takeSpare returns an input for use again, or a new one.
func takeSpare[T any](spare *[]*T) *T {
	n := len(*spare)
	if n == 0 {
		return new(T)
	}
	in := (*spare)[n-1]
	*spare = (*spare)[:n-1]
	return in
}

type pendingOrder struct {
	id    replica.OrderID
	reply func(replica.Reply)
}

// startReplicator starts a process. It may fail at once: the supervisor tries again.
func startReplicator(h *host) *replicator {
	w := h.w
	m, err := openHome(h)
	var shadow []byte
	if err == nil {
		shadow, err = w.check.recovered(h, m)
	}
	if err != nil {
		if w.trace != nil {
			w.say(string(h.id), "replicator does not start: %v", err)
		}
		switch {
		case errors.Is(err, simfs.ErrCrashed):
			h.crashedDisk()
		case errors.Is(err, errForeign):
			w.hit(probeForeign)
			// One that was blank may have become another node's by a start that did not get to its end.
			if h.drive.node == h.id {
				w.violate("a replica refuses its own directory", "%s: %v", h.id, err)
			}
			if w.healing && h.drive.home == h.place {
				// A blank disk became another node's while they were swapped: an operator clears it, as `smrctl node wipe` does: the KV node
				// is stopped first, or it would go on telling of images that are no more.
				h.crashKV()
				h.wipe()
				w.after(w.o.Restarts*millisecond, later(h.startKV), 0)
			}
			h.restartLater()
		case errors.Is(err, errStateless):
			w.hit(probeStateless)
			if !h.drive.harmed {
				w.violate("a healthy directory is refused", "%s: %v", h.id, err)
			}
			if w.healing && h.drive.home == h.place {
				h.moveAway(dirLog) // an operator, as the message says
			}
			h.restartLater()
		default:
			// A failing disk: the cache stays, the next start looks at it anew.
			h.disk = h.disk.Clone()
			h.restartLater()
		}
		return nil
	}
	r := &replicator{w: w, h: h, life: smr.Life(w.name()), alive: true, home: m, page: &page{}}
	h.page = r.page
	r.disk.r, r.archiver.r, r.cutTo = r, r, 1<<62
	r.shadow = shadow
	r.stream.end = m.log.End()
	r.core = replica.New(replica.Options{
		Self: smr.Member{Node: h.id, Incarnation: m.saved.Incarnation}, Life: r.life, Cluster: w.cluster, Group: groupName,
		Blank: m.saved.Promise == 0, Promise: m.saved.Promise, Start: m.log.Start(), End: m.log.End(), History: m.log.History(),
		Commit: m.log.LastCommit(), Stamp: m.log.LastStamp(), Config: m.config, DeadTicks: w.o.DeadTicks,
		Trim: w.trimPolicy(), LeaseHold: m.saved.LeaseHoldTicks, LeaseTicks: w.o.LeaseTicks,
	})
	r.status = r.core.Status()
	r.lastRound = w.now
	if w.trace != nil {
		w.say(string(h.id), "replicator starts: incarnation %x life %x promise %d end %d %s", uint64(m.saved.Incarnation)&0xffff,
			uint64(r.life)&0xffff, m.saved.Promise, m.log.End(), m.renewd)
	}
	w.after(between(w.draw.clock, 0, h.tick()), r, whatTick)
	return r
}

// restartLater starts the replicator again as a supervisor would.
func (h *host) restartLater() {
	if !h.restarting {
		h.restarting = true
		h.w.after(h.w.o.Restarts*millisecond, later(func() {
			h.restarting = false
			h.startReplicator()
		}), 0)
	}
}

// crashedDisk: the disk stopped in the midst of a call, and the machine with it.
func (h *host) crashedDisk() {
	h.w.hit(probeCrashInCall)
	h.powerCut(simfs.Image{Pages: simfs.Torn, Names: simfs.Torn, Seed: h.w.draw.disk.Uint64()})
	h.w.after(h.w.o.Restarts*millisecond, later(h.powerOn), 0)
}

// fail ends the process because of its disk.
func (r *replicator) fail(err error) {
	h := r.h
	if r.w.trace != nil {
		r.w.say(string(h.id), "replicator fails: %v", err)
	}
	if errors.Is(err, simfs.ErrCrashed) {
		h.crashedDisk()
		return
	}
	r.w.hit(probeDiskFailed)
	h.crashReplicator()
	h.restartLater()
}

// die ends the process.
func (r *replicator) die(how death) {
	r.dead, r.alive = true, false
	r.h.drive.last = r.shadow[:min(smr.LSN(len(r.shadow)), r.cutTo)]
	each := func(e *end) {
		if how == dieVanished {
			e.vanish()
		} else {
			e.close()
		}
	}
	for _, l := range r.links {
		each(l.end)
	}
	for _, i := range r.inbound {
		each(i.end)
	}
	for _, c := range r.clients {
		each(c.end)
	}
	if r.local != nil {
		each(r.local)
	}
	if how == dieKilled {
		for _, order := range r.orders {
			order.reply(replica.Reply{Err: errStopped})
		}
		for _, m := range r.w.masters {
			m.brokenStream(r.h)
		}
	}
	_ = r.home.state.Close()
	r.archiver.close()
}

var errStopped = errors.New("the replicator stops")

func (r *replicator) fire(what uint64) {
	if r.dead {
		return
	}
	if r.paused {
		if what == whatTick {
			r.w.after(r.h.tick(), r, whatTick) // a stopped process loses ticks
		} else {
			r.stalled = append(r.stalled, stalled{r, what})
		}
		return
	}
	var err error
	switch what {
	case whatTick:
		r.w.after(r.h.tick(), r, whatTick)
		r.tick()
		if !r.dead {
			err = r.disk.settle()
		}
	case whatRound:
		r.roundPlanned = false
		r.round()
	case whatDiskBegin:
		err = r.disk.start()
	case whatDiskEnd:
		err = r.disk.finish()
	case whatDiskRetry:
		err = r.disk.retry()
	}
	if err != nil && !r.dead {
		r.fail(err)
	}
}

// page is the memory that a life of a replicator shares with the KV node beside.
type page struct {
	until  int64
	commit smr.LSN
	epoch  smr.Epoch // for the checker
}

// stalled is an event that waits for a stopped process.
type stalled struct {
	who  actor
	what uint64
}

func (s stalled) fire(uint64) { s.who.fire(s.what) }

// pause stops the process (SIGSTOP); resume lets it go on.
func (r *replicator) pause() { r.paused = true }

func (r *replicator) resume() {
	r.paused = false
	for _, s := range r.stalled {
		r.w.after(between(r.w.draw.clock, 1, 500), s, whatPump)
	}
	r.stalled = r.stalled[:0]
	r.wake()
}

// wake makes the loop come round.
func (r *replicator) wake() {
	if !r.roundPlanned && !r.dead {
		r.roundPlanned = true
		r.w.after(between(r.w.draw.network, 1, r.w.o.LoopHigh), r, whatRound)
	}
}

func (r *replicator) step(in replica.Input) { r.core.Step(in, &r.out) }

func (r *replicator) tick() {
	r.ticks++
	r.tickInput.Stamp, r.tickInput.Clock = r.h.stamp(), r.h.clock()
	rests := r.core.Rest() > 1
	r.step(&r.tickInput)
	if rests && !atRest(&r.out) {
		r.w.violate("a tick of a rest mattered", "%s: %+v", r.h.id, r.out)
	}
	if r.disk.behind() {
		if r.heldTicks++; r.heldTicks%reassureTicks == 0 {
			for _, c := range r.clients {
				c.end.send(&smr.CopiesCounted{}, 32)
			}
		}
	} else {
		r.heldTicks = 0
	}
	r.round()
	if r.w.archive != nil && !r.dead && r.ticks%r.w.o.ArchiveTicks == 0 {
		r.archiver.round()
	}
	if !r.dead && r.ticks%10 == 0 {
		r.probe()
	}
}

// atRest reports whether nothing follows from out but trimming.
func atRest(out *replica.Effects) bool {
	for i := range out.Disk {
		if out.Disk[i].Trim == nil {
			return false
		}
	}
	for i := range out.Events {
		if out.Events[i].Name != replica.EventTrimmed {
			return false
		}
	}
	return len(out.Send)+len(out.Feed)+len(out.Hangup)+len(out.Replies)+len(out.Reads) == 0 && out.Dial == nil && !out.StopDial && !out.DropClients
}

// round takes what is waiting, steps the core and carries out what it wants.
func (r *replicator) round() {
	for _, in := range r.control {
		r.take(in)
	}
	clear(r.control)
	r.control = r.control[:0]
	for len(r.upstream) > 0 && !r.disk.behind() {
		in := r.upstream[0]
		r.upstream = r.upstream[1:]
		r.take(in)
	}
	if len(r.proposals) > 0 && !r.disk.behind() {
		for _, in := range r.proposals {
			if !in.client.dropped {
				r.propose.Batches = append(r.propose.Batches, *in.input.(*proposed).batch)
			}
		}
		clear(r.proposals)
		r.proposals = r.proposals[:0]
		if len(r.propose.Batches) > 0 {
			r.step(&r.propose)
			r.propose.Batches = r.propose.Batches[:0]
		}
	}
	if r.disk.progress {
		r.disk.progress = false
		r.disk.told()
		r.step(&r.disk.done)
	}
	r.carryOut()
	r.publish()
}

func (r *replicator) take(in item) {
	switch {
	case in.reply != nil:
		r.order(in)
		return
	case in.count != nil:
		status := r.core.Status()
		in.client.end.send(&smr.CopiesCounted{ID: in.count.ID, Copies: status.Copies(in.count.LSN)}, 32)
		return
	case in.link != nil && !r.admit(in):
		return
	}
	if ask, ok := in.input.(*replica.ReadIndex); ok {
		if !in.client.asks(ask.ID) {
			return
		}
		ask.Clock = r.h.clock()
	}
	r.step(in.input)
	r.spare.put(in.input)
}

// admit decides whether an input of a slave connection still counts.
func (r *replicator) admit(in item) bool {
	switch in.input.(type) {
	case *replica.PeerHello, *replica.Connected:
		r.links = append(r.links, in.link)
	case *replica.ConnDown:
		known := r.knows(in.link)
		r.forget(in.link)
		return known
	}
	return r.knows(in.link)
}

func (r *replicator) knows(l *link) bool {
	for _, known := range r.links {
		if known == l {
			return true
		}
	}
	return false
}

func (r *replicator) findLink(id replica.ConnID) *link {
	for _, l := range r.links {
		if l.id == id {
			return l
		}
	}
	return nil
}

func (r *replicator) forget(l *link) {
	for i, known := range r.links {
		if known == l {
			r.links = append(r.links[:i], r.links[i+1:]...)
			return
		}
	}
}

// lose closes a link and tells the core.
func (r *replicator) lose(l *link) {
	l.end.close()
	r.down(l)
}

// down tells the core that a link has ended.
func (r *replicator) down(l *link) {
	in := item{link: l, input: &replica.ConnDown{Conn: l.id}}
	if l.master != "" {
		r.upstream = append(r.upstream, in)
	} else {
		r.control = append(r.control, in)
	}
	r.wake()
}

func (r *replicator) order(in item) {
	r.lastOrder++
	switch order := in.input.(type) {
	case *replica.Fence:
		order.Order = r.lastOrder
	case *replica.Lead:
		order.Order = r.lastOrder
	case *replica.Follow:
		order.Order = r.lastOrder
	case *replica.Reconfigure:
		order.Order = r.lastOrder
	case *replica.Established:
		order.Order = r.lastOrder
	case *replica.Learn:
		order.Order = r.lastOrder
	}
	r.orders = append(r.orders, pendingOrder{r.lastOrder, in.reply})
	r.step(in.input)
}

// carryOut follows loop.carryOut of internal/replicator, in its order.
func (r *replicator) carryOut() {
	out := &r.out
	w := r.w
	r.page.until, r.page.commit, r.page.epoch = r.core.LeaseUntil(), r.core.Commit(), r.core.Epoch()
	for _, id := range out.Hangup {
		if l := r.findLink(id); l != nil {
			r.forget(l)
			l.end.close()
		}
	}
	r.note()
	r.stream.publish(out.Disk, r.core.Epoch(), r.core.Commit(), r.disk.executed, w.o.KeepBytes)
	r.disk.submit(out.Disk)
	if out.DropClients {
		for _, c := range r.clients {
			c.dropped = true
			c.end.close()
		}
		r.clients = r.clients[:0]
	}
	if out.RefuseImage != "" && r.local != nil {
		r.local.send(&smr.Reject{Code: smr.RejectForeign, Reason: out.RefuseImage}, 64)
		r.local.close()
		r.local = nil
		r.control = append(r.control, item{input: &replica.Detached{}})
		r.wake()
	}
	for _, feed := range out.Feed {
		if l := r.findLink(feed.Conn); l != nil {
			l.feeding, l.next = true, feed.From
			l.wake()
		}
	}
	for _, send := range out.Send {
		if l := r.findLink(send.Conn); l != nil {
			if beat, ok := send.Message.(*smr.Heartbeat); ok {
				beat.Writable = beat.Writable && !r.disk.full
				if beat.LeaseOver {
					w.hit(probeLeaseReturned)
				}
			}
			l.send(send.Message)
		}
	}
	for i := range out.Disk {
		if out.Disk[i].Append != nil {
			for _, l := range r.links {
				if l.feeding {
					l.wake()
				}
			}
			break
		}
	}
	if out.StopDial {
		r.dialTo = ""
		r.dialOrder++
	}
	if out.Dial != nil {
		r.dial(out.Dial.Master)
	}
	for i := range out.Reads {
		r.answerRead(&out.Reads[i])
	}
	for _, reply := range out.Replies {
		r.answerOrder(reply)
	}
	clear(out.Disk)
	clear(out.Send)
	out.Reset()
}

// note keeps the shadow of the log and tells the checker what the core has decided.
func (r *replicator) note() {
	out := &r.out
	for i := range out.Disk {
		switch op := &out.Disk[i]; {
		case op.Append != nil:
			r.w.check.appended(r, smr.LSN(len(r.shadow)), op.Append)
			r.shadow = append(r.shadow, op.Append...)
		case op.Rewind != nil:
			r.w.hit(probeRewind)
			r.cutTo = min(r.cutTo, op.Rewind.To)
			r.shadow = r.shadow[:op.Rewind.To]
		case op.Begin != nil:
			r.noteBegin(op.Begin)
		case op.Trim != nil:
			r.noteTrim(op.Trim.To)
		}
	}
	for i := range out.Events {
		r.w.check.event(r, &out.Events[i])
	}
}

func (r *replicator) answerRead(ready *replica.ReadReady) {
	for _, c := range r.clients {
		if c.id != ready.Client {
			continue
		}
		c.end.send(&smr.ReadReady{ID: ready.ID, LSN: ready.LSN}, 32)
		if next := c.answered(ready.ID); next != 0 {
			r.control = append(r.control, item{client: c, input: &replica.ReadIndex{Client: c.id, ID: next}})
			c.asking = false
			r.wake()
		}
		return
	}
}

func (r *replicator) answerOrder(reply replica.Reply) {
	for i, order := range r.orders {
		if order.id == reply.Order {
			r.orders = append(r.orders[:i], r.orders[i+1:]...)
			order.reply(reply)
			return
		}
	}
}

// publish shows the state to the KV node, the configuration masters and the checker.
func (r *replicator) publish() {
	if r.dead {
		return
	}
	before := r.status
	r.core.Observe(&r.status)
	status := &r.status
	if status.Leading && r.disk.full {
		status.Writable = false
	}
	r.lastRound = r.w.now
	r.w.check.status(r, &before, status)
	r.tellKV()
	if before.Role != status.Role || before.Leading != status.Leading || before.Epoch != status.Epoch || before.Promise != status.Promise ||
		before.Master != status.Master || before.Reportable != status.Reportable || before.Attached != status.Attached ||
		before.Writable != status.Writable || before.Joined != status.Joined || before.Stopped != status.Stopped || before.Blank != status.Blank ||
		before.NeedImage != status.NeedImage {
		r.probe()
	}
}

// tellKV tells the KV node beside this replicator what it has to know.
func (r *replicator) tellKV() {
	if r.local == nil {
		return
	}
	s := smr.Status{Role: r.status.Role, Epoch: r.status.Epoch, Master: r.status.Master, MasterAddr: string(r.status.Master),
		Start: r.status.Start, Safe: r.status.Safe, Commit: r.status.Commit, Writable: r.status.Writable}
	if r.status.NeedImage {
		s.NeedImage = r.status.ImageFrom
	}
	r.tellSources()
	if s == r.localTold && r.ticks%100 != 0 {
		return
	}
	r.localTold = s
	message := s // so that s itself needs no memory: most times there is nothing new
	r.local.send(&message, 64)
}

// probe sends the state to all configuration masters.
func (r *replicator) probe() {
	view := r.view()
	r.probedView++
	number := r.probedView
	if r.w.strayed > r.w.now {
		r.watchedAstray(number)
	}
	for _, m := range r.w.masters {
		r.w.net.control(r.h.place, m.place, func() { m.observed(r, number, view) })
	}
}

func (r *replicator) view() failover.ReplicaView {
	s := &r.status
	v := failover.ReplicaView{
		Incarnation: r.home.saved.Incarnation, Life: r.life, Blank: s.Blank, Role: s.Role, Leading: s.Leading, Epoch: s.Epoch,
		Promise: s.Promise, Master: s.Master, Reportable: s.Reportable, Start: s.Start, End: s.End, Durable: s.Durable, Commit: s.Commit,
		Safe: s.Safe, Applied: s.Applied, Checkpoint: s.Checkpoint, PositionEpoch: s.Position.Epoch, Attached: s.Attached,
		Writable: s.Writable, Joined: s.Joined, Stopped: s.Stopped, NeedImage: s.NeedImage || s.Attached && s.Applied < s.Start,
		LoopIdleMillis: uint32((r.w.now - r.lastRound) / millisecond), DiskStuckMillis: uint32(r.disk.stuckMillis()),
		DataAddr: string(r.h.id),
	}
	if r.local != nil {
		v.KVSilentMillis, v.KVAddr = uint32((r.w.now-r.kvHeard)/millisecond), string(r.h.id)
		if k := r.h.kv; k != nil && k.images.checkpoint > 0 {
			v.KVAdminAddr = string(r.h.id)
		}
		if k := r.h.kv; k != nil && k.images.fetching != nil {
			v.ImageFrom = string(k.images.fetching.id)
		}
	}
	for _, p := range s.Peers {
		v.Peers = append(v.Peers, failover.PeerView{Member: p.Member, Streams: p.Streams, Durable: p.Durable})
	}
	return v
}
