// Package script runs Lua 5.1 as Redis offers it to EVAL and FCALL, on the virtual machine of gopher-lua: the same program
// with the same keys, arguments, log time and answers of its host gives the same reply everywhere.
//
// It knows nothing of keys or databases: whatever a script asks of Redis goes through the interface Host.
//
// # What makes it deterministic and bounded
//
//   - The syntax tree of a program is rewritten before it is compiled (rewrite.go): concatenation, assignment to a field,
//     constructors and closures become calls of functions of this package, which count the memory they take, keep the
//     tables of the libraries from being changed, and print numbers as C does.
//   - Every instruction of the virtual machine, and the work of the libraries in proportion, is counted by a meter. A run
//     that used what it may is ended, on every replica at the same instruction; pcall does not help. What it had
//     written before remains, as after any other error in the middle of a script.
//   - Tables are iterated in the order in which their keys were first set (gopher-lua keeps a list of keys beside its
//     maps; the function of it that ranges over a map is not called). Addresses are not shown: tostring numbers what it
//     names. math.random begins with the seed of the call. os.clock tells log time.
//   - The libraries are our own, except for the coroutines' switch; there is no file, process, clock or environment in them.
//   - Nothing survives a run: globals cannot be created, libraries cannot be changed, and the code of a function library runs
//     anew for each call, so that its local variables begin as they were loaded.
//
// # Who calls what
//
// An Engine belongs to one goroutine at a time. Programs are immutable and may be shared.
package script
