// Package ctl is the command line of smrctl: one file for each group of commands. It turns arguments into calls of
// packages local, admin, bench and log, and their answers into tables or JSON.
//
// It decides nothing about a cluster, and it keeps no state but the file of contexts.
//
// # Forms of output
//
// A command hands its result to screen.show: a value for programs (JSON, and YAML made of it: the same names in the same
// order, relied upon by scripts) and a function that writes it for people. testdata/golden holds outputs as a whole.
//
// # Exit codes
//
// exit.go has the table; 2 means that nothing was attempted.
package ctl
