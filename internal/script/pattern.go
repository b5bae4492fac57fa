package script

import lua "github.com/yuin/gopher-lua"

// Bounds of Lua's patterns.
const (
	maxCaptures     = 32
	maxPatternDepth = 200
)

// Values of capture.size that are no sizes.
const (
	openCapture  = -1
	placeCapture = -2
)

type capture struct{ start, size int }

// matcher matches one pattern at places of one text.
type matcher struct {
	f        frame
	text     string
	pattern  string
	captures [maxCaptures]capture
	level    int // captures in use
	depth    int
	steps    int
}

// step counts the work of the search and pays for it now and then.
func (m *matcher) step() {
	if m.steps++; m.steps == 64 {
		m.f.e.work(m.f.l, m.steps/4)
		m.steps = 0
	}
}

// match reports where a match of pattern[p:] that begins at s ends, -1 if there is none.
func (m *matcher) match(s, p int) int {
	if m.depth++; m.depth > maxPatternDepth {
		m.f.fail("pattern too complex")
	}
	defer func() { m.depth-- }()
	for p < len(m.pattern) {
		m.step()
		switch c := m.pattern[p]; {
		case c == '(':
			if p+1 < len(m.pattern) && m.pattern[p+1] == ')' {
				return m.open(s, p+2, placeCapture)
			}
			return m.open(s, p+1, openCapture)
		case c == ')':
			return m.close(s, p+1)
		case c == '$' && p+1 == len(m.pattern):
			if s == len(m.text) {
				return s
			}
			return -1
		case c == '%' && p+1 < len(m.pattern) && m.pattern[p+1] == 'b':
			if s = m.balance(s, p+2); s < 0 {
				return -1
			}
			p += 4
			continue
		case c == '%' && p+1 < len(m.pattern) && m.pattern[p+1] == 'f':
			end, ok := m.frontier(s, p+2)
			if !ok {
				return -1
			}
			p = end
			continue
		case c == '%' && p+1 < len(m.pattern) && m.pattern[p+1] >= '0' && m.pattern[p+1] <= '9':
			if s = m.back(s, m.pattern[p+1]); s < 0 {
				return -1
			}
			p += 2
			continue
		}
		end := m.classEnd(p)
		var suffix byte
		if end < len(m.pattern) {
			suffix = m.pattern[end]
		}
		switch suffix {
		case '?':
			if m.single(s, p, end) {
				if e := m.match(s+1, end+1); e >= 0 {
					return e
				}
			}
			p = end + 1
		case '*':
			return m.longest(s, p, end)
		case '+':
			if !m.single(s, p, end) {
				return -1
			}
			return m.longest(s+1, p, end)
		case '-':
			return m.shortest(s, p, end)
		default:
			if !m.single(s, p, end) {
				return -1
			}
			s, p = s+1, end
		}
	}
	return s
}

// classEnd returns the end of the single character class that begins at p.
func (m *matcher) classEnd(p int) int {
	c := m.pattern[p]
	p++
	switch c {
	case '%':
		if p == len(m.pattern) {
			m.f.fail("malformed pattern (ends with '%')")
		}
		return p + 1
	case '[':
		if p < len(m.pattern) && m.pattern[p] == '^' {
			p++
		}
		for first := true; ; first = false {
			if p == len(m.pattern) {
				m.f.fail("malformed pattern (missing ']')")
			}
			c := m.pattern[p]
			if c == ']' && !first {
				return p + 1
			}
			if p++; c == '%' && p < len(m.pattern) {
				p++
			}
		}
	}
	return p
}

// single reports whether the character at s belongs to the class pattern[p:end].
func (m *matcher) single(s, p, end int) bool {
	m.step()
	if s >= len(m.text) {
		return false
	}
	c := m.text[s]
	switch m.pattern[p] {
	case '.':
		return true
	case '%':
		return inClass(c, m.pattern[p+1])
	case '[':
		return m.inSet(c, p, end-1)
	}
	return m.pattern[p] == c
}

// inSet reports whether c is in the set that begins at p; last is the place of its ']'.
func (m *matcher) inSet(c byte, p, last int) bool {
	inside := true
	if p++; m.pattern[p] == '^' {
		inside = false
		p++
	}
	for ; p < last; p++ {
		switch {
		case m.pattern[p] == '%':
			if p++; inClass(c, m.pattern[p]) {
				return inside
			}
		case p+2 < last && m.pattern[p+1] == '-':
			if m.pattern[p] <= c && c <= m.pattern[p+2] {
				return inside
			}
			p += 2
		case m.pattern[p] == c:
			return inside
		}
	}
	return !inside
}

// inClass reports whether c belongs to %class. An upper case letter is the complement.
func inClass(c, class byte) bool {
	var in bool
	switch class | 0x20 {
	case 'a':
		in = isLetter(c)
	case 'c':
		in = c < 32 || c == 127
	case 'd':
		in = c >= '0' && c <= '9'
	case 'l':
		in = c >= 'a' && c <= 'z'
	case 'p':
		in = c > 32 && c < 127 && !isLetter(c) && (c < '0' || c > '9')
	case 's':
		in = c == ' ' || c >= '\t' && c <= '\r'
	case 'u':
		in = c >= 'A' && c <= 'Z'
	case 'w':
		in = isLetter(c) || c >= '0' && c <= '9'
	case 'x':
		in = c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
	case 'z':
		in = c == 0
	default:
		return class == c
	}
	if !isLetter(class) {
		return class == c
	}
	return in == (class&0x20 != 0)
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func (m *matcher) longest(s, p, end int) int {
	i := 0
	for m.single(s+i, p, end) {
		i++
	}
	for ; i >= 0; i-- {
		if e := m.match(s+i, end+1); e >= 0 {
			return e
		}
	}
	return -1
}

func (m *matcher) shortest(s, p, end int) int {
	for {
		if e := m.match(s, end+1); e >= 0 {
			return e
		}
		if !m.single(s, p, end) {
			return -1
		}
		s++
	}
}

func (m *matcher) open(s, p, kind int) int {
	if m.level >= maxCaptures {
		m.f.fail("too many captures")
	}
	m.captures[m.level] = capture{s, kind}
	m.level++
	e := m.match(s, p)
	if e < 0 {
		m.level--
	}
	return e
}

func (m *matcher) close(s, p int) int {
	last := m.level - 1
	for last >= 0 && m.captures[last].size != openCapture {
		last--
	}
	if last < 0 {
		m.f.fail("invalid pattern capture")
	}
	m.captures[last].size = s - m.captures[last].start
	e := m.match(s, p)
	if e < 0 {
		m.captures[last].size = openCapture
	}
	return e
}

// balance matches %bxy; p is the place of x.
func (m *matcher) balance(s, p int) int {
	if p+1 >= len(m.pattern) {
		m.f.fail("unbalanced pattern")
	}
	if s >= len(m.text) || m.text[s] != m.pattern[p] {
		return -1
	}
	for depth, i := 1, s+1; i < len(m.text); i++ {
		m.step()
		switch m.text[i] {
		case m.pattern[p+1]:
			if depth--; depth == 0 {
				return i + 1
			}
		case m.pattern[p]:
			depth++
		}
	}
	return -1
}

// frontier matches %f[set]; p is the place of the set.
func (m *matcher) frontier(s, p int) (end int, ok bool) {
	if p >= len(m.pattern) || m.pattern[p] != '[' {
		m.f.fail("missing '[' after '%f' in pattern")
	}
	end = m.classEnd(p)
	var before, here byte
	if s > 0 {
		before = m.text[s-1]
	}
	if s < len(m.text) {
		here = m.text[s]
	}
	return end, !m.inSet(before, p, end-1) && m.inSet(here, p, end-1)
}

// back matches the text of an earlier capture.
func (m *matcher) back(s int, digit byte) int {
	i := int(digit) - '1'
	if i < 0 || i >= m.level || m.captures[i].size == openCapture {
		m.f.fail("invalid capture index")
	}
	size := max(m.captures[i].size, 0)
	m.f.e.work(m.f.l, size/64)
	start := m.captures[i].start
	if len(m.text)-s < size || m.text[start:start+size] != m.text[s:s+size] {
		return -1
	}
	return s + size
}

// value returns capture i of a match of text[s:e]; without captures, the whole match is the first.
func (m *matcher) value(i, s, e int) lua.LValue {
	if i >= m.level {
		if i != 0 {
			m.f.fail("invalid capture index")
		}
		return m.f.e.newString(m.f.l, []byte(m.text[s:e]))
	}
	c := m.captures[i]
	switch c.size {
	case openCapture:
		m.f.fail("unfinished capture")
	case placeCapture:
		return lua.LNumber(c.start + 1)
	}
	return m.f.e.newString(m.f.l, []byte(m.text[c.start:c.start+c.size]))
}

// pushValues pushes all captures; whole says that the match itself is pushed if there are none.
func (m *matcher) pushValues(s, e int, whole bool) int {
	n := m.level
	if n == 0 && whole {
		n = 1
	}
	for i := range n {
		m.f.l.Push(m.value(i, s, e))
	}
	return n
}
