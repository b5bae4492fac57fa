//go:build !mutants

package mutant

// Enabled says whether rules can be switched off in this build.
const Enabled = false

// On reports whether the rule is switched off: never in this build.
func On(Name) bool { return false }

// Set does nothing in this build.
func Set(...Name) {}
