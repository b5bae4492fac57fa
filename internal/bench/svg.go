package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Chart is a picture of panels, one above the other, over one axis.
type Chart struct {
	Title  string
	Under  string // a line of small print
	XTitle string
	XLog   bool
	Panels []Panel
}

// Panel is one field of a chart.
type Panel struct {
	Title string
	Log   bool // the scale of its values
	Lines []Line
}

// Line joins points. Lines of one name have one colour in all panels and one entry in the legend.
type Line struct {
	Name   string
	Dashed bool
	Faint  bool // one of several lines of that name
	Points []Point
}

// Point is a place in a panel, in the axes' units.
type Point struct{ X, Y float64 }

// Sizes in pixels.
const (
	chartWidth  = 860
	panelHeight = 210
	leftMargin  = 78
	rightMargin = 24
	headHeight  = 58
	panelGap    = 46
	legendRow   = 20
	plotWidth   = chartWidth - leftMargin - rightMargin
)

// colours can be told apart by most eyes (after Okabe and Ito).
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444"}

// SVG draws the chart. The same chart gives the same bytes.
func (c Chart) SVG() []byte {
	var names []string
	for _, p := range c.Panels {
		for _, l := range p.Lines {
			if !slices.Contains(names, l.Name) {
				names = append(names, l.Name)
			}
		}
	}
	height := headHeight + len(c.Panels)*(panelHeight+panelGap) + 12 + legendRow*((len(names)+1)/2)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="DejaVu Sans, Verdana, sans-serif" font-size="12" fill="#222">`+"\n",
		chartWidth, height, chartWidth, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", chartWidth, height)
	fmt.Fprintf(&b, `<text x="%d" y="22" font-size="15" font-weight="bold">%s</text>`+"\n", 16, escape(c.Title))
	fmt.Fprintf(&b, `<text x="%d" y="40" font-size="11" fill="#666">%s</text>`+"\n", 16, escape(c.Under))
	x := newAxis(c.XLog, c.values(func(p Point) float64 { return p.X }))
	for i, p := range c.Panels {
		p.draw(&b, headHeight+i*(panelHeight+panelGap)+12, x, names)
	}
	bottom := headHeight + len(c.Panels)*(panelHeight+panelGap) - 2
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle" fill="#444">%s</text>`+"\n", leftMargin+plotWidth/2, bottom, escape(c.XTitle))
	for i, name := range names {
		left, top := leftMargin+i%2*plotWidth/2, bottom+16+i/2*legendRow
		fmt.Fprintf(&b, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="%s" stroke-width="3"/>`+"\n", left, top-4, left+22, top-4, colours[i%len(colours)])
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`+"\n", left+30, top, escape(name))
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

func (c Chart) values(of func(Point) float64) (all []float64) {
	for _, p := range c.Panels {
		for _, l := range p.Lines {
			for _, point := range l.Points {
				all = append(all, of(point))
			}
		}
	}
	return all
}

// draw draws a panel whose frame begins at top.
func (p Panel) draw(b *strings.Builder, top int, x axis, names []string) {
	var values []float64
	for _, l := range p.Lines {
		for _, point := range l.Points {
			values = append(values, point.Y)
		}
	}
	y := newAxis(p.Log, values)
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", leftMargin, top-7, escape(p.Title))
	place := func(value float64) float64 { return float64(top) + panelHeight*(1-y.share(value)) }
	across := func(value float64) float64 { return leftMargin + plotWidth*x.share(value) }
	for _, tick := range y.ticks {
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#e3e3e3"/><text x="%d" y="%.1f" text-anchor="end" font-size="11" fill="#555">%s</text>`+"\n",
			leftMargin, place(tick), leftMargin+plotWidth, place(tick), leftMargin-7, place(tick)+4, tickText(tick))
	}
	for _, tick := range x.ticks {
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#e3e3e3"/><text x="%.1f" y="%d" text-anchor="middle" font-size="11" fill="#555">%s</text>`+"\n",
			across(tick), top, across(tick), top+panelHeight, across(tick), top+panelHeight+15, tickText(tick))
	}
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#999"/>`+"\n", leftMargin, top, plotWidth, panelHeight)
	for _, l := range p.Lines {
		colour := colours[slices.Index(names, l.Name)%len(colours)]
		style := `stroke-width="2"`
		if l.Faint {
			style = `stroke-width="1.2" stroke-opacity="0.55"`
		}
		if l.Dashed {
			style += ` stroke-dasharray="5 4"`
		}
		var path []string
		for _, point := range l.Points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", across(point.X), place(point.Y)))
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" %s/>`+"\n", strings.Join(path, " "), colour, style)
		if len(l.Points) == 1 || len(l.Points) <= 12 && !l.Faint {
			for _, point := range l.Points {
				fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="2.6" fill="%s"/>`+"\n", across(point.X), place(point.Y), colour)
			}
		}
	}
}

// axis maps values to shares of a length.
type axis struct {
	log      bool
	from, to float64
	ticks    []float64
}

// newAxis covers the values; a linear axis begins at 0.
func newAxis(log bool, values []float64) axis {
	values = slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) || log && v <= 0 })
	if len(values) == 0 {
		return axis{log: log, from: 1, to: 10, ticks: []float64{1, 10}}
	}
	a := axis{log: log, from: slices.Min(values), to: slices.Max(values)}
	if log {
		return a.decades()
	}
	a.from = min(a.from, 0)
	if a.to == a.from {
		a.to = a.from + 1
	}
	step := math.Pow(10, math.Floor(math.Log10((a.to-a.from)/4)))
	for _, wide := range []float64{5, 2} {
		if (a.to-a.from)/(step*wide) >= 3.5 {
			step *= wide
			break
		}
	}
	for tick := math.Ceil(a.from/step) * step; tick < a.to+step*0.001; tick += step {
		a.ticks = append(a.ticks, tick)
	}
	if last := a.ticks[len(a.ticks)-1]; last < a.to {
		a.ticks, a.to = append(a.ticks, last+step), last+step
	}
	return a
}

// decades puts ticks at 1, 2 and 5 times the powers of ten, or at the powers alone if there are many.
func (a axis) decades() axis {
	if a.to == a.from {
		a.from, a.to = a.from/2, a.to*2
	}
	steps := []float64{1, 2, 5}
	if a.to/a.from > 5000 {
		steps = steps[:1]
	}
	for power := math.Floor(math.Log10(a.from)); power <= math.Ceil(math.Log10(a.to)); power++ {
		for _, step := range steps {
			if tick := step * math.Pow(10, power); tick >= a.from*0.999 && tick <= a.to*1.001 {
				a.ticks = append(a.ticks, tick)
			}
		}
	}
	return a
}

// share is where a value lies, 0 to 1.
func (a axis) share(value float64) float64 {
	if a.log {
		return math.Log(max(value, a.from)/a.from) / math.Log(a.to/a.from)
	}
	return (value - a.from) / (a.to - a.from)
}

// tickText shows a tick.
func tickText(value float64) string {
	for _, unit := range []struct {
		name string
		size float64
	}{{"M", 1e6}, {"k", 1e3}} {
		if value >= unit.size {
			return strings.TrimSuffix(fmt.Sprintf("%.4g", value/unit.size), ".0") + unit.name
		}
	}
	if math.Abs(value) < 1e-9 {
		return "0"
	}
	return fmt.Sprintf("%.4g", value)
}

func escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}
