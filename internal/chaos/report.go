package chaos

import (
	"encoding/json"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Report of a run.
type Report struct {
	Mode            string          `json:"mode,omitempty"` // "" or "forced recovery"
	Seed            uint64          `json:"seed"`
	Began           time.Time       `json:"began"`
	Seconds         float64         `json:"seconds"` // with faults
	Machine         string          `json:"machine"`
	Version         string          `json:"version"`
	Notes           []string        `json:"notes"` // faults that could not be had, and why
	Outcomes        map[Outcome]int `json:"outcomes"`
	FailedDials     int64           `json:"failed_dials"`
	Faults          []Fault         `json:"faults"`
	PerKind         []KindCount     `json:"per_kind"`
	Phases          []Phase         `json:"phases"`
	Windows         []Window        `json:"windows"`
	Latencies       []Latency       `json:"latencies"`
	LoadFrom        int64           `json:"load_from"`
	LoadTo          int64           `json:"load_to"`
	WritesPerSecond []int           `json:"writes_per_second"`
	Images          Images          `json:"images"`
	Recoveries      []Recovery      `json:"recoveries,omitempty"`
	Checked         Checked         `json:"checked"`
}

// Images is what became of images and of the log, counted in what the processes said.
type Images struct {
	Taken    int `json:"taken"`
	Needed   int `json:"needed"`   // KV nodes found that the log does not reach back to them
	Jumped   int `json:"jumped"`   // running KV nodes went on from an image of a peer
	Loaded   int `json:"loaded"`   // KV nodes started from an image
	Trimmed  int `json:"trimmed"`  // times that a log was trimmed
	Restored int `json:"restored"` // clusters of a moment in the archive, started and read
}

// Good reports whether no promise was broken and everything could be judged.
func (r *Report) Good() bool { return len(r.Checked.Violations) == 0 && len(r.Checked.Undecided) == 0 }

// Effective counts the faults that had an effect.
func (r *Report) Effective() int {
	n := 0
	for _, f := range r.Faults {
		if !f.Idle && f.Error == "" {
			n++
		}
	}
	return n
}

// KindCount is how often faults of a kind were done.
type KindCount struct {
	Kind      string `json:"kind"`
	Done      int    `json:"done"`
	Effective int    `json:"effective"` // of which had an effect
}

// perKind counts faults by kind, the most frequent first.
func perKind(faults []Fault) []KindCount {
	counts := []KindCount{}
	for _, f := range faults {
		at := slices.IndexFunc(counts, func(c KindCount) bool { return c.Kind == f.Kind })
		if at < 0 {
			at = len(counts)
			counts = append(counts, KindCount{Kind: f.Kind})
		}
		counts[at].Done++
		if !f.Idle && f.Error == "" {
			counts[at].Effective++
		}
	}
	slices.SortStableFunc(counts, func(a, b KindCount) int { return b.Done - a.Done })
	return counts
}

// Summary is the verdict in one line.
func (r *Report) Summary() string {
	verdict := "no violation"
	if n := len(r.Checked.Violations); n > 0 {
		verdict = fmt.Sprintf("%d VIOLATIONS", n)
	}
	if n := len(r.Checked.Undecided); n > 0 {
		verdict += fmt.Sprintf(", %d keys undecided", n)
	}
	var longest, total time.Duration
	for _, w := range r.Windows {
		length := time.Duration(w.To - w.From)
		longest, total = max(longest, length), total+length
	}
	if r.Mode != "" {
		acked, lost := 0, 0
		for _, recovery := range r.Recoveries {
			acked, lost = acked+recovery.Acked, lost+recovery.Lost
		}
		return fmt.Sprintf("seed %d, %s: %s; %d quorums lost and recovered in %.0f s; %d writes acknowledged, %d of them lost, all within what was reported",
			r.Seed, r.Mode, verdict, len(r.Recoveries), r.Seconds, acked, lost)
	}
	return fmt.Sprintf("seed %d: %s; %d faults in %.0f s (and %d without effect); %d operations on %d keys: %d ok, %d refused, %d unknown; %d windows, longest %v, together %v; "+
		"%d images taken, %d needed by nodes that the log did not reach, %d logs trimmed, %d moments restored; %d elements went to clients that are gone",
		r.Seed, verdict, r.Effective(), r.Seconds, len(r.Faults)-r.Effective(), r.Checked.Ops, r.Checked.Keys, r.Outcomes[OK], r.Outcomes[Refused], r.Outcomes[Unknown],
		len(r.Windows), longest.Round(time.Millisecond), total.Round(time.Millisecond),
		r.Images.Taken, r.Images.Needed, r.Images.Trimmed, r.Images.Restored, len(r.Checked.Handed))
}

// write leaves report.json and report.html in dir.
func (r *Report) write(dir string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	var page strings.Builder
	if err := pageTemplate.Execute(&page, pageOf(r)); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.html"), []byte(page.String()), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// page is what the template shows: a report with the drawing's coordinates.
type page struct {
	*Report
	Width, Height, Base float64
	Bars                []bar
	Shades              []bar // windows
	Lines               []bar // faults
	Phased              []bar // fail-overs
	Stalls              []bar // of this machine
	Labels              []bar
}

// bar is a rectangle of the drawing.
type bar struct {
	X, Y, W, H float64
	Text       string
}

// pageOf lays the drawing out: rows of writes per second, fail-overs, pauses of this machine, and one row for each kind of
// fault, with the windows behind them.
func pageOf(r *Report) page {
	const margin, perSecondWidth, graph, rowHeight = 280.0, 6.0, 120.0, 14.0
	rows := []string{"fail-overs", slowMachine}
	for _, k := range r.PerKind {
		rows = append(rows, fmt.Sprintf("%s (%d)", k.Kind, k.Done))
	}
	p := page{Report: r, Base: graph, Width: margin + perSecondWidth*float64(len(r.WritesPerSecond)), Height: graph + rowHeight*float64(len(rows)) + 20}
	most := 1
	for _, n := range r.WritesPerSecond {
		most = max(most, n)
	}
	x := func(stamp int64) float64 { return margin + perSecondWidth*float64(stamp)/float64(time.Second) }
	in := func(row int, from, to int64, text string) bar {
		return bar{x(from), graph + rowHeight*float64(row) + 3, max(x(to)-x(from), 2), rowHeight - 4, text}
	}
	p.Labels = append(p.Labels, bar{X: 2, Y: 12, Text: fmt.Sprintf("writes a second, up to %d", most)})
	for i, text := range rows {
		p.Labels = append(p.Labels, bar{X: 2, Y: graph + rowHeight*float64(i) + 11, Text: text})
	}
	for i, n := range r.WritesPerSecond {
		height := graph * float64(n) / float64(most)
		p.Bars = append(p.Bars, bar{x(int64(i) * int64(time.Second)), graph - height, perSecondWidth - 1, height, fmt.Sprintf("second %d: %d writes", i, n)})
		if i%30 == 0 {
			p.Labels = append(p.Labels, bar{X: x(int64(i) * int64(time.Second)), Y: p.Height - 4, Text: fmt.Sprintf("%d s", i)})
		}
	}
	for _, w := range r.Windows {
		p.Shades = append(p.Shades, bar{x(w.From), 0, x(w.To) - x(w.From), p.Height - 16, strings.Join(w.Causes, "; ")})
	}
	for _, phase := range r.Phases {
		text := phase.Kind + " " + phase.Text
		if phase.Kind == slowMachine {
			p.Stalls = append(p.Stalls, in(1, phase.From, phase.To, text))
		} else {
			p.Phased = append(p.Phased, in(0, phase.From, phase.To, text))
		}
	}
	for _, f := range r.Faults {
		row := slices.IndexFunc(r.PerKind, func(k KindCount) bool { return k.Kind == f.Kind })
		p.Lines = append(p.Lines, in(2+row, f.Began, max(f.Ended, f.Admit, f.Began),
			fmt.Sprintf("%d %s: %s (%s)", f.ID, f.Kind, strings.Join(f.Targets, ", "), f.Detail)))
	}
	return p
}

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"s":    func(stamp int64) string { return fmt.Sprintf("%.3f", float64(stamp)/1e9) },
	"span": func(from, to int64) string { return fmt.Sprintf("%.0f", float64(to-from)/1e6) },
	"join": func(list []string) string { return strings.Join(list, "; ") },
}).Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Chaos, seed {{.Seed}}</title>
<style>
body{font:14px/1.4 system-ui,sans-serif;margin:2em;max-width:75em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:2px 8px;text-align:left;vertical-align:top}
.good{background:#dfd;padding:.6em}.bad{background:#fdd;padding:.6em}pre{white-space:pre-wrap;margin:0}.draw{overflow-x:auto}
</style></head><body>
<h1>Chaos, seed {{.Seed}}</h1>
<p class="{{if .Good}}good{{else}}bad{{end}}">{{.Summary}}</p>
<p>{{.Began.UTC.Format "2006-01-02 15:04:05 UTC"}}; {{.Machine}}; commit {{.Version}}; {{.FailedDials}} connections to KV nodes that did not run.</p>
<ul>{{range .Notes}}<li>{{.}}</li>{{end}}</ul>
{{if .Checked.Violations}}<h2>Violations</h2><table><tr><th>rule</th><th>key</th><th>what</th></tr>
{{range .Checked.Violations}}<tr><td>{{.Rule}}</td><td>{{.Key}}</td><td><pre>{{.Text}}</pre>{{if .Picture}}<a href="{{.Picture}}">picture</a>{{end}}</td></tr>{{end}}</table>{{end}}
{{if .Checked.Undecided}}<h2>Undecided keys</h2><p>{{join .Checked.Undecided}}</p>{{end}}
{{if .Recoveries}}<h2>Forced recoveries</h2>
<table><tr><th>round</th><th>kept</th><th>cut off before</th><th>acknowledged</th><th>lost</th><th>may be lost from LSN</th><th>served again after ms</th><th>reported</th></tr>
{{range .Recoveries}}<tr><td>{{.Round}}</td><td>{{.Kept}}</td><td>{{.Lagged}}</td><td>{{.Acked}}</td><td>{{.Lost}}</td><td>{{.From}}</td><td>{{.Millis}}</td><td>{{.Reported}}</td></tr>{{end}}</table>
{{else}}<h2>What was checked</h2>
<table><tr><th>kind of key</th><th>keys</th><th>acknowledged operations</th></tr>
{{range .Checked.Kinds}}<tr><td>{{.Kind}}</td><td>{{.Keys}}</td><td>{{.Ops}}</td></tr>{{end}}</table>
<p>Images: {{.Images.Taken}} taken; {{.Images.Loaded}} loaded by KV nodes that started; {{.Images.Needed}} times a node found that the log does not reach back to it, {{.Images.Jumped}} times a running one jumped
to the image of a peer. Logs were trimmed {{.Images.Trimmed}} times. {{.Images.Restored}} moments were restored from the archive into clusters of their own, and read.</p>
{{if .Checked.Handed}}<p>Elements that were acknowledged and handed to a client that did not get the reply: its connection broke, or its node died while it waited.
{{range .Checked.Handed}}{{.Key}}: {{.Element}}. {{end}}</p>{{end}}
<h2>Acknowledged writes a second (green), windows (red), fail-overs (orange), this machine slow (grey), faults (blue)</h2>
<div class="draw"><svg width="{{.Width}}" height="{{.Height}}" xmlns="http://www.w3.org/2000/svg">
{{range .Shades}}<rect x="{{.X}}" y="{{.Y}}" width="{{.W}}" height="{{.H}}" fill="#fbb"><title>{{.Text}}</title></rect>{{end}}
{{range .Bars}}<rect x="{{.X}}" y="{{.Y}}" width="{{.W}}" height="{{.H}}" fill="#484"><title>{{.Text}}</title></rect>{{end}}
{{range .Phased}}<rect x="{{.X}}" y="{{.Y}}" width="{{.W}}" height="{{.H}}" fill="#e90"><title>{{.Text}}</title></rect>{{end}}
{{range .Stalls}}<rect x="{{.X}}" y="{{.Y}}" width="{{.W}}" height="{{.H}}" fill="#999"><title>{{.Text}}</title></rect>{{end}}
{{range .Lines}}<rect x="{{.X}}" y="{{.Y}}" width="{{.W}}" height="{{.H}}" fill="#46a"><title>{{.Text}}</title></rect>{{end}}
{{range .Labels}}<text x="{{.X}}" y="{{.Y}}" font-size="10">{{.Text}}</text>{{end}}
</svg></div>
<h2>Windows without an acknowledged write</h2>
<table><tr><th>from s</th><th>ms</th><th>of which without a fault, ms</th><th>causes</th></tr>
{{range .Windows}}<tr><td>{{s .From}}</td><td>{{span .From .To}}</td><td>{{span 0 .Calm}}</td><td>{{join .Causes}}</td></tr>{{end}}</table>
<h2>Latencies of acknowledged operations</h2>
<table><tr><th>kind</th><th>count</th><th>p50 ms</th><th>p99 ms</th><th>p99.9 ms</th><th>maximum ms</th></tr>
{{range .Latencies}}<tr><td>{{.Kind}}</td><td>{{.Count}}</td><td>{{printf "%.2f" .P50}}</td><td>{{printf "%.1f" .P99}}</td><td>{{printf "%.0f" .P999}}</td><td>{{printf "%.0f" .Max}}</td></tr>{{end}}</table>
<h2>Fail-overs and pauses of this machine</h2>
<table><tr><th>from s</th><th>ms</th><th>kind</th><th>what</th></tr>
{{range .Phases}}<tr><td>{{s .From}}</td><td>{{span .From .To}}</td><td>{{.Kind}}</td><td>{{.Text}}</td></tr>{{end}}</table>
<h2>Faults by kind</h2>
<table><tr><th>kind</th><th>done</th><th>with an effect</th></tr>
{{range .PerKind}}<tr><td>{{.Kind}}</td><td>{{.Done}}</td><td>{{.Effective}}</td></tr>{{end}}</table>
<h2>Faults</h2>
<table><tr><th>number</th><th>lane</th><th>from s</th><th>healed after ms</th><th>admitted after ms</th><th>kind</th><th>targets</th><th>detail</th></tr>
{{range .Faults}}<tr><td>{{.ID}}</td><td>{{.Lane}}</td><td>{{s .Began}}</td><td>{{span .Began .Ended}}</td><td>{{if .Admit}}{{span .Began .Admit}}{{end}}</td><td>{{.Kind}}</td><td>{{join .Targets}}</td><td>{{.Detail}}{{if .Error}} — {{.Error}}{{end}}</td></tr>{{end}}</table>
{{end}}</body></html>
`))
