package mutant

import "testing"

// What could go wrong: a mutant without a name, two of one name, or one that is on without the build tag.
func TestEveryMutantHasOneName(t *testing.T) {
	seen := make(map[string]bool)
	for _, n := range All() {
		name := n.String()
		if name == "unnamed mutant" || seen[name] {
			t.Errorf("mutant %d is called %q", n, name)
		}
		seen[name] = true
		Set(n)
		if On(n) != Enabled {
			t.Errorf("%v is %v, the build tag %v", n, On(n), Enabled)
		}
	}
	Set()
	for _, n := range All() {
		if On(n) {
			t.Errorf("%v is still on", n)
		}
	}
}

// What could go wrong: a name given by hand plants another error, or none.
func TestNamesAreRead(t *testing.T) {
	for _, n := range All() {
		if got, known := Named(n.String()); !known || got != n {
			t.Errorf("%v is read as %v, %v", n, got, known)
		}
	}
	if _, known := Named("no such rule"); known {
		t.Error("a name that no mutant has is known")
	}
}
