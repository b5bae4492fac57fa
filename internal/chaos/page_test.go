package chaos

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// What could go wrong: a part of a report that is not on its page, an element that does not end, or an error's text that becomes markup.
func TestPageShowsTheWholeReport(t *testing.T) {
	const evil = `<script>alert(1)</script>"'&`
	second := int64(time.Second)
	r := &Report{
		Seed: 7, Began: time.Unix(1_700_000_000, 0), Machine: evil, Version: evil, Notes: []string{evil},
		Faults:  []Fault{{ID: 1, Kind: "kill", Targets: []string{evil}, Detail: evil, Began: second, Ended: 2 * second, Admit: 3 * second, Error: evil}},
		PerKind: []KindCount{{Kind: "kill", Done: 1}}, Phases: []Phase{{Kind: "fail-over", Text: evil, From: second, To: 2 * second}, {Kind: slowMachine, To: second}},
		Windows: []Window{{From: second, To: 2 * second, Causes: []string{evil}}}, Latencies: []Latency{{Kind: "set", Count: 3, P50: 1.5}},
		WritesPerSecond: []int{5, 0, 10},
	}
	r.Checked.Violations = append(r.Checked.Violations, Violation{Rule: "R1", Text: evil, Picture: "a key.html"})
	r.Checked.Undecided = []string{evil}
	for _, recoveries := range [][]Recovery{nil, {{Round: 1, Kept: "n1", Reported: evil}}} {
		r.Recoveries = recoveries
		text := pageOf(r).String()
		if strings.Contains(text, "<script") {
			t.Errorf("not escaped:\n%s", text)
		}
		wanted := []string{"seed 7", `class="bad"`, "2023-11-14 22:13:20 UTC", `href="a%20key.html"`, "Undecided keys"}
		if recoveries == nil {
			wanted = append(wanted, "<td>1.000</td><td>1000</td>", `title>second 2: 10 writes`, "<td>1.50</td>", "<td>kill</td><td>1</td><td>0</td>", "<td>1000</td><td>2000</td>", "1 kill: ")
		} else {
			wanted = append(wanted, "Forced recoveries")
		}
		for _, want := range wanted {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
		reader := xml.NewDecoder(strings.NewReader(strings.NewReplacer("<!DOCTYPE html>", "", `<meta charset="utf-8">`, "").Replace(text)))
		for {
			if _, err := reader.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
		}
	}
}
