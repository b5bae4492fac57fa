// Package turn is the right to be the one who steps something: a core, a session. Goroutines bring work to it through queues of
// their own. Whoever has put something into a queue knocks. If nobody has the turn it is the knocker's, who steps at once, with no change of goroutine
// between the socket and what it brought. If somebody has it, that one comes round again and finds the queue filled.
//
//	queue <- something
//	if t.Knock() {
//		for {
//			heard := t.Heard()
//			...take from the queues, step...
//			if t.End(heard) {
//				break
//			}
//		}
//	}
//
// A goroutine that should not serve others for too long leaves the turn to one that waits for that: Leave and Left.
package turn

import "sync/atomic"

// Turn is had by one goroutine at a time. What that one writes the next one sees.
//
// Invariant: knocks is 0 if and only if nobody has the turn.
type Turn struct {
	knocks atomic.Int64
	left   chan struct{} // 1
}

// New returns a turn that nobody has.
func New() Turn { return Turn{left: make(chan struct{}, 1)} }

// Knock says that there is something to do. It reports whether the caller has the turn now. A caller who has it already says that
// another round is needed.
func (t *Turn) Knock() (mine bool) { return t.knocks.Add(1) == 1 }

// Heard is for who has the turn: all that was queued before the knocks heard so far is seen by what is taken afterwards.
func (t *Turn) Heard() (knocks int64) { return t.knocks.Load() }

// End gives the turn back and reports true, unless somebody has knocked since Heard.
func (t *Turn) End(heard int64) (over bool) { return t.knocks.Add(-heard) == 0 }

// Leave gives the turn to whoever receives from Left. It never blocks.
func (t *Turn) Leave() { t.left <- struct{}{} }

// Left yields when the turn was left: who receives has it.
func (t *Turn) Left() <-chan struct{} { return t.left }
