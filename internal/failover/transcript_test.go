package failover

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"lockstep/smr"
)

var update = flag.Bool("update", false, "write the transcripts anew; review the difference line by line")

// Scenarios: each file of testdata/transcripts is a list of commands, each followed by ---- and exactly what
// happens: commands applied in raft, calls and their answers, replies, events. A wrong step shows as a difference.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := play(string(want))
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("%s\n%s", file, firstDifference(string(want), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	wants, gots := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := 0; ; i++ {
		switch {
		case i >= len(wants) || i >= len(gots):
			return fmt.Sprintf("line %d: %d lines wanted, %d happened", i+1, len(wants), len(gots))
		case wants[i] != gots[i]:
			return fmt.Sprintf("line %d\nwant: %s\ngot:  %s", i+1, wants[i], gots[i])
		}
	}
}

// play carries the commands of a transcript out and returns it with what happened.
func play(text string) (string, error) {
	var w *world
	var out strings.Builder
	skip := false
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		switch {
		case line == "----":
			skip = true
			continue
		case line == "":
			skip = false
			continue
		case skip:
			continue
		case strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
			continue
		}
		if w != nil {
			w.trace.Reset()
		}
		next, err := perform(w, strings.Fields(line))
		if err != nil {
			return "", fmt.Errorf("%s: %w", line, err)
		}
		w = next
		if w.failed != "" {
			return "", fmt.Errorf("%s: %s", line, w.failed)
		}
		out.WriteString(line + "\n----\n" + w.trace.String() + "\n")
	}
	return out.String(), nil
}

func perform(w *world, words []string) (*world, error) {
	argument := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	number := func(i int) int {
		n, _ := strconv.Atoi(argument(i))
		return n
	}
	if words[0] == "cluster" { // cluster NODES COPIES MIN CONFMASTERS
		w = newWorld(options{nodes: number(1), confmasters: number(4), policy: Policy{Copies: number(2), MinCopies: number(3)}, calm: true, trace: true})
		w.lead(0)
		w.create(number(1))
		return w, nil
	}
	if w == nil {
		return nil, fmt.Errorf("no cluster yet")
	}
	var f *fake
	if strings.HasPrefix(argument(1), "n") && words[0] != "switchover" {
		f = w.find(smr.NodeID(argument(1)))
	}
	switch words[0] {
	case "run":
		w.run(number(1))
	case "kill":
		w.kill(f)
	case "vanish": // the host is gone: no reset
		f.crash()
	case "restart":
		f.start()
	case "wipe":
		f.wipe()
	case "pause":
		f.paused = true
	case "continue":
		f.paused = false
	case "kv":
		f.attached = argument(2) == "on"
	case "disk":
		f.stuck = argument(2) == "stuck"
	case "append": // records that the master's slaves have not got yet
		for range number(2) {
			f.append()
		}
	case "cut":
		w.cuts = append(w.cuts, argument(1)+"|"+argument(2))
	case "sever": // sever NODE: from all other replicas, not from the confmasters
		for _, other := range w.fakes {
			if other != f {
				w.cuts = append(w.cuts, argument(1)+"|"+string(other.node))
			}
		}
	case "heal":
		w.cuts = nil
	case "leader": // leader N, 0 for none
		w.lead(number(1) - 1)
	case "hold": // hold KIND NODE TICKS: answers of such calls come late
		kind, node, ticks := CallKind(argument(1)), smr.NodeID(argument(2)), number(3)
		w.hold = func(c Call) int {
			if c.Kind == kind && c.Node == node {
				return ticks
			}
			return 0
		}
	case "inject": // inject a committed command: reconfigure EXPECT REIGN, or establish EPOCH
		w.inject(argument(1), number(2), number(3))
	case "switchover":
		w.request(&Request{Switchover: &Switchover{Group: "g1", To: smr.NodeID(argument(1))}})
	case "policy":
		w.request(&Request{SetPolicy: &SetPolicy{Group: "g1", Policy: Policy{Copies: number(1), MinCopies: number(2)}}})
	case "show":
		w.show()
	case "install", "raise":
		w.performLevel(words)
	default:
		return w, w.performChange(words)
	}
	return w, nil
}

// performChange carries out the commands of operators that change the group.
func (w *world) performChange(words []string) error {
	number := func(i int) int {
		n, _ := strconv.Atoi(words[i])
		return n
	}
	c := &ChangeRequest{Group: "g1"}
	if words[0] == "dry" {
		c.DryRun = true
		words = words[1:]
	}
	switchover := words[len(words)-1] == "switchover"
	begin := func(kind ChangeKind) {
		c.Begin = &BeginChange{Kind: kind, Node: smr.NodeID(words[1]), Switchover: switchover}
	}
	switch words[0] {
	case "node": // node NODE: a blank replica that nobody knows
		w.addNode(smr.NodeID(words[1]))
		return nil
	case "image": // image NODE LSN: its KV node has one
		w.fake(smr.NodeID(words[1])).image = number(2)
		return nil
	case "needs": // needs NODE: it cannot join without an image
		w.fake(smr.NodeID(words[1])).needs = true
		return nil
	case "fetches": // fetches NODE SOURCE: it has begun to
		w.fake(smr.NodeID(words[1])).fetches = smr.NodeID(words[2])
		return nil
	case "fetched":
		f := w.fake(smr.NodeID(words[1]))
		f.needs, f.fetches = false, ""
		return nil
	case "slowly": // slowly NODE TICKS: it takes a record only every so many ticks; 0: no longer
		w.fake(smr.NodeID(words[1])).every = number(2)
		return nil
	case "write": // write on|off
		w.writes = words[1] == "on"
		return nil
	case "seen": // seen VERSION CHANGE ...: with the version that the operator saw
		c.Version = uint64(number(1))
		words = words[2:]
		if words[0] != "add" {
			return fmt.Errorf("only add is known here")
		}
		c.Add = replicaOf(smr.NodeID(words[1]))
	case "add":
		c.Add = replicaOf(smr.NodeID(words[1]))
	case "join": // join NODE ADDRESS
		f := w.fake(smr.NodeID(words[1]))
		r := *replicaOf(f.node)
		r.ManageAddr = words[2]
		w.request(&Request{Join: &JoinRequest{Group: "g1", Replica: r, Incarnation: f.inc}})
		return nil
	case "remove":
		begin(ChangeRemove)
	case "drain":
		begin(ChangeDrain)
	case "undrain":
		begin(ChangeUndrain)
	case "replace":
		begin(ChangeReplace)
		c.Begin.By = replicaOf(smr.NodeID(words[2]))
	case "cancel":
		c.Cancel = true
	case "set": // set COPIES MIN
		c.Policy = &PolicyChange{Copies: number(1), MinCopies: number(2)}
	case "slow": // slow BYTES FORMILLIS
		bytes, patience := smr.LSN(number(1)), number(2)
		c.Policy = &PolicyChange{SlowBytes: &bytes, SlowForMillis: &patience}
	case "recover": // recover NAME
		c.Recover = &RecoverRequest{AcceptLoss: true}
		if len(words) > 1 {
			c.Recover.Confirm = words[1]
		}
	default:
		return fmt.Errorf("unknown command")
	}
	w.request(&Request{Change: c})
	return nil
}

// inject commits a command that no Driver proposed: one that was overtaken on its way.
func (w *world) inject(kind string, first, second int) {
	cmd := Command{Confmaster: 9, ID: 1}
	g := w.group()
	switch kind {
	case "reconfigure":
		cmd.BeginReconfigure = &BeginReconfigure{Group: "g1", Expect: smr.Epoch(first), Reign: smr.Epoch(second), Copies: g.Established.Copies,
			Members: g.Established.Members, Kind: EntryCopies, Reason: "injected"}
	case "establish":
		cmd.Establish = &Establish{Group: "g1", Epoch: smr.Epoch(first)}
	case "elect":
		cmd.BeginElection = &BeginElection{Group: "g1", Expect: smr.Epoch(first), Kind: ElectionFailover, Reason: "injected"}
	}
	w.raft = append(w.raft, cmd)
	for _, cm := range w.cms {
		w.applyAll(cm)
	}
}

func (w *world) show() {
	g := w.group()
	report := w.cms[max(w.leader, 0)].driver.Report("g1")
	w.log("state %s: %s; plan: %s", report.State, report.Detail, report.Plan)
	w.log("epoch %d, established %s, provisional %d, election %d", g.Epoch, describe(g.Established), g.Provisional.Epoch, g.Election.Epoch)
	for _, f := range w.fakes {
		if !f.up {
			w.log("%s down", f.node)
			continue
		}
		v := f.view()
		w.log("%s role %v epoch %d master %q joined %v blank %v end %d commit %d", f.node, v.Role, v.Epoch, v.Master, v.Joined, v.Blank, v.End, v.Commit)
	}
	for _, e := range w.cms[max(w.leader, 0)].state.Log {
		if e.Kind == EntryElection {
			for _, witness := range e.Witnesses {
				w.log("log %d election of epoch %d: c%d saw of %s: %s", e.ID, e.Epoch, witness.Confmaster, witness.Node, witness.Saw)
			}
		}
	}
}
