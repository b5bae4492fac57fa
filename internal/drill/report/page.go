package report

import (
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
)

// drawing is a report with the coordinates of its picture.
type drawing struct {
	*Report
	Width, Height, Base float64
	Most                int
	Bars, Marks, Labels []shape
	Fault               *shape // from the fault until all was whole
}

type shape struct {
	X, Y, W, H float64
	Text       string
	Class      string
}

// draw lays the picture out: writes in each tenth of a second, the time of the fault behind them, and what happened below.
func draw(r *Report) drawing {
	const left, width, graph, row = 10.0, 1100.0, 140.0, 16.0
	d := drawing{Report: r, Width: width + 2*left, Base: graph, Most: 1}
	for _, n := range r.WritesPerSecond {
		d.Most = max(d.Most, n)
	}
	span := float64(max(1, len(r.WritesPerSecond)))
	x := func(stamp int64) float64 { return left + width*float64(stamp)/float64(time.Second/10)/span }
	for i, n := range r.WritesPerSecond {
		h := graph * float64(n) / float64(d.Most)
		d.Bars = append(d.Bars, shape{X: x(int64(i) * int64(time.Second/10)), Y: graph - h, W: max(width/span-0.5, 0.5), H: h,
			Text: fmt.Sprintf("%.1f s: %d writes", float64(i)/10, n)})
	}
	if r.FaultAt > 0 {
		end := r.MendedAt
		if end == 0 {
			end = int64(len(r.WritesPerSecond)) * int64(time.Second/10)
		}
		d.Fault = &shape{X: x(r.FaultAt), W: max(x(end)-x(r.FaultAt), 1), H: graph, Text: "from the fault until the group was whole"}
	}
	for i, m := range r.Timeline {
		at := min(x(m.Stamp), left+width)
		label := shape{X: at + 3, Y: graph + row*float64(i) + 14, Text: fmt.Sprintf("%s %s: %s", r.since(m.Stamp), m.Who, m.Text), Class: "start"}
		if at > width/2 {
			label.X, label.Class = at-3, "end"
		}
		d.Marks = append(d.Marks, shape{X: at, H: graph + row*float64(i) + 14})
		d.Labels = append(d.Labels, label)
	}
	d.Height = graph + row*float64(len(r.Timeline)) + 24
	return d
}

// since is a stamp as people read it: from the fault on, if there was one.
func (r *Report) since(stamp int64) string {
	return fmt.Sprintf("%+.3f s", float64(stamp-r.FaultAt)/1e9)
}

// WriteHTML writes the report as one file that needs nothing else. All that comes from outside is escaped.
func (r *Report) WriteHTML(w io.Writer) error {
	if err := page.Execute(w, draw(r)); err != nil {
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

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"ms": Millis, "pause": func(ms float64) string { return fmt.Sprintf("%.0f ms", ms) }, "join": func(list []string) string { return strings.Join(list, ", ") },
}).Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Drill {{.Drill}}: {{.Verdict}}</title>
<style>
body{font:14px/1.45 system-ui,sans-serif;margin:2em;max-width:75em;color:#222;background:#fff}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:3px 9px;text-align:left;vertical-align:top}
.passed{background:#dfd;padding:.6em}.failed{background:#fdd;padding:.6em}.aborted{background:#fed;padding:.6em}
.draw{overflow-x:auto}text{font-size:11px}
</style></head><body>
<h1>Drill {{.Drill}} on group {{.Group}}</h1>
<p class="{{.Verdict}}"><b>{{.Verdict}}</b>{{range .Problems}}<br>{{.}}{{end}}</p>
<p>{{.What}}{{if .Victims}} ({{join .Victims}}){{end}}. If it passes: {{.Proves}}.</p>
<table>
<tr><th>begun</th><td>{{.Began.UTC.Format "2006-01-02 15:04:05 UTC"}} by {{.By}}, {{printf "%.1f" .Seconds}} s, id {{.ID}}, smrctl {{.Version}}</td></tr>
<tr><th>detection</th><td>{{ms .DetectionMs}} from the fault until an election began</td></tr>
<tr><th>election</th><td>{{ms .ElectionMs}} from then until the new master was established</td></tr>
<tr><th>first write</th><td>{{ms .FirstWriteMs}} from the fault until a write was acknowledged again</td></tr>
<tr><th>longest pause</th><td>{{pause .PauseMs}} without an acknowledged write on any node</td></tr>
<tr><th>whole again</th><td>{{ms .MendedMs}} from the fault</td></tr>
<tr><th>master</th><td>{{.MasterBefore}} (epoch {{.EpochBefore}}) before, {{.MasterAfter}} (epoch {{.EpochAfter}}) after</td></tr>
<tr><th>checked</th><td>{{.Writes}} acknowledged writes and {{.Reads}} reads of {{.Keys}} keys; every key read on each of {{.Nodes}} nodes at the end; {{len .Violations}} broken promises; digests {{.Digests}}</td></tr>
</table>
{{if .WritesPerSecond}}<h2>Timeline</h2>
<p>Acknowledged writes in each tenth of a second, up to {{.Most}}; from the fault until the group was whole on red.</p>
<div class="draw"><svg width="{{.Width}}" height="{{.Height}}" xmlns="http://www.w3.org/2000/svg">
{{with .Fault}}<rect x="{{.X}}" y="0" width="{{.W}}" height="{{.H}}" fill="#fdd"><title>{{.Text}}</title></rect>{{end}}
{{range .Bars}}<rect x="{{.X}}" y="{{.Y}}" width="{{.W}}" height="{{.H}}" fill="#484"><title>{{.Text}}</title></rect>{{end}}
{{range .Marks}}<line x1="{{.X}}" y1="0" x2="{{.X}}" y2="{{.H}}" stroke="#46a" stroke-width="0.6"/>{{end}}
{{range .Labels}}<text x="{{.X}}" y="{{.Y}}" text-anchor="{{.Class}}">{{.Text}}</text>{{end}}
</svg></div>{{end}}
<h2>Errors that clients saw</h2>
{{if .Errors}}<table><tr><th>error</th><th>node</th><th>hit by the drill</th><th>times</th></tr>
{{range .Errors}}<tr><td>{{.Name}}</td><td>{{.Node}}</td><td>{{if .Victim}}yes{{else}}no{{end}}</td><td>{{.Count}}</td></tr>{{end}}</table>{{else}}<p>none</p>{{end}}
{{if .Violations}}<h2>Broken promises</h2><ul>{{range .Violations}}<li>{{.}}</li>{{end}}</ul>{{end}}
{{if .Checks}}<h2>Looked at before</h2><ul>{{range .Checks}}<li>{{.}}</li>{{end}}</ul>{{end}}
</body></html>
`))
