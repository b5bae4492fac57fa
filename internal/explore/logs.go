package explore

import (
	"fmt"

	"lockstep/smr"
)

// logID names a log, that is a sequence of frames; 0 is the empty one. Equal bytes have equal ids.
type logID uint32

// logEntry is a log as its last frame and what is before it.
type logEntry struct {
	parent  logID
	end     smr.LSN
	frames  int
	epoch   smr.Epoch // of the last frame
	kind    smr.Kind
	commit  smr.LSN // highest in the headers of the frames
	frame   []byte
	history smr.History
	config  smr.Config // of the last epoch start
	hash    [maxPerms]uint64
}

type logKey struct {
	parent logID
	frame  string
}

// logs keeps every log that occurs, once.
type logs struct {
	all   []logEntry
	ids   map[logKey]logID
	names *names
	// plain: the commit LSN in the headers of frames, which is only a hint after a restart, is taken for 0.
	plain bool
}

func newLogs(n *names) *logs {
	return &logs{all: make([]logEntry, 1), ids: make(map[logKey]logID), names: n}
}

func (l *logs) at(id logID) *logEntry { return &l.all[id] }

// append returns the log that is parent and the whole frames behind it.
func (l *logs) append(parent logID, frames []byte) (logID, error) {
	for len(frames) > 0 {
		f, err := smr.DecodeFrame(frames, l.all[parent].end)
		if err != nil {
			return 0, err
		}
		parent = l.appendFrame(parent, f, frames[:f.Size()])
		frames = frames[f.Size():]
	}
	return parent, nil
}

func (l *logs) appendFrame(parent logID, f smr.Frame, frame []byte) logID {
	if l.plain && f.Commit != 0 {
		f.Commit = 0
		frame = smr.AppendFrame(nil, f)
	}
	key := logKey{parent, string(frame)}
	if id, ok := l.ids[key]; ok {
		return id
	}
	before := &l.all[parent]
	entry := logEntry{
		parent: parent, end: f.End(), frames: before.frames + 1, epoch: f.Epoch, kind: f.Kind, commit: max(before.commit, f.Commit),
		frame: append([]byte(nil), frame...), history: before.history, config: before.config,
	}
	if f.Kind == smr.KindEpochStart {
		entry.history = append(before.history.Clone(), smr.Span{Epoch: f.Epoch, From: f.LSN})
		entry.config, _, _ = smr.DecodeConfig(f.Body) // DecodeFrame checked it
	}
	for p := range l.names.perms {
		h := mix(before.hash[p], uint64(f.Epoch)<<8|uint64(f.Kind))
		h = mix(h, uint64(f.Commit))
		switch f.Kind {
		case smr.KindEpochStart:
			h = mix(h, l.names.hashConfig(entry.config, p))
		case smr.KindRequests:
			request, _, _ := smr.CutRequest(f.Body)
			h = mix(h, uint64(l.names.perms[p][request.Session-1]))
		}
		entry.hash[p] = mix(h, uint64(f.Size()))
	}
	id := logID(len(l.all))
	l.all = append(l.all, entry)
	l.ids[key] = id
	return id
}

// cut returns the log that is id below end, if a frame ends there.
func (l *logs) cut(id logID, end smr.LSN) (logID, bool) {
	for l.all[id].end > end {
		id = l.all[id].parent
	}
	return id, l.all[id].end == end
}

// next returns the log that has one frame of id more than the LSN end.
func (l *logs) next(id logID, end smr.LSN) (logID, bool) {
	for l.all[id].end > end {
		parent := l.all[id].parent
		if l.all[parent].end == end {
			return id, true
		}
		id = parent
	}
	return 0, false
}

// isPrefix reports whether b begins with a.
func (l *logs) isPrefix(a, b logID) bool {
	cut, ok := l.cut(b, l.all[a].end)
	return ok && cut == a
}

func (l *logs) position(id logID) smr.Position {
	return smr.Position{Epoch: l.all[id].epoch, End: l.all[id].end}
}

// words shows a log: epoch starts as 3*, other frames as 3.
func (l *logs) words(id logID) string {
	text := ""
	for ; id != 0; id = l.all[id].parent {
		e := &l.all[id]
		mark := ""
		if e.kind == smr.KindEpochStart {
			mark = "*"
		}
		text = fmt.Sprintf(" %d%s", e.epoch, mark) + text
	}
	if text == "" {
		return "empty"
	}
	return text[1:]
}

// names turns the names of a scope's replicas into numbers, under each renaming.
type names struct {
	nodes []smr.NodeID
	perms [][maxNodes]uint8
}

func newNames(count int) *names {
	n := &names{perms: permutations(count)}
	for i := range count {
		n.nodes = append(n.nodes, smr.NodeID(fmt.Sprintf("n%d", i)))
	}
	return n
}

func (n *names) index(id smr.NodeID) int { return int(id[1] - '0') }

// member returns node i after so many wipes.
func (n *names) member(i int, wipes uint8) smr.Member {
	return smr.Member{Node: n.nodes[i], Incarnation: smr.Incarnation(100*(i+1)) + smr.Incarnation(wipes)}
}

// wipesOf is the inverse of member.
func (n *names) wipesOf(m smr.Member) uint8 {
	return uint8(m.Incarnation - smr.Incarnation(100*(n.index(m.Node)+1)))
}

// hashConfig is a fingerprint of c under a renaming: independent of the order of members.
func (n *names) hashConfig(c smr.Config, p int) uint64 {
	if c.Epoch == 0 {
		return 0
	}
	var members [maxNodes]uint64
	for _, m := range c.Members {
		members[n.perms[p][n.index(m.Node)]] = 1 + uint64(n.wipesOf(m))
	}
	h := mix(uint64(c.Epoch)<<8|uint64(c.Reign), uint64(n.perms[p][n.index(c.Master)])<<8|uint64(c.Copies))
	for _, m := range members {
		h = mix(h, m)
	}
	return h
}
