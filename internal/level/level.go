package level

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
)

const (
	// First is the level of every cluster that was never raised, and of every process that names none.
	First = 1
	// Max is the largest number of a level: one byte carries it.
	Max = 255
)

// Row is a level and what it brings, in a line for people.
type Row struct {
	Level  int
	Brings string
}

// table holds every level that this source tree knows, without gaps. A feature that a process of the level before would not
// understand (a format, a message, a rule) gets a row here and a Feature below, and asks Gate.May before it is used.
var table = []Row{
	{First, "all that there was before there were levels"},
}

// highest is set by the linker in tests of upgrades, which need a newer program than there is:
// -ldflags "-X lockstep/internal/level.highest=2".
var highest string

// Highest returns the highest level that this program can.
func Highest() int {
	if n, err := strconv.Atoi(highest); err == nil && n > len(table) && n <= Max {
		return n
	}
	return len(table)
}

// Table returns the levels above from, up to the highest that this program can.
func Table(from int) []Row {
	var rows []Row
	for n := Of(from) + 1; n <= Highest(); n++ {
		if n <= len(table) {
			rows = append(rows, table[n-1])
		} else {
			rows = append(rows, Row{n, "nothing: this program was built to try upgrades"})
		}
	}
	return rows
}

// Of returns the level that a number from elsewhere stands for: 0, that of a process or a state that names none, is the first.
func Of[T ~int | ~uint8 | ~uint32](told T) int { return max(First, int(told)) }

// ErrTooLow is what a process ends with (exit code 2) that cannot what the cluster's level asks.
var ErrTooLow = errors.New("this program is too old for the cluster")

// Check returns an error that wraps ErrTooLow if a program that can own at most cannot what a cluster of that level asks.
func Check(cluster, own int) error {
	if cluster > own {
		return fmt.Errorf("%w: its feature level is %d, and this program supports %d at most: install the version that the other processes run; a level is never lowered",
			ErrTooLow, cluster, own)
	}
	return nil
}

// Refuse says to a peer why it is refused: it can less than the cluster's level asks.
func Refuse(cluster, peer int) string {
	return fmt.Sprintf("the cluster's feature level is %d, and you support %d at most: install the version that the other processes run; a level is never lowered", cluster, peer)
}

// Feature is something that may be used from a level on.
type Feature struct {
	Name  string
	Level int
}

// Gate is what a process knows of the cluster's level. The zero value knows of the first only, which is always safe: the level
// never goes down, so that whoever knows less does less. All methods may be called from any goroutine.
type Gate struct{ known atomic.Int32 }

// Level returns the cluster's level as far as it is known.
func (g *Gate) Level() int { return Of(int(g.known.Load())) }

// May reports whether the feature may be used: every process of the cluster can it, and none that cannot will ever take part again.
func (g *Gate) May(f Feature) bool { return g.Level() >= f.Level }

// Learn notes the cluster's level as somebody told it. It reports whether that was news; lower ones are old news.
func (g *Gate) Learn(told int) (news bool) {
	for {
		known := g.known.Load()
		if told <= Of(int(known)) {
			return false
		}
		if g.known.CompareAndSwap(known, int32(min(told, Max))) {
			return true
		}
	}
}
