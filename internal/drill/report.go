package drill

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"lockstep/internal/chaos"
	"lockstep/internal/drill/plan"
	"lockstep/internal/drill/report"
)

func newReport(c *Config, kind *plan.Kind, id string) *report.Report {
	return &report.Report{ID: id, Drill: kind.Name, What: kind.What, Proves: kind.Proves, Group: c.Group, By: c.By, Began: time.Now(), Version: version()}
}

// note takes down what was looked at.
func note(r *report.Report, p *plan.Plan) {
	r.Victims, r.Checks, r.MasterBefore, r.EpochBefore = append([]string{}, p.Victims...), p.Checks, p.Master, p.Epoch
}

// judge ends the clients and fills in the report.
func (r *run) judge(ctx context.Context) error {
	r.say("reading every key on every node, and checking")
	end := r.work.Now()
	finding, err := r.work.Finish(ctx)
	if err != nil {
		return err
	}
	rep := r.report
	rep.Nodes, rep.Keys = len(r.clientsAt), finding.Checked.Keys
	if finding.Unread != nil {
		r.complain("not every key could be read on every node: %v", finding.Unread)
	}
	rep.Violations = []string{}
	for _, v := range finding.Checked.Violations {
		rep.Violations = append(rep.Violations, fmt.Sprintf("%s: %s %s", v.Rule, v.Key, v.Text))
	}
	if n := len(rep.Violations); n > 0 {
		r.complain("%d broken promises: %s", n, rep.Violations[0])
	}
	if n := len(finding.Checked.Undecided); n > 0 {
		r.complain("%d keys could not be checked in time", n)
	}
	for _, text := range finding.Unexpected {
		r.complain("a reply that nobody should see: %s", text)
	}
	if finding.Left > 0 {
		r.mark("drill", fmt.Sprintf("%d keys of the drill are left; the next drill deletes them", finding.Left))
	}
	rep.Digests = "equal"
	if err := r.Digests(ctx); err != nil {
		rep.Digests = err.Error()
		r.complain("digests: %v", err)
	}
	if group, err := r.group(ctx); err == nil {
		rep.MasterAfter, rep.EpochAfter = group.GetMaster(), group.GetEpoch()
	}
	r.conclude(finding.Ops, end)
	return nil
}

// conclude computes the figures and the verdict.
func (r *run) conclude(ops []chaos.Op, end int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep := r.report
	rep.FaultAt, rep.MendedAt = r.strikeAt, r.mendedAt
	slices.SortStableFunc(r.timeline, func(a, b report.Moment) int { return int(min(max(a.Stamp-b.Stamp, -1), 1)) })
	rep.Timeline = r.timeline
	figures(rep, ops, end)
	rep.Seconds = time.Since(r.began).Seconds()
	switch {
	case r.abortedBy != nil:
		rep.Verdict = report.Aborted
		r.problems = append([]string{r.abortedBy.Error()}, r.problems...)
	case len(r.problems) > 0:
		rep.Verdict = report.Failed
	case rep.FirstWriteMs == nil:
		rep.Verdict = report.Failed
		r.problems = append(r.problems, "no write was acknowledged after the fault")
	case r.kind.Moves && rep.EpochAfter == rep.EpochBefore:
		rep.Verdict = report.Failed
		r.problems = append(r.problems, "mastership has not moved")
	default:
		rep.Verdict = report.Passed
	}
	rep.Problems = append([]string{}, r.problems...)
}

// figures computes what the report says about times, errors and rates. The timeline is in order.
func figures(rep *report.Report, ops []chaos.Op, end int64) {
	millis := func(from, to int64) *float64 {
		ms := float64(to-from) / 1e6
		return &ms
	}
	begun := electionFigures(rep, millis)
	var acks []int64
	counts := make(map[report.ErrorCount]int)
	rep.WritesPerSecond = make([]int, end/int64(time.Second/10)+1)
	first := int64(0)
	for i := range ops {
		op := &ops[i]
		switch {
		case op.Final:
			continue
		case op.Outcome != chaos.OK:
			counts[report.ErrorCount{Name: errorName(op), Node: op.Node, Victim: slices.Contains(rep.Victims, op.Node)}]++
			continue
		case !op.Acknowledged():
			rep.Reads++
			continue
		}
		rep.Writes++
		acks = append(acks, op.Return)
		if at := op.Return / int64(time.Second/10); at < int64(len(rep.WritesPerSecond)) {
			rep.WritesPerSecond[at]++
		}
		after := begun == 0 && op.Call >= rep.FaultAt || begun != 0 && op.Return > begun
		if after && (first == 0 || op.Return < first) {
			first = op.Return
		}
	}
	for e, n := range counts {
		e.Count = n
		rep.Errors = append(rep.Errors, e)
	}
	slices.SortFunc(rep.Errors, func(a, b report.ErrorCount) int {
		if a.Count != b.Count {
			return b.Count - a.Count
		}
		return strings.Compare(a.Name+a.Node, b.Name+b.Node)
	})
	if rep.Errors == nil {
		rep.Errors = []report.ErrorCount{}
	}
	if rep.FaultAt == 0 {
		return
	}
	if first != 0 {
		rep.FirstWriteMs = millis(rep.FaultAt, first)
	}
	if rep.MendedAt != 0 {
		rep.MendedMs = millis(rep.FaultAt, rep.MendedAt)
	}
	slices.Sort(acks)
	last := rep.FaultAt
	for _, ack := range append(acks, end) {
		if ack > rep.FaultAt {
			rep.PauseMs = max(rep.PauseMs, float64(ack-last)/1e6)
			last = ack
		}
	}
}

// electionFigures finds the election in the timeline, which is in order, and returns the stamp of its begin, 0 if there was none.
func electionFigures(rep *report.Report, millis func(from, to int64) *float64) (begun int64) {
	if rep.FaultAt == 0 {
		return 0
	}
	for _, m := range rep.Timeline {
		switch {
		case m.Stamp < rep.FaultAt-int64(50*time.Millisecond): // what was seen while the order came back counts
		case m.Name == electionBegun && begun == 0:
			begun = max(m.Stamp, rep.FaultAt)
			rep.DetectionMs = millis(rep.FaultAt, begun)
		case m.Name == established && begun != 0 && rep.ElectionMs == nil:
			rep.ElectionMs = millis(begun, m.Stamp)
		}
	}
	return begun
}

// errorName is what people call the way in which an operation did not succeed.
func errorName(op *chaos.Op) string {
	note := op.Note
	word, _, _ := strings.Cut(note, " ")
	switch {
	case note == "":
		return "not answered before the end"
	case word != "" && word == strings.ToUpper(word) && strings.Trim(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "":
		if word == "EOF" {
			return "connection lost"
		}
		return word
	case strings.Contains(note, "i/o timeout"):
		return "no answer in time"
	case strings.Contains(note, "refused"):
		return "connection refused"
	case strings.Contains(note, "reset"), strings.Contains(note, "broken pipe"), strings.Contains(note, "EOF"), strings.Contains(note, net.ErrClosed.Error()):
		return "connection lost"
	}
	return note
}
