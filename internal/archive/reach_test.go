package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"lockstep/log"
	"lockstep/smr"
)

// reachTest is a replica that archives, and what its archive holds.
type reachTest struct {
	*testing.T
	log   *Log
	root  string
	reach Reach
	own   Own
}

func (t *reachTest) append(from *ownLog, s Span) {
	t.Helper()
	if _, err := t.log.Append(context.Background(), Content{From: s.From, Bytes: from.bytes[s.From:s.End], Frames: 1, Node: "n1"}, false); err != nil {
		t.Fatal(err)
	}
}

// round expects that a look is due, or not, and what it finds.
func (t *reachTest) round(what string, leading, due bool, want Finding, end smr.LSN) {
	t.Helper()
	if got := t.reach.Due(leading); got != due {
		t.Fatalf("%s: a look is due: %v", what, got)
	}
	if !due {
		return
	}
	found, _, err := t.reach.Look(context.Background(), t.log, leading, t.own)
	if found != want || t.reach.End() != end || (err != nil) != (want == Unreadable) {
		t.Fatalf("%s: found %d, want %d; the archive reaches %d, want %d; %v", what, found, want, t.reach.End(), end, err)
	}
}

// What could go wrong: a replica archives behind a range that was never held against its log in this reign: because it knew how far the archive is from before it led (CI of 23
// November, simulation seed 928005297), or because it could not be told at the first look. Two histories lie in one archive then, and nobody is told.
func TestReachIsSettledAnewInEachReign(t *testing.T) {
	t.Parallel()
	mine, other := ownLogOf("one", "two", "three"), ownLogOf("one", "TWO", "three") // with frames in the same places
	head := Span{0, mine.frames[2].LSN}
	_, l, root := openTest(t)
	x := &reachTest{T: t, log: l, root: root, own: Own{Reader: mine, Safe: mine.end(), End: mine.end()}}
	x.append(other, head)
	x.round("it follows", false, true, Continues, head.End)
	for range ListRounds - 1 {
		x.round("it follows", false, false, 0, 0)
	}
	x.round("it follows", false, true, Continues, head.End)
	x.own.Safe = 0
	x.round("it leads and does not know what is committed", true, true, Undecided, head.End)
	x.round("nor later", true, true, Undecided, head.End)
	x.own.Safe = mine.end()
	x.round("now it does", true, true, Doubtful, head.End)
	if x.reach.Known() {
		t.Error("it is known how far an archive of another history is")
	}
	x.round("once more", true, true, Broken, 0)
	x.round("and again", true, true, Broken, 0)

	if err := os.Rename(filepath.Join(root, Folder("c/1", "g1")), filepath.Join(root, "away")); err != nil {
		t.Fatal(err)
	}
	x.round("the folder was moved away", true, true, Continues, 0)
	x.append(mine, head)
	x.reach.Appended(head)
	for range 3 {
		x.round("it archives", true, false, 0, 0)
	}
	x.round("it follows again", false, true, Continues, head.End)
	x.round("and leads again", true, true, Continues, head.End)

	if err := os.RemoveAll(filepath.Join(root, Folder("c/1", "g1"))); err != nil {
		t.Fatal(err)
	}
	for !x.reach.Due(true) {
	}
	if found, _, err := x.reach.Look(context.Background(), l, true, x.own); found != Continues || x.reach.End() != 0 || err != nil {
		t.Errorf("what it has archived was moved away: %d, the archive reaches %d, %v", found, x.reach.End(), err)
	}
}

// failing is a log that cannot be read.
type failing struct {
	*ownLog
	err error
}

func (f failing) ReadAt([]byte, smr.LSN, smr.LSN) (int, error) { return 0, f.err }

func (f failing) Frames(_ []byte, from, _ smr.LSN, _ func(smr.Frame, []byte) error) (smr.LSN, []byte, error) {
	return from, nil, f.err
}

// What could go wrong: damage keeps the archive from going on for ever, or an error that passes lets it go on unseen.
func TestReachGoesOnBehindDamageOnly(t *testing.T) {
	t.Parallel()
	mine := ownLogOf("one", "two")
	span := Span{0, mine.end()}
	for _, c := range []struct {
		err  error
		want Finding
	}{
		{fmt.Errorf("page 7: %w", log.ErrCorrupt), Unreadable},
		{fmt.Errorf("at 7: %w", log.ErrTrimmed), Unreadable},
		{errors.New("input/output error"), Undecided},
	} {
		_, l, _ := openTest(t)
		x := &reachTest{T: t, log: l}
		x.append(mine, span)
		own := Own{Reader: failing{mine, c.err}, Safe: mine.end(), End: mine.end()}
		if found, _, err := x.reach.Look(context.Background(), l, true, own); found != c.want || !errors.Is(err, c.err) {
			t.Errorf("%v: %d, %v", c.err, found, err)
		}
		if due := x.reach.Due(true) && x.reach.Due(true); due != (c.want == Undecided) {
			t.Errorf("%v: the next round looks again: %v", c.err, due)
		}
	}
}
