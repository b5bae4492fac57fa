package report

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"lockstep/internal/markup"
)

// drawing is the picture of a report, laid out.
type drawing struct {
	width, height float64
	most          int // writes in a tenth of a second
	bars, marks   []markup.Box
	labels        []label
	faults        []markup.Box // from the fault until all was whole; none, or one
}

type label struct {
	markup.Box
	anchor string
}

// draw lays the picture out: writes in each tenth of a second, the time of the fault behind them, and what happened below.
func draw(r *Report) *drawing {
	const left, width, graph, row = 10.0, 1100.0, 140.0, 16.0
	const letter = 6.2 // about as wide as one is
	d := &drawing{width: width + 2*left, most: 1}
	for _, n := range r.WritesPerSecond {
		d.most = max(d.most, n)
	}
	span := float64(max(1, len(r.WritesPerSecond)))
	x := func(stamp int64) float64 { return left + width*float64(stamp)/float64(time.Second/10)/span }
	for i, n := range r.WritesPerSecond {
		h := graph * float64(n) / float64(d.most)
		d.bars = append(d.bars, markup.Box{X: x(int64(i) * int64(time.Second/10)), Y: graph - h, W: max(width/span-0.5, 0.5), H: h,
			Text: fmt.Sprintf("%.1f s: %d writes", float64(i)/10, n)})
	}
	if r.FaultAt > 0 {
		end := r.MendedAt
		if end == 0 {
			end = int64(len(r.WritesPerSecond)) * int64(time.Second/10)
		}
		d.faults = []markup.Box{{X: x(r.FaultAt), W: max(x(end)-x(r.FaultAt), 1), H: graph, Text: "from the fault until the group was whole"}}
	}
	for i, m := range r.Timeline {
		at, below := min(x(m.Stamp), left+width), graph+row*float64(i)+14
		text := label{markup.Box{X: at + 3, Y: below, Text: fmt.Sprintf("%s %s: %s", r.since(m.Stamp), m.Who, m.Text)}, "start"}
		if at > width/2 {
			text.X, text.anchor = at-3, "end"
		}
		if text.anchor == "end" && at < letter*float64(utf8.RuneCountInString(text.Text)) {
			text.X, text.anchor = left, "start" // it would begin left of the picture
		}
		d.marks = append(d.marks, markup.Box{X: at, H: below})
		d.labels = append(d.labels, text)
	}
	d.height = graph + row*float64(len(r.Timeline)) + 24
	return d
}

// since is a stamp as people read it: from the fault on, if there was one.
func (r *Report) since(stamp int64) string {
	millis := int64(math.Round(float64(stamp-r.FaultAt) / 1e6)) // whole, so that nothing is at -0.000 s
	return fmt.Sprintf("%+.3f s", float64(millis)/1e3)
}

// WriteHTML writes the report as one file that needs nothing else. All that comes from outside is escaped.
func (r *Report) WriteHTML(w io.Writer) error {
	if _, err := w.Write(r.page().Bytes()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// Millis is a figure as people read it.
func Millis(ms *float64) string {
	if ms == nil {
		return "–"
	}
	return fmt.Sprintf("%.0f ms", *ms)
}

func (r *Report) page() *markup.Page {
	p := &markup.Page{}
	p.Fill(pageHead, r.Drill, r.Verdict)
	p.Element("h1", fmt.Sprintf("Drill %s on group %s", r.Drill, r.Group))
	p.Fill(`<p class="%s"><b>%s</b>`, r.Verdict, r.Verdict)
	for _, problem := range r.Problems {
		p.Fill("<br>%s", problem)
	}
	p.Markup("</p>\n")
	victims := ""
	if len(r.Victims) > 0 {
		victims = " (" + strings.Join(r.Victims, ", ") + ")"
	}
	p.Element("p", fmt.Sprintf("%s%s. If it passes: %s.", r.What, victims, r.Proves))
	r.writeFigures(p)
	if len(r.WritesPerSecond) > 0 {
		draw(r).write(p)
	}
	p.Element("h2", "Errors that clients saw")
	if len(r.Errors) == 0 {
		p.Element("p", "none")
	} else {
		p.Table("error", "node", "hit by the drill", "times")
		for _, e := range r.Errors {
			hit := "no"
			if e.Victim {
				hit = "yes"
			}
			p.Row(e.Name, e.Node, hit, strconv.Itoa(e.Count))
		}
		p.EndTable()
	}
	for _, list := range []struct {
		heading string
		points  []string
	}{{"Broken promises", r.Violations}, {"Looked at before", r.Checks}} {
		if len(list.points) > 0 {
			p.Element("h2", list.heading)
			p.List(list.points)
		}
	}
	p.Markup("</body></html>\n")
	return p
}

// writeFigures writes the table of what was measured.
func (r *Report) writeFigures(p *markup.Page) {
	p.Markup("<table>\n")
	for _, row := range [][2]string{
		{"begun", fmt.Sprintf("%s by %s, %.1f s, id %s, smrctl %s", r.Began.UTC().Format("2006-01-02 15:04:05 UTC"), r.By, r.Seconds, r.ID, r.Version)},
		{"detection", Millis(r.DetectionMs) + " from the fault until an election began"},
		{"election", Millis(r.ElectionMs) + " from then until the new master was established"},
		{"first write", Millis(r.FirstWriteMs) + " from the fault until a write was acknowledged again"},
		{"longest pause", Millis(&r.PauseMs) + " without an acknowledged write on any node"},
		{"whole again", Millis(r.MendedMs) + " from the fault"},
		{"master", fmt.Sprintf("%s (epoch %d) before, %s (epoch %d) after", r.MasterBefore, r.EpochBefore, r.MasterAfter, r.EpochAfter)},
		{"checked", fmt.Sprintf("%d acknowledged writes and %d reads of %d keys; every key read on each of %d nodes at the end; %d broken promises; digests %s",
			r.Writes, r.Reads, r.Keys, r.Nodes, len(r.Violations), r.Digests)},
	} {
		p.Fill("<tr><th>%s</th><td>%s</td></tr>\n", row[0], row[1])
	}
	p.EndTable()
}

// write writes the picture.
func (d *drawing) write(p *markup.Page) {
	p.Element("h2", "Timeline")
	p.Element("p", fmt.Sprintf("Acknowledged writes in each tenth of a second, up to %d; from the fault until the group was whole on red.", d.most))
	p.Draw(d.width, d.height)
	p.Rectangles("#fdd", d.faults)
	p.Rectangles("#484", d.bars)
	for _, m := range d.marks {
		p.Fill(`<line x1="%s" y1="0" x2="%s" y2="%s" stroke="#46a" stroke-width="0.6"/>`+"\n", markup.Pixels(m.X), markup.Pixels(m.X), markup.Pixels(m.H))
	}
	for _, l := range d.labels {
		p.Fill(`<text x="%s" y="%s" text-anchor="%s">%s</text>`+"\n", markup.Pixels(l.X), markup.Pixels(l.Y), l.anchor, l.Text)
	}
	p.EndDraw()
}

// pageHead wants the drill's name and its verdict.
const pageHead markup.Constant = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Drill %s: %s</title>
<style>
body{font:14px/1.45 system-ui,sans-serif;margin:2em;max-width:75em;color:#222;background:#fff}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:3px 9px;text-align:left;vertical-align:top}
.passed{background:#dfd;padding:.6em}.failed{background:#fdd;padding:.6em}.aborted{background:#fed;padding:.6em}
.draw{overflow-x:auto}text{font-size:11px}
</style></head><body>
`
