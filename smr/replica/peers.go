package replica

import (
	"fmt"
	"sort"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

func (r *Replica) findPeer(node smr.NodeID) (int, bool) {
	peers := r.lead.peers
	i := sort.Search(len(peers), func(i int) bool { return peers[i].member.Node >= node })
	return i, i < len(peers) && peers[i].member.Node == node
}

func (r *Replica) peerOf(conn ConnID) *peer {
	for i := range r.lead.peers {
		if conn != 0 && r.lead.peers[i].conn == conn {
			return &r.lead.peers[i]
		}
	}
	return nil
}

// refuse sends a Reject; the shell closes the connection behind it.
func (r *Replica) refuse(conn ConnID, code smr.RejectCode, reason string, out *Effects) {
	out.Send = append(out.Send, Send{Conn: conn, Message: &smr.Reject{Code: code, Epoch: r.currentEpoch(), Reason: reason}})
	r.event(out, EventRejected, r.end, "", reason)
}

// ofReign reports whether epoch is the reign's or one of its reconfigurations so far.
func (r *Replica) ofReign(epoch smr.Epoch) bool {
	return (epoch >= r.cfg.Reign || mutant.On(mutant.AttachUnpromised)) && epoch <= r.cfg.Epoch
}

// peerHello admits a slave or learner to a connection and tells it our History (S7).
func (r *Replica) peerHello(in *PeerHello, out *Effects) {
	node := in.Hello.Node
	switch {
	case r.mode != modeMaster:
		r.refuse(in.Conn, smr.RejectNotMaster, fmt.Sprintf("%s does not lead", r.o.Self.Node), out)
		return
	case node == r.o.Self.Node || smr.CheckNodeID(string(node)) != nil || in.Hello.Incarnation == 0:
		r.refuse(in.Conn, smr.RejectForeign, fmt.Sprintf("%q cannot be a slave of %s", node, r.o.Self.Node), out)
		return
	case !r.ofReign(in.Hello.Epoch):
		r.refuse(in.Conn, smr.RejectStaleEpoch, fmt.Sprintf("%s says hello in epoch %d, epoch is %d of reign %d",
			node, in.Hello.Epoch, r.cfg.Epoch, r.cfg.Reign), out)
		return
	}
	member := smr.Member{Node: node, Incarnation: in.Hello.Incarnation}
	i, known := r.findPeer(node)
	if !known {
		if len(r.lead.peers) >= maxPeers {
			r.refuse(in.Conn, smr.RejectBusy, fmt.Sprintf("%s has %d slaves already", r.o.Self.Node, maxPeers), out)
			return
		}
		r.lead.peers = append(r.lead.peers, peer{})
		copy(r.lead.peers[i+1:], r.lead.peers[i:])
		r.lead.peers[i] = peer{member: member}
	}
	p := &r.lead.peers[i]
	if p.conn != 0 {
		out.Hangup = append(out.Hangup, p.conn)
	}
	if p.member != member {
		*p = peer{member: member} // a new incarnation: what the old one held counts for nothing
	}
	p.conn, p.streams, p.round, p.leased, p.heard = in.Conn, false, 0, 0, r.ticks
	if mutant.On(mutant.CommitBeforeRewind) {
		r.sendBeats(out)
	}
	out.Send = append(out.Send, Send{Conn: in.Conn, Message: &smr.MasterHello{
		Handshake: r.handshake(), Epoch: r.cfg.Epoch, History: r.history.Clone(), Start: r.start, End: r.end, Config: r.cfg,
	}})
}

func (r *Replica) handshake() smr.Handshake {
	return smr.Handshake{Cluster: r.o.Cluster, Group: r.o.Group, Node: r.o.Self.Node, Level: r.o.Level}
}

// peerStart begins to feed a slave that has cut its log to the common prefix.
func (r *Replica) peerStart(in *PeerStart, out *Effects) {
	p := r.peerOf(in.Conn)
	switch {
	case p == nil || r.mode != modeMaster || p.streams:
		return
	case !r.ofReign(in.Start.Epoch):
		r.refuseDown(in.Conn, smr.RejectStaleEpoch, fmt.Sprintf("%s starts in epoch %d", p.member.Node, in.Start.Epoch), out)
		return
	case in.Start.From < r.start:
		r.refuseDown(in.Conn, smr.RejectTrimmed, fmt.Sprintf("the log of %s begins at %d, %s needs it from %d",
			r.o.Self.Node, r.start, p.member.Node, in.Start.From), out)
		return
	case in.Start.From > r.end:
		r.refuseDown(in.Conn, smr.RejectVersion, fmt.Sprintf("%s starts at %d, above the end %d", p.member.Node, in.Start.From, r.end), out)
		return
	}
	p.streams, p.heard = true, r.ticks
	out.Feed = append(out.Feed, Feed{Conn: in.Conn, From: in.Start.From})
	r.event(out, EventAttached, in.Start.From, p.member.Node, "")
	r.sendBeats(out)
}

func (r *Replica) refuseDown(conn ConnID, code smr.RejectCode, reason string, out *Effects) {
	r.peerDown(conn, out)
	r.refuse(conn, code, reason, out)
}

// peerAck counts what a slave holds durably. The acknowledgement must belong to this reign: by its connection, whose
// handshake was of this reign, and by its own epoch.
func (r *Replica) peerAck(in *PeerAck, out *Effects) {
	p := r.peerOf(in.Conn)
	if p == nil || r.mode != modeMaster || !p.streams {
		return
	}
	switch {
	case !r.ofReign(in.Ack.Epoch):
		r.refuseDown(in.Conn, smr.RejectStaleEpoch, fmt.Sprintf("%s acknowledges in epoch %d", p.member.Node, in.Ack.Epoch), out)
		return
	case in.Ack.Durable > r.end:
		r.refuseDown(in.Conn, smr.RejectVersion, fmt.Sprintf("%s acknowledges %d, above the end %d", p.member.Node, in.Ack.Durable, r.end), out)
		return
	}
	p.heard = r.ticks
	p.durable = max(p.durable, in.Ack.Durable)
	p.round = max(p.round, min(in.Ack.Round, r.lead.round))
	p.leased = max(p.leased, r.askedAt(in.Ack.Leased))
	r.advanceCommit(out)
	r.confirmReads(out)
}

// peerDown forgets a slave's connection. What it acknowledged stays counted.
func (r *Replica) peerDown(conn ConnID, out *Effects) {
	p := r.peerOf(conn)
	if p == nil {
		return
	}
	streamed := p.streams
	p.conn, p.streams, p.round, p.leased = 0, false, 0, 0
	if streamed {
		r.event(out, EventPeerGone, p.durable, p.member.Node, "")
	}
}
