package turn

import (
	"sync"
	"testing"
)

// What many bring is done by one at a time, and nothing of it is forgotten, whoever ends, leaves or takes over the turn.
func TestEverythingIsDoneByOneAtATime(t *testing.T) {
	const bringers, things = 8, 2000
	turn := New()
	queue := make(chan int, 16)
	done, seen := 0, make(chan struct{}) // done belongs to who has the turn
	round := func() {
		for n := len(queue); n > 0; n-- {
			<-queue
			if done++; done == bringers*things {
				close(seen)
			}
		}
	}
	// some makes up to so many rounds and reports whether the turn was given back.
	some := func(most int) bool {
		for range most {
			heard := turn.Heard()
			round()
			if turn.End(heard) {
				return true
			}
		}
		return false
	}
	stop := make(chan struct{})
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			select {
			case <-turn.Left():
				for !some(3) {
				}
			case <-stop:
				return
			}
		}
	})
	for i := range bringers {
		tasks.Go(func() {
			for range things {
				queue <- i
				if turn.Knock() && !some(1+i%2) {
					turn.Leave()
				}
			}
		})
	}
	<-seen
	close(stop)
	tasks.Wait()
}

// Who has the turn may ask for another round of its own.
func TestKnockOfWhoHasTheTurnMeansAnotherRound(t *testing.T) {
	turn := New()
	if !turn.Knock() {
		t.Fatal("nobody had the turn, and it was not given")
	}
	heard := turn.Heard()
	if turn.Knock() {
		t.Fatal("the turn was given twice")
	}
	if turn.End(heard) {
		t.Fatal("the knock was not heard")
	}
	if !turn.End(turn.Heard()) || !turn.Knock() {
		t.Fatal("the turn was not given back")
	}
}
