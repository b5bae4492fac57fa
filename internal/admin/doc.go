// Package admin is the client of the configuration masters: it asks whichever of them answers. smrctl, the launcher of
// local clusters, the benchmark and the end-to-end tests use it.
//
// It knows the control plane only (package proto): nothing of how a group decides, nothing of the data path.
//
// # Invariants
//
//   - A call is tried at each address in turn, the one that answered last first; it fails only when all failed, and
//     then says what each of them answered.
//   - A call that a configuration master refused (a refusal is an answer) is not tried elsewhere.
package admin
