package chaos

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lockstep/proto"
)

// tape writes histories down: each operation begins after all before it have ended, unless it says otherwise.
type tape struct {
	ops  []Op
	time int64
}

func (t *tape) add(op Op) *Op {
	op.ID = int64(len(t.ops) + 1)
	if op.Outcome == "" {
		op.Outcome = OK
	}
	if op.Call == 0 {
		op.Call = t.time + 1
	}
	if op.Return == 0 {
		op.Return = op.Call + 1
	}
	if op.Outcome == Unknown {
		op.Return = never
	} else {
		t.time = max(t.time, op.Return)
	}
	t.ops = append(t.ops, op)
	return &t.ops[len(t.ops)-1]
}

func (t *tape) push(n, length string) { t.add(Op{Key: "l1", Kind: Push, Arg: n, Out: length}) }
func (t *tape) read(out string)       { t.add(Op{Key: "l1", Kind: Range, Out: out}) }
func (t *tape) set(value string)      { t.add(Op{Key: "r1", Kind: Set, Arg: value}) }
func (t *tape) get(value string)      { t.add(Op{Key: "r1", Kind: Get, Out: value}) }

// What could go wrong: a checker that accepts everything looks exactly like a system without faults. Each planted history
// breaks one rule and must be rejected by it; each good one must pass.
func TestPlantedHistoriesAreRejected(t *testing.T) {
	judgePlanted(t, []planted{
		{"good list", "", func(h *tape) { h.push("5", "1"); h.read(",5"); h.push("3", "2"); h.read(",5,3") }},
		{"good list with an unknown push that happened late", "", func(h *tape) {
			h.add(Op{Key: "l1", Kind: Push, Arg: "1", Outcome: Unknown})
			h.push("2", "1")
			h.read(",2")
			h.read(",2,1")
		}},
		{"good list with an unknown push that never happened", "", func(h *tape) {
			h.add(Op{Key: "l1", Kind: Push, Arg: "1", Outcome: Unknown})
			h.push("2", "1")
			h.read(",2")
		}},
		{"good list with a refused push", "", func(h *tape) {
			h.add(Op{Key: "l1", Kind: Push, Arg: "1", Outcome: Refused})
			h.push("2", "1")
			h.read(",2")
		}},
		{"acknowledged push lost", "linearizable|acknowledged is present", func(h *tape) { h.push("1", "1"); h.push("2", "2"); h.read(",2") }},
		{"acknowledged push lost with all behind it", "linearizable|acknowledged is present", func(h *tape) { h.push("1", "1"); h.read(",1"); h.push("2", "2"); h.read(",1") }},
		{"push doubled", "linearizable|exactly once", func(h *tape) { h.push("1", "1"); h.push("2", "2"); h.read(",1,2,1") }},
		{"unknown push doubled", "linearizable|exactly once", func(h *tape) {
			h.add(Op{Key: "l1", Kind: Push, Arg: "1", Outcome: Unknown})
			h.read(",1,1")
		}},
		{"refused push present", "linearizable|refused is never present", func(h *tape) {
			h.add(Op{Key: "l1", Kind: Push, Arg: "1", Outcome: Refused, Note: "NOREPLICAS"})
			h.read(",1")
		}},
		{"stale read", "linearizable|no stale reads", func(h *tape) { h.push("1", "1"); h.push("2", "2"); h.read(",1"); h.read(",1,2") }},
		{"read goes back", "linearizable|reads never go back", func(h *tape) {
			h.add(Op{Key: "l1", Kind: Push, Arg: "1", Out: "1", Call: 1, Return: 100})
			h.add(Op{Key: "l1", Kind: Range, Out: ",1", Call: 2, Return: 3})
			h.add(Op{Key: "l1", Kind: Range, Out: "", Call: 4, Return: 5})
		}},
		{"read of the future", "linearizable|no reads of the future", func(h *tape) { h.read(",1"); h.push("1", "1") }},
		{"reads of two histories", "linearizable|reads are prefixes", func(h *tape) {
			h.add(Op{Key: "l1", Kind: Push, Arg: "1", Outcome: Unknown})
			h.add(Op{Key: "l1", Kind: Push, Arg: "2", Outcome: Unknown})
			h.read(",1")
			h.read(",2")
		}},
		{"order against real time", "linearizable|real-time order", func(h *tape) { h.push("1", "1"); h.push("2", "2"); h.read(",2,1") }},
		{"wrong length", "linearizable|places", func(h *tape) { h.push("1", "2"); h.read(",1") }},
		{"something out of nowhere", "linearizable|nothing else", func(h *tape) { h.push("1", "1"); h.read(",1,7") }},

		{"good register", "", func(h *tape) {
			h.set("1")
			h.get("1")
			h.add(Op{Key: "r1", Kind: Swap, Old: "1", Arg: "2", Out: "1"})
			h.get("2")
			h.add(Op{Key: "r1", Kind: Swap, Old: "1", Arg: "3", Out: "0"})
			h.get("2")
		}},
		{"stale get", "linearizable", func(h *tape) { h.set("1"); h.set("2"); h.get("1") }},
		{"lost set", "linearizable", func(h *tape) { h.set("1"); h.get("") }},
		{"set undone", "linearizable", func(h *tape) { h.set("1"); h.set("2"); h.get("2"); h.get("1") }},
		{"refused set read", "linearizable", func(h *tape) { h.add(Op{Key: "r1", Kind: Set, Arg: "1", Outcome: Refused}); h.get("1") }},
		{"unknown set appears and disappears", "linearizable", func(h *tape) {
			h.add(Op{Key: "r1", Kind: Set, Arg: "1", Outcome: Unknown})
			h.get("1")
			h.get("")
		}},
		{"two swaps of one value", "linearizable", func(h *tape) {
			h.set("1")
			h.add(Op{Key: "r1", Kind: Swap, Old: "1", Arg: "2", Out: "1"})
			h.add(Op{Key: "r1", Kind: Swap, Old: "1", Arg: "3", Out: "1"})
		}},
		{"failed swap done", "linearizable", func(h *tape) {
			h.set("1")
			h.add(Op{Key: "r1", Kind: Swap, Old: "1", Arg: "2", Out: "0"})
			h.get("2")
		}},
		{"count given twice", "linearizable", func(h *tape) {
			h.add(Op{Key: "c1", Kind: Incr, Out: "1"})
			h.add(Op{Key: "c1", Kind: Incr, Out: "1"})
		}},
		{"count left out", "linearizable", func(h *tape) {
			h.add(Op{Key: "c1", Kind: Incr, Out: "1"})
			h.add(Op{Key: "c1", Kind: Incr, Out: "3"})
		}},
		{"count with an unknown one between", "", func(h *tape) {
			h.add(Op{Key: "c1", Kind: Incr, Out: "1"})
			h.add(Op{Key: "c1", Kind: Incr, Outcome: Unknown})
			h.add(Op{Key: "c1", Kind: Incr, Out: "3"})
		}},
		{"append doubled", "linearizable", func(h *tape) {
			h.add(Op{Key: "t1", Kind: Append, Arg: ".1", Out: "2"})
			h.add(Op{Key: "t1", Kind: Get, Out: ".1.1"})
		}},
		{"pair torn", "linearizable", func(h *tape) {
			h.add(Op{Key: "p1", Kind: Set, Arg: "1"})
			h.add(Op{Key: "p1", Kind: Set, Arg: "2"})
			h.add(Op{Key: "p1", Kind: Get, Out: "2|1"})
		}},
	})
}

// planted is a history that was made up.
type planted struct {
	name  string
	rules string // part of the names of rules that must be found, separated by "|"; "" for a good history
	plant func(h *tape)
}

func judgePlanted(t *testing.T, cases []planted) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := &tape{}
			c.plant(h)
			dir := t.TempDir()
			found := checkHistory(h.ops, dir)
			var rules []string
			for _, v := range found.Violations {
				rules = append(rules, v.Rule)
				if v.Picture != "" {
					if info, err := os.Stat(filepath.Join(dir, v.Picture)); err != nil || info.Size() == 0 {
						t.Errorf("picture %s: %v", v.Picture, err)
					}
				}
			}
			text := strings.Join(rules, "\n")
			if c.rules == "" && text != "" {
				t.Fatalf("a good history is rejected: %v", found.Violations)
			}
			for _, rule := range strings.Split(c.rules, "|") {
				if !strings.Contains(text, rule) {
					t.Errorf("rule %q is not found broken, only: %q", rule, rules)
				}
			}
			if found.Undecided != nil || found.Ops != len(h.ops) {
				t.Errorf("undecided %v, %d of %d operations", found.Undecided, found.Ops, len(h.ops))
			}
		})
	}
}

// What could go wrong: what is read back from a history file is not what happened, and a check of it proves nothing.
func TestHistoryFileKeepsWhatHappened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	h, err := newHistory(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	first := h.call(Op{Key: "l1", Kind: Push, Arg: "1"})
	second := h.call(Op{Key: "l1", Kind: Push, Arg: "2"})
	first.Outcome, first.Out = OK, "1"
	h.end(first)
	h.call(Op{Key: "l1", Kind: Push, Arg: "3"}) // never ends
	second.Outcome, second.Note = Unknown, "UNCERTAIN"
	h.end(second)
	ops, err := h.close()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{0, 3} { // the program may be killed in the midst of a line
		again, err := readHistory(bytes.NewReader(content[:len(content)-cut]))
		if err != nil {
			t.Fatal(err)
		}
		a, _ := json.Marshal(ops)
		b, _ := json.Marshal(again)
		if cut == 0 && !bytes.Equal(a, b) {
			t.Errorf("happened:\n%s\nread:\n%s", a, b)
		}
		if len(again) != 3 || again[2].Outcome != Unknown || again[2].Return != never {
			t.Errorf("read %s", b)
		}
	}
	if _, err := readHistory(strings.NewReader("{\"call\":{}}\nnonsense\n")); err == nil {
		t.Error("nonsense is read as a history")
	}
}

// What could go wrong: an outage is not seen, or is put down to a fault that was over long before.
func TestWindowsHaveTheirCauses(t *testing.T) {
	second := int64(time.Second)
	var ops []Op
	for at := int64(0); at < 60*second; at += second / 10 {
		if at > 10*second && at < 12*second || at > 20*second && at < 40*second || at > 50*second && at < 51*second || at > 54*second && at < 56*second {
			continue
		}
		ops = append(ops, Op{Kind: Set, Outcome: OK, Return: at})
	}
	ops = append(ops, Op{Kind: Get, Outcome: OK, Return: 11 * second}) // a read ends no window
	faults := []Fault{
		{ID: 1, Kind: "kill", Began: 10 * second, Ended: 11 * second},
		{ID: 2, Kind: "stop", Began: 20 * second, Ended: 22 * second},
	}
	phases := []Phase{
		{Kind: "fail-over", Text: "epoch 3: n1 is down", From: 10*second + 1, To: 11 * second},
		{Kind: "fail-over", Text: "epoch 4: nobody knows", From: 50*second + 1, To: 51 * second},
		{Kind: slowMachine, Text: "a sync took 2 s", From: 54 * second, To: 56 * second},
	}
	windows := findWindows(ops, faults, phases, 0, 60*second)
	if len(windows) != 4 {
		t.Fatalf("windows: %+v", windows)
	}
	if w := windows[0]; len(w.Causes) != 2 || w.Causes[0] != "fail-over epoch 3: n1 is down" || w.Causes[1] != "1 kill" || w.Unexplained || w.From != 10*second || w.To != 12*second || w.Calm != second {
		t.Errorf("first window: %+v", w)
	}
	if w := windows[3]; len(w.Causes) != 1 || w.Unexplained || w.Calm != 0 {
		t.Errorf("fourth window: %+v", w)
	}
	found := judgeWindows(windows)
	if len(found) != 2 || !strings.Contains(found[0].Rule, "recovers") || !strings.Contains(found[1].Rule, "cause") {
		t.Errorf("found %+v", found)
	}
}

// What could go wrong: a fail-over has no end, or that of another one.
func TestFailOversOfAWorkLog(t *testing.T) {
	began := time.UnixMilli(1000)
	entry := func(at int64, kind string, epoch uint64) *proto.WorkEntry {
		return &proto.WorkEntry{TimeMs: at, Kind: kind, Epoch: epoch, Reason: kind}
	}
	got := failOvers([]*proto.WorkEntry{entry(500, "election", 2), entry(1100, "chosen", 2), entry(1200, "established", 2), entry(1300, "established", 3),
		entry(2000, "switchover", 4), entry(2500, "election", 5)}, began, int64(9*time.Second))
	ms := int64(time.Millisecond)
	want := []Phase{{"fail-over", "epoch 2: election", 0, 200 * ms}, {"switch-over", "epoch 4: switchover", 1000 * ms, 1500 * ms}, {"fail-over", "epoch 5: election", 1500 * ms, 9000 * ms}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
}
