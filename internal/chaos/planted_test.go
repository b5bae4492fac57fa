package chaos

import (
	"strings"
	"testing"
	"time"
)

const queueKeys = "q1"

func (t *tape) enqueue(element string) *Op {
	return t.add(Op{Key: queueKeys, Kind: Push, Arg: element, Out: "1"})
}
func (t *tape) pop(element string) *Op { return t.add(Op{Key: queueKeys, Kind: Pop, Out: element}) }
func (t *tape) left(out string)        { t.add(Op{Key: queueKeys, Kind: Range, Out: out, Final: true}) }
func (t *tape) unknown(op Op)          { op.Outcome = Unknown; t.add(op) }

// What could go wrong: a queue may lose, double or reorder elements, and its checker accepts it.
func TestPlantedQueuesAreRejected(t *testing.T) {
	score := func(h *tape, element, score string) {
		h.add(Op{Key: "z1", Kind: Push, Arg: element, Old: score, Out: "1"})
	}
	move := func(h *tape, element string) { h.add(Op{Key: "m1", Kind: Pop, Out: element}) }
	feed := func(h *tape, element string) { h.add(Op{Key: "m1", Kind: Push, Arg: element, Out: "1"}) }
	end := func(h *tape, key, out string) { h.add(Op{Key: key, Kind: Range, Out: out, Final: true}) }
	judgePlanted(t, []planted{
		{"good", "", func(h *tape) {
			h.pop("") // its time was up: nothing was there
			h.enqueue("1")
			h.enqueue("2")
			h.pop("1")
			h.enqueue("3")
			h.left(",2,3|")
		}},
		{"handed to one that nobody knows", "", func(h *tape) {
			h.unknown(Op{Key: queueKeys, Kind: Pop})
			h.enqueue("1")
			h.left("|")
		}},
		{"served while it waited", "", func(h *tape) {
			h.add(Op{Key: queueKeys, Kind: Pop, Out: "1", Call: 1, Return: 20})
			h.add(Op{Key: queueKeys, Kind: Push, Arg: "1", Out: "1", Call: 10, Return: 30})
			h.left("|")
		}},
		{"lost", "acknowledged is delivered or present", func(h *tape) { h.enqueue("1"); h.left("|") }},
		{"more lost than can have been handed", "acknowledged is delivered or present", func(h *tape) {
			h.unknown(Op{Key: queueKeys, Kind: Pop})
			h.enqueue("1")
			h.enqueue("2")
			h.left("|")
		}},
		{"delivered twice", "delivered once", func(h *tape) { h.enqueue("1"); h.pop("1"); h.pop("1"); h.left("|") }},
		{"delivered and there", "delivered once", func(h *tape) { h.enqueue("1"); h.pop("1"); h.left(",1|") }},
		{"there twice", "delivered once", func(h *tape) { h.enqueue("1"); h.left(",1,1|") }},
		{"refused and delivered", "refused is never present", func(h *tape) {
			h.add(Op{Key: queueKeys, Kind: Push, Arg: "1", Outcome: Refused})
			h.pop("1")
			h.left("|")
		}},
		{"refused and there", "refused is never present", func(h *tape) {
			h.add(Op{Key: queueKeys, Kind: Push, Arg: "1", Outcome: Refused})
			h.left(",1|")
		}},
		{"out of nowhere", "nothing else", func(h *tape) { h.pop("1"); h.left("|") }},
		{"there out of nowhere", "nothing else", func(h *tape) { h.left(",1|") }},
		{"before it was pushed", "nothing of the future", func(h *tape) { h.pop("1"); h.enqueue("1"); h.left("|") }},
		{"last in, first out", "order", func(h *tape) { h.enqueue("1"); h.enqueue("2"); h.pop("2"); h.pop("1"); h.left("|") }},
		{"first in, still there", "order", func(h *tape) { h.enqueue("1"); h.enqueue("2"); h.pop("2"); h.left(",1|") }},
		{"waits in vain", "nobody waits in vain", func(h *tape) { h.enqueue("1"); h.pop(""); h.pop("1"); h.left("|") }},
		{"waits in vain beside what stays", "nobody waits in vain", func(h *tape) { h.enqueue("1"); h.pop(""); h.left(",1|") }},

		{"good by score", "", func(h *tape) {
			score(h, "1", "4")
			score(h, "2", "2")
			h.add(Op{Key: "z1", Kind: Pop, Out: "2"})
			end(h, "z1", ",1|")
		}},
		{"not by score", "order", func(h *tape) {
			score(h, "1", "4")
			score(h, "2", "2")
			h.add(Op{Key: "z1", Kind: Pop, Out: "1"})
			end(h, "z1", ",2|")
		}},

		{"good moves", "", func(h *tape) { feed(h, "1"); feed(h, "2"); move(h, "1"); move(h, "2"); end(h, "m1", "|,2,1") }},
		{"an unknown move", "", func(h *tape) {
			feed(h, "1")
			h.unknown(Op{Key: "m1", Kind: Pop})
			end(h, "m1", "|,1")
		}},
		{"moved and lost", "what is moved stays", func(h *tape) { feed(h, "1"); move(h, "1"); end(h, "m1", "|") }},
		{"lost by an unknown move", "acknowledged is delivered or present", func(h *tape) {
			feed(h, "1")
			h.unknown(Op{Key: "m1", Kind: Pop})
			end(h, "m1", "|")
		}},
		{"moved in another order", "order of moves", func(h *tape) { feed(h, "1"); feed(h, "2"); move(h, "1"); move(h, "2"); end(h, "m1", "|,1,2") }},
		{"moved and left", "delivered once", func(h *tape) { feed(h, "1"); move(h, "1"); end(h, "m1", ",1|,1") }},
	})
}

// What could go wrong: a stream or its group may lose, double or reorder entries, and the checker accepts it.
func TestPlantedStreamsAreRejected(t *testing.T) {
	add := func(h *tape, value, id string) { h.add(Op{Key: "s1", Kind: Add, Arg: value, Out: id}) }
	take := func(h *tape, consumer, out string) { h.add(Op{Key: "s1", Kind: Take, Arg: consumer, Out: out}) }
	ack := func(h *tape, id, out string) { h.add(Op{Key: "s1", Kind: Ack, Arg: id, Out: out}) }
	end := func(h *tape, out string) { h.add(Op{Key: "s1", Kind: Range, Out: out, Final: true}) }
	judgePlanted(t, []planted{
		{"good", "", func(h *tape) {
			add(h, "a", "9-0")
			add(h, "b", "10-0")
			add(h, "c", "10-1")
			take(h, "w1", ",9-0=a,10-0=b")
			ack(h, "9-0", "1")
			end(h, ",9-0=a,10-0=b,10-1=c|,10-0=w1|10-0")
		}},
		{"a read of which nobody knows", "", func(h *tape) {
			add(h, "a", "1-0")
			h.unknown(Op{Key: "s1", Kind: Take, Arg: "w1"})
			h.unknown(Op{Key: "s1", Kind: Add, Arg: "b"})
			end(h, ",1-0=a,2-0=b|,1-0=w1|1-0")
		}},
		{"entry lost", "acknowledged is present", func(h *tape) { add(h, "a", "1-0"); end(h, "||0-0") }},
		{"entry under another ID", "acknowledged is present", func(h *tape) { add(h, "a", "1-0"); end(h, ",2-0=a||0-0") }},
		{"entry doubled", "exactly once", func(h *tape) { add(h, "a", "1-0"); end(h, ",1-0=a,2-0=a||0-0") }},
		{"entry changed", "entries never change", func(h *tape) {
			add(h, "a", "1-0")
			h.unknown(Op{Key: "s1", Kind: Add, Arg: "b"})
			take(h, "w1", ",1-0=a")
			end(h, ",1-0=b,2-0=a|,1-0=w1|1-0")
		}},
		{"refused entry", "refused is never present", func(h *tape) {
			h.add(Op{Key: "s1", Kind: Add, Arg: "a", Outcome: Refused})
			end(h, ",1-0=a||0-0")
		}},
		{"entry out of nowhere", "nothing else", func(h *tape) { end(h, ",1-0=a||0-0") }},
		{"IDs against real time", "order of IDs", func(h *tape) { add(h, "a", "10-0"); add(h, "b", "9-0"); end(h, ",9-0=b,10-0=a||0-0") }},
		{"IDs not in order", "order of IDs", func(h *tape) { add(h, "a", "1-0"); add(h, "b", "2-0"); end(h, ",2-0=b,1-0=a||0-0") }},
		{"given twice", "read once", func(h *tape) {
			add(h, "a", "1-0")
			take(h, "w1", ",1-0=a")
			take(h, "w2", ",1-0=a")
			end(h, ",1-0=a|,1-0=w2|1-0")
		}},
		{"given and not read", "read once", func(h *tape) { add(h, "a", "1-0"); take(h, "w1", ",1-0=a"); end(h, ",1-0=a||0-0") }},
		{"given in another order", "order of reads", func(h *tape) {
			add(h, "a", "1-0")
			add(h, "b", "2-0")
			take(h, "w1", ",2-0=b")
			take(h, "w1", ",1-0=a")
			end(h, ",1-0=a,2-0=b|,1-0=w1,2-0=w1|2-0")
		}},
		{"given and gone", "acknowledged is present", func(h *tape) { add(h, "a", "1-0"); take(h, "w1", ",1-0=a"); end(h, "||1-0") }},
		{"left out by the group", "read or pending", func(h *tape) {
			add(h, "a", "1-0")
			add(h, "b", "2-0")
			take(h, "w1", ",2-0=b")
			end(h, ",1-0=a,2-0=b|,2-0=w1|2-0")
		}},
		{"forgotten as pending", "read or pending", func(h *tape) { add(h, "a", "1-0"); take(h, "w1", ",1-0=a"); end(h, ",1-0=a||1-0") }},
		{"acknowledged and pending", "acknowledged is not pending", func(h *tape) {
			add(h, "a", "1-0")
			take(h, "w1", ",1-0=a")
			ack(h, "1-0", "1")
			end(h, ",1-0=a|,1-0=w1|1-0")
		}},
		{"acknowledged in vain", "what was read is pending", func(h *tape) {
			add(h, "a", "1-0")
			take(h, "w1", ",1-0=a")
			ack(h, "1-0", "0")
			end(h, ",1-0=a||1-0")
		}},
		{"pending for another", "pending for its reader", func(h *tape) { add(h, "a", "1-0"); take(h, "w1", ",1-0=a"); end(h, ",1-0=a|,1-0=w2|1-0") }},
		{"pending for nobody", "pending for its reader", func(h *tape) { add(h, "a", "1-0"); end(h, ",1-0=a|,1-0=w1|1-0") }},
	})
}

// What could go wrong: a message is lost, doubled, or heard in another order on another node, and the checker accepts it.
func TestPlantedChannelsAreRejected(t *testing.T) {
	say := func(h *tape, message string) { h.add(Op{Key: channelKey, Kind: Publish, Arg: message, Out: "1"}) }
	hear := func(h *tape, from int64, out string, final bool) {
		h.add(Op{Key: channelKey, Kind: Hear, Call: from, Return: h.time + 1, Out: out, Final: final})
	}
	three := func(h *tape) { say(h, "a"); say(h, "b"); say(h, "c") }
	judgePlanted(t, []planted{
		{"good", "", func(h *tape) { h.time = 10; three(h); hear(h, 1, ",a,b,c,end", true); hear(h, 1, ",a,b", false) }},
		{"begun in the middle", "", func(h *tape) { h.time = 10; three(h); hear(h, 1, ",a,b,c,end", true); hear(h, 13, ",b,c,end", true) }},
		{"an unknown one", "", func(h *tape) {
			h.time = 10
			say(h, "a")
			h.unknown(Op{Key: channelKey, Kind: Publish, Arg: "x"})
			say(h, "b")
			hear(h, 1, ",a,b,end", true)
		}},
		{"lost in the middle", "one order|acknowledged is heard", func(h *tape) {
			h.time = 10
			three(h)
			hear(h, 1, ",a,b,c", false)
			hear(h, 1, ",a,c", false)
		}},
		{"lost by all", "acknowledged is heard", func(h *tape) { h.time = 10; three(h); hear(h, 1, ",a,c", false) }},
		{"lost at the end", "acknowledged is heard", func(h *tape) { h.time = 10; three(h); hear(h, 1, ",a,b,end", true) }},
		{"lost at the beginning", "acknowledged is heard", func(h *tape) { h.time = 10; three(h); hear(h, 1, ",b,c", false) }},
		{"unknown and lost on one node", "one order", func(h *tape) {
			h.time = 10
			say(h, "a")
			h.unknown(Op{Key: channelKey, Kind: Publish, Arg: "x"})
			say(h, "b")
			hear(h, 1, ",a,x,b", false)
			hear(h, 1, ",a,b", false)
		}},
		{"heard twice", "heard once", func(h *tape) { h.time = 10; three(h); hear(h, 1, ",a,b,b,c", false) }},
		{"two orders", "one order", func(h *tape) {
			h.time = 10
			h.unknown(Op{Key: channelKey, Kind: Publish, Arg: "x"})
			h.unknown(Op{Key: channelKey, Kind: Publish, Arg: "y"})
			h.unknown(Op{Key: channelKey, Kind: Publish, Arg: "z"})
			hear(h, 1, ",x,y,z", false)
			hear(h, 1, ",y,x,z", false)
		}},
		{"against real time", "real-time order", func(h *tape) { h.time = 10; three(h); hear(h, 1, ",b,a,c", false) }},
		{"refused", "refused is never heard", func(h *tape) {
			h.time = 10
			h.add(Op{Key: channelKey, Kind: Publish, Arg: "a", Outcome: Refused})
			hear(h, 1, ",a", false)
		}},
		{"out of nowhere", "nothing else", func(h *tape) { h.time = 10; hear(h, 1, ",a", false) }},
	})
}

// What could go wrong: what scripts write is torn, or a compare-and-set fails for no reason, and the checkers accept it.
func TestPlantedScriptsAndSwapsAreRejected(t *testing.T) {
	call := func(h *tape, value, count string) {
		h.add(Op{Key: "e1", Kind: Call, Arg: value, Out: count})
	}
	judgePlanted(t, []planted{
		{"good script", "", func(h *tape) { call(h, "5", "1"); call(h, "7", "2"); h.add(Op{Key: "e1", Kind: Get, Out: ".5.7"}) }},
		{"script undone", "linearizable", func(h *tape) { call(h, "5", "1"); h.add(Op{Key: "e1", Kind: Get, Out: ""}) }},
		{"script done by half", "linearizable", func(h *tape) { call(h, "5", "1"); h.add(Op{Key: "e1", Kind: Get, Out: "1|.5|"}) }},
		{"script done twice", "linearizable", func(h *tape) { call(h, "5", "1"); h.add(Op{Key: "e1", Kind: Get, Out: ".5.5"}) }},
		{"count of a script", "linearizable", func(h *tape) { call(h, "5", "2"); h.add(Op{Key: "e1", Kind: Get, Out: ".5"}) }},
		{"swap fails for a reason", "", func(h *tape) {
			h.set("1")
			h.add(Op{Key: "r1", Kind: Set, Arg: "2", Call: 10, Return: 15})
			h.add(Op{Key: "r1", Kind: Swap, Old: "1", Arg: "3", Out: "0", Since: 12, Call: 16, Return: 17})
		}},
		{"swap fails without a reason", "fails only if the key changes", func(h *tape) {
			h.set("1")
			h.add(Op{Key: "r1", Kind: Swap, Old: "1", Arg: "3", Out: "0", Since: 12, Call: 16, Return: 17})
		}},
		{"restored without what was acknowledged", "linearizable", func(h *tape) {
			h.set("1")
			h.set("2")
			h.add(Op{Key: "r1", Kind: Get, Out: "1", Call: 20, Return: 25, Restored: true})
		}},
		{"restored with what came later", "linearizable", func(h *tape) {
			h.set("1")
			h.add(Op{Key: "r1", Kind: Set, Arg: "2", Call: 30, Return: 35})
			h.add(Op{Key: "r1", Kind: Get, Out: "2", Call: 20, Return: 25, Restored: true})
		}},
	})
}

// What could go wrong: a forced recovery loses more than it says, doubles, or brings back what was refused, and nobody notices.
func TestPlantedRecoveriesAreRejected(t *testing.T) {
	began := time.Now()
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	wrote := func(value, lsn int64, from int) forcedWrite {
		return forcedWrite{value: value, outcome: OK, lsn: lsn, call: at(from), end: at(from).Add(time.Millisecond)}
	}
	refused := wrote(9, 0, 1)
	refused.outcome = Refused
	unknown := wrote(8, 0, 1)
	unknown.outcome = Unknown
	cases := []struct {
		name, rule string
		writes     []forcedWrite
		list       string
		lost       int
	}{
		{"good", "", []forcedWrite{wrote(1, 100, 1), wrote(2, 250, 2), refused, unknown, wrote(3, 220, 7)}, ",1,3", 1},
		{"good with an unknown one", "", []forcedWrite{wrote(1, 100, 1), unknown}, ",8,1", 0},
		{"the last frame that was kept", "losses are as reported", []forcedWrite{wrote(1, 200, 1)}, "", 0},
		{"lost at the end", "what is acknowledged afterwards stays", []forcedWrite{wrote(3, 300, 7)}, "", 0},
		{"acknowledged by nobody", "nothing is acknowledged without a quorum", []forcedWrite{wrote(3, 300, 5)}, "", 0},
		{"twice", "exactly once", []forcedWrite{wrote(1, 100, 1)}, ",1,1", 0},
		{"refused", "refused is never present", []forcedWrite{refused}, ",9", 0},
		{"out of nowhere", "nothing else", nil, ",7", 0},
	}
	for _, c := range cases {
		result := Recovery{From: 200}
		found := judgeForced(c.writes, elements(c.list), &result, at(4), at(6))
		if c.rule == "" && len(found) > 0 || c.rule != "" && (len(found) != 1 || !strings.Contains(found[0].Rule, c.rule)) || result.Lost != c.lost {
			t.Errorf("%s: found %v, %d lost, want rule %q", c.name, found, result.Lost, c.rule)
		}
	}
}
