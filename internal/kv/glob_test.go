package kv

import (
	"strings"
	"testing"
)

// globTwin is globMatch without its cut of hopeless searches: it remembers what it has found about each rest of the pattern and of the text.
type globTwin struct {
	text  string
	known map[[2]int]bool // by what is left of pattern and text
}

func (g *globTwin) match(p string, at int) bool {
	if at == len(g.text) {
		return strings.Trim(p, "*") == ""
	}
	if len(p) == 0 {
		return false
	}
	place := [2]int{len(p), at}
	if found, known := g.known[place]; known {
		return found
	}
	found, c := false, g.text[at]
	switch {
	case p[0] == '*':
		found = g.match(p[1:], at) || g.match(p, at+1)
	case p[0] == '?':
		found = g.match(p[1:], at+1)
	case p[0] == '[':
		var rest string
		found, rest = globClass(p[1:], c)
		found = found && g.match(rest[1:], at+1)
	case p[0] == '\\' && len(p) > 1:
		found = p[1] == c && g.match(p[2:], at+1)
	default:
		found = p[0] == c && g.match(p[1:], at+1)
	}
	g.known[place] = found
	return found
}

// What could go wrong: the cut that keeps patterns of many stars from taking exponential time cuts a match as well, or does not cut.
func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{{"a*b*c", "aXbYc"}, {"*[a-c]*\\*", "zzb*"}, {"h[^e]llo", "hallo"}, {strings.Repeat("a*", 40) + "b", strings.Repeat("a", 200)}, {"[", "a"}, {"[a-", "-"}, {"\\", "\\"}, {"**?", "x"}, {"", ""}, {"*", ""}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		pattern, text = pattern[:min(len(pattern), 256)], text[:min(len(text), 512)]
		want := pattern == "" // of an empty text, as in Redis
		if text != "" {
			want = (&globTwin{text, make(map[[2]int]bool)}).match(pattern, 0)
		}
		if got := globMatch(pattern, text); got != want {
			t.Errorf("%q and %q: %v", pattern, text, got)
		}
	})
}
