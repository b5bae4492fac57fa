// Package ctl is the command line of smrctl: one file for each group of commands. It turns arguments into calls of
// packages local, admin, bench and log, and their answers into tables or JSON.
//
// It decides nothing about a cluster, and it keeps no state.
//
// # Exit codes
//
//	0  done
//	1  failed: the standard error says what was attempted, what happened and what to do
//	2  usage: the arguments make no sense; nothing was attempted
package ctl
