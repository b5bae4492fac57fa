// Package apart begins a part of the running program as a process of its own, which gives way to every other: work that has time
// does not make others wait, neither for a processor nor for the garbage collector.
package apart
