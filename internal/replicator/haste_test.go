package replicator

import (
	"net"
	"slices"
	"testing"

	"lockstep/smr"
	"lockstep/smr/replica"
)

// fastOf returns the peers whose links are fast, sorted.
func fastOf(links map[replica.ConnID]*link) (peers []smr.NodeID) {
	for _, link := range links {
		if link.fast {
			peers = append(peers, link.peer)
		}
	}
	slices.Sort(peers)
	return peers
}

func TestFastAreThoseWhoAcknowledgeFirst(t *testing.T) {
	member := func(node smr.NodeID) smr.Member { return smr.Member{Node: node, Incarnation: 1} }
	config := smr.Config{Epoch: 2, Copies: 2, Members: []smr.Member{member("n1"), member("n2"), member("n3"), member("n4")}}
	peers := []replica.PeerStatus{
		{Member: member("n2"), Streams: true, InConfig: true, Durable: 100},
		{Member: member("n3"), Streams: true, InConfig: true, Durable: 100},
		{Member: member("n4"), Streams: true, InConfig: true, Durable: 100},
		{Member: member("n5"), Streams: true, Durable: 900}, // a learner
	}
	links := map[replica.ConnID]*link{}
	for i, p := range peers {
		links[replica.ConnID(i+1)] = &link{id: replica.ConnID(i + 1), peer: p.Member.Node}
	}
	h := &haste{status: replica.Status{Leading: true, Config: config, Base: config, Peers: peers}}
	wants := func(when string, want ...smr.NodeID) {
		t.Helper()
		h.choose(links)
		if got := fastOf(links); !slices.Equal(got, want) {
			t.Errorf("%s: %q are fast, want %q", when, got, want)
		}
	}
	wants("all are equal", "n2")
	peers[1].Durable = 200
	wants("n3 is ahead", "n3")
	peers[0].Durable, peers[2].Durable = 200, 200
	wants("all are equal again", "n3")
	h.status.Config.Copies, h.status.Base.Copies = 3, 3
	wants("two are needed", "n2", "n3")
	peers[2].Durable = 300
	wants("n4 is ahead", "n2", "n4")
	peers[1].Streams = false
	wants("n3 is gone", "n2", "n4")
	h.status.Config.Epoch = 3
	wants("the configuration is provisional", "n2", "n3", "n4", "n5")
	h.status.Config.Epoch, h.status.Config.Copies, h.status.Base.Copies = 2, 1, 1
	wants("none is needed")
}

func TestWhatALinkHasToSend(t *testing.T) {
	conn, peer := net.Pipe()
	defer conn.Close()
	defer peer.Close()
	l := newLink(1, conn, "n2", nil, nil)
	wants := func(when string, want pending) {
		t.Helper()
		if got := l.has(1000); got != want {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}
	wants("nothing", pending{})
	l.send(&smr.Heartbeat{Epoch: 1, Round: 1, Writable: true})
	wants("the first heartbeat", pending{urgent: true, messages: true})
	l.takeQueued(nil)
	wants("nothing", pending{})
	l.send(&smr.Heartbeat{Epoch: 1, Round: 1, Writable: true, Commit: 10})
	wants("the commit LSN", pending{messages: true})
	l.send(&smr.Heartbeat{Epoch: 1, Round: 2, Writable: true, Commit: 10})
	wants("a round", pending{urgent: true, messages: true})
	l.send(&smr.Heartbeat{Epoch: 1, Round: 2, Writable: true, Commit: 20})
	wants("a round and the commit LSN", pending{urgent: true, messages: true})
	l.takeQueued(nil)
	l.send(&smr.Ack{})
	wants("an acknowledgement", pending{urgent: true, messages: true})
	l.takeQueued(nil)
	l.feed(400)
	wants("the log", pending{frames: 600})
	l.feeder.sent.Store(950)
	wants("the end of the log", pending{frames: 50})
}

func TestNotesGrowOld(t *testing.T) {
	h := &haste{asked: map[smr.NodeID]uint64{}}
	if h.lately(h.asked["n2"]) || h.lately(h.counted) {
		t.Error("noted before anything was")
	}
	h.noteAsked("n2")
	h.noteCounted()
	h.tick += hasteTicks - 1
	if !h.lately(h.asked["n2"]) || !h.lately(h.counted) {
		t.Error("forgotten too soon")
	}
	h.tick++
	if h.lately(h.asked["n2"]) || h.lately(h.counted) {
		t.Error("never forgotten")
	}
}
