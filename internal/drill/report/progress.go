package report

import (
	"strconv"
	"strings"
	"time"
)

// FileName is the file with the report in the directory of a run, once it has ended.
const FileName = "report.json"

// ProgressName is the file in the directory of a run that grows while it is under way: lines of ProgressLine.
const ProgressName = "progress.txt"

// Step is something that a drill under way has said.
type Step struct {
	TimeMs int64  `json:"time_ms"`
	Text   string `json:"text"`
}

// ProgressLine is a line of the file, with its end.
func ProgressLine(at time.Time, text string) string {
	return strconv.FormatInt(at.UnixMilli(), 10) + " " + strings.Join(strings.Fields(text), " ") + "\n"
}

// Progress reads the lines of the file. What is no line of ProgressLine, or not yet a whole one, is left out.
func Progress(content string) []Step {
	steps := []Step{}
	for line := range strings.Lines(content) {
		stamp, text, found := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		at, err := strconv.ParseInt(stamp, 10, 64)
		if found && err == nil && at > 0 && strings.HasSuffix(line, "\n") {
			steps = append(steps, Step{at, text})
		}
	}
	return steps
}
