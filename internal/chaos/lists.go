package chaos

import (
	"fmt"
	"slices"
	"strconv"
)

// checkList holds one list's history against the rules of lists. It does not need porcupine and shares nothing with it: each
// checks the other.
func checkList(key string, ops []Op) []Violation {
	l := newList(key, ops)
	l.checkReads()
	l.checkPresence()
	l.checkOrder()
	l.checkReadTimes()
	return l.found
}

// list is one list's history.
type list struct {
	key    string
	pushes []Op
	reads  []Op           // answered ones, in the order of their calls
	final  []string       // the longest read: as every read must be a prefix of it, that is all there ever was
	at     map[string]int // where each element is in final
	found  []Violation
}

func newList(key string, ops []Op) *list {
	l := &list{key: key, at: make(map[string]int)}
	for _, op := range ops {
		switch {
		case op.Kind == Push:
			l.pushes = append(l.pushes, op)
		case op.Kind == Range && op.Outcome == OK:
			l.reads = append(l.reads, op)
			if read := elements(op.Out); len(read) > len(l.final) {
				l.final = read
			}
		}
	}
	for i, element := range l.final {
		if first, twice := l.at[element]; twice {
			l.complain("exactly once", "%s is at %d and at %d", element, first, i)
			continue
		}
		l.at[element] = i
	}
	return l
}

func (l *list) complain(rule, format string, args ...any) {
	l.found = append(l.found, Violation{Rule: "list: " + rule, Key: l.key, Text: fmt.Sprintf(format, args...)})
}

// checkReads: every read is a prefix of the final list.
func (l *list) checkReads() {
	for _, read := range l.reads {
		got := elements(read.Out)
		if !slices.Equal(got, l.final[:len(got)]) {
			l.complain("reads are prefixes", "operation %d on %s read %s, the final list is %s", read.ID, read.Node, shorten(read.Out), shorten(fmt.Sprint(l.final)))
		}
	}
}

// checkPresence: what was acknowledged is there, at the place that the answer told; what was refused is not; nothing else is.
// Presence is judged by reads that were sent after the push had ended; there is at least the final one.
func (l *list) checkPresence() {
	sent := make(map[string]bool)
	lastRead := int64(-1)
	for _, read := range l.reads {
		lastRead = max(lastRead, read.Call)
	}
	for _, push := range l.pushes {
		sent[push.Arg] = true
		place, present := l.at[push.Arg]
		switch {
		case push.Outcome == Refused && present:
			l.complain("refused is never present", "operation %d pushed %s, was answered %q, and it is at %d", push.ID, push.Arg, push.Note, place)
		case push.Outcome == OK && present && push.Out != strconv.Itoa(place+1):
			l.complain("places", "operation %d pushed %s and was told length %s; it is at %d", push.ID, push.Arg, push.Out, place)
		case push.Outcome == OK && !present && push.Return < lastRead:
			l.complain("acknowledged is present", "operation %d on %s pushed %s and was acknowledged; it is in no read", push.ID, push.Node, push.Arg)
		}
	}
	for i, element := range l.final {
		if !sent[element] {
			l.complain("nothing else", "%s at %d was pushed by nobody", element, i)
		}
	}
}

// checkOrder: if a push had ended before another began, it stands before it.
func (l *list) checkOrder() {
	inOrder := make([]*Op, len(l.final))
	for i := range l.pushes {
		if place, present := l.at[l.pushes[i].Arg]; present {
			inOrder[place] = &l.pushes[i]
		}
	}
	var earliest *Op // of those behind, the one that ended first
	for i := len(inOrder) - 1; i >= 0; i-- {
		push := inOrder[i]
		if push == nil {
			continue
		}
		if earliest != nil && earliest.Return < push.Call {
			l.complain("real-time order", "%s stands before %s, whose push had ended before that of %s began", push.Arg, earliest.Arg, push.Arg)
		}
		if push.Outcome == OK && (earliest == nil || push.Return < earliest.Return) {
			earliest = push
		}
	}
}

// checkReadTimes: a read shows every push that had been acknowledged before it began, none that began after it had ended,
// and not less than an earlier read.
func (l *list) checkReadTimes() {
	for _, read := range l.reads {
		got := len(elements(read.Out))
		for _, push := range l.pushes {
			place, present := l.at[push.Arg]
			if !present {
				continue
			}
			if push.Outcome == OK && push.Return < read.Call && place >= got {
				l.complain("no stale reads", "operation %d on %s read %d elements and misses %s, acknowledged %d ns before", read.ID, read.Node, got, push.Arg, read.Call-push.Return)
			}
			if push.Call > read.Return && place < got {
				l.complain("no reads of the future", "operation %d read %s before it was sent", read.ID, push.Arg)
			}
		}
	}
	byReturn := slices.Clone(l.reads)
	slices.SortFunc(byReturn, func(a, b Op) int { return int(min(max(a.Return-b.Return, -1), 1)) })
	next, longest := 0, 0
	for _, read := range l.reads { // in the order of their calls
		for next < len(byReturn) && byReturn[next].Return < read.Call {
			longest = max(longest, len(elements(byReturn[next].Out)))
			next++
		}
		if got := len(elements(read.Out)); got < longest {
			l.complain("reads never go back", "operation %d on %s read %d elements after a read of %d had ended", read.ID, read.Node, got, longest)
		}
	}
}
