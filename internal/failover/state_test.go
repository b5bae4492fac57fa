package failover

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"lockstep/smr"
)

func testState(t *testing.T) *State {
	t.Helper()
	s := NewState("test")
	replicas := []Replica{
		{Node: "n1", ManageAddr: "m1", DataAddr: "d1", KVAddr: "k1"},
		{Node: "n2", ManageAddr: "m2", DataAddr: "d2", KVAddr: "k2"},
		{Node: "n3", ManageAddr: "m3", DataAddr: "d3", KVAddr: "k3", Preference: 5},
	}
	members := []smr.Member{{Node: "n1", Incarnation: 11}, {Node: "n2", Incarnation: 12}, {Node: "n3", Incarnation: 13}}
	must(t, s, Command{CreateGroup: &CreateGroup{Name: "g1", Policy: Policy{Copies: 2, MinCopies: 1}, Replicas: replicas}})
	must(t, s, Command{Found: &Found{Group: "g1", Config: smr.Config{Master: "n1", Copies: 2, Members: members}}})
	must(t, s, Command{BeginElection: &BeginElection{Group: "g1", Expect: 1, Kind: ElectionFirst, Reason: "first",
		Witnesses: []Witness{{Confmaster: 1, Node: "n1", Saw: "up"}}}})
	return s
}

func must(t *testing.T, s *State, cmd Command) Result {
	t.Helper()
	result := s.Apply(&cmd)
	if !result.Applied {
		t.Fatalf("refused: %s", result.Reason)
	}
	return result
}

func mustNot(t *testing.T, s *State, cmd Command, reason string) {
	t.Helper()
	before := string(s.Encode())
	result := s.Apply(&cmd)
	if result.Applied || !strings.Contains(result.Reason, reason) {
		t.Fatalf("want a refusal with %q, got applied=%v: %s", reason, result.Applied, result.Reason)
	}
	if string(s.Encode()) != before {
		t.Fatalf("a refused command changed the state: %s", reason)
	}
}

func candidate(node smr.NodeID, inc smr.Incarnation, epoch smr.Epoch, end smr.LSN) Candidate {
	return Candidate{Node: node, Incarnation: inc, Life: smr.Life(inc), Position: smr.Position{Epoch: epoch, End: end}}
}

func chooseOf(epoch smr.Epoch, c Candidate, others ...Candidate) Command {
	return Command{Choose: &Choose{Group: "g1", Epoch: epoch, Master: c.Node, Incarnation: c.Incarnation, Life: c.Life,
		Candidates: append([]Candidate{c}, others...), Reason: "test"}}
}

// Apply itself guards S4: a Driver with a wrong count, a wrong comparison or an answer of a wiped replica would lose
// committed bytes.
func TestChooseNeedsTheAnswersOfS4(t *testing.T) {
	s := testState(t)
	n1, n2 := candidate("n1", 11, 1, 10), candidate("n2", 12, 1, 20)
	mustNot(t, s, chooseOf(2, n1), "1 answers count, 2 are needed")
	mustNot(t, s, chooseOf(2, n1, candidate("n2", 99, 1, 5)), "1 answers count") // another incarnation
	mustNot(t, s, chooseOf(2, n1, candidate("n9", 12, 1, 5)), "1 answers count")
	mustNot(t, s, chooseOf(2, n1, n1), "named twice")
	mustNot(t, s, chooseOf(2, n1, n2), "but n2 is at")
	mustNot(t, s, chooseOf(2, candidate("n1", 11, 1, 10), candidate("n2", 12, 2, 1)), "but n2 is at") // epoch before End
	mustNot(t, s, chooseOf(2, candidate("n2", 99, 9, 99), n1, candidate("n3", 13, 1, 1)), "no member")
	mustNot(t, s, chooseOf(1, n2, n1), "overtaken")
	mustNot(t, s, chooseOf(3, n2, n1), "overtaken")
	cmd := chooseOf(2, n2, n1)
	cmd.Choose.Life++
	mustNot(t, s, cmd, "without an answer of that life")
	// A learner's higher Position does not count.
	must(t, s, chooseOf(2, n2, n1, candidate("n3", 99, 7, 99)))
	mustNot(t, s, chooseOf(2, n2, n1), "overtaken") // one choice an epoch
	g := s.Group("g1")
	if c := g.Provisional; c.Epoch != 2 || c.Reign != 2 || c.Master != "n2" || c.Copies != 2 || !reflect.DeepEqual(c.Members, g.Established.Members) {
		t.Fatalf("an election must keep members and copies: %v", c)
	}
}

// S6: a configuration above which an epoch has been given out can never become established. S3 and F6: no reconfiguration of
// an older reign, and none between the begin of an election and its choice. S8: several may be provisional in a row.
func TestOvertakenEpochsPlayNoPart(t *testing.T) {
	s := testState(t)
	g := s.Group("g1")
	n1, n2 := candidate("n1", 11, 1, 10), candidate("n2", 12, 1, 20)
	reconfigure := func(expect, reign smr.Epoch, copies int, members []smr.Member) Command {
		return Command{BeginReconfigure: &BeginReconfigure{Group: "g1", Expect: expect, Reign: reign, Copies: copies, Members: members, Kind: EntryDrop, Reason: "test"}}
	}
	establish := func(epoch smr.Epoch) Command { return Command{Establish: &Establish{Group: "g1", Epoch: epoch}} }
	all := g.Established.Members
	mustNot(t, s, reconfigure(2, 0, 2, all), "election of epoch 2 was begun")
	mustNot(t, s, establish(2), "overtaken")
	must(t, s, chooseOf(2, n2, n1))
	mustNot(t, s, reconfigure(2, 1, 2, all), "reign 1 is not the present one")
	mustNot(t, s, reconfigure(1, 2, 2, all), "epoch 1 was expected")
	mustNot(t, s, reconfigure(2, 2, 2, all[:1]), "2 copies of 1 members")
	mustNot(t, s, reconfigure(2, 2, 1, []smr.Member{all[0]}), "master") // without the master
	must(t, s, reconfigure(2, 2, 2, all[:2]))                           // epoch 3, before 2 is established
	must(t, s, reconfigure(3, 2, 1, all[1:2]))                          // epoch 4
	mustNot(t, s, establish(2), "overtaken")
	mustNot(t, s, establish(3), "overtaken")
	if g.Established.Epoch != 1 || g.AnswersNeeded() != 2 {
		t.Fatalf("elections must consult epoch 1 still: %v", g.Established)
	}
	must(t, s, Command{BeginElection: &BeginElection{Group: "g1", Expect: 4, Kind: ElectionFailover, Reason: "test"}})
	mustNot(t, s, establish(4), "overtaken")
	mustNot(t, s, establish(5), "overtaken")
	mustNot(t, s, reconfigure(5, 2, 2, all), "election of epoch 5 was begun")
	mustNot(t, s, Command{BeginElection: &BeginElection{Group: "g1", Expect: 4, Kind: ElectionFailover, Reason: "again"}}, "epoch 4 was expected")
	must(t, s, chooseOf(5, n2, n1))
	mustNot(t, s, reconfigure(5, 2, 2, all), "reign 2 is not the present one")
	result := must(t, s, establish(5))
	mustNot(t, s, establish(5), "overtaken")
	if len(result.Events) != 1 || result.Events[0].Name != EventEstablished {
		t.Fatalf("nobody led before, so that nothing is switched: %+v", result.Events)
	}
	must(t, s, Command{BeginElection: &BeginElection{Group: "g1", Expect: 5, Kind: ElectionFailover, Reason: "test"}})
	must(t, s, chooseOf(6, n1, candidate("n3", 13, 1, 3)))
	result = must(t, s, establish(6))
	last := result.Events[len(result.Events)-1]
	if last.Name != EventSwitchMaster || last.FromAddr != "k2" || last.ToAddr != "k1" {
		t.Fatalf("clients are not told of the new master: %+v", last)
	}
}

func TestCreateGroupIsIdempotent(t *testing.T) {
	s := testState(t)
	c := &CreateGroup{Name: "g1", Policy: Policy{Copies: 2, MinCopies: 1}, Replicas: []Replica{
		{Node: "n3", ManageAddr: "m3", DataAddr: "d"}, {Node: "n1", ManageAddr: "m1", DataAddr: "d"}, {Node: "n2", ManageAddr: "m2", DataAddr: "d"}}}
	before := string(s.Encode())
	must(t, s, Command{CreateGroup: c})
	if string(s.Encode()) != before {
		t.Fatal("the second creation changed the state")
	}
	other := *c
	other.Policy.Copies = 3
	mustNot(t, s, Command{CreateGroup: &other}, "another description")
	mustNot(t, s, Command{CreateGroup: &CreateGroup{Name: "g2", Policy: Policy{Copies: 2, MinCopies: 1}, Replicas: c.Replicas[:1]}}, "2 copies of 1")
	mustNot(t, s, Command{CreateGroup: &CreateGroup{Name: "G 2", Policy: Policy{Copies: 1, MinCopies: 1}, Replicas: c.Replicas[:1]}}, "group")
	mustNot(t, s, Command{CreateGroup: &CreateGroup{Name: "g2", Policy: Policy{Copies: 1, MinCopies: 2}, Replicas: c.Replicas[:1]}}, "min_copies")
	mustNot(t, s, Command{Note: &Note{Group: "g9", Kind: EntryNote}}, "not known")
	mustNot(t, s, Command{}, "0 bodies")
}

// The work log is bounded, and a long reason cannot make it grow either.
func TestWorkLogIsBounded(t *testing.T) {
	s := testState(t)
	for range MaxLog + 10 {
		must(t, s, Command{Note: &Note{Group: "g1", Expect: 2, Kind: EntryNote, Text: strings.Repeat("ä", MaxText/2)}})
	}
	if len(s.Log) != MaxLog || s.Log[0].ID != s.NextEntry-MaxLog || s.Log[MaxLog-1].ID != s.NextEntry-1 {
		t.Fatalf("%d entries, from %d to %d", len(s.Log), s.Log[0].ID, s.Log[len(s.Log)-1].ID)
	}
	mustNot(t, s, Command{Note: &Note{Group: "g1", Expect: 2, Kind: EntryNote, Text: strings.Repeat("a", MaxText+1)}}, "at most")
	if text := clip(strings.Repeat("ä", MaxText) + "\xff"); len(text) != MaxText {
		t.Fatalf("clipped to %d bytes", len(text))
	}
}

// The encodings are a format on disk: a change of a field's name would make every confmaster's state unreadable.
func TestEncodingsAreAsRecorded(t *testing.T) {
	s := testState(t)
	n1, n2 := candidate("n1", 11, 1, 10), candidate("n2", 12, 1, 20)
	cmd := chooseOf(2, n2, n1)
	cmd.ID, cmd.Confmaster, cmd.StampMillis = 7, 3, 1234
	must(t, s, cmd)
	golden := func(name string, got []byte) {
		t.Helper()
		file := "testdata/" + name
		if *update {
			if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSuffix(string(want), "\n") != string(got) {
			t.Errorf("%s:\nwant %s\ngot  %s", name, want, got)
		}
	}
	golden("command.json", cmd.Encode())
	golden("state.json", s.Encode())
	// One that was written before groups had versions is read.
	old, err := os.ReadFile("testdata/state_old.json")
	if err != nil {
		t.Fatal(err)
	}
	if read, err := DecodeState(old); err != nil || read.Groups[0].Version != 0 || len(read.Groups[0].Replicas) != 3 {
		t.Fatalf("an old state: %v", err)
	}
	decoded, err := DecodeState(s.Encode())
	if err != nil || !reflect.DeepEqual(decoded, s) {
		t.Fatalf("%v\n%+v\n%+v", err, decoded, s)
	}
	back, err := DecodeCommand(cmd.Encode())
	if err != nil || !reflect.DeepEqual(back, cmd) {
		t.Fatalf("%v\n%+v\n%+v", err, back, cmd)
	}
}

func TestDecodeRefuses(t *testing.T) {
	s := testState(t)
	state := string(s.Encode())
	for _, bad := range []struct{ name, text, want string }{
		{"version", strings.Replace(state, `"Version":1`, `"Version":2`, 1), "version 2"},
		{"unknown field", strings.Replace(state, `"Cluster"`, `"Klaster"`, 1), "unknown field"},
		{"trailing bytes", state + "x", "follow its end"},
		{"cut short", state[:len(state)-9], "EOF"},
		{"epoch below established", strings.Replace(state, `"Epoch":2,"Established"`, `"Epoch":0,"Established"`, 1), "established"},
		{"empty", "", "EOF"},
	} {
		if _, err := DecodeState([]byte(bad.text)); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v", bad.name, err)
		}
	}
	if _, err := DecodeCommand(make([]byte, MaxCommand+1)); err == nil {
		t.Error("an endless command was taken")
	}
	if _, err := DecodeCommand([]byte(`{"Version":1,"ID":1,"Establish":{"Group":"g1","Epoch":2},"Note":{"Group":"g1"}}`)); err == nil {
		t.Error("a command with two bodies was taken")
	}
}

// Whatever decodes must encode to the same again, keep its invariants under Apply, and never panic.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"Version":1,"ID":1,"Establish":{"Group":"g1","Epoch":2}}`))
	for _, name := range []string{"command.json", "state.json"} {
		if seed, err := os.ReadFile("testdata/" + name); err == nil {
			f.Add([]byte(strings.TrimSuffix(string(seed), "\n")))
		}
	}
	base, err := os.ReadFile("testdata/state.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if cmd, err := DecodeCommand(b); err == nil {
			again, err := DecodeCommand(cmd.Encode())
			if err != nil || string(again.Encode()) != string(cmd.Encode()) {
				t.Fatalf("command changes in its encoding: %v\n%s\n%s", err, cmd.Encode(), again.Encode())
			}
			s, err := DecodeState([]byte(strings.TrimSuffix(string(base), "\n")))
			if err != nil {
				t.Fatal(err)
			}
			s.Apply(&cmd)
			if err := s.check(); err != nil {
				t.Fatalf("%s breaks the state: %v", cmd.Encode(), err)
			}
		}
		if s, err := DecodeState(b); err == nil {
			again, err := DecodeState(s.Encode())
			if err != nil || string(again.Encode()) != string(s.Encode()) {
				t.Fatalf("state changes in its encoding: %v", err)
			}
			d := New(Options{Self: 1}, s)
			var out Effects
			d.Step(&Elected{}, &out)
			d.Step(&Tick{}, &out)
			for i := range s.Groups {
				d.Report(s.Groups[i].Name)
			}
		}
	})
}

// What could go wrong: a decision that was made without looking (or by an older leader) takes a replica that a forced recovery has left out
// back into the membership: it holds bytes that the group has lost (found by seed 383 of the simulator).
func TestReconfigureRefusesWhoWasLeftOut(t *testing.T) {
	s := testState(t)
	must(t, s, chooseOf(2, candidate("n1", 11, 0, 0), candidate("n2", 12, 0, 0), candidate("n3", 13, 0, 0)))
	must(t, s, Command{Establish: &Establish{Group: "g1", Epoch: 2}})
	must(t, s, Command{Recover: &Recover{Group: "g1", Expect: 2, Recovery: Recovery{Kept: []smr.Member{{Node: "n1", Incarnation: 11}},
		Outcasts: []smr.Member{{Node: "n2", Incarnation: 12}, {Node: "n3", Incarnation: 13}}, From: 100}}})
	must(t, s, chooseOf(4, candidate("n1", 11, 2, 100)))
	reconfigure := func(incarnation smr.Incarnation) Command {
		return Command{BeginReconfigure: &BeginReconfigure{Group: "g1", Expect: 4, Reign: 4, Copies: 1, Kind: EntryAdmit, Reason: "test",
			Members: []smr.Member{{Node: "n1", Incarnation: 11}, {Node: "n2", Incarnation: incarnation}}}}
	}
	mustNot(t, s, reconfigure(12), "n2 was left out by the forced recovery of epoch 3")
	must(t, s, reconfigure(22))
}
