package markup

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

const evil = `<script>alert(1)</script>"'&` + "\x00"

// What could go wrong: text of a client, a node's name or an error that becomes markup, wherever a page shows it.
func TestTextIsNeverMarkup(t *testing.T) {
	p := &Page{}
	p.Text(evil)
	p.Element("h1", evil)
	p.Fill(`<a href="%s">%s</a>`, evil, evil)
	p.List([]string{evil})
	p.Table(evil)
	p.Row(evil, evil)
	p.EndTable()
	p.Draw(10, 20)
	p.Rectangles(evil, []Box{{Text: evil}})
	p.EndDraw()
	text := p.String()
	if strings.Contains(text, "<script") || strings.ContainsAny(text, "'\x00") || strings.Count(text, "&lt;script&gt;") != 10 {
		t.Errorf("not escaped: %s", text)
	}
	if string(p.Bytes()) != text {
		t.Error("Bytes is not String")
	}
}

// Every element that is begun ends, and an attribute stays within its quotes: a parser of XML reads it back.
func TestElementsAreWhole(t *testing.T) {
	p := &Page{}
	p.Markup("<body>")
	p.Element("h1", evil)
	p.List([]string{"a", "b"})
	p.List(nil)
	p.Table("a", "b")
	p.Row("1", "2")
	p.EndTable()
	p.Draw(10.5, 20)
	p.Rectangles("#fff", []Box{{X: 1, Y: 2.25, W: 3.999, H: 0, Text: evil}})
	p.EndDraw()
	p.Markup("</body>")
	reader, rectangles := xml.NewDecoder(strings.NewReader(p.String())), 0
	for {
		token, err := reader.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in %s", err, p.String())
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "rect" {
			rectangles++
			for i, want := range []string{"1", "2.25", "4", "0", "#fff"} {
				if start.Attr[i].Value != want {
					t.Errorf("attribute %s is %s, want %s", start.Attr[i].Name.Local, start.Attr[i].Value, want)
				}
			}
		}
	}
	if rectangles != 1 {
		t.Errorf("%d rectangles", rectangles)
	}
}

// A text too many would be lost, or one too few leave its place empty.
func TestFillWantsAsManyTextsAsPlaces(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a text without a place was taken")
		}
	}()
	(&Page{}).Fill("<p>%s</p>", "a", "b")
}
