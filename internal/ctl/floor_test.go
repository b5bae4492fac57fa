package ctl

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"lockstep/internal/bench"
)

// What could go wrong: the table or the JSON of the floor changes, and nobody notices. -update writes them anew.
func TestOutputsOfTheFloor(t *testing.T) {
	load := bench.NewLoad("set")
	cell := func(system string, rate, p50, byRedis, lockstep float64) bench.FloorCell {
		return bench.FloorCell{
			Row: "set", Goal: "at least 3.00", ByRedis: byRedis, Lockstep: lockstep,
			Cell: bench.Cell{
				Load: load, System: system, Place: "master", Rate: rate, CPU: 20.256, Memory: 1 << 20, Ratio: 1, Latency: bench.Latency{Mean: 1, P50: p50, P90: 2, P99: 3, P999: 4, Max: 5},
				Kinds: map[string]float64{"front": 5.5, "logger": 14.756},
			},
		}
	}
	cells := []bench.FloorCell{cell(bench.FloorAlways, 66_000, 700, 0, 0.5), cell(bench.LockstepAlways, 33_000, 1400, 0.5, 1)}
	report := &bench.Report{Revision: "0.1.0 abc", Machine: "2 cores", Load: "1 2 3 before, 3 2 1 after", Rounds: 5, Seconds: 2}
	for format, name := range map[string]string{"table": "table.txt", "json": "cells.json"} {
		var got bytes.Buffer
		if err := showFloor(&screen{out: &got, format: format}, report, cells); err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", "floor", name)
		if *update {
			if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got.String() != string(want) {
			t.Errorf("%s differs: if that is meant, run with -update and look at it\n%s", golden, &got)
		}
	}
}
