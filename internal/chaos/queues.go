package chaos

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/pause"
	"lockstep/internal/resp"
)

// push puts an element onto a queue. Elements of lists are taken from their other end; those of a sorted set by their score.
func (w *worker) push(key, value string) Outcome {
	op := Op{Client: w.id, Node: w.node, Key: key, Kind: Push, Arg: value}
	command := []string{"RPUSH", key, value}
	switch key[0] {
	case 'm':
		command[0] = "LPUSH"
	case 'z':
		op.Old = strconv.Itoa(w.rng.IntN(5))
		command = []string{"ZADD", key, op.Old, value}
	}
	return w.finish(w.history.call(op), command)
}

// waitPatience is how long a client waits for the answer to a command that blocks for up to three seconds.
const waitPatience = 20 * time.Second

// waitAtQueues pops, again and again, with commands that wait. All waiting clients tend to the same queue, so that several wait
// at once.
func (w *worker) waitAtQueues(ctx context.Context) {
	defer w.hangUp()
	for ctx.Err() == nil {
		if !w.connect(ctx, waitPatience) {
			continue
		}
		crowd := int(w.history.now() / int64(4*time.Second))
		if w.rng.IntN(3) == 0 {
			crowd = w.rng.IntN(8)
		}
		key := w.ring.current("qmzs"[crowd%4], crowd/4)
		if key == "" {
			pause.For(ctx, 100*time.Millisecond)
			continue
		}
		outcome := w.pop(key)
		if w.broken {
			w.hangUp()
		}
		if outcome == Refused {
			pause.For(ctx, 50*time.Millisecond)
		}
	}
}

// pop waits for an element of a queue, or for entries of a stream.
func (w *worker) pop(key string) Outcome {
	seconds := strconv.Itoa(1 + w.rng.IntN(3))
	either := func(one, other []string) []string {
		if w.rng.IntN(2) == 0 {
			return one
		}
		return other
	}
	var command []string
	switch key[0] {
	case 's':
		return w.takeEntries(key, "BLOCK", seconds+"000")
	case 'q':
		command = either([]string{"BLPOP", key, seconds}, []string{"BLMPOP", seconds, "1", key, "LEFT"})
	case 'm':
		command = either([]string{"BLMOVE", key, key + ":to", "RIGHT", "LEFT", seconds}, []string{"BRPOPLPUSH", key, key + ":to", seconds})
	default:
		command = either([]string{"BZPOPMIN", key, seconds}, []string{"BZMPOP", seconds, "1", key, "MIN"})
	}
	return w.finish(w.history.call(Op{Client: w.id, Node: w.node, Key: key, Kind: Pop}), command)
}

// inspectQueue reads what is left of a queue, and what was moved out of it.
func (w *worker) inspectQueue(op Op) Outcome {
	left := []string{"LRANGE", op.Key, "0", "-1"}
	if op.Key[0] == 'z' {
		left[0] = "ZRANGE"
	}
	return w.finish(w.history.call(op), []string{"MULTI"}, left, []string{"LRANGE", op.Key + ":to", "0", "-1"}, []string{"EXEC"})
}

func answerOfQueue(reply resp.Value) (string, error) {
	if reply.Kind != '*' || len(reply.Items) != 2 {
		return "", &strangeReply{fmt.Sprintf("reply of kind %q and %d items", reply.Kind, len(reply.Items))}
	}
	left, err := integers(reply.Items[0])
	if err != nil {
		return "", &strangeReply{err.Error()}
	}
	moved, err := integers(reply.Items[1])
	if err != nil {
		return "", &strangeReply{err.Error()}
	}
	return left + "|" + moved, nil
}

// queue is one queue's history.
type queue struct {
	key     string
	pushes  []Op
	pops    []Op // answered ones
	unknown int  // pops of which nobody knows
	finals  []Op
	found   []Violation
	handed  []string // elements that went to nobody: with an unknown pop for each
}

// checkQueue holds one queue's history against the rules of queues: every element is delivered once at most, and was delivered,
// is there still, was moved, or went into a reply that nobody saw; first in, first out; nobody waits in vain.
func checkQueue(key string, ops []Op) (found []Violation, handed []string) {
	q := &queue{key: key}
	for _, op := range ops {
		switch {
		case op.Kind == Push:
			q.pushes = append(q.pushes, op)
		case op.Kind == Pop && op.Outcome == OK:
			q.pops = append(q.pops, op)
		case op.Kind == Pop && op.Outcome == Unknown:
			q.unknown++
		case op.Kind == Range && op.Outcome == OK:
			q.finals = append(q.finals, op)
		}
	}
	popped := q.delivered()
	for _, final := range q.finals {
		left, moved, _ := strings.Cut(final.Out, "|")
		q.checkPresence(popped, elements(left), elements(moved))
		q.checkOrder(popped, elements(left))
		q.checkMoves(popped, elements(moved))
	}
	return q.found, q.handed
}

func (q *queue) complain(rule, format string, args ...any) {
	q.found = addOnce(q.found, Violation{Rule: "queue: " + rule, Key: q.key, Text: fmt.Sprintf(format, args...)})
}

// delivered returns the pop that delivered each element.
func (q *queue) delivered() map[string]Op {
	popped := make(map[string]Op)
	pushed := make(map[string]Op)
	for _, push := range q.pushes {
		pushed[push.Arg] = push
	}
	for _, pop := range q.pops {
		if pop.Out == "" {
			continue
		}
		push, known := pushed[pop.Out]
		switch first, twice := popped[pop.Out]; {
		case twice:
			q.complain("delivered once", "%s was delivered by operation %d on %s and by %d on %s", pop.Out, first.ID, first.Node, pop.ID, pop.Node)
		case !known:
			q.complain("nothing else", "operation %d was given %s, which nobody pushed", pop.ID, pop.Out)
		case push.Outcome == Refused:
			q.complain("refused is never present", "operation %d was given %s, whose push was answered %q", pop.ID, pop.Out, push.Note)
		case push.Call > pop.Return:
			q.complain("nothing of the future", "operation %d was given %s before it was pushed", pop.ID, pop.Out)
		}
		popped[pop.Out] = pop
	}
	return popped
}

// checkPresence: an acknowledged element that was not delivered is still there, was moved, or went to one of those whose outcome is
// unknown, of which there must be enough.
func (q *queue) checkPresence(popped map[string]Op, left, moved []string) {
	where := make(map[string]int)
	for _, element := range append(append([]string(nil), left...), moved...) {
		if where[element]++; where[element] > 1 {
			q.complain("delivered once", "%s is there twice", element)
		}
	}
	for _, element := range left {
		if pop, gone := popped[element]; gone {
			q.complain("delivered once", "%s was delivered by operation %d and is still there", element, pop.ID)
		}
	}
	var missing []string
	sent := make(map[string]bool)
	for _, push := range q.pushes {
		sent[push.Arg] = true
		_, delivered := popped[push.Arg]
		switch {
		case push.Outcome == Refused && where[push.Arg] > 0:
			q.complain("refused is never present", "%s, whose push was answered %q, is there", push.Arg, push.Note)
		case push.Outcome == OK && !delivered && where[push.Arg] == 0:
			missing = append(missing, push.Arg)
		}
	}
	for element := range where {
		if !sent[element] {
			q.complain("nothing else", "%s was pushed by nobody", element)
		}
	}
	unknown := q.unknown
	if q.key[0] == 'm' {
		unknown = 0 // what an unknown BLMOVE took is where it moved it
	}
	if len(missing) > unknown {
		q.complain("acknowledged is delivered or present", "%s were acknowledged; nobody got them, they are not there, and the outcome of %d pops is unknown",
			strings.Join(missing, ", "), unknown)
	}
	q.handed = missing
}

// before reports whether a comes out of the queue before b if both are in it.
func (q *queue) before(a, b *Op) bool {
	if q.key[0] != 'z' {
		return a.Return < b.Call // first in, first out
	}
	return a.Old < b.Old || a.Old == b.Old && a.Arg < b.Arg
}

// checkOrder: while an element was certainly there, nobody got one that comes after it, and nobody was told that the time was up.
func (q *queue) checkOrder(popped map[string]Op, left []string) {
	stays := make(map[string]bool)
	for _, element := range left {
		stays[element] = true
	}
	byArg := make(map[string]*Op)
	for i := range q.pushes {
		byArg[q.pushes[i].Arg] = &q.pushes[i]
	}
	for i := range q.pushes {
		push := &q.pushes[i]
		until, gone := popped[push.Arg]
		if push.Outcome != OK || !gone && !stays[push.Arg] {
			continue
		}
		for _, pop := range q.pops {
			there := push.Return < pop.Call && (!gone || until.Call > pop.Return)
			if q.key[0] != 'z' { // one that was pushed before another is there when that is popped
				other := byArg[pop.Out]
				there = there || pop.Out != "" && other != nil && push.Return < other.Call && (!gone || until.Call > pop.Return)
			}
			switch other := byArg[pop.Out]; {
			case !there || pop.Out == push.Arg:
			case pop.Out == "":
				q.complain("nobody waits in vain", "operation %d on %s waited until its time was up while %s was there", pop.ID, pop.Node, push.Arg)
			case other != nil && q.before(push, other):
				q.complain("order", "operation %d on %s was given %s while %s was there", pop.ID, pop.Node, pop.Out, push.Arg)
			}
		}
	}
}

// checkMoves: what BLMOVE delivered stands where it was moved to, in the order of the moves: the newest in front.
func (q *queue) checkMoves(popped map[string]Op, moved []string) {
	if q.key[0] != 'm' {
		return
	}
	at := make(map[string]int)
	for i, element := range moved {
		at[element] = len(moved) - i // 1 is the first
	}
	var last Op // of those that stand first so far, the one whose call was the latest
	for i := len(moved) - 1; i >= 0; i-- {
		pop, known := popped[moved[i]]
		if !known {
			continue
		}
		if last.ID != 0 && pop.Return < last.Call {
			q.complain("order of moves", "%s stands behind %s, although its move had ended before that one began", moved[i], last.Out)
		}
		if pop.Call > last.Call {
			last = pop
		}
	}
	for _, pop := range q.pops {
		if pop.Out != "" && at[pop.Out] == 0 {
			q.complain("what is moved stays", "operation %d moved %s; it is not where it was moved to", pop.ID, pop.Out)
		}
	}
}
