// Package proto holds the gRPC definitions of the control plane and their generated code. It is used by shells
// only, never inside a core and never on the data path. Regenerate with `make proto`.
package proto
