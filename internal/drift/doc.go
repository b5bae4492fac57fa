// Package drift compares what operators want of the settings, users and function libraries of a group, as the configuration masters have it on
// record, with what its KV nodes say that they have. It asks nobody: smrctl and the web page do, and show what it finds.
package drift
