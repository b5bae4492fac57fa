package main

import (
	"flag"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

// What could go wrong: the page on settings is older than the program.
func TestReferenceIsCurrent(t *testing.T) {
	program, _ := describe()
	if err := program.CheckReference("../../docs/configuration.md", *update); err != nil {
		t.Error(err)
	}
}
