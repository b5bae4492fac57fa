package chaos

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/markup"
)

// drawing is the picture of a report, laid out.
type drawing struct {
	width, height float64
	bars          []markup.Box
	shades        []markup.Box // windows
	lines         []markup.Box // faults
	phased        []markup.Box // fail-overs
	stalls        []markup.Box // of this machine
	labels        []markup.Box
}

// draw lays the picture out: rows of writes per second, fail-overs, pauses of this machine, and one row for each kind of
// fault, with the windows behind them.
func draw(r *Report) *drawing {
	const margin, perSecondWidth, graph, rowHeight = 280.0, 6.0, 120.0, 14.0
	rows := []string{"fail-overs", slowMachine}
	for _, k := range r.PerKind {
		rows = append(rows, fmt.Sprintf("%s (%d)", k.Kind, k.Done))
	}
	d := &drawing{width: margin + perSecondWidth*float64(len(r.WritesPerSecond)), height: graph + rowHeight*float64(len(rows)) + 20}
	most := 1
	for _, n := range r.WritesPerSecond {
		most = max(most, n)
	}
	x := func(stamp int64) float64 { return margin + perSecondWidth*float64(stamp)/float64(time.Second) }
	in := func(row int, from, to int64, text string) markup.Box {
		return markup.Box{X: x(from), Y: graph + rowHeight*float64(row) + 3, W: max(x(to)-x(from), 2), H: rowHeight - 4, Text: text}
	}
	d.labels = append(d.labels, markup.Box{X: 2, Y: 12, Text: fmt.Sprintf("writes a second, up to %d", most)})
	for i, text := range rows {
		d.labels = append(d.labels, markup.Box{X: 2, Y: graph + rowHeight*float64(i) + 11, Text: text})
	}
	for i, n := range r.WritesPerSecond {
		height := graph * float64(n) / float64(most)
		d.bars = append(d.bars, markup.Box{X: x(int64(i) * int64(time.Second)), Y: graph - height, W: perSecondWidth - 1, H: height, Text: fmt.Sprintf("second %d: %d writes", i, n)})
		if i%30 == 0 {
			d.labels = append(d.labels, markup.Box{X: x(int64(i) * int64(time.Second)), Y: d.height - 4, Text: fmt.Sprintf("%d s", i)})
		}
	}
	for _, w := range r.Windows {
		d.shades = append(d.shades, markup.Box{X: x(w.From), W: x(w.To) - x(w.From), H: d.height - 16, Text: strings.Join(w.Causes, "; ")})
	}
	for _, phase := range r.Phases {
		text := phase.Kind + " " + phase.Text
		if phase.Kind == slowMachine {
			d.stalls = append(d.stalls, in(1, phase.From, phase.To, text))
		} else {
			d.phased = append(d.phased, in(0, phase.From, phase.To, text))
		}
	}
	for _, f := range r.Faults {
		row := slices.IndexFunc(r.PerKind, func(k KindCount) bool { return k.Kind == f.Kind })
		d.lines = append(d.lines, in(2+row, f.Began, max(f.Ended, f.Admit, f.Began),
			fmt.Sprintf("%d %s: %s (%s)", f.ID, f.Kind, strings.Join(f.Targets, ", "), f.Detail)))
	}
	return d
}

// pageOf returns the report as one page that needs nothing else but the pictures beside it.
func pageOf(r *Report) *markup.Page {
	p := &markup.Page{}
	p.Fill(pageHead, strconv.FormatUint(r.Seed, 10))
	p.Element("h1", fmt.Sprintf("Chaos, seed %d", r.Seed))
	verdict := "bad"
	if r.Good() {
		verdict = "good"
	}
	p.Fill(`<p class="%s">%s</p>`+"\n", verdict, r.Summary())
	p.Element("p", fmt.Sprintf("%s; %s; commit %s; %d connections to KV nodes that did not run.", r.Began.UTC().Format("2006-01-02 15:04:05 UTC"), r.Machine, r.Version, r.FailedDials))
	p.List(r.Notes)
	r.writeChecked(p)
	if len(r.Recoveries) > 0 {
		r.writeRecoveries(p)
	} else {
		r.writeLoad(p)
	}
	p.Markup("</body></html>\n")
	return p
}

// writeChecked writes what was found.
func (r *Report) writeChecked(p *markup.Page) {
	if len(r.Checked.Violations) > 0 {
		p.Element("h2", "Violations")
		p.Table("rule", "key", "what")
		for _, v := range r.Checked.Violations {
			p.Fill("<tr><td>%s</td><td>%s</td><td><pre>%s</pre>", v.Rule, v.Key, v.Text)
			if v.Picture != "" {
				p.Fill(`<a href="%s">picture</a>`, url.PathEscape(v.Picture))
			}
			p.Markup("</td></tr>\n")
		}
		p.EndTable()
	}
	if len(r.Checked.Undecided) > 0 {
		p.Element("h2", "Undecided keys")
		p.Element("p", strings.Join(r.Checked.Undecided, "; "))
	}
}

func (r *Report) writeRecoveries(p *markup.Page) {
	p.Element("h2", "Forced recoveries")
	p.Table("round", "kept", "cut off before", "acknowledged", "lost", "may be lost from LSN", "served again after ms", "reported")
	for _, c := range r.Recoveries {
		p.Row(fmt.Sprint(c.Round), fmt.Sprint(c.Kept), fmt.Sprint(c.Lagged), fmt.Sprint(c.Acked), fmt.Sprint(c.Lost), fmt.Sprint(c.From), fmt.Sprint(c.Millis), c.Reported)
	}
	p.EndTable()
}

func (r *Report) writeLoad(p *markup.Page) {
	p.Element("h2", "What was checked")
	p.Table("kind of key", "keys", "acknowledged operations")
	for _, k := range r.Checked.Kinds {
		p.Row(k.Kind, fmt.Sprint(k.Keys), fmt.Sprint(k.Ops))
	}
	p.EndTable()
	p.Element("p", fmt.Sprintf("Images: %d taken; %d loaded by KV nodes that started; %d times a node found that the log does not reach back to it, "+
		"%d times a running one jumped to the image of a peer. Logs were trimmed %d times. %d moments were restored from the archive into clusters of their own, and read.",
		r.Images.Taken, r.Images.Loaded, r.Images.Needed, r.Images.Jumped, r.Images.Trimmed, r.Images.Restored))
	if len(r.Checked.Handed) > 0 {
		p.Markup("<p>Elements that were acknowledged and handed to a client that did not get the reply: its connection broke, or its node died while it waited.\n")
		for _, h := range r.Checked.Handed {
			p.Text(fmt.Sprintf("%v: %v. ", h.Key, h.Element))
		}
		p.Markup("</p>\n")
	}
	draw(r).write(p)
	r.writeTimes(p)
	r.writeFaults(p)
}

// write writes the picture.
func (d *drawing) write(p *markup.Page) {
	p.Element("h2", "Acknowledged writes a second (green), windows (red), fail-overs (orange), this machine slow (grey), faults (blue)")
	p.Draw(d.width, d.height)
	p.Rectangles("#fbb", d.shades)
	p.Rectangles("#484", d.bars)
	p.Rectangles("#e90", d.phased)
	p.Rectangles("#999", d.stalls)
	p.Rectangles("#46a", d.lines)
	for _, l := range d.labels {
		p.Fill(`<text x="%s" y="%s" font-size="10">%s</text>`+"\n", markup.Pixels(l.X), markup.Pixels(l.Y), l.Text)
	}
	p.EndDraw()
}

// seconds is a stamp as people read it.
func seconds(stamp int64) string { return fmt.Sprintf("%.3f", float64(stamp)/1e9) }

// millis is a time between two stamps, in milliseconds.
func millis(from, to int64) string { return fmt.Sprintf("%.0f", float64(to-from)/1e6) }

func (r *Report) writeTimes(p *markup.Page) {
	p.Element("h2", "Windows without an acknowledged write")
	p.Table("from s", "ms", "of which without a fault, ms", "causes")
	for _, w := range r.Windows {
		p.Row(seconds(w.From), millis(w.From, w.To), millis(0, w.Calm), strings.Join(w.Causes, "; "))
	}
	p.EndTable()
	p.Element("h2", "Latencies of acknowledged operations")
	p.Table("kind", "count", "p50 ms", "p99 ms", "p99.9 ms", "maximum ms")
	for _, l := range r.Latencies {
		p.Row(string(l.Kind), fmt.Sprint(l.Count), fmt.Sprintf("%.2f", l.P50), fmt.Sprintf("%.1f", l.P99), fmt.Sprintf("%.0f", l.P999), fmt.Sprintf("%.0f", l.Max))
	}
	p.EndTable()
	p.Element("h2", "Fail-overs and pauses of this machine")
	p.Table("from s", "ms", "kind", "what")
	for _, phase := range r.Phases {
		p.Row(seconds(phase.From), millis(phase.From, phase.To), phase.Kind, phase.Text)
	}
	p.EndTable()
}

func (r *Report) writeFaults(p *markup.Page) {
	p.Element("h2", "Faults by kind")
	p.Table("kind", "done", "with an effect")
	for _, k := range r.PerKind {
		p.Row(k.Kind, fmt.Sprint(k.Done), fmt.Sprint(k.Effective))
	}
	p.EndTable()
	p.Element("h2", "Faults")
	p.Table("number", "lane", "from s", "healed after ms", "admitted after ms", "kind", "targets", "detail")
	for _, f := range r.Faults {
		admitted, detail := "", f.Detail
		if f.Admit != 0 {
			admitted = millis(f.Began, f.Admit)
		}
		if f.Error != "" {
			detail += " — " + f.Error
		}
		p.Row(fmt.Sprint(f.ID), fmt.Sprint(f.Lane), seconds(f.Began), millis(f.Began, f.Ended), admitted, f.Kind, strings.Join(f.Targets, "; "), detail)
	}
	p.EndTable()
}

// pageHead wants the seed.
const pageHead markup.Constant = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Chaos, seed %s</title>
<style>
body{font:14px/1.4 system-ui,sans-serif;margin:2em;max-width:75em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:2px 8px;text-align:left;vertical-align:top}
.good{background:#dfd;padding:.6em}.bad{background:#fdd;padding:.6em}pre{white-space:pre-wrap;margin:0}.draw{overflow-x:auto}
</style></head><body>
`
