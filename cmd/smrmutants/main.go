package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"lockstep/internal/score"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit status: 0 all found, 1 one was not, 2 bad arguments or files.
func run(args []string, out, problems io.Writer) int {
	flags := flag.NewFlagSet("smrmutants", flag.ContinueOnError)
	flags.SetOutput(problems)
	quick := flags.Bool("quick", false, "try the seeds that are known first, and search only where they find nothing")
	record := flags.Bool("record", false, "keep the seeds that found something as the known ones")
	known := flags.String("known", "internal/score/testdata/known.json", "file of the known seeds")
	page := flags.String("page", "", "page whose table is replaced; empty: only printed")
	only := flags.String("only", "", "names of rows, separated by commas, not with -page; empty: all")
	schedules := flags.Uint64("schedules", 5000, "the simulator gives up after so many")
	states := flags.Int("states", 3_000_000, "the explorer gives up after so many")
	shrink := flags.Bool("shrink", false, "with -quick: make the faults of what is found fewer all the same")
	workers := flags.Int("workers", runtime.NumCPU(), "schedules at a time")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return 2
	}
	rows := score.Rows()
	if *only != "" {
		if *page != "" { // the line above the table says what was found of all rows, by one commit and one command
			fmt.Fprintf(problems, "-page %s with -only %s: the whole table is replaced, so all rows have to be run: leave one of the two away\n", *page, *only)
			return 2
		}
		wanted := strings.Split(*only, ",")
		for _, name := range wanted {
			if !slices.ContainsFunc(rows, func(r score.Row) bool { return r.Name() == name }) {
				fmt.Fprintf(problems, "no row is called %q: docs/mutants.md lists them\n", name)
				return 2
			}
		}
		rows = slices.DeleteFunc(rows, func(r score.Row) bool { return !slices.Contains(wanted, r.Name()) })
	}
	hunter := score.Hunter{Workers: *workers, Schedules: *schedules, States: *states, Shrink: !*quick || *shrink}
	seeds, err := score.ReadKnown(*known)
	if err != nil {
		fmt.Fprintln(problems, err)
		return 2
	}
	if *quick {
		hunter.Known = seeds
	}
	began, program := time.Now(), commit()
	findings := make([]score.Finding, 0, len(rows))
	failed := 0
	for i := range rows {
		f, err := hunter.Hunt(&rows[i])
		if err != nil {
			fmt.Fprintln(problems, err)
			return 2
		}
		if f.Problem != "" {
			failed++
		}
		findings = append(findings, f)
		fmt.Fprintln(out, line(&f))
		if *record {
			seeds.Note(&f)
		}
	}
	summary := fmt.Sprintf("%s; %.0f s", score.Summary(findings), time.Since(began).Seconds())
	fmt.Fprintln(out, summary)
	if *record {
		err = score.WriteKnown(*known, seeds)
	}
	if err == nil && *page != "" {
		about := fmt.Sprintf("Commit %s, `smrmutants %s`, %d workers: %s.", program, strings.Join(args, " "), *workers, summary)
		err = score.Replace(*page, score.Table(findings, seeds, about))
	}
	if err != nil {
		fmt.Fprintln(problems, err)
		return 2
	}
	if failed > 0 {
		fmt.Fprintf(out, "%d rows FAIL\n", failed)
		return 1
	}
	return 0
}

// line tells a finding.
func line(f *score.Finding) string {
	text := fmt.Sprintf("%-32s", f.Row.Name())
	switch {
	case f.Seed != 0 && f.Recorded:
		text += fmt.Sprintf(" seed %d, as known: %s", f.Seed, f.Fired)
	case f.Seed != 0:
		text += fmt.Sprintf(" seed %d after %d schedules in %.1f s: %s", f.Seed, f.Schedules, f.Seconds, f.Fired)
	case f.Schedules > 0:
		text += fmt.Sprintf(" not in %d schedules in %.1f s", f.Schedules, f.Seconds)
	}
	if f.Faults >= 0 {
		text += fmt.Sprintf(" (%d faults)", f.Faults)
	}
	switch {
	case f.Depth > 0:
		text += fmt.Sprintf("; explored %d states, depth %d: %s", f.States, f.Depth, f.Fault)
	case f.States > 0:
		text += fmt.Sprintf("; explored %d states: nothing", f.States)
	}
	if f.Problem != "" {
		text += "\n  FAIL: " + f.Problem
	}
	return text
}

// commit names what is in the work tree. `go run` puts no revision into a program.
func commit() string {
	hash, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(hash))
}
