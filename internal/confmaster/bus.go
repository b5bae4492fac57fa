package confmaster

import (
	"sync"

	lockstep "lockstep/proto"
)

const (
	// busKept events are kept for those who come later; busLength bounds what waits for one subscriber. Full: the
	// subscriber is cut off and can come again with the last id it saw.
	busKept   = 1000
	busLength = 256
	// maxSubscribers bounds the subscribers.
	maxSubscribers = 1024
)

// bus gives events to subscribers.
type bus struct {
	mu          sync.Mutex
	kept        []*lockstep.Event
	subscribers map[*subscriber]struct{}
}

// notice is an event as gRPC and as Sentinel clients are told of it. It is not changed once it is published.
type notice struct {
	event    *lockstep.Event
	messages []message
}

// message of the Sentinel protocol's Pub/Sub.
type message struct{ channel, text string }

// subscriber receives notices; C is closed when it was too slow, and when it leaves.
type subscriber struct {
	bus *bus
	C   chan *notice
}

func newBus() *bus { return &bus{subscribers: make(map[*subscriber]struct{})} }

// publish never waits.
func (b *bus) publish(n *notice) {
	b.keep(n.event)
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subscribers { // each has its own channel: the order does not matter
		select {
		case s.C <- n:
		default:
			b.end(s)
		}
	}
}

// keep remembers an event of a decision for those who come later.
func (b *bus) keep(e *lockstep.Event) {
	if e.GetId() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept) >= busKept {
		b.kept = append(b.kept[:0], b.kept[1:]...)
	}
	b.kept = append(b.kept, e)
}

// subscribe returns a subscriber of all later events, and the kept ones with a higher id than after. It returns nil if
// there are too many.
func (b *bus) subscribe(after uint64) (*subscriber, []*lockstep.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.subscribers) >= maxSubscribers {
		return nil, nil
	}
	s := &subscriber{bus: b, C: make(chan *notice, busLength)}
	b.subscribers[s] = struct{}{}
	var kept []*lockstep.Event
	for _, e := range b.kept {
		if e.GetId() > after {
			kept = append(kept, e)
		}
	}
	return s, kept
}

// leave ends a subscription.
func (s *subscriber) leave() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.bus.end(s)
}

// end is called with mu held. Channels are closed here only, and once.
func (b *bus) end(s *subscriber) {
	if _, there := b.subscribers[s]; there {
		delete(b.subscribers, s)
		close(s.C)
	}
}
