package apart

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

const statHead = "cpu  %d 0 100 %d %d 0 0 50 7 7\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 1 2 3 4 5 6 7 8 9 10\nintr 99 1 2 3\nctxt 5\n"

// What could go wrong: what waits for a disk counts as busy, the ticks of guests count twice, a counter that goes back or a kernel that
// tells nothing makes a number.
func TestIdleProcessorsAreThoseOfTheLastLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		user, idle, waiting, looks := 1000, 5000, 100, 0
		text := func() []byte { return fmt.Appendf(nil, statHead, user, idle, waiting) }
		var failure error
		p := Processors{read: func() ([]byte, error) { looks++; return text(), failure }}
		check := func(want float64, wantKnown bool) {
			t.Helper()
			if got, known := p.Idle(); known != wantKnown || known && got != want {
				t.Errorf("%v idle, known: %v; want %v, %v", got, known, want, wantKnown)
			}
		}
		check(0, false)
		time.Sleep(firstLook - 1)
		check(0, false)
		time.Sleep(1)
		user, idle, waiting = user+50, idle+100, waiting+50 // of 200 ticks
		check(1.5, true)
		user += 1000
		check(1.5, true) // it looks again when the look is over
		time.Sleep(2 * firstLook)
		check(0, true)
		if looks != 3 {
			t.Errorf("%d looks", looks)
		}
		for range 20 {
			idle += 10
			time.Sleep(longestLook)
			check(2, true)
		}
		idle -= 100
		time.Sleep(longestLook)
		check(2, true) // the last one that made sense
		failure = errors.New("there is no /proc")
		time.Sleep(longestLook)
		check(0, false)
		failure = nil
		time.Sleep(longestLook)
		check(0, false)
		user += 10
		time.Sleep(longestLook)
		check(0, true)
	})
}

func TestWhatTheKernelTellsIsUnderstood(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "cpu", "cpu  1 2 3", "cpu  1 2 x 4 5 6 7 8 9\ncpu0 1 2 3 4 5 6 7 8\n", "cpu  1 2 3 4 5 6 7 8 9 10\n", "intr 1 2 3 4 5 6 7 8 9 10 11\n"} {
		if counted, processors, ok := countedIn([]byte(text)); ok {
			t.Errorf("%q has %v of %d processors", text, counted, processors)
		}
	}
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	if counted, processors, ok := countedIn(text); !ok || processors < 1 || counted.idle == 0 || counted.idle > counted.all {
		t.Errorf("this machine: %v, %d, %v", counted, processors, ok)
	}
}

func TestWorkedGrowsWithWork(t *testing.T) {
	t.Parallel()
	for before := Worked(); Worked() == before; {
	}
}
