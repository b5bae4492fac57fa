package chaos

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"lockstep/internal/resp"
)

// group is the consumer group of every stream; each client is a consumer of its own.
const group = "g"

// useStream adds an entry, or reads as a consumer and acknowledges most of what it got.
func (w *worker) useStream(key, value string, add bool) Outcome {
	if !w.seeToGroup(key) {
		return Refused
	}
	if add {
		return w.write(key, Add, value, []string{"XADD", key, "*", "v", value})
	}
	return w.takeEntries(key, "COUNT", strconv.Itoa(1+w.rng.IntN(4)))
}

// seeToGroup makes the stream's group unless this client knows that it is there. Its outcome belongs to no history: the group may
// be made by anybody, once.
func (w *worker) seeToGroup(key string) bool {
	if w.grouped == key {
		return true
	}
	_, err := w.conn.do([]string{"XGROUP", "CREATE", key, group, "0", "MKSTREAM"})
	var reply replyError
	if err != nil && !(errors.As(err, &reply) && strings.HasPrefix(string(reply), "BUSYGROUP")) {
		w.failed(Op{Key: key, Node: w.node, Kind: Take}, err)
		return false
	}
	w.grouped = key
	return true
}

// takeEntries reads new entries with XREADGROUP and acknowledges most of them.
func (w *worker) takeEntries(key string, how, amount string) Outcome {
	if !w.seeToGroup(key) {
		return Refused
	}
	consumer := fmt.Sprintf("w%d", w.id)
	op := w.history.call(Op{Client: w.id, Node: w.node, Key: key, Kind: Take, Arg: consumer})
	reply, err := w.conn.do([]string{"XREADGROUP", "GROUP", group, consumer, how, amount, "STREAMS", key, ">"})
	outcome := w.conclude(&op, reply, err)
	if outcome != OK {
		return outcome
	}
	for _, entry := range elements(op.Out) {
		id, _, _ := strings.Cut(entry, "=")
		if w.rng.IntN(5) == 0 {
			continue // it stays pending
		}
		if w.write(key, Ack, id, []string{"XACK", key, group, id}) == Unknown {
			break
		}
	}
	return OK
}

// inspectStream reads a stream, what is pending, and up to where its group has read.
func (w *worker) inspectStream(op Op) Outcome {
	return w.finish(w.history.call(op), []string{"MULTI"}, []string{"XRANGE", op.Key, "-", "+"},
		[]string{"XPENDING", op.Key, group, "-", "+", "100000"}, []string{"XINFO", "GROUPS", op.Key}, []string{"EXEC"})
}

// answerOfStream puts together entries, pending entries with their consumers, and the last ID that was read; errors say that the
// stream was never made.
func answerOfStream(reply resp.Value) (string, error) {
	if reply.Kind != '*' || len(reply.Items) != 3 {
		return "", &strangeReply{fmt.Sprintf("reply of kind %q and %d items", reply.Kind, len(reply.Items))}
	}
	entries, err := entriesOf(reply.Items[0])
	if err != nil {
		return "", err
	}
	var pending strings.Builder
	for _, p := range reply.Items[1].Items {
		if len(p.Items) != 4 {
			return "", &strangeReply{fmt.Sprintf("a pending entry of %d items", len(p.Items))}
		}
		pending.WriteString("," + p.Items[0].Text + "=" + p.Items[1].Text)
	}
	last := "0-0"
	for _, g := range reply.Items[2].Items {
		for i := 0; i+1 < len(g.Items); i += 2 {
			if g.Items[i].Text == "last-delivered-id" {
				last = g.Items[i+1].Text
			}
		}
	}
	return entries + "|" + pending.String() + "|" + last, nil
}

// compareIDs orders IDs of entries.
func compareIDs(a, b string) int {
	split := func(id string) (uint64, uint64) {
		time, order, _ := strings.Cut(id, "-")
		t, _ := strconv.ParseUint(time, 10, 64)
		o, _ := strconv.ParseUint(order, 10, 64)
		return t, o
	}
	at, ao := split(a)
	bt, bo := split(b)
	return cmp.Or(cmp.Compare(at, bt), cmp.Compare(ao, bo))
}

// stream is one stream's history.
type stream struct {
	key   string
	adds  []Op
	takes []Op            // answered ones that got something, in the order of their calls
	lost  map[string]bool // consumers with a read of unknown outcome
	acks  map[string]Op   // by ID
	taken map[string]Op   // by ID: who got it
	value map[string]string
	found []Violation
}

// checkStream holds one stream's history against the rules of streams: every acknowledged entry is there once, in the order of its
// ID and of real time; the group gave each to one consumer, once, in order; what was not acknowledged is pending, what was is not.
func checkStream(key string, ops []Op) []Violation {
	s := &stream{key: key, lost: map[string]bool{}, acks: map[string]Op{}, taken: map[string]Op{}, value: map[string]string{}}
	var finals []Op
	for _, op := range ops {
		switch {
		case op.Kind == Add:
			s.adds = append(s.adds, op)
		case op.Kind == Take && op.Outcome == OK && op.Out != "":
			s.takes = append(s.takes, op)
		case op.Kind == Take && op.Outcome == Unknown:
			s.lost[op.Arg] = true
		case op.Kind == Ack && op.Outcome != Refused:
			s.acks[op.Arg] = op
		case op.Kind == Range && op.Outcome == OK:
			finals = append(finals, op)
		}
	}
	s.checkAdds()
	s.checkTakes()
	for _, final := range finals {
		parts := strings.Split(final.Out, "|")
		if len(parts) != 3 {
			s.complain("reads", "operation %d read %s", final.ID, shorten(final.Out))
			continue
		}
		s.checkEntries(elements(parts[0]))
		s.checkGroup(elements(parts[0]), elements(parts[1]), parts[2])
	}
	return s.found
}

func (s *stream) complain(rule, format string, args ...any) {
	s.found = addOnce(s.found, Violation{Rule: "stream: " + rule, Key: s.key, Text: fmt.Sprintf(format, args...)})
}

// checkAdds: IDs are unique, and in the order of real time.
func (s *stream) checkAdds() {
	for _, a := range s.adds {
		if a.Outcome != OK {
			continue
		}
		for _, b := range s.adds {
			if b.Outcome == OK && a.Return < b.Call && compareIDs(a.Out, b.Out) >= 0 {
				s.complain("order of IDs", "operation %d was given %s, and operation %d, which began afterwards, %s", a.ID, a.Out, b.ID, b.Out)
			}
		}
	}
}

// checkTakes: no entry is given twice, and later reads give later entries.
func (s *stream) checkTakes() {
	highest, byReturn := "", s.takes
	for i, take := range s.takes {
		for _, entry := range elements(take.Out) {
			id, value, _ := strings.Cut(entry, "=")
			if first, twice := s.taken[id]; twice {
				s.complain("read once", "%s was given to operation %d on %s and to %d on %s", id, first.ID, first.Node, take.ID, take.Node)
			}
			s.taken[id], s.value[id] = take, value
		}
		for _, earlier := range byReturn[:i] {
			if earlier.Return >= take.Call {
				continue
			}
			before := elements(earlier.Out)
			highest, _, _ = strings.Cut(before[len(before)-1], "=")
			first, _, _ := strings.Cut(elements(take.Out)[0], "=")
			if compareIDs(highest, first) >= 0 {
				s.complain("order of reads", "operation %d was given %s after operation %d had been given %s", take.ID, first, earlier.ID, highest)
			}
		}
	}
	for id, ack := range s.acks {
		if ack.Outcome == OK && ack.Out != "1" {
			s.complain("what was read is pending", "operation %d acknowledged %s, which it had been given, and was told %s", ack.ID, id, ack.Out)
		}
	}
}

// checkEntries: the stream holds every acknowledged entry under its ID, no refused one, each unknown one at most once, in order.
func (s *stream) checkEntries(entries []string) {
	at := make(map[string]string) // ID by value
	last := ""
	for _, entry := range entries {
		id, value, _ := strings.Cut(entry, "=")
		if last != "" && compareIDs(last, id) >= 0 {
			s.complain("order of IDs", "%s stands before %s", last, id)
		}
		if first, twice := at[value]; twice {
			s.complain("exactly once", "%s is there as %s and as %s", value, first, id)
		}
		if given, taken := s.value[id]; taken && given != value {
			s.complain("entries never change", "%s holds %s, a consumer was given %s", id, value, given)
		}
		at[value], last = id, id
	}
	sent := make(map[string]bool)
	for _, add := range s.adds {
		sent[add.Arg] = true
		id, present := at[add.Arg]
		switch {
		case add.Outcome == OK && !present:
			s.complain("acknowledged is present", "operation %d on %s added %s and was acknowledged with %s; it is not there", add.ID, add.Node, add.Arg, add.Out)
		case add.Outcome == OK && id != add.Out:
			s.complain("acknowledged is present", "operation %d was acknowledged with %s; it is there as %s", add.ID, add.Out, id)
		case add.Outcome == Refused && present:
			s.complain("refused is never present", "operation %d was answered %q; %s is there as %s", add.ID, add.Note, add.Arg, id)
		}
	}
	for value, id := range at {
		if !sent[value] {
			s.complain("nothing else", "%s=%s was added by nobody", id, value)
		}
	}
}

// checkGroup: up to where the group has read, every entry was given to a consumer or is pending for one whose read ended without
// an answer; what a consumer has not acknowledged is pending for it, and nothing else is.
func (s *stream) checkGroup(entries, pending []string, last string) {
	owner := make(map[string]string)
	for _, p := range pending {
		id, consumer, _ := strings.Cut(p, "=")
		owner[id] = consumer
		take, taken := s.taken[id]
		ack, acked := s.acks[id]
		switch {
		case acked && ack.Outcome == OK:
			s.complain("acknowledged is not pending", "%s is pending although operation %d acknowledged it", id, ack.ID)
		case taken && take.Arg != consumer:
			s.complain("pending for its reader", "%s was given to %s and is pending for %s", id, take.Arg, consumer)
		case !taken && !s.lost[consumer]:
			s.complain("pending for its reader", "%s is pending for %s, all of whose reads were answered without it", id, consumer)
		}
	}
	present := make(map[string]bool)
	for _, entry := range entries {
		id, _, _ := strings.Cut(entry, "=")
		present[id] = true
		_, taken := s.taken[id]
		_, acked := s.acks[id]
		switch read := compareIDs(id, last) <= 0; {
		case !read && taken:
			s.complain("read once", "%s was given to operation %d, and the group has read up to %s only", id, s.taken[id].ID, last)
		case read && !taken && owner[id] == "":
			s.complain("read or pending", "the group has read up to %s; %s was given to nobody and is not pending", last, id)
		case taken && !acked && owner[id] == "":
			s.complain("read or pending", "%s was given to operation %d, which did not acknowledge it; it is not pending", id, s.taken[id].ID)
		}
	}
	for id, take := range s.taken {
		if !present[id] {
			s.complain("acknowledged is present", "operation %d was given %s, which is not there", take.ID, id)
		}
	}
}
