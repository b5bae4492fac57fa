package replicator

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"lockstep/internal/invariant"
	"lockstep/internal/turn"
	"lockstep/smr"
	"lockstep/smr/page"
	"lockstep/smr/replica"
)

const (
	// queueLength bounds each of the loop's queues, in items.
	queueLength = 256
	// gatherBytes bounds the bytes of requests that are merged into one round of the loop.
	gatherBytes = 4 << 20
	// maxOrders bounds management orders that wait for their reply; beyond it they are refused.
	maxOrders = 256
	// tickLength is that of a tick. maxTicks bounds those that are made up for at once: a process that was stopped for long first hears what
	// its connections have to say, and the time is lost.
	tickLength = replica.TickMillis * time.Millisecond
	maxTicks   = 50
	// reassureTicks is how often clients whose requests are held back get a sign of life.
	reassureTicks = 25
	// maxRounds is how many rounds a goroutine that brought something steps the core for others, before it leaves that to the
	// loop's own goroutine and goes on with its connection.
	maxRounds = 4
)

// item is what other goroutines send to the loop. Exactly one of input and count is set.
type item struct {
	input replica.Input
	// link: the slave connection that input came from. It counts only while the loop knows that connection.
	link *link
	// client: the client connection that the item came from.
	client *client
	count  *smr.CountCopies
	// reply gets the answer to a management order; it has room for it.
	reply chan<- replica.Reply
	// taken is called once the core has the input: its bytes no longer count for its source.
	taken func()
}

// proposal is a batch of requests on its way from a client connection to the loop.
type proposal struct {
	client *client
	batch  smr.Propose
	taken  func() // may be nil
}

// loop owns the core. All others talk to it through its queues, and whoever has put something there and finds nobody at the core steps it
// himself (see turn). So a message is stepped on the goroutine that has read it, and its answer written there too. The loop's own goroutine
// brings ticks, and takes over from goroutines that would otherwise serve others for too long.
//
//	control    orders, acknowledgements, reads, the KV node's progress. Full: the sender waits.
//	upstream   what comes from the master. Full, or the disk behind: the reader of that socket waits.
//	proposals  requests of KV nodes. Full, or the disk behind or full: the readers of those sockets wait.
//	disk       a mailbox: progress of the log writer.
type loop struct {
	node *node
	turn turn.Turn
	// alarm rings on the loop's own goroutine when the next tick that matters is due; rang: it has.
	alarm *time.Timer
	rang  atomic.Bool
	// stopping: the turn is to be left to the loop's own goroutine, which gives it to nobody.
	stopping atomic.Bool
	ends     chan error // 1: why the core cannot be stepped any more
	// What is below, but the queues, belongs to who has the turn.
	core *replica.Replica
	out  replica.Effects
	tick replica.Tick
	// ticked is up to when time was passed to the core, less than a tick ago at the start of a round. alarmAt is when alarm rings, zero if
	// it does not.
	ticked, alarmAt time.Time

	control   chan item
	upstream  chan item
	proposals chan proposal

	links    map[replica.ConnID]*link
	haste    haste
	orders   map[replica.OrderID]chan<- replica.Reply
	orderID  replica.OrderID
	dialling uint64 // number of the dial order in force, 0 if none

	propose   replica.Propose // reused
	taken     []func()        // of the inputs of this round
	reads     []replica.ReadIndex
	diskDone  replica.DiskDone
	heldTicks int           // for which requests have been held back
	page      *page.Writer  // shared with the KV node beside; nil if there is none
	pagePath  string        // "" if there is none; never changed while the loop runs
	countDone atomic.Uint64 // inputs handled so far
	lastRound atomic.Int64  // process time in milliseconds
}

func newLoop(n *node, core *replica.Replica) *loop {
	return &loop{
		node: n, core: core,
		turn: turn.New(), ends: make(chan error, 1), alarm: time.NewTimer(0), ticked: time.Now(),
		control:   make(chan item, queueLength),
		upstream:  make(chan item, queueLength),
		proposals: make(chan proposal, queueLength),
		links:     make(map[replica.ConnID]*link),
		haste:     haste{asked: make(map[smr.NodeID]uint64)},
		orders:    make(map[replica.OrderID]chan<- replica.Reply),
	}
}

// begin shows the state before the first round: who asks before that must not be shown a replica that holds nothing and is stuck. The turn stands
// ready for run; until then nobody steps the core.
func (l *loop) begin() {
	mine := l.turn.Knock()
	invariant.Assert(mine, "a loop begins once, before anybody steps it")
	l.publish()
	l.turn.Leave()
}

// run brings time, and steps the core whenever the turn is left to it, until ctx ends or the core cannot go on. Nobody steps it afterwards.
func (l *loop) run(ctx context.Context) error {
	defer l.alarm.Stop()
	defer l.closePage()
	defer l.haste.stop()
	for {
		select {
		case <-l.alarm.C:
			l.rang.Store(true)
			l.step()
		case <-l.turn.Left():
			if ctx.Err() == nil {
				l.rounds()
			} else {
				l.turn.Leave()
			}
		case err := <-l.ends:
			return err
		case <-ctx.Done():
			l.stopping.Store(true)
			if !l.turn.Knock() { // who has the turn hears it, and leaves
				select {
				case <-l.turn.Left():
				case err := <-l.ends:
					return err
				}
			}
			return nil
		}
	}
}

// step steps the core, unless somebody else does.
func (l *loop) step() {
	if l.turn.Knock() && !l.some(maxRounds) {
		l.turn.Leave()
	}
}

// knock has the loop's own goroutine step the core, unless somebody else does.
func (l *loop) knock() {
	if l.turn.Knock() {
		l.turn.Leave()
	}
}

// rounds steps the core until nobody knocks any more.
func (l *loop) rounds() {
	for !l.some(maxRounds) {
	}
}

// some makes up to so many rounds. It reports whether the turn was given back, or is of no further use.
func (l *loop) some(most int) bool {
	for range most {
		heard := l.turn.Heard()
		if l.stopping.Load() {
			l.turn.Leave()
			return true
		}
		if err := l.round(); err != nil {
			l.ends <- err
			return true
		}
		if l.turn.End(heard) {
			return true
		}
	}
	return false
}

// round takes what is waiting, steps, carries out, publishes.
func (l *loop) round() error {
	l.passTime()
	l.drain()
	err := l.carryOut()
	l.publish()
	l.setAlarm()
	return err
}

// passTime brings the core the ticks that are due: what a round steps counts from its beginning. It never brings more than time has passed.
func (l *loop) passTime() {
	ticks := time.Since(l.ticked) / tickLength
	if ticks == 0 {
		return
	}
	l.ticked = l.ticked.Add(ticks * tickLength)
	ticks = min(ticks, maxTicks)
	l.haste.tick += uint64(ticks)
	l.readClocks()
	for range ticks {
		l.input(&l.tick)
	}
	l.node.local.remind()
	l.reassure(l.node.disk.behind(), int(ticks))
}

// setAlarm has the loop wake up when time matters next. It rings too early where what it was set for has been seen to meanwhile.
func (l *loop) setAlarm() {
	if l.rang.Swap(false) {
		l.alarmAt = time.Time{}
	}
	rest := time.Duration(1)
	if !l.node.disk.behind() && !l.node.local.owes() {
		rest = time.Duration(l.core.Rest())
	}
	if at := l.ticked.Add(rest * tickLength); l.alarmAt.IsZero() || at.Before(l.alarmAt) {
		l.alarmAt = at
		l.alarm.Reset(time.Until(at))
	}
}

// reassure gives clients a sign of life while their requests are held back and their sockets therefore not read: an
// answer with the ID of no question. Without it they would take this master for dead, connect anew and resend everything.
func (l *loop) reassure(holding bool, ticks int) {
	if !holding {
		l.heldTicks = 0
		return
	}
	before := l.heldTicks / reassureTicks
	if l.heldTicks += ticks; l.heldTicks/reassureTicks > before {
		l.node.clients.pushAll(&smr.CopiesCounted{})
	}
}

// drain takes what else is waiting, so that one round of effects, one frame and one sync serve all of it.
func (l *loop) drain() {
	for n := len(l.control); n > 0; n-- {
		l.take(<-l.control)
	}
	for n := len(l.upstream); n > 0 && !l.node.disk.behind(); n-- {
		l.take(<-l.upstream)
	}
	for n := len(l.proposals); n > 0 && l.gathered() < gatherBytes && !l.node.disk.behind(); n-- {
		l.gather(<-l.proposals)
	}
	if len(l.upstream)+len(l.proposals) > 0 && !l.node.disk.behind() {
		l.turn.Knock() // come round again for the rest
	}
	if len(l.propose.Batches) > 0 {
		l.node.cfg.gauges.proposed(&l.propose)
		l.input(&l.propose)
		clear(l.propose.Batches)
		l.propose.Batches = l.propose.Batches[:0]
	}
	for i := range l.reads {
		l.reads[i].Clock = page.Boot()
		l.input(&l.reads[i])
	}
	l.reads = l.reads[:0]
	if done, some := l.node.disk.takeProgress(); some {
		l.diskDone = done
		l.input(&l.diskDone)
	}
	for i, taken := range l.taken {
		taken()
		l.taken[i] = nil
	}
	l.taken = l.taken[:0]
}

func (l *loop) gathered() int {
	bytes := 0
	for i := range l.propose.Batches {
		bytes += len(l.propose.Batches[i].Requests)
	}
	return bytes
}

// gather notes requests for this round, unless their connection was dropped with an earlier reign.
func (l *loop) gather(p proposal) {
	if p.taken != nil {
		l.taken = append(l.taken, p.taken)
	}
	if !p.client.dropped.Load() {
		l.propose.Batches = append(l.propose.Batches, p.batch)
		l.haste.noteAsked(p.client.node)
	}
}

func (l *loop) input(in replica.Input) {
	l.core.Step(in, &l.out)
	l.countDone.Add(1)
}

// take steps one item of the queues control and upstream.
func (l *loop) take(in item) {
	if in.taken != nil {
		l.taken = append(l.taken, in.taken)
	}
	switch {
	case in.reply != nil:
		l.takeOrder(in)
		return
	case in.count != nil:
		status := l.core.Status()
		if in.count.LSN > 0 {
			l.haste.noteCounted()
		}
		in.client.push(&smr.CopiesCounted{ID: in.count.ID, Copies: status.Copies(in.count.LSN)})
		return
	case in.link != nil && !l.admit(in):
		return
	case in.link != nil:
		if _, ok := in.input.(*replica.Beat); ok {
			l.haste.beaten = true
			l.passTime() // the lease that it asks for is granted from a tick that is not older than the question
		}
	case in.client != nil:
		if ask, ok := in.input.(*replica.ReadIndex); ok {
			if !in.client.asks(ask.ID) {
				return
			}
			ask.Clock = page.Boot()
			l.haste.noteAsked(in.client.node)
		}
	}
	l.input(in.input)
}

// admit decides whether an input of a slave connection still counts: the connection must be known, or make itself known
// with this input.
func (l *loop) admit(in item) bool {
	switch in.input.(type) {
	case *replica.PeerHello:
		l.links[in.link.id] = in.link
	case *replica.Connected:
		if in.link.order != l.dialling {
			in.link.close() // of a dial order that was replaced meanwhile
			return false
		}
		l.links[in.link.id] = in.link
	case *replica.ConnDown:
		defer delete(l.links, in.link.id)
	}
	return l.links[in.link.id] == in.link
}

func (l *loop) takeOrder(in item) {
	if len(l.orders) >= maxOrders {
		in.reply <- replica.Reply{Err: errBusy}
		return
	}
	l.orderID++
	switch order := in.input.(type) {
	case *replica.Fence:
		order.Order = l.orderID
	case *replica.Lead:
		order.Order = l.orderID
	case *replica.Follow:
		order.Order = l.orderID
	case *replica.Reconfigure:
		order.Order = l.orderID
	case *replica.Established:
		order.Order = l.orderID
	case *replica.Learn:
		order.Order = l.orderID
	default:
		invariant.Assert(false, "an order of unknown kind", fmt.Sprintf("%T", in.input))
	}
	l.orders[l.orderID] = in.reply
	l.input(in.input)
}

// carryOut does what the core noted in Effects. The order matters in four places: the page shows the end of a lease and the new
// Commit before anybody else can hear of what they depend on; hung-up connections are closed
// before the stream gets its new label; the stream has the bytes before feeders are woken; a connection is fed before
// later messages to it are queued.
func (l *loop) carryOut() error {
	out := &l.out
	until := l.core.LeaseUntil()
	l.node.cfg.gauges.leased(until)
	if l.page != nil {
		l.page.Show(until, l.core.Commit())
	}
	for _, id := range out.Hangup {
		if link := l.links[id]; link != nil {
			delete(l.links, id)
			link.close()
		}
	}
	l.node.stream.publish(out.Disk, l.core.Epoch(), l.core.Commit())
	if err := l.node.disk.submit(out.Disk); err != nil {
		return err
	}
	if out.DropClients {
		l.node.clients.dropAll()
	}
	if out.RefuseImage != "" {
		l.node.local.refuse(out.RefuseImage)
	}
	l.sendAll()
	if out.StopDial {
		l.dialling = 0
		l.node.dialer.stop()
	}
	if out.Dial != nil {
		l.dialling = l.node.dialer.dial(out.Dial.Master)
	}
	for i := range out.Reads {
		ready := &out.Reads[i]
		if c := l.node.clients.find(ready.Client); c != nil {
			if next := c.answered(ready.ID); next != 0 {
				l.reads = append(l.reads, replica.ReadIndex{Client: ready.Client, ID: next})
				l.turn.Knock() // come round again for it
			}
			c.push(&smr.ReadReady{ID: ready.ID, LSN: ready.LSN})
		}
	}
	for _, reply := range out.Replies {
		if waiting := l.orders[reply.Order]; waiting != nil {
			delete(l.orders, reply.Order)
			waiting <- reply
		}
	}
	l.node.events.emit(out.Events)
	l.node.cfg.gauges.happened(out.Events)
	clear(out.Disk)
	clear(out.Send)
	out.Reset()
	return nil
}

func (l *loop) sendAll() {
	out := &l.out
	for _, feed := range out.Feed {
		if link := l.links[feed.Conn]; link != nil {
			link.feed(feed.From)
		}
	}
	full := l.node.disk.full.Load()
	for _, send := range out.Send {
		link := l.links[send.Conn]
		if link == nil {
			continue
		}
		if beat, ok := send.Message.(*smr.Heartbeat); ok && full {
			beat.Writable = false // see disk: nothing is taken while the disk is full
		}
		link.send(send.Message)
	}
	l.ship()
}

// publish makes the state visible to those who look from outside.
func (l *loop) publish() {
	status := l.core.Status()
	if status.Leading && l.node.disk.full.Load() {
		status.Writable = false
	}
	l.node.clients.setLeading(status.Leading, status.Epoch)
	l.lastRound.Store(processMillis())
	l.node.cfg.gauges.round(&status)
	l.haste.status = status
	l.haste.choose(l.links)
	l.node.snapshot.set(status)
	l.tellKV(&status)
}
