// Package invariant stops the process when the program itself is wrong: also in production, because a state that
// contradicts itself must not go on to acknowledge writes. It is never used for bad input or a failing world.
package invariant

import "fmt"

// Assert panics with what and the key, value pairs that follow unless fact holds. One condition an assertion.
//
// The details are evaluated whether or not fact holds; on a hot path write
//
//	if broken {
//		invariant.Fail("what", details)
//	}
func Assert(fact bool, what string, details ...any) {
	if !fact {
		Fail(what, details...)
	}
}

// Fail is Assert of a fact that was found not to hold.
func Fail(what string, details ...any) {
	panic(fmt.Sprintf("invariant broken: %s %v", what, details))
}
