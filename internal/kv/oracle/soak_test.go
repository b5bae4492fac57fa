package main

import (
	"strings"
	"testing"
)

// A time to live that ends within a sequence ends at two moments: such commands must be told from the others, all of which stay.
func TestBrief(t *testing.T) {
	for line, want := range map[string]bool{
		"psetex k 1 v": true, "psetex k 60000 v": false, "SETEX k 9999 v": true, "setex k x v": false, "set k v px 100": true, "set k v EX 10 nx": true, "set k v px": false,
		"getex k px 60000": false, "getex k ex 5": true, "expire k 0": false, "expire k -1": false, "pexpire k 10 nx": true, "restore k 7 x": true, "restore k 0 x": false,
		"set ex 10": true, "get k": false, "expire k 60000 gt": true, "PEXPIRE k 60000 nx LT": true, "pexpireat k 4102444800000 gt": false, "psetex k": false, "expireat k 1": false,
	} {
		if got := brief(strings.Fields(line)); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}
