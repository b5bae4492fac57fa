// Package markup writes pages of HTML piece by piece. Text is escaped, always; markup is constant text of the caller.
//
// It stands in place of html/template where a program writes a page of its own. A template finds methods by their names while it runs, so
// that the linker must keep every exported method of every type: with one, smrctl is a fifth larger.
package markup

import (
	"fmt"
	"html"
	"strings"
)

// Constant is markup that stands in the source: only constants become one without being converted, so what came from outside does not.
type Constant string

// Page is a page that is being written. The zero Page is empty. It is not for use by several goroutines.
type Page struct {
	text strings.Builder
}

// String returns what was written.
func (p *Page) String() string { return p.text.String() }

// Bytes returns a copy of what was written.
func (p *Page) Bytes() []byte { return []byte(p.text.String()) }

// Markup writes markup as it is.
func (p *Page) Markup(markup Constant) { p.text.WriteString(string(markup)) }

// Text writes text that shows as it is, in an element or between the quotes of an attribute. What no page may hold is replaced.
func (p *Page) Text(text string) { p.text.WriteString(html.EscapeString(strings.Map(shown, text))) }

func shown(r rune) rune {
	if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
		return '\uFFFD'
	}
	return r
}

// Element writes text in an element, such as "h1".
func (p *Page) Element(tag Constant, text string) {
	p.Markup("<" + tag + ">")
	p.Text(text)
	p.Markup("</" + tag + ">\n")
}

// Fill writes markup in which each %s stands for the next text. There must be as many of them as texts.
func (p *Page) Fill(markup Constant, texts ...string) {
	pieces := strings.Split(string(markup), "%s")
	if len(pieces) != len(texts)+1 {
		panic(fmt.Sprintf("markup: %d texts for %q", len(texts), markup))
	}
	p.text.WriteString(pieces[0])
	for i, text := range texts {
		p.Text(text)
		p.text.WriteString(pieces[i+1])
	}
}

// List writes a list, one point for each text; nothing if there is none.
func (p *Page) List(texts []string) {
	if len(texts) == 0 {
		return
	}
	p.Markup("<ul>")
	for _, text := range texts {
		p.Fill("<li>%s</li>", text)
	}
	p.Markup("</ul>\n")
}

// Table writes the head of a table. EndTable ends it.
func (p *Page) Table(heads ...string) {
	p.Markup("<table><tr>")
	for _, head := range heads {
		p.Fill("<th>%s</th>", head)
	}
	p.Markup("</tr>\n")
}

// Row writes a row of a table.
func (p *Page) Row(cells ...string) {
	p.Markup("<tr>")
	for _, cell := range cells {
		p.Fill("<td>%s</td>", cell)
	}
	p.Markup("</tr>\n")
}

// EndTable ends a table.
func (p *Page) EndTable() { p.Markup("</table>\n") }

// Box is a rectangle of a drawing, in pixels from its upper left corner, with the text that shows when it is pointed at.
type Box struct {
	X, Y, W, H float64
	Text       string
}

// Draw begins a drawing, which may be wider than the page. EndDraw ends it.
func (p *Page) Draw(width, height float64) {
	p.Fill(`<div class="draw"><svg width="%s" height="%s" xmlns="http://www.w3.org/2000/svg">`+"\n", Pixels(width), Pixels(height))
}

// Rectangles draws boxes, filled with a colour.
func (p *Page) Rectangles(colour string, boxes []Box) {
	for _, b := range boxes {
		p.Fill(`<rect x="%s" y="%s" width="%s" height="%s" fill="%s"><title>%s</title></rect>`+"\n", Pixels(b.X), Pixels(b.Y), Pixels(b.W), Pixels(b.H), colour, b.Text)
	}
}

// EndDraw ends a drawing.
func (p *Page) EndDraw() { p.Markup("</svg></div>\n") }

// Pixels is a length in a drawing, to a hundredth of a pixel.
func Pixels(length float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", length), "0"), ".")
}
