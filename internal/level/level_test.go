package level

import (
	"errors"
	"strings"
	"sync"
	"testing"
)

// The table is indexed by level. What could go wrong: a row is added with another number, and a level brings what another one does.
func TestTableHasNoGaps(t *testing.T) {
	for i, row := range table {
		if row.Level != i+1 || row.Brings == "" {
			t.Errorf("row %d is %+v", i, row)
		}
	}
	if Highest() != len(table) {
		t.Errorf("highest %d of %d rows", Highest(), len(table))
	}
	if rows := Table(0); len(rows) != len(table)-1 {
		t.Errorf("above the first level: %v", rows)
	}
}

// A program of a test is told by the linker that it can more. What could go wrong: nonsense there makes it able to less than its code is.
func TestLinkerSetsHighest(t *testing.T) {
	defer func() { highest = "" }()
	for _, c := range []struct {
		set  string
		want int
	}{{"2", 2}, {"200", 200}, {"0", 1}, {"-3", 1}, {"256", 1}, {"two", 1}, {"", 1}} {
		highest = c.set
		if got := Highest(); got != c.want {
			t.Errorf("highest=%q: %d, want %d", c.set, got, c.want)
		}
	}
	highest = "3"
	if rows := Table(1); len(rows) != 2 || rows[0].Level != 2 || rows[1].Level != 3 {
		t.Errorf("table above 1: %v", rows)
	}
	if rows := Table(3); rows != nil {
		t.Errorf("table above the highest: %v", rows)
	}
}

// What could go wrong: a process that names no level counts as unable to anything, or its error does not name both levels.
func TestCheckNamesBothLevels(t *testing.T) {
	for _, told := range []int{0, 1} {
		if err := Check(Of(told), First); err != nil {
			t.Errorf("level %d: %v", told, err)
		}
	}
	err := Check(7, First)
	if !errors.Is(err, ErrTooLow) || !strings.Contains(err.Error(), "level is 7") || !strings.Contains(err.Error(), "supports 1 at most") {
		t.Errorf("level 7: %v", err)
	}
}

// What could go wrong: a gate goes back when somebody who is behind tells an old level, or two who tell at once leave the lower one.
func TestGateNeverGoesDown(t *testing.T) {
	var g Gate
	feature := Feature{Name: "of level 3", Level: 3}
	if g.Level() != First || g.May(feature) || !g.May(Feature{Level: First}) {
		t.Fatalf("a new gate knows level %d", g.Level())
	}
	if g.Learn(0) || g.Learn(1) {
		t.Error("the first level is news")
	}
	if !g.Learn(3) || g.Learn(2) || g.Learn(3) || !g.May(feature) {
		t.Errorf("level %d after 3, 2, 3", g.Level())
	}
	if g.Learn(1000); g.Level() != Max {
		t.Errorf("level %d is above what a byte carries", g.Level())
	}
	var many sync.WaitGroup
	g = Gate{}
	for n := range 50 {
		many.Go(func() { g.Learn(n) })
	}
	many.Wait()
	if g.Level() != 49 {
		t.Errorf("level %d after 0 to 49 at once", g.Level())
	}
}
