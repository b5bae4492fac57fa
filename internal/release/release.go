// Package release knows which release a program is, for --version, INFO and the log. All four commands are built from
// one tree and say the same.
package release

import "runtime/debug"

// Version is that of this source tree.
const Version = "0.1.0"

// revision is set by the linker where the build does not see the repository, as in a container:
// -ldflags "-X lockstep/internal/release.revision=COMMIT".
var revision string

// Revision returns the commit that the program was built from, "+changes" behind it if the tree had others; "unknown"
// if the build did not note it.
func Revision() string {
	if revision != "" {
		return revision[:min(12, len(revision))]
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	value, changes := "unknown", ""
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			value = setting.Value[:min(12, len(setting.Value))]
		case setting.Key == "vcs.modified" && setting.Value == "true":
			changes = "+changes"
		}
	}
	return value + changes
}

// String returns version and, if it is known, revision.
func String() string {
	if known := Revision(); known != "unknown" {
		return Version + " " + known
	}
	return Version
}
